// Blocks of keys and values of one layout: where their memory comes from, and what it costs.
//
// A block is kBlockTokens tokens of one layer (kernels/attend/attend.h). Tables (kv/block_table.h) hold
// references to blocks; two tables may share one, and an eviction sink may keep one that a table has let go.
// Memory comes in slabs of many blocks, so that the blocks of a window lie near each other.
//
// The charge: a Quota is the right to so many blocks, paid in full when it is reserved, shared or not. Who
// holds no more blocks than its quota never meets a full budget later, also not where it copies a block that
// was shared. The lease is the larger of all quotas and of the memory that there is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/budget.h"
#include "kernels/attend/attend.h"

namespace mneme {

// Shared owner of one block; the last one gives it back to its pool. The count is atomic, so that another
// thread may drop a reference. It must not outlive the Budget.
using BlockRef = std::shared_ptr<uint8_t>;

// Thread-safe. Refs and quotas keep what they need of the pool alive.
class BlockPool {
 public:
  BlockPool(const KvLayout& layout, const Budget& budget, MemoryTag tag);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  class Quota;
  // `what` is for the message of Error(kBudget), which leaves everything as it was.
  Quota Reserve(int64_t num_blocks, std::string_view what);
  // Allocates `num_blocks` now as one slab, or what the quotas still allow. Throws std::bad_alloc.
  void Populate(int64_t num_blocks);
  // A block whose bytes are defined but not cleared. Throws Error(kBudget) only where somebody keeps
  // references beyond the quotas, std::bad_alloc where nothing was populated.
  BlockRef Take();

  const KvLayout& layout() const;
  size_t block_bytes() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// Move-only; gives its right back when destroyed.
class BlockPool::Quota {
 public:
  Quota() = default;
  Quota(Quota&& other) noexcept;
  Quota& operator=(Quota&& other) noexcept;
  ~Quota();

  int64_t num_blocks() const { return num_blocks_; }
  // Throws Error(kBudget) and keeps its size.
  void Grow(int64_t more, std::string_view what);

 private:
  friend class BlockPool;
  Quota(std::shared_ptr<Impl> impl, int64_t num_blocks);
  void Release();

  std::shared_ptr<Impl> impl_;
  int64_t num_blocks_ = 0;
};

}  // namespace mneme
