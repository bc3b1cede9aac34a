// The memory cap. Everything beside the weights that could be large, or grow with the input, takes a Lease
// from a Budget before it allocates; a lease that does not fit is refused with the numbers, and nothing has
// been allocated. Weights are counted too, but beside the cap: their size is known once they are loaded, and
// nothing that a run does changes it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace mneme {

enum class MemoryTag : uint8_t {
  kKv,         // K and V blocks of a context
  kMemory,     // compressive memories (M, z)
  kStore,      // RAM tier of the store and its index
  kScratch,    // activations, logits, attention partials
  kTokenizer,  // streaming buffers
  kSession,    // token history, journal, sampler
  kInput,      // lines and records that are read whole
  kWeights,    // beside the cap: model files, mapped
  kPacked,     // beside the cap: weights repacked at load
};
inline constexpr size_t kNumMemoryTags = 9;
// "kv", "memory", "store", "scratch", "tokenizer", "session", "input", "weights", "packed".
std::string_view MemoryTagName(MemoryTag tag);
// False for kWeights and kPacked, whose leases are never refused.
bool IsUnderCap(MemoryTag tag);

// What a Budget has given out, by use.
struct MemoryReport {
  struct Row {
    std::string_view tag;
    size_t used_bytes;
    size_t peak_bytes;
    bool is_under_cap;
  };
  // Of the rows under the cap.
  size_t cap_bytes = 0;
  size_t used_bytes = 0;
  size_t peak_bytes = 0;
  // One per tag that was ever used, in the order of MemoryTag.
  std::vector<Row> rows;
};

class Budget;

// Move-only share of a Budget; gives its bytes back when destroyed. Must not outlive the Budget.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();

  size_t bytes() const { return bytes_; }
  // Grows or shrinks to new_bytes. Throws Error(kBudget) and keeps its old size if the growth does not fit.
  void Resize(size_t new_bytes, std::string_view what);

 private:
  friend class Budget;
  Lease(Budget* budget, MemoryTag tag, size_t bytes) : budget_(budget), tag_(tag), bytes_(bytes) {}
  void Release();

  Budget* budget_ = nullptr;
  MemoryTag tag_ = MemoryTag::kScratch;
  size_t bytes_ = 0;
};

// Thread-safe.
class Budget {
 public:
  static constexpr size_t kUnlimited = SIZE_MAX;

  explicit Budget(size_t cap_bytes = kUnlimited) : cap_bytes_(cap_bytes) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // Takes bytes for `what` (a noun phrase for the message: "key and value blocks of 22 layers").
  // Throws Error(kBudget), with what was asked, what is left and which cap would do; the budget is unchanged
  // then.
  Lease Reserve(MemoryTag tag, size_t bytes, std::string_view what);

  size_t cap_bytes() const { return cap_bytes_; }
  size_t used_bytes() const;
  size_t free_bytes() const;
  size_t used_bytes(MemoryTag tag) const;
  size_t peak_bytes() const;
  size_t peak_bytes(MemoryTag tag) const;
  MemoryReport Report() const;

 private:
  friend class Lease;
  void Take(MemoryTag tag, size_t bytes, std::string_view what);
  void Give(MemoryTag tag, size_t bytes);

  const size_t cap_bytes_;
  mutable std::mutex mutex_;
  size_t used_ = 0;                               // guarded by mutex_
  size_t peak_ = 0;                               // guarded by mutex_
  std::array<size_t, kNumMemoryTags> used_by_{};  // guarded by mutex_
  std::array<size_t, kNumMemoryTags> peak_by_{};  // guarded by mutex_
};

}  // namespace mneme
