#include "kv/block_pool.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "base/aligned.h"
#include "base/checked.h"
#include "base/error.h"

namespace mneme {
namespace {

// What is allocated at once where blocks are taken one by one.
constexpr size_t kSlabBytes = size_t{2} << 20;

struct Slab {
  AlignedArray<uint8_t> memory;
  int64_t num_blocks = 0;
  std::vector<uint8_t*> free;  // a stack: the last one is taken first
};

}  // namespace

struct BlockPool::Impl {
  Impl(const KvLayout& layout, const Budget& budget, MemoryTag tag)
      : layout(layout), block_bytes(layout.block_bytes()), lease(budget.Reserve(tag, 0, "blocks")) {}

  const KvLayout layout;
  const size_t block_bytes;
  std::mutex mutex;  // guards all below
  Lease lease;
  int64_t num_quota = 0;
  int64_t num_blocks = 0;
  std::vector<std::unique_ptr<Slab>> slabs;

  void Charge(int64_t blocks, std::string_view what) {
    lease.Resize(SaturatingMultiply(static_cast<size_t>(blocks), block_bytes), what);
  }

  void Allocate(int64_t count) {
    if (count > static_cast<int64_t>(SIZE_MAX / 2 / block_bytes)) throw std::bad_alloc();
    auto slab = std::make_unique<Slab>();
    slab->memory = MakeAligned<uint8_t>(static_cast<size_t>(count) * block_bytes);
    slab->num_blocks = count;
    slab->free.reserve(static_cast<size_t>(count));
    for (int64_t i = count - 1; i >= 0; --i) {
      slab->free.push_back(slab->memory.get() + static_cast<size_t>(i) * block_bytes);
    }
    for (uint8_t* block : slab->free) KvClear(layout, block);
    slabs.push_back(std::move(slab));
    num_blocks += count;
  }

  // The newest slab has what a growing list was just given.
  Slab* SlabWithFree() {
    for (auto slab = slabs.rbegin(); slab != slabs.rend(); ++slab) {
      if (!(*slab)->free.empty()) return slab->get();
    }
    return nullptr;
  }

  // Memory that no quota pays for goes as soon as a whole slab is free.
  void Trim() {
    std::erase_if(slabs, [this](const std::unique_ptr<Slab>& slab) {
      const bool is_free = static_cast<int64_t>(slab->free.size()) == slab->num_blocks;
      if (!is_free || num_blocks - slab->num_blocks < num_quota) return false;
      num_blocks -= slab->num_blocks;
      return true;
    });
    Charge(std::max(num_quota, num_blocks), "blocks");  // never more than before
  }

  void Return(Slab* slab, uint8_t* block) {
    const std::lock_guard lock(mutex);
    slab->free.push_back(block);
    if (num_blocks > num_quota) Trim();
  }
};

BlockPool::BlockPool(const KvLayout& layout, const Budget& budget, MemoryTag tag)
    : impl_(std::make_shared<Impl>(layout, budget, tag)) {
  CheckKvLayout(layout);
}

const KvLayout& BlockPool::layout() const { return impl_->layout; }
size_t BlockPool::block_bytes() const { return impl_->block_bytes; }

BlockPool::Quota BlockPool::Reserve(int64_t num_blocks, std::string_view what) {
  Quota quota(impl_, 0);
  quota.Grow(num_blocks, what);
  return quota;
}

void BlockPool::Populate(int64_t num_blocks) {
  const std::lock_guard lock(impl_->mutex);
  const int64_t count = std::min(num_blocks, impl_->num_quota - impl_->num_blocks);
  if (count > 0) impl_->Allocate(count);
}

BlockRef BlockPool::Take() {
  Impl& impl = *impl_;
  Slab* slab = nullptr;
  uint8_t* block = nullptr;
  {
    const std::lock_guard lock(impl.mutex);
    slab = impl.SlabWithFree();
    if (slab == nullptr) {
      const int64_t allowed = impl.num_quota - impl.num_blocks;
      const auto slab_blocks = static_cast<int64_t>(kSlabBytes / impl.block_bytes);
      const int64_t count = std::max<int64_t>(1, std::min(allowed, slab_blocks));
      if (allowed < 1) impl.Charge(impl.num_blocks + count, "a block beside those that are kept elsewhere");
      impl.Allocate(count);
      slab = impl.SlabWithFree();
    }
    block = slab->free.back();
    slab->free.pop_back();
  }
  return BlockRef(block, [impl = impl_, slab](uint8_t* returned) { impl->Return(slab, returned); });
}

BlockPool::Quota::Quota(std::shared_ptr<Impl> impl, int64_t num_blocks)
    : impl_(std::move(impl)), num_blocks_(num_blocks) {}

BlockPool::Quota::Quota(Quota&& other) noexcept
    : impl_(std::move(other.impl_)), num_blocks_(std::exchange(other.num_blocks_, 0)) {}

BlockPool::Quota& BlockPool::Quota::operator=(Quota&& other) noexcept {
  if (this == &other) return *this;
  Release();
  impl_ = std::move(other.impl_);
  num_blocks_ = std::exchange(other.num_blocks_, 0);
  return *this;
}

BlockPool::Quota::~Quota() { Release(); }

void BlockPool::Quota::Grow(int64_t more, std::string_view what) {
  MNEME_CHECK(impl_ != nullptr && more >= 0);
  const std::lock_guard lock(impl_->mutex);
  impl_->Charge(std::max(impl_->num_quota + more, impl_->num_blocks), what);
  impl_->num_quota += more;
  num_blocks_ += more;
}

void BlockPool::Quota::Release() {
  if (impl_ == nullptr) return;
  const std::lock_guard lock(impl_->mutex);
  impl_->num_quota -= num_blocks_;
  num_blocks_ = 0;
  impl_->Trim();
}

}  // namespace mneme
