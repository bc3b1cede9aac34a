// The memory cap. Everything beside the weights that could be large, or grow with the input, takes a Lease
// from a Budget before it allocates; a lease that does not fit is refused with the numbers, and nothing has
// been allocated. Weights are counted too, but beside the cap: their size is known once they are loaded, and
// nothing that a run does changes it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>

#include "mneme/memory.h"

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

// Thread-safe. A Budget is a handle: copies are the same budget, and leases keep what they take from alive.
class Budget {
 public:
  static constexpr size_t kUnlimited = SIZE_MAX;

  explicit Budget(size_t cap_bytes = kUnlimited);
  // A part of another: what it gives out is taken from both. cap_bytes is the most that this part may take.
  Budget(size_t cap_bytes, const Budget& whole);

  // Takes bytes for `what` (a noun phrase for the message: "key and value blocks of 22 layers").
  // Throws Error(kBudget), with what was asked, what is left and which cap would do; the budget is unchanged
  // then.
  Lease Reserve(MemoryTag tag, size_t bytes, std::string_view what) const;

  size_t cap_bytes() const;
  size_t used_bytes() const;
  size_t free_bytes() const;
  size_t used_bytes(MemoryTag tag) const;
  size_t peak_bytes() const;
  size_t peak_bytes(MemoryTag tag) const;
  MemoryReport Report() const;

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace mneme
