// What kernels ask for before they need it. Included by linear.cc once per target.
#include <algorithm>

#include "kernels/linear/layout.h"
#include "kernels/linear/tile-inl.h"

#if defined(MNEME_KERNELS_LINEAR_AHEAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_LINEAR_AHEAD_INL_H_
#undef MNEME_KERNELS_LINEAR_AHEAD_INL_H_
#else
#define MNEME_KERNELS_LINEAR_AHEAD_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::linear::HWY_NAMESPACE {

// Asks for [from, from + bytes) into the caches.
HWY_INLINE void PrefetchRange(const uint8_t* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) hwy::Prefetch(from + at);
}

// Asks for the weights that are read after those at hand, a few lines at a time: asked for at once, or not at
// all, they are waited for.
class AskBitByBit {
 public:
  // As many bytes from each of the kGroups places in num_parts parts.
  AskBitByBit(const uint8_t* const* from, size_t bytes, size_t num_parts)
      : left_(bytes), part_(RoundUp(CeilDivide(bytes, num_parts), 64)) {
    for (size_t g = 0; g < kGroups; ++g) from_[g] = from[g];
  }
  void Next() {
    const size_t bytes = std::min(left_, part_);
    for (size_t g = 0; g < kGroups; ++g) {
      PrefetchRange(from_[g], bytes);
      from_[g] += bytes;
    }
    left_ -= bytes;
  }

 private:
  const uint8_t* from_[kGroups];
  size_t left_, part_;
};

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
