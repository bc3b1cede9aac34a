// Owner of uninitialised, cache-line aligned memory for kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace mneme {

inline constexpr size_t kAlignment = 64;

struct AlignedFree {
  void operator()(void* pointer) const { std::free(pointer); }
};

template <typename T>
using AlignedArray = std::unique_ptr<T[], AlignedFree>;

// count values of a trivial type, 64-byte aligned, not initialised. Throws std::bad_alloc.
template <typename T>
AlignedArray<T> MakeAligned(size_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  const size_t bytes = (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  void* pointer = std::aligned_alloc(kAlignment, bytes == 0 ? kAlignment : bytes);
  if (pointer == nullptr) throw std::bad_alloc();
  return AlignedArray<T>(static_cast<T*>(pointer));
}

// `bytes` of memory that is read from end to end, again and again, such as weights: on huge pages where the
// system gives them, which saves page walks; small amounts as MakeAligned. Throws std::bad_alloc.
AlignedArray<uint8_t> MakeHuge(size_t bytes);

}  // namespace mneme
