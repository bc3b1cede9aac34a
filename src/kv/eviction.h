// What leaves a context for good, and who wants to have it.
#pragma once

#include <cstdint>
#include <span>

#include "base/types.h"
#include "kv/block_pool.h"

namespace mneme {

// One block number of a track that evicts: its tokens, and the block of each of the track's layers, in the
// order of the layers. The spans are valid during the call; the refs may be copied and kept, by whoever has a
// quota of its own for them.
struct EvictedSlice {
  int64_t block = 0;
  std::span<const TokenId> tokens;  // kBlockTokens of them, from index block * kBlockTokens
  std::span<const BlockRef> layers;
};

class EvictionSink {
 public:
  virtual ~EvictionSink() = default;
  // Called from Context::Begin, in stream order, once for every block that no row and no rewind can reach any
  // more. If it throws, Begin throws the same, the stream is as it was, and the block is offered again.
  virtual void Evict(const EvictedSlice& slice) = 0;
};

}  // namespace mneme
