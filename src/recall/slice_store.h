// What left a stream's window, slice by slice: the keys and values of kBlockTokens consecutive tokens in all
// layers that recall, their ids, and the keys to choose by (kernels/choose/choose.h). Slices come in stream
// order and are never changed; when the store is full the oldest go.
//
// They lie in segments of kSegmentSlices. Copies of a store (Share) have the same segments; whoever adds to
// one that another has too copies it first. A copy is charged in full.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned.h"
#include "base/budget.h"
#include "base/files/serial.h"
#include "base/types.h"

namespace mneme {

// Bytes of one slice; multiples of 64.
struct SliceLayout {
  size_t record_bytes = 0;  // keys and values, layer after layer
  size_t key_bytes = 0;     // to choose by

  size_t slice_bytes() const;  // with the ids
  bool operator==(const SliceLayout&) const = default;
};

// Thread rule: one thread at a time. Move-only: Share says what a copy is.
class SliceStore {
 public:
  static constexpr int64_t kSegmentSlices = 16;

  // Numbers of slices begin with `first`. Reserves room for `capacity` slices, in whole segments; throws
  // Error(kBudget).
  SliceStore(const SliceLayout& layout, int64_t first, int64_t capacity, const Budget& budget);
  static size_t PeakBytes(const SliceLayout& layout, int64_t capacity);
  SliceStore(SliceStore&&) = default;

  // Slices [begin(), end()) are there; those before were forgotten.
  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }

  // Where the parts of a slice lie.
  struct Slice {
    TokenId* tokens;  // [kBlockTokens]
    uint8_t* record;
    uint8_t* keys;
  };
  // Room for slice end(), to be filled at once. Throws std::bad_alloc; nothing has changed then.
  Slice Append();
  // A slice that is there; valid until the next Append.
  Slice At(int64_t number) const;

  // The same slices. Throws Error(kBudget).
  SliceStore Share() const;

  void Save(StateWriter& writer) const;
  // Into a store that is empty. Throws Error(kFile).
  void Restore(StateReader& reader);

 private:
  struct Segment {
    AlignedArray<uint8_t> memory;
  };
  std::shared_ptr<Segment> NewSegment();
  Slice In(const Segment& segment, int64_t place) const;
  // The number of the slice that the first segment begins with.
  int64_t segments_begin() const { return begin_ - (begin_ - first_) % kSegmentSlices; }

  SliceLayout layout_;
  int64_t first_;
  int64_t max_segments_;
  Budget budget_;
  Lease lease_;
  int64_t begin_;
  int64_t end_;
  std::vector<std::shared_ptr<Segment>> segments_;
  std::shared_ptr<Segment> spare_;  // what the oldest slices lay in
};

}  // namespace mneme
