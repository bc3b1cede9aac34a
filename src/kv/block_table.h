// The blocks of one track of one layer by their number in the stream: block b holds tokens [64 b, 64 b + 64).
//
// A pinned head, the first keep_first tokens, that stays; and a tail that grows behind and drops whole blocks
// in front. Until something was dropped the two are one run. Tables that were Shared hold the same blocks;
// the last one, which is still written to, is copied before that (Extend).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/files/serial.h"
#include "kv/block_pool.h"

namespace mneme {

// Thread rule: one thread at a time.
class BlockTable {
 public:
  BlockTable(std::shared_ptr<BlockPool> pool, int64_t keep_first);
  // Move-only: Share says what a copy is.
  BlockTable(BlockTable&&) = default;
  BlockTable& operator=(BlockTable&&) = default;

  // Most blocks of a table that keeps keep_first tokens and any run of `tail_tokens` in a row: its quota.
  static int64_t NumBlocks(int64_t keep_first, int64_t tail_tokens);

  const KvLayout& layout() const { return pool_->layout(); }
  // The first token of the tail that is there: a multiple of kBlockTokens.
  int64_t tail_begin() const;
  // Tokens before this index have room.
  int64_t end() const { return end_; }
  // Blocks that the table holds after Extend(end): what its quota must be.
  int64_t NumBlocksAt(int64_t end) const;

  // Room for tokens [this->end(), end), in blocks that are this table's alone. Throws what BlockPool::Take
  // throws; end() has not changed then.
  void Extend(int64_t end);
  // Lets go of whole tail blocks before token `index` <= end(). Blocks of the head stay, and as long as
  // `index` lies in it nothing changes: head and tail are still read as one run.
  void DropBefore(int64_t index);
  // Takes back tokens from `end` on; they must be in the tail.
  void Cut(int64_t end);
  // The same blocks again, to be written to by neither until one has extended past the last one.
  BlockTable Share() const;

  // A block of the head or of the tail.
  const BlockRef& Ref(int64_t block) const;
  // Pointers to blocks first_block, first_block + 1, ... of the head or of the tail, whichever it lies in; of
  // the tail, where it lies in both. Valid until the next change.
  uint8_t* const* Blocks(int64_t first_block) const;

  // k and v of one token; index in [.., end()).
  void Store(int64_t index, const float* k, const float* v);
  void Load(int64_t index, float* k, float* v) const;

  // Writes the head and tokens [begin, end) of the tail block by block; slots outside are written as cleared,
  // so that the bytes depend on the tokens alone. Restore, of a table that is empty, gets them back; pool and
  // quota must have room. Throws Error(kFile).
  void Save(StateWriter& writer, int64_t begin, int64_t end) const;
  void Restore(StateReader& reader, int64_t begin, int64_t end);

 private:
  int64_t NumHeadBlocks() const;
  // The tail of a state begins here: at 0 where it meets the head.
  int64_t SavedBegin(int64_t begin) const;
  void SaveRange(StateWriter& writer, int64_t begin, int64_t end) const;
  void RestoreRange(StateReader& reader, int64_t begin, int64_t end);
  uint8_t* Block(int64_t index) const;
  void SetPointer(int64_t block, uint8_t* pointer);

  std::shared_ptr<BlockPool> pool_;
  int64_t keep_first_;
  int64_t end_ = 0;
  int64_t first_ = 0;  // number of the tail's first block
  // Head blocks that have left the tail; pointers to all that were ever there.
  std::vector<BlockRef> head_;
  std::vector<uint8_t*> head_pointers_;
  // Tail blocks from number first_ - num_dropped_ on; the dropped ones in front are empty and go in batches.
  std::vector<BlockRef> tail_;
  std::vector<uint8_t*> tail_pointers_;
  size_t num_dropped_ = 0;
};

}  // namespace mneme
