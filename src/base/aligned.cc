#include "base/aligned.h"

#include <sys/mman.h>

namespace mneme {

AlignedArray<uint8_t> MakeHuge(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  if (bytes < 2 * kHugePage) return MakeAligned<uint8_t>(bytes);
  // Whole pages, so that the last one is huge as well.
  if (bytes > SIZE_MAX - kHugePage) throw std::bad_alloc();
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* pointer = std::aligned_alloc(kHugePage, rounded);
  if (pointer == nullptr) throw std::bad_alloc();
  madvise(pointer, rounded, MADV_HUGEPAGE);
  return AlignedArray<uint8_t>(static_cast<uint8_t*>(pointer));
}

}  // namespace mneme
