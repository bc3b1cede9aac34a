// Vector exp, tanh and erf for float32, per SIMD target. Coefficients are minimax fits of our own (weighted
// Lawson iteration in 40 digits); stated errors include float32 rounding and are checked by the tests of the
// ops that use them.
//
// NaN in gives NaN out in every function.

#if defined(MNEME_KERNELS_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_SIMD_MATH_INL_H_
#undef MNEME_KERNELS_SIMD_MATH_INL_H_
#else
#define MNEME_KERNELS_SIMD_MATH_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 2^n for integers n in [-126, 127]. A product with it keeps a NaN, which arithmetic on exponent bits does
// not.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V PowerOfTwo(D d, V n) {
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::NearestInt(n), hn::Set(di, 127))));
}

// 2^n for the integer n nearest to x, |x| <= 126, and what is left of x, in [-0.5, 0.5]. Beyond -126 both
// are meaningless; a NaN is left in rest.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V NearestPower(D d, V x, V& rest) {
  // A sum with 1.5 * 2^23 has no room for a fraction: its low bits are n + 127. Conversions take more steps.
  const V shift = hn::Set(d, 12582912.0f + 127.0f);
  const V shifted = hn::Add(x, shift);
  rest = hn::Sub(x, hn::Sub(shifted, shift));  // exact
  const hn::RebindToUnsigned<D> du;
  return hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, shifted)));
}

// 2^x for x <= 126: relative error 1.6e-7; 0 for x < -125; exactly 1 at 0. The exponential of softmax, where
// x is hardly ever above 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2F32(D d, V x) {
  V r;
  const V power = NearestPower(d, x, r);
  V poly = hn::Set(d, 0.00132647149253f);
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.0096715134844f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.0555073378407f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.24022242067f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.693146977571f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 1.0f));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -125.0f)), hn::Mul(poly, power));
}

// 2^r - 1 for |r| <= 0.5: relative error 2e-7 also near 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V RestMinusOne(D d, V r) {
  V poly = hn::Set(d, 0.000154034520226f);
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.00133907352496f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.00961823768302f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.0555035743421f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.240226497938f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.693147187927f));
  return hn::Mul(poly, r);
}

// 2^x = power (1 + rest) for x <= 126, power exact and |rest| below 0.42: a product with it that is taken
// again and again loses no more than the sum of the exponents does. 0 for x < -125.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void Exp2Parts(D d, V x, V& power, V& rest) {
  const V low = hn::Set(d, -126.0f);
  x = hn::IfThenElse(hn::Lt(x, low), low, x);  // keeps NaN
  V r;
  power = NearestPower(d, x, r);
  power = hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -125.0f)), power);
  rest = RestMinusOne(d, r);
}

// 2^x - 1 for x in [-125, 127] (larger and smaller x are clamped): relative error 3e-7 also near 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2MinusOne(D d, V x) {
  const V low = hn::Set(d, -125.0f);
  const V high = hn::Set(d, 127.0f);
  // Comparisons instead of Min and Max: those drop a NaN on some targets.
  x = hn::IfThenElse(hn::Lt(x, low), low, x);
  x = hn::IfThenElse(hn::Gt(x, high), high, x);
  const V rounded = hn::Round(x);
  const V r = hn::Sub(x, rounded);
  const V poly = RestMinusOne(d, r);
  // 2^n (1 + poly) - 1 = 2^n poly + (2^n - 1), the bracket being exact.
  const V power = PowerOfTwo(d, rounded);
  return hn::MulAdd(power, poly, hn::Sub(power, hn::Set(d, 1.0f)));
}

// tanh x, relative error 6e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V TanhF32(D d, V x) {
  // With e = exp(-2|x|) - 1: tanh |x| = -e / (e + 2).
  const V e = Exp2MinusOne(d, hn::Mul(hn::Abs(x), hn::Set(d, -2.88539008f)));
  const V magnitude = hn::Div(hn::Neg(e), hn::Add(e, hn::Set(d, 2.0f)));
  return hn::CopySign(magnitude, x);
}

// erf x, absolute error 3e-7: 1 - 2^(-x P(x)) with x P(x) fitted to -log2(erfc x) on [0, 4].
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ErfF32(D d, V x) {
  const V four = hn::Set(d, 4.0f);  // erf(4) is 1 in float32
  V a = hn::Abs(x);
  a = hn::IfThenElse(hn::Gt(a, four), four, a);
  V poly = hn::Set(d, 4.53569338005e-5f);
  poly = hn::MulAdd(poly, a, hn::Set(d, -0.000445494393026f));
  poly = hn::MulAdd(poly, a, hn::Set(d, 0.00148940079657f));
  poly = hn::MulAdd(poly, a, hn::Set(d, 0.000774691787107f));
  poly = hn::MulAdd(poly, a, hn::Set(d, -0.028253730221f));
  poly = hn::MulAdd(poly, a, hn::Set(d, 0.148481633988f));
  poly = hn::MulAdd(poly, a, hn::Set(d, 0.918416390735f));
  poly = hn::MulAdd(poly, a, hn::Set(d, 1.62790859305f));
  const V e = Exp2MinusOne(d, hn::Neg(hn::Mul(poly, a)));
  return hn::CopySign(hn::Neg(e), x);
}

}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
