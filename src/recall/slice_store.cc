#include "recall/slice_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "kernels/attend/attend.h"

namespace mneme {
namespace {

constexpr size_t kIdBytes = kBlockTokens * sizeof(TokenId);

int64_t NumSegments(int64_t capacity) {
  return std::max<int64_t>(1, (capacity + SliceStore::kSegmentSlices - 1) / SliceStore::kSegmentSlices);
}

}  // namespace

size_t SliceLayout::slice_bytes() const {
  return SaturatingAdd(SaturatingAdd(record_bytes, key_bytes), kIdBytes);
}

size_t SliceStore::PeakBytes(const SliceLayout& layout, int64_t capacity) {
  return SaturatingMultiply(static_cast<size_t>(NumSegments(capacity) * kSegmentSlices),
                            layout.slice_bytes());
}

SliceStore::SliceStore(const SliceLayout& layout, int64_t first, int64_t capacity, const Budget& budget)
    : layout_(layout),
      first_(first),
      max_segments_(NumSegments(capacity)),
      budget_(budget),
      lease_(budget.Reserve(MemoryTag::kStore, PeakBytes(layout, capacity),
                            "the store of what left the window")),
      begin_(first),
      end_(first) {}

std::shared_ptr<SliceStore::Segment> SliceStore::NewSegment() {
  if (spare_ != nullptr) return std::exchange(spare_, nullptr);
  auto segment = std::make_shared<Segment>();
  segment->memory = MakeAligned<uint8_t>(static_cast<size_t>(kSegmentSlices) * layout_.slice_bytes());
  return segment;
}

SliceStore::Slice SliceStore::In(const Segment& segment, int64_t place) const {
  uint8_t* const slice = segment.memory.get() + static_cast<size_t>(place) * layout_.slice_bytes();
  uint8_t* const keys = slice + layout_.record_bytes;
  return {.tokens = reinterpret_cast<TokenId*>(keys + layout_.key_bytes), .record = slice, .keys = keys};
}

SliceStore::Slice SliceStore::At(int64_t number) const {
  MNEME_CHECK(number >= begin_ && number < end_);
  const int64_t place = number - segments_begin();
  return In(*segments_[static_cast<size_t>(place / kSegmentSlices)], place % kSegmentSlices);
}

SliceStore::Slice SliceStore::Append() {
  const int64_t place = (end_ - first_) % kSegmentSlices;
  if (place == 0) {
    if (static_cast<int64_t>(segments_.size()) == max_segments_) {
      if (segments_.front().use_count() == 1) spare_ = std::move(segments_.front());
      segments_.erase(segments_.begin());
      begin_ = segments_begin() + kSegmentSlices;
    }
    segments_.push_back(NewSegment());
  } else if (segments_.back().use_count() > 1) {
    std::shared_ptr<Segment> own = NewSegment();
    std::memcpy(own->memory.get(), segments_.back()->memory.get(),
                static_cast<size_t>(place) * layout_.slice_bytes());
    segments_.back() = std::move(own);
  }
  ++end_;
  return In(*segments_.back(), place);
}

SliceStore SliceStore::Share() const {
  SliceStore shared(layout_, first_, max_segments_ * kSegmentSlices, budget_);
  shared.begin_ = begin_;
  shared.end_ = end_;
  shared.segments_ = segments_;
  return shared;
}

void SliceStore::Save(StateWriter& writer) const {
  writer.Put<int64_t>(begin_);
  writer.Put<int64_t>(end_);
  for (int64_t number = begin_; number < end_; ++number)
    writer.Write(At(number).record, layout_.slice_bytes());
}

void SliceStore::Restore(StateReader& reader) {
  MNEME_CHECK(end_ == first_);
  const auto begin = reader.Get<int64_t>();
  const auto end = reader.Get<int64_t>();
  const int64_t capacity = max_segments_ * kSegmentSlices;
  const bool is_sound =
      begin >= first_ && end >= begin && end - begin <= capacity && (begin - first_) % kSegmentSlices == 0 &&
      static_cast<uint64_t>(end - begin) <= reader.remaining_bytes() / layout_.slice_bytes();
  if (!is_sound) Fail(ErrorKind::kFile, "state: a store of slices {} to {} cannot be", begin, end);
  begin_ = end_ = begin;
  for (int64_t number = begin; number < end; ++number) reader.Read(Append().record, layout_.slice_bytes());
}

}  // namespace mneme
