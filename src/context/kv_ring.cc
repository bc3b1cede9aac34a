#include "context/kv_ring.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace mneme {
namespace {

constexpr int64_t kBlock = static_cast<int64_t>(kBlockTokens);

}  // namespace

size_t KvRing::RingBlocks(int64_t num_tokens) {
  // The oldest token may be the last of its block and the newest the first of its own.
  return static_cast<size_t>((num_tokens + kBlock - 2) / kBlock + 1);
}

KvRing::KvRing(const KvLayout& layout, int64_t num_tokens)
    : layout_(layout), block_bytes_(layout.block_bytes()), grows_(num_tokens < 0) {
  if (grows_) return;
  num_places_ = RingBlocks(num_tokens);
  memory_.push_back(MakeAligned<uint8_t>(num_places_ * block_bytes_));
  uint8_t* base = memory_[0].get();
  pointers_.resize(2 * num_places_);
  for (size_t place = 0; place < num_places_; ++place) {
    KvClear(layout_, base + place * block_bytes_);
    pointers_[place] = pointers_[place + num_places_] = base + place * block_bytes_;
  }
}

size_t KvRing::BlocksToAdd(int64_t end) const {
  if (!grows_) return 0;
  const auto needed = static_cast<size_t>((end + kBlock - 1) / kBlock);
  return needed > pointers_.size() ? needed - pointers_.size() : 0;
}

void KvRing::AddBlocks(size_t count) {
  if (count == 0) return;
  MNEME_CHECK(grows_);
  AlignedArray<uint8_t> memory = MakeAligned<uint8_t>(count * block_bytes_);
  pointers_.reserve(pointers_.size() + count);
  memory_.reserve(memory_.size() + 1);
  for (size_t i = 0; i < count; ++i) {
    KvClear(layout_, memory.get() + i * block_bytes_);
    pointers_.push_back(memory.get() + i * block_bytes_);
  }
  memory_.push_back(std::move(memory));
}

void KvRing::Store(int64_t index, const float* k, const float* v) {
  KvStore(layout_, Block(index / kBlock), static_cast<size_t>(index % kBlock), k, v);
}

void KvRing::StoreHead(int64_t index, size_t kv_head, const float* k, const float* v) {
  KvStoreHead(layout_, Block(index / kBlock), static_cast<size_t>(index % kBlock), kv_head, k, v);
}

void KvRing::Load(int64_t index, float* k, float* v) const {
  KvLoad(layout_, Block(index / kBlock), static_cast<size_t>(index % kBlock), k, v);
}

const uint8_t* const* KvRing::Blocks(int64_t first_block) const {
  return pointers_.data() + Place(first_block);
}

void KvRing::NoteStored(int64_t end) {
  if (grows_) return;
  // Whole blocks are reused: the block that holds end - 1 took the place of the one num_places_ before it.
  const int64_t oldest_block = (end - 1) / kBlock - static_cast<int64_t>(num_places_) + 1;
  valid_begin_ = std::max(valid_begin_, oldest_block * kBlock);
}

void KvRing::Save(StateWriter& writer, int64_t begin, int64_t end) const {
  if (begin >= end) return;
  MNEME_CHECK(begin >= valid_begin_);
  AlignedArray<uint8_t> copy = MakeAligned<uint8_t>(block_bytes_);
  for (int64_t block = begin / kBlock; block <= (end - 1) / kBlock; ++block) {
    const int64_t first = std::max(begin, block * kBlock);
    const int64_t last = std::min(end, (block + 1) * kBlock);
    if (last - first == kBlock) {
      writer.Write(Block(block), block_bytes_);
      continue;
    }
    KvClear(layout_, copy.get());
    for (int64_t index = first; index < last; ++index) {
      const auto slot = static_cast<size_t>(index % kBlock);
      KvCopy(layout_, Block(block), slot, copy.get(), slot);
    }
    writer.Write(copy.get(), block_bytes_);
  }
}

void KvRing::Restore(StateReader& reader, int64_t begin, int64_t end) {
  valid_begin_ = begin;
  if (begin >= end) return;
  AddBlocks(BlocksToAdd(end));
  const int64_t num_blocks = (end - 1) / kBlock - begin / kBlock + 1;
  if (!grows_ && num_blocks > static_cast<int64_t>(num_places_)) {
    Fail(ErrorKind::kFile, "state: {} blocks of keys and values where the context holds {}", num_blocks,
         num_places_);
  }
  for (int64_t block = begin / kBlock; block <= (end - 1) / kBlock; ++block)
    reader.Read(Block(block), block_bytes_);
}

}  // namespace mneme
