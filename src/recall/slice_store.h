// What left a stream's window, slice by slice: the keys and values of kBlockTokens consecutive tokens in all
// layers that recall, their ids, and the keys to choose by (kernels/choose/choose.h). Slices come in stream
// order and are never changed; when the store is full the oldest go.
//
// They lie in segments of kSegmentSlices: whole in memory, or the keys in memory and all of it in a folder
// (recall/store_folder.h). Copies of a store (Share) have the same segments; whoever adds to one that another
// has too copies it first. What a copy adds to a folder's store lies in a file without a name and is gone
// with the copy. A copy is charged in full.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/budget.h"
#include "base/files/serial.h"
#include "base/types.h"
#include "recall/store_folder.h"

namespace mneme {

// Thread rule: one thread at a time. Move-only: Share says what a copy is.
class SliceStore {
 public:
  static constexpr int64_t kSegmentSlices = 16;

  // Numbers of slices begin with `first`. Reserves room for `capacity` slices, in whole segments, or fewer
  // where options limit the disk; `context` is told to people by the folder. Throws Error(kBudget), and what
  // StoreFolder throws.
  SliceStore(const SliceLayout& layout, int64_t first, int64_t capacity, const Budget& budget,
             const StoreOptions& options = {}, const std::string& context = "");
  static size_t PeakBytes(const SliceLayout& layout, int64_t capacity, const StoreOptions& options = {});
  // The most that the folder takes.
  static size_t DiskBytes(const SliceLayout& layout, int64_t capacity, const StoreOptions& options);
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
  // Room for slice end(), to be filled; Commit adds it. Throws std::bad_alloc, and Error(kFile) where the
  // folder is full; nothing has changed then.
  Slice Append();
  // Throws Error(kFile): the disk did not take it. The slice is not there then, and can be appended again.
  void Commit();

  // To choose by, of a slice that is there; of a damaged one anything. Valid until the next Append.
  const uint8_t* Keys(int64_t number) const;
  // Copies the rest of it. False: it is damaged, now and from now on.
  bool Read(int64_t number, uint8_t* record, TokenId* tokens) const;
  bool IsDamaged(int64_t number) const;

  // The same slices. Throws Error(kBudget).
  SliceStore Share() const;

  // With a folder: what it has is on the disk first, and the state has the slices' digests alone. Throws
  // Error(kUnsupported) for a copy, whose own slices nobody could find again.
  void Save(StateWriter& writer) const;
  // Into a store that is empty. Throws Error(kFile), and Error(kMismatch) where the folder is another one, or
  // has gone on in another way since.
  void Restore(StateReader& reader);

 private:
  struct Segment {
    AlignedArray<uint8_t> memory;  // slices, or keys alone
    // With a folder:
    std::shared_ptr<SliceFile> file;  // null: it is missing
    int64_t offset = 0;               // of the first slice
    bool is_named = false;
    std::array<uint64_t, kSegmentSlices> digests = {};
    std::array<std::atomic<bool>, kSegmentSlices> is_damaged = {};
  };
  std::shared_ptr<Segment> NewSegment();
  size_t memory_bytes() const { return folder_ ? layout_.key_bytes : layout_.slice_bytes(); }
  Slice In(const Segment& segment, int64_t place) const;
  // Of a slice that is there.
  Segment& SegmentOf(int64_t number) const;
  int64_t PlaceOf(int64_t number) const { return (number - first_) % kSegmentSlices; }
  // The number of the slice that the first segment begins with.
  int64_t segments_begin() const { return begin_ - (begin_ - first_) % kSegmentSlices; }
  int64_t num_segments() const { return static_cast<int64_t>(segments_.size()); }

  void ForgetOldest();
  void MakeRoom();
  std::shared_ptr<Segment> CopyOf(const Segment& segment, int64_t num_slices);
  void AddToFolder(Segment* segment, int64_t place);
  void SaveDigests(StateWriter& writer) const;
  void RestoreFromFolder(StateReader& reader);
  // How a slice is found in its file.
  enum class Found { kWhole, kDamaged, kOther };
  Found ReadKeys(Segment* segment, int64_t number, uint64_t digest);

  SliceLayout layout_;
  int64_t first_;
  int64_t max_segments_;
  Budget budget_;
  StoreOptions options_;
  Lease lease_;
  int64_t begin_;
  int64_t end_;
  std::vector<std::shared_ptr<Segment>> segments_;
  std::shared_ptr<Segment> spare_;  // what the oldest slices lay in

  std::shared_ptr<StoreFolder> folder_;  // null: all is in memory
  AlignedArray<uint8_t> slice_;          // one as on disk
  bool is_copy_ = false;
  bool is_known_ = false;           // a state said what lies in the folder
  bool is_cut_ = false;             // nothing lies in the folder behind end_
  std::shared_ptr<SliceFile> own_;  // of a copy
  int64_t own_bytes_ = 0;
};

}  // namespace mneme
