// What passes over rows of values share: a function of every value, a sum over a row, the logistic functions.
// Per SIMD target.

#if defined(MNEME_KERNELS_POINTWISE_MAP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_POINTWISE_MAP_INL_H_
#undef MNEME_KERNELS_POINTWISE_MAP_INL_H_
#else
#define MNEME_KERNELS_POINTWISE_MAP_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/simd/math-inl.h"
#include "kernels/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// out[i] = fn(x[i], i) for vectors, the tail as one partly filled vector: every value sees the same
// operations wherever it stands. fn gets the count of values to load at i from any second operand.
template <class Fn>
HWY_INLINE void Map(const float* x, size_t count, float* out, const Fn& fn) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(fn(hn::LoadU(d, x + i), [i, d](const float* y) { return hn::LoadU(d, y + i); }), d, out + i);
  }
  if (i == count) return;
  const size_t rest = count - i;
  HWY_ALIGN float buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  HWY_ALIGN float second[HWY_MAX_BYTES / sizeof(float)] = {};
  std::copy_n(x + i, rest, buffer);
  const auto load = [&](const float* y) {
    std::copy_n(y + i, rest, second);
    return hn::Load(d, second);
  };
  hn::Store(fn(hn::Load(d, buffer), load), d, buffer);
  std::copy_n(buffer, rest, out + i);
}

// Sum of fn(x[i]): float32 inside runs of kRun values, double across runs, so that the error does not grow
// with the row.
template <class Fn>
HWY_INLINE double SumOver(const float* x, size_t count, const Fn& fn) {
  constexpr size_t kRun = 512;
  const DF d;
  const size_t lanes = hn::Lanes(d);
  double total = 0;
  for (size_t begin = 0; begin < count; begin += kRun) {
    const size_t end = std::min(count, begin + kRun);
    VF sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    size_t i = begin;
    for (; i + 4 * lanes <= end; i += 4 * lanes) {
      for (size_t k = 0; k < 4; ++k) sums[k] = fn(sums[k], hn::LoadU(d, x + i + k * lanes));
    }
    for (; i + lanes <= end; i += lanes) sums[0] = fn(sums[0], hn::LoadU(d, x + i));
    const VF sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
    total += hn::GetLane(hn::SumOfLanes(d, sum));
    if (i < end) {
      HWY_ALIGN float tail[HWY_MAX_BYTES / sizeof(float)] = {};
      // One value at a time through lane 0: a padded lane would add fn(0), which is not 0 for the variance.
      for (; i < end; ++i) {
        tail[0] = x[i];
        total += hn::GetLane(fn(hn::Zero(d), hn::Load(d, tail)));
      }
    }
  }
  return total;
}

inline double SumOfSquares(const float* x, size_t count) {
  return SumOver(x, count, [](VF sum, VF v) { return hn::MulAdd(v, v, sum); });
}

struct Silu {
  HWY_INLINE VF operator()(VF x) const {
    const DF d;
    // 1 / (1 + exp(-x)) from exp(-x) - 1.
    const VF e = Exp2MinusOne(d, hn::Mul(x, hn::Set(d, -1.44269504f)));
    return hn::Div(x, hn::Add(e, hn::Set(d, 2.0f)));
  }
};

struct Sigmoid {
  HWY_INLINE VF operator()(VF x) const {
    const DF d;
    const VF e = Exp2MinusOne(d, hn::Mul(x, hn::Set(d, -1.44269504f)));
    return hn::Div(hn::Set(d, 1.0f), hn::Add(e, hn::Set(d, 2.0f)));
  }
};

// log(1 + exp x), also where exp x is far below 1 or above the range of float32.
HWY_INLINE VF Softplus(VF x) {
  const DF d;
  const VF small = hn::Log1p(d, Exp2F32(d, hn::Mul(hn::Abs(x), hn::Set(d, -1.44269504f))));
  return hn::Add(hn::IfThenElse(hn::Gt(x, hn::Zero(d)), x, hn::Zero(d)), small);
}

}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
