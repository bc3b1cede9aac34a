#include "recall/slice_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/text/units.h"
#include "kernels/attend/attend.h"

namespace mneme {
namespace {

constexpr size_t kIdBytes = kBlockTokens * sizeof(TokenId);
constexpr int64_t kFolderMark = -1;  // in a state, where one of a store in memory has its first slice

int64_t NumSegments(const SliceLayout& layout, int64_t capacity, const StoreOptions& options) {
  int64_t slices = std::max<int64_t>(1, capacity);
  int64_t segments = (slices + SliceStore::kSegmentSlices - 1) / SliceStore::kSegmentSlices;
  if (!options.path.empty() && options.most_bytes > 0) {
    const size_t most =
        options.most_bytes / layout.disk_bytes() / static_cast<size_t>(SliceStore::kSegmentSlices);
    segments = std::min(segments, static_cast<int64_t>(std::min<size_t>(most, INT32_MAX)));
  }
  return segments;
}

uint64_t HashOf(const uint8_t* bytes, size_t count) {
  return HashBytes({reinterpret_cast<const char*>(bytes), count});
}

}  // namespace

size_t SliceStore::PeakBytes(const SliceLayout& layout, int64_t capacity, const StoreOptions& options) {
  const auto slices = static_cast<size_t>(NumSegments(layout, capacity, options) * kSegmentSlices);
  if (options.path.empty()) return SaturatingMultiply(slices, layout.slice_bytes());
  return SaturatingAdd(SaturatingMultiply(slices, layout.key_bytes + sizeof(uint64_t) + 1),
                       layout.disk_bytes());
}

size_t SliceStore::DiskBytes(const SliceLayout& layout, int64_t capacity, const StoreOptions& options) {
  const auto slices = static_cast<size_t>(NumSegments(layout, capacity, options) * kSegmentSlices);
  return SaturatingMultiply(slices, layout.disk_bytes());
}

SliceStore::SliceStore(const SliceLayout& layout, int64_t first, int64_t capacity, const Budget& budget,
                       const StoreOptions& options, const std::string& context)
    : layout_(layout),
      first_(first),
      max_segments_(NumSegments(layout, capacity, options)),
      budget_(budget),
      options_(options),
      lease_(budget.Reserve(MemoryTag::kStore, PeakBytes(layout, capacity, options),
                            "the store of what left the window")),
      begin_(first),
      end_(first) {
  if (options_.path.empty()) return;
  if (max_segments_ < 2) {
    Fail(ErrorKind::kInput, "--disk {}: a store needs at least {}", FormatBytes(options_.most_bytes),
         FormatBytesUp(2 * static_cast<size_t>(kSegmentSlices) * layout_.disk_bytes()));
  }
  folder_ = std::make_shared<StoreFolder>(options_, layout_, first_, max_segments_ * kSegmentSlices, context);
  if (max_segments_ * kSegmentSlices < 2 * folder_->manifest().file_slices) {
    Fail(ErrorKind::kInput, "{}: this store goes on from {} on disk and {} tokens up", options_.path,
         FormatBytesUp(2 * static_cast<size_t>(folder_->manifest().file_slices) * layout_.disk_bytes()),
         2 * folder_->manifest().file_slices * static_cast<int64_t>(kBlockTokens));
  }
  slice_ = MakeAligned<uint8_t>(layout_.disk_bytes());
}

// ---- where slices lie

std::shared_ptr<SliceStore::Segment> SliceStore::NewSegment() {
  if (spare_ != nullptr) return std::exchange(spare_, nullptr);
  auto segment = std::make_shared<Segment>();
  segment->memory = MakeAligned<uint8_t>(static_cast<size_t>(kSegmentSlices) * memory_bytes());
  return segment;
}

SliceStore::Slice SliceStore::In(const Segment& segment, int64_t place) const {
  uint8_t* const slice = segment.memory.get() + static_cast<size_t>(place) * layout_.slice_bytes();
  uint8_t* const keys = slice + layout_.record_bytes;
  return {.tokens = reinterpret_cast<TokenId*>(keys + layout_.key_bytes), .record = slice, .keys = keys};
}

SliceStore::Segment& SliceStore::SegmentOf(int64_t number) const {
  MNEME_CHECK(number >= begin_ && number < end_);
  return *segments_[static_cast<size_t>((number - segments_begin()) / kSegmentSlices)];
}

const uint8_t* SliceStore::Keys(int64_t number) const {
  const Segment& segment = SegmentOf(number);
  if (folder_ == nullptr) return In(segment, PlaceOf(number)).keys;
  return segment.memory.get() + static_cast<size_t>(PlaceOf(number)) * layout_.key_bytes;
}

bool SliceStore::IsDamaged(int64_t number) const {
  return SegmentOf(number).is_damaged[static_cast<size_t>(PlaceOf(number))];
}

bool SliceStore::Read(int64_t number, uint8_t* record, TokenId* tokens) const {
  Segment& segment = SegmentOf(number);
  const auto place = static_cast<size_t>(PlaceOf(number));
  if (folder_ == nullptr) {
    const Slice slice = In(segment, PlaceOf(number));
    std::memcpy(record, slice.record, layout_.record_bytes);
    std::copy_n(slice.tokens, kBlockTokens, tokens);
    return true;
  }
  if (segment.is_damaged[place]) return false;
  const int64_t at = segment.offset + PlaceOf(number) * static_cast<int64_t>(layout_.disk_bytes());
  const auto record_at = at + static_cast<int64_t>(sizeof(SliceHeader) + kIdBytes + layout_.key_bytes);
  // The keys were read, and found to be whole, when the segment was; their hash covers the ids.
  SliceHeader header;
  const bool is_whole =
      segment.file->Read(&header, sizeof(header), at) &&
      segment.file->Read(tokens, kIdBytes, at + static_cast<int64_t>(sizeof(header))) &&
      segment.file->Read(record, layout_.record_bytes, record_at) &&
      header.digest == segment.digests[place] && header.Digest() == header.digest &&
      header.record_hash == HashOf(record, layout_.record_bytes) &&
      header.keys_hash == HashBytes({reinterpret_cast<const char*>(Keys(number)), layout_.key_bytes},
                                    HashOf(reinterpret_cast<uint8_t*>(tokens), kIdBytes));
  if (!is_whole) segment.is_damaged[place] = true;
  return is_whole;
}

// ---- adding

// In memory the oldest segment; in a folder the oldest file.
void SliceStore::ForgetOldest() {
  const int64_t count = folder_ ? folder_->manifest().file_slices / kSegmentSlices : 1;
  const int64_t oldest = segments_begin();
  if (folder_ && !is_copy_) folder_->Forget(oldest);
  if (segments_.front().use_count() == 1 && folder_ == nullptr) spare_ = std::move(segments_.front());
  segments_.erase(segments_.begin(), segments_.begin() + std::min(count, num_segments()));
  begin_ = oldest + count * kSegmentSlices;
}

void SliceStore::MakeRoom() {
  if (num_segments() < max_segments_) return;
  if (folder_ && options_.most_bytes > 0 && !options_.forgets) {
    Fail(ErrorKind::kFile,
         "{}: the store is full: {} of {} (--disk) hold {} tokens. Nothing is lost: a larger --disk, or "
         "--disk-full forget, goes on from the saved state",
         options_.path, FormatBytes(static_cast<size_t>(end_ - begin_) * layout_.disk_bytes()),
         FormatBytes(options_.most_bytes), (end_ - begin_) * static_cast<int64_t>(kBlockTokens));
  }
  ForgetOldest();
}

// To write into, of one that others may have.
std::shared_ptr<SliceStore::Segment> SliceStore::CopyOf(const Segment& segment, int64_t num_slices) {
  std::shared_ptr<Segment> own = NewSegment();
  std::memcpy(own->memory.get(), segment.memory.get(), static_cast<size_t>(num_slices) * memory_bytes());
  own->digests = segment.digests;
  for (size_t i = 0; i < segment.is_damaged.size(); ++i) own->is_damaged[i] = segment.is_damaged[i].load();
  if (folder_ == nullptr) return own;
  if (own_ == nullptr) own_ = folder_->MakeNameless();
  own->file = own_;
  own->offset = own_bytes_;
  const auto bytes = static_cast<int64_t>(layout_.disk_bytes());
  for (int64_t i = 0; i < num_slices; ++i) {
    const bool is_there = segment.file != nullptr &&
                          segment.file->Read(slice_.get(), layout_.disk_bytes(), segment.offset + i * bytes);
    if (is_there) own_->Write(slice_.get(), layout_.disk_bytes(), own->offset + i * bytes);
  }
  own_bytes_ += kSegmentSlices * bytes;
  return own;
}

SliceStore::Slice SliceStore::Append() {
  if (folder_ && !is_copy_ && !is_known_ && folder_->had_slices()) {
    Fail(ErrorKind::kFile,
         "{}: the store has what another stream has read: go on from its state (--state), name another "
         "folder, "
         "or `mneme store rm` it",
         options_.path);
  }
  const int64_t place = PlaceOf(end_);
  const int64_t needed = (end_ - segments_begin()) / kSegmentSlices + 1;
  if (num_segments() < needed) {
    MakeRoom();
    segments_.push_back(NewSegment());
    Segment& segment = *segments_.back();
    for (std::atomic<bool>& flag : segment.is_damaged) flag = false;
    if (folder_ && !is_copy_) {
      segment.is_named = true;
    } else if (folder_) {
      if (own_ == nullptr) own_ = folder_->MakeNameless();
      segment.file = own_;
      segment.offset = own_bytes_;
      own_bytes_ += kSegmentSlices * static_cast<int64_t>(layout_.disk_bytes());
    }
  } else if (folder_ ? is_copy_ && (segments_.back()->is_named || segments_.back().use_count() > 1)
                     : segments_.back().use_count() > 1) {
    segments_.back() = CopyOf(*segments_.back(), place);
  }
  if (folder_ == nullptr) return In(*segments_.back(), place);
  uint8_t* const ids = slice_.get() + sizeof(SliceHeader);
  return {.tokens = reinterpret_cast<TokenId*>(ids),
          .record = ids + kIdBytes + layout_.key_bytes,
          .keys = ids + kIdBytes};
}

void SliceStore::Commit() {
  if (folder_) AddToFolder(segments_.back().get(), PlaceOf(end_));
  ++end_;
}

void SliceStore::AddToFolder(Segment* segment, int64_t place) {
  const uint8_t* const ids = slice_.get() + sizeof(SliceHeader);
  const uint8_t* const keys = ids + kIdBytes;
  SliceHeader header;
  header.store = folder_->manifest().id;
  header.number = end_;
  header.keys_hash =
      HashBytes({reinterpret_cast<const char*>(keys), layout_.key_bytes}, HashOf(ids, kIdBytes));
  header.record_hash = HashOf(keys + layout_.key_bytes, layout_.record_bytes);
  header.digest = header.Digest();
  std::memcpy(slice_.get(), &header, sizeof(header));
  if (is_copy_) {
    segment->file->Write(slice_.get(), layout_.disk_bytes(),
                         segment->offset + place * static_cast<int64_t>(layout_.disk_bytes()));
  } else {
    if (!is_cut_) folder_->CutAt(end_);
    is_cut_ = true;
    folder_->Append(end_, slice_.get());
    segment->file = folder_->FileOf(end_);
    segment->offset = folder_->OffsetOf(end_ - place);
  }
  std::memcpy(segment->memory.get() + static_cast<size_t>(place) * layout_.key_bytes, keys,
              layout_.key_bytes);
  segment->digests[static_cast<size_t>(place)] = header.digest;
  segment->is_damaged[static_cast<size_t>(place)] = false;
}

SliceStore SliceStore::Share() const {
  SliceStore shared(layout_, first_, 1, Budget());  // it opens nothing of its own
  shared.max_segments_ = max_segments_;
  shared.budget_ = budget_;
  shared.options_ = options_;
  shared.lease_ = budget_.Reserve(MemoryTag::kStore, lease_.bytes(), "the store of what left the window");
  shared.begin_ = begin_;
  shared.end_ = end_;
  shared.segments_ = segments_;
  shared.folder_ = folder_;
  shared.is_copy_ = true;
  if (folder_) shared.slice_ = MakeAligned<uint8_t>(layout_.disk_bytes());
  return shared;
}

// ---- states

void SliceStore::Save(StateWriter& writer) const {
  if (folder_) return SaveDigests(writer);
  writer.Put<int64_t>(begin_);
  writer.Put<int64_t>(end_);
  for (int64_t number = begin_; number < end_; ++number)
    writer.Write(In(SegmentOf(number), PlaceOf(number)).record, layout_.slice_bytes());
}

void SliceStore::SaveDigests(StateWriter& writer) const {
  if (is_copy_) {
    Fail(ErrorKind::kUnsupported,
         "{}: a copy of a session with a store on disk cannot be saved: what it added is gone with it",
         options_.path);
  }
  folder_->Sync();
  writer.Put<int64_t>(kFolderMark);
  writer.Put<uint64_t>(folder_->manifest().id);
  writer.Put<int64_t>(begin_);
  writer.Put<int64_t>(end_);
  for (int64_t number = begin_; number < end_; ++number)
    writer.Put<uint64_t>(SegmentOf(number).digests[static_cast<size_t>(PlaceOf(number))]);
}

void SliceStore::Restore(StateReader& reader) {
  MNEME_CHECK(end_ == first_);
  const auto begin = reader.Get<int64_t>();
  if (begin == kFolderMark) return RestoreFromFolder(reader);
  const auto end = reader.Get<int64_t>();
  const int64_t capacity = max_segments_ * kSegmentSlices;
  const bool is_sound =
      begin >= first_ && end >= begin && end - begin <= capacity && (begin - first_) % kSegmentSlices == 0 &&
      static_cast<uint64_t>(end - begin) <= reader.remaining_bytes() / layout_.slice_bytes();
  if (!is_sound) Fail(ErrorKind::kFile, "state: a store of slices {} to {} cannot be", begin, end);
  if (folder_ && begin != first_) {
    Fail(ErrorKind::kUnsupported, "state: its first slices are forgotten, and a folder begins with them");
  }
  begin_ = end_ = begin;
  for (int64_t number = begin; number < end; ++number) {
    const Slice slice = Append();
    reader.Read(slice.record, layout_.record_bytes);
    reader.Read(slice.keys, layout_.key_bytes);
    reader.Read(slice.tokens, kIdBytes);
    Commit();
  }
}

SliceStore::Found SliceStore::ReadKeys(Segment* segment, int64_t number, uint64_t digest) {
  if (segment->file == nullptr) return Found::kDamaged;
  const int64_t at = segment->offset + PlaceOf(number) * static_cast<int64_t>(layout_.disk_bytes());
  const size_t bytes = sizeof(SliceHeader) + kIdBytes + layout_.key_bytes;
  if (!segment->file->Read(slice_.get(), bytes, at)) return Found::kDamaged;
  SliceHeader header, expected;
  std::memcpy(&header, slice_.get(), sizeof(header));
  const uint8_t* const ids = slice_.get() + sizeof(header);
  const uint8_t* const keys = ids + kIdBytes;
  if (std::memcmp(header.magic, expected.magic, sizeof(header.magic)) != 0 ||
      header.digest != header.Digest()) {
    return Found::kDamaged;
  }
  if (header.digest != digest) return Found::kOther;
  if (header.keys_hash !=
      HashBytes({reinterpret_cast<const char*>(keys), layout_.key_bytes}, HashOf(ids, kIdBytes))) {
    return Found::kDamaged;
  }
  std::memcpy(segment->memory.get() + static_cast<size_t>(PlaceOf(number)) * layout_.key_bytes, keys,
              layout_.key_bytes);
  return Found::kWhole;
}

void SliceStore::RestoreFromFolder(StateReader& reader) {
  if (folder_ == nullptr) {
    Fail(ErrorKind::kMismatch, "state: what left its window is in a folder: name it with --store DIR");
  }
  const auto id = reader.Get<uint64_t>();
  if (id != folder_->manifest().id) {
    Fail(
        ErrorKind::kMismatch,
        "state: what left its window is in store {:016x}, and {} is store {:016x}: name its own with --store "
        "DIR",
        id, options_.path, folder_->manifest().id);
  }
  const auto begin = reader.Get<int64_t>();
  const auto end = reader.Get<int64_t>();
  const bool is_sound = begin >= first_ && end >= begin && end - begin <= max_segments_ * kSegmentSlices &&
                        (begin - first_) % folder_->manifest().file_slices == 0 &&
                        static_cast<uint64_t>(end - begin) <= reader.remaining_bytes() / sizeof(uint64_t);
  if (!is_sound)
    Fail(ErrorKind::kFile, "state: a store of slices {} to {} cannot be, or does not fit", begin, end);
  if (folder_->manifest().forgotten > end) {
    Fail(ErrorKind::kMismatch, "{}: the store has forgotten all that this state knows of", options_.path);
  }
  is_known_ = true;
  begin_ = end_ = std::max(begin, folder_->manifest().forgotten);
  for (int64_t number = begin; number < begin_; ++number) reader.Get<uint64_t>();
  while (end_ < end) {
    const auto digest = reader.Get<uint64_t>();
    const int64_t place = PlaceOf(end_);
    if (place == 0) {
      segments_.push_back(NewSegment());
      segments_.back()->is_named = true;
      segments_.back()->file = folder_->FileOf(end_);
      segments_.back()->offset = folder_->OffsetOf(end_);
    }
    Segment& segment = *segments_.back();
    const Found found = ReadKeys(&segment, end_, digest);
    if (found == Found::kOther) {
      Fail(ErrorKind::kMismatch,
           "{}: the store has gone on in another way since this state was saved, from token {} on",
           options_.path, end_ * static_cast<int64_t>(kBlockTokens));
    }
    segment.digests[static_cast<size_t>(place)] = digest;
    segment.is_damaged[static_cast<size_t>(place)] = found == Found::kDamaged;
    ++end_;
  }
}

}  // namespace mneme
