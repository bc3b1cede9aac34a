#include "kv/block_table.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/aligned.h"
#include "base/error.h"

namespace mneme {
namespace {

constexpr int64_t kBlock = static_cast<int64_t>(kBlockTokens);

int64_t BlocksFor(int64_t num_tokens) { return (num_tokens + kBlock - 1) / kBlock; }

}  // namespace

BlockTable::BlockTable(std::shared_ptr<BlockPool> pool, int64_t keep_first)
    : pool_(std::move(pool)), keep_first_(keep_first) {}

int64_t BlockTable::NumBlocks(int64_t keep_first, int64_t tail_tokens) {
  // The oldest token may be the last of its block and the newest the first of its own.
  const int64_t tail = tail_tokens > 0 ? (tail_tokens + kBlock - 2) / kBlock + 1 : 0;
  return BlocksFor(keep_first) + tail;
}

int64_t BlockTable::NumHeadBlocks() const { return BlocksFor(keep_first_); }

int64_t BlockTable::tail_begin() const { return first_ * kBlock; }

int64_t BlockTable::NumBlocksAt(int64_t end) const {
  return static_cast<int64_t>(head_.size()) + std::max(BlocksFor(end), BlocksFor(end_)) - first_;
}

void BlockTable::SetPointer(int64_t block, uint8_t* pointer) {
  if (block >= NumHeadBlocks()) return;
  head_pointers_.resize(std::max(head_pointers_.size(), static_cast<size_t>(block) + 1));
  head_pointers_[static_cast<size_t>(block)] = pointer;
}

void BlockTable::Extend(int64_t end) {
  if (end <= end_) return;
  if (end_ % kBlock != 0) {
    const int64_t last = end_ / kBlock;
    BlockRef& ref = tail_[num_dropped_ + static_cast<size_t>(last - first_)];
    if (ref.use_count() > 1) {
      BlockRef own = pool_->Take();
      std::memcpy(own.get(), ref.get(), pool_->block_bytes());
      ref = std::move(own);
      tail_pointers_[num_dropped_ + static_cast<size_t>(last - first_)] = ref.get();
      SetPointer(last, ref.get());
    }
  }
  for (int64_t block = first_ + static_cast<int64_t>(tail_.size() - num_dropped_); block < BlocksFor(end);
       ++block) {
    BlockRef taken = pool_->Take();
    SetPointer(block, taken.get());
    tail_pointers_.resize(tail_.size() + 1);
    tail_pointers_.back() = taken.get();
    tail_.push_back(std::move(taken));
  }
  end_ = end;
}

void BlockTable::DropBefore(int64_t index) {
  MNEME_CHECK(index <= end_);
  if (index <= keep_first_) return;
  while (first_ < index / kBlock && num_dropped_ < tail_.size()) {
    BlockRef ref = std::move(tail_[num_dropped_]);
    if (first_ < NumHeadBlocks()) head_.push_back(std::move(ref));
    ++num_dropped_;
    ++first_;
  }
  if (num_dropped_ * 2 < tail_.size()) return;
  tail_.erase(tail_.begin(), tail_.begin() + static_cast<ptrdiff_t>(num_dropped_));
  tail_pointers_.erase(tail_pointers_.begin(), tail_pointers_.begin() + static_cast<ptrdiff_t>(num_dropped_));
  num_dropped_ = 0;
}

void BlockTable::Cut(int64_t end) {
  if (end >= end_) return;
  MNEME_CHECK(end >= tail_begin());
  const auto kept = num_dropped_ + static_cast<size_t>(BlocksFor(end) - first_);
  if (kept < tail_.size()) {
    tail_.resize(kept);
    tail_pointers_.resize(kept);
  }
  end_ = end;
}

BlockTable BlockTable::Share() const {
  BlockTable shared(pool_, keep_first_);
  shared.end_ = end_;
  shared.first_ = first_;
  shared.head_ = head_;
  shared.head_pointers_ = head_pointers_;
  shared.tail_ = tail_;
  shared.tail_pointers_ = tail_pointers_;
  shared.num_dropped_ = num_dropped_;
  return shared;
}

const BlockRef& BlockTable::Ref(int64_t block) const {
  if (block >= first_) return tail_[num_dropped_ + static_cast<size_t>(block - first_)];
  return head_[static_cast<size_t>(block)];
}

uint8_t* const* BlockTable::Blocks(int64_t first_block) const {
  if (first_block >= first_) return tail_pointers_.data() + num_dropped_ + (first_block - first_);
  return head_pointers_.data() + first_block;
}

uint8_t* BlockTable::Block(int64_t index) const { return Ref(index / kBlock).get(); }

void BlockTable::Store(int64_t index, const float* k, const float* v) {
  KvStore(layout(), Block(index), static_cast<size_t>(index % kBlock), k, v);
}

void BlockTable::Load(int64_t index, float* k, float* v) const {
  KvLoad(layout(), Block(index), static_cast<size_t>(index % kBlock), k, v);
}

int64_t BlockTable::SavedBegin(int64_t begin) const { return begin / kBlock < NumHeadBlocks() ? 0 : begin; }

void BlockTable::Save(StateWriter& writer, int64_t begin, int64_t end) const {
  begin = SavedBegin(begin);
  if (begin > 0) SaveRange(writer, 0, keep_first_);
  SaveRange(writer, begin, end);
}

void BlockTable::Restore(StateReader& reader, int64_t begin, int64_t end) {
  MNEME_CHECK(end_ == 0 && first_ == 0);
  begin = SavedBegin(begin);
  if (begin > 0) {
    RestoreRange(reader, 0, keep_first_);
    end_ = NumHeadBlocks() * kBlock + 1;  // behind the head: all of it leaves the tail
    DropBefore(end_);
    first_ = begin / kBlock;
    end_ = first_ * kBlock;
  }
  RestoreRange(reader, begin, end);
  Extend(end);  // the next token may share a block with one that nobody needs
}

void BlockTable::SaveRange(StateWriter& writer, int64_t begin, int64_t end) const {
  if (begin >= end) return;
  const AlignedArray<uint8_t> copy = MakeAligned<uint8_t>(pool_->block_bytes());
  for (int64_t block = begin / kBlock; block < BlocksFor(end); ++block) {
    const int64_t first = std::max(begin, block * kBlock);
    const int64_t last = std::min(end, (block + 1) * kBlock);
    if (last - first == kBlock) {
      writer.Write(Ref(block).get(), pool_->block_bytes());
      continue;
    }
    KvClear(layout(), copy.get());
    for (int64_t index = first; index < last; ++index) {
      const auto slot = static_cast<size_t>(index % kBlock);
      KvCopy(layout(), Ref(block).get(), slot, copy.get(), slot);
    }
    writer.Write(copy.get(), pool_->block_bytes());
  }
}

void BlockTable::RestoreRange(StateReader& reader, int64_t begin, int64_t end) {
  if (begin >= end) return;
  Extend(end);
  for (int64_t block = begin / kBlock; block < BlocksFor(end); ++block) {
    reader.Read(Ref(block).get(), pool_->block_bytes());
  }
}

}  // namespace mneme
