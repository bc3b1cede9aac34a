// The K and V blocks of one layer: a ring that holds the last so-many tokens, or a list that grows.
//
// Token `index` of the stream lies in block index / kBlockTokens; in a ring, block b lies in place b modulo
// the number of places. Old blocks are overwritten by new tokens, never moved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/aligned.h"
#include "base/checked.h"
#include "base/serial.h"
#include "kernels/attend/attend.h"

namespace mneme {

class KvRing {
 public:
  // A ring that always holds the last `num_tokens` tokens, all its memory allocated and cleared here;
  // num_tokens < 0: a list that grows.
  KvRing(const KvLayout& layout, int64_t num_tokens);

  static size_t RingBlocks(int64_t num_tokens);
  static size_t Bytes(const KvLayout& layout, int64_t num_tokens) {
    return SaturatingMultiply(RingBlocks(num_tokens), layout.block_bytes());
  }

  const KvLayout& layout() const { return layout_; }
  bool grows() const { return grows_; }
  size_t block_bytes() const { return block_bytes_; }
  // Blocks that a growing list must add before token index `end - 1` can be stored.
  size_t BlocksToAdd(int64_t end) const;
  // Throws std::bad_alloc; the list is unchanged then.
  void AddBlocks(size_t count);

  // k and v of one token, of any index that is not older than what the ring holds.
  void Store(int64_t index, const float* k, const float* v);
  // One KV head of it; threads may store different heads at once.
  void StoreHead(int64_t index, size_t kv_head, const float* k, const float* v);
  void Load(int64_t index, float* k, float* v) const;
  // Blocks from number `first_block` on, as many as the ring has places, in stream order.
  const uint8_t* const* Blocks(int64_t first_block) const;

  // Tells the ring that tokens up to `end` are about to be stored: the oldest block may be overwritten.
  void NoteStored(int64_t end);
  // Tokens from here on are intact.
  int64_t valid_begin() const { return valid_begin_; }

  // Writes tokens [begin, end) block by block; slots outside the range are written as cleared, so that the
  // bytes depend on the tokens alone. Restore gets them back, and everything before `begin` is invalid then.
  void Save(StateWriter& writer, int64_t begin, int64_t end) const;
  void Restore(StateReader& reader, int64_t begin, int64_t end);

 private:
  uint8_t* Block(int64_t block) { return const_cast<uint8_t*>(pointers_[Place(block)]); }
  const uint8_t* Block(int64_t block) const { return pointers_[Place(block)]; }
  size_t Place(int64_t block) const {
    return grows_ ? static_cast<size_t>(block) : static_cast<size_t>(block) % num_places_;
  }

  KvLayout layout_;
  size_t block_bytes_;
  bool grows_;
  size_t num_places_ = 0;
  int64_t valid_begin_ = 0;
  std::vector<AlignedArray<uint8_t>> memory_;
  // A ring has every place twice, so that any run of blocks is contiguous here.
  std::vector<const uint8_t*> pointers_;
};

}  // namespace mneme
