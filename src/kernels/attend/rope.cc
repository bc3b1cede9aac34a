#include "kernels/attend/rope.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attend/rope.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// pi / 2 = kHalfPiHigh + kHalfPiLow to 107 bits.
constexpr double kHalfPiHigh = 0x1.921fb54442d18p+0;
constexpr double kHalfPiLow = 0x1.1a62633145c07p-54;
constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;

#if HWY_HAVE_FLOAT64 && HWY_NATIVE_FMA
using DD = hn::ScalableTag<double>;
#else
// Without a fused multiply-add the error of the product needs std::fma, one lane at a time.
using DD = hn::CappedTag<double, 1>;
#endif
using VD = hn::Vec<DD>;

#if HWY_HAVE_FLOAT64 && HWY_NATIVE_FMA
HWY_INLINE VD FusedMulAdd(VD a, VD b, VD c) { return hn::MulAdd(a, b, c); }
HWY_INLINE VD Nearest(VD x) { return hn::Round(x); }
#else
HWY_INLINE VD FusedMulAdd(VD a, VD b, VD c) {
  return hn::Set(DD(), std::fma(hn::GetLane(a), hn::GetLane(b), hn::GetLane(c)));
}
HWY_INLINE VD Nearest(VD x) { return hn::Set(DD(), std::nearbyint(hn::GetLane(x))); }
#endif

// Taylor sums for |r| <= pi / 4 (+ rounding): errors below 1e-13.
HWY_INLINE VD SinNearZero(VD r) {
  const DD d;
  const VD z = hn::Mul(r, r);
  VD poly = hn::Set(d, 1.0 / 6227020800.0);
  poly = hn::MulAdd(poly, z, hn::Set(d, -1.0 / 39916800.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, 1.0 / 362880.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, -1.0 / 5040.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, 1.0 / 120.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, -1.0 / 6.0));
  return hn::MulAdd(hn::Mul(poly, z), r, r);
}

HWY_INLINE VD CosNearZero(VD r) {
  const DD d;
  const VD z = hn::Mul(r, r);
  VD poly = hn::Set(d, -1.0 / 87178291200.0);
  poly = hn::MulAdd(poly, z, hn::Set(d, 1.0 / 479001600.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, -1.0 / 3628800.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, 1.0 / 40320.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, -1.0 / 720.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, 1.0 / 24.0));
  poly = hn::MulAdd(poly, z, hn::Set(d, -0.5));
  return hn::MulAdd(poly, z, hn::Set(d, 1.0));
}

// cos and sin of position * frequency.
HWY_INLINE void CosSin(VD position, VD frequency, VD* cosine, VD* sine) {
  const DD d;
  const VD product = hn::Mul(position, frequency);
  const VD product_error = FusedMulAdd(position, frequency, hn::Neg(product));
  // The first reduction is exact: product and quarter * high agree in their leading bits and the difference
  // is a multiple of 2^-52 below 1. What is left over is rounded at the scale of the result.
  const VD quarter = Nearest(hn::Mul(product, hn::Set(d, kTwoOverPi)));
  VD r = FusedMulAdd(hn::Neg(quarter), hn::Set(d, kHalfPiHigh), product);
  r = FusedMulAdd(hn::Neg(quarter), hn::Set(d, kHalfPiLow), r);
  r = hn::Add(r, product_error);
  const VD s = SinNearZero(r);
  const VD c = CosNearZero(r);
  // quarter mod 4 in {-2, -1, 0, 1, 2}: odd swaps; the signs follow.
  const VD mod4 = hn::Sub(quarter, hn::Mul(hn::Set(d, 4.0), Nearest(hn::Mul(quarter, hn::Set(d, 0.25)))));
  const auto odd = hn::Eq(hn::Abs(mod4), hn::Set(d, 1.0));
  const auto two = hn::Eq(hn::Abs(mod4), hn::Set(d, 2.0));
  const VD base_cos = hn::IfThenElse(odd, s, c);
  const VD base_sin = hn::IfThenElse(odd, c, s);
  const auto negative_cos = hn::Or(two, hn::Eq(mod4, hn::Set(d, 1.0)));
  const auto negative_sin = hn::Or(two, hn::Eq(mod4, hn::Set(d, -1.0)));
  *cosine = hn::IfThenElse(negative_cos, hn::Neg(base_cos), base_cos);
  *sine = hn::IfThenElse(negative_sin, hn::Neg(base_sin), base_sin);
}

void RopeTableImpl(const double* frequencies, size_t half, float magnitude, Position position, float* table) {
  const DD d;
  const size_t lanes = hn::Lanes(d);
  const VD p = hn::Set(d, static_cast<double>(position));
  const VD m = hn::Set(d, static_cast<double>(magnitude));
  HWY_ALIGN double in[HWY_MAX_BYTES / sizeof(double)] = {};
  HWY_ALIGN double cosines[HWY_MAX_BYTES / sizeof(double)];
  HWY_ALIGN double sines[HWY_MAX_BYTES / sizeof(double)];
  for (size_t f = 0; f < half; f += lanes) {
    const size_t count = std::min(lanes, half - f);
    std::copy_n(frequencies + f, count, in);
    VD c, s;
    CosSin(p, hn::Load(d, in), &c, &s);
    hn::Store(hn::Mul(c, m), d, cosines);
    hn::Store(hn::Mul(s, m), d, sines);
    for (size_t i = 0; i < count; ++i) {
      table[f + i] = static_cast<float>(cosines[i]);
      table[half + f + i] = static_cast<float>(sines[i]);
    }
  }
}

using DF = hn::ScalableTag<float>;

void RotateHalves(const float* table, size_t half, const float* x, float* out) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  size_t f = 0;
  for (; f + lanes <= half; f += lanes) {
    const auto c = hn::LoadU(d, table + f);
    const auto s = hn::LoadU(d, table + half + f);
    const auto a = hn::LoadU(d, x + f);
    const auto b = hn::LoadU(d, x + half + f);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, out + f);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, out + half + f);
  }
  for (; f < half; ++f) {
    const float c = table[f], s = table[half + f], a = x[f], b = x[half + f];
    out[f] = a * c - b * s;
    out[half + f] = b * c + a * s;
  }
}

void RotateInterleaved(const float* table, size_t half, const float* x, float* out) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  size_t f = 0;
  for (; f + lanes <= half; f += lanes) {
    const auto c = hn::LoadU(d, table + f);
    const auto s = hn::LoadU(d, table + half + f);
    hn::Vec<DF> a, b;
    hn::LoadInterleaved2(d, x + 2 * f, a, b);
    hn::StoreInterleaved2(hn::NegMulAdd(b, s, hn::Mul(a, c)), hn::MulAdd(a, s, hn::Mul(b, c)), d,
                          out + 2 * f);
  }
  for (; f < half; ++f) {
    const float c = table[f], s = table[half + f], a = x[2 * f], b = x[2 * f + 1];
    out[2 * f] = a * c - b * s;
    out[2 * f + 1] = b * c + a * s;
  }
}

void RotateImpl(RopeLayout layout, size_t rotary_dim, const float* table, const float* x, size_t num_heads,
                size_t head_dim, float* out) {
  for (size_t head = 0; head < num_heads; ++head, x += head_dim, out += head_dim) {
    if (layout == RopeLayout::kHalves) {
      RotateHalves(table, rotary_dim / 2, x, out);
    } else {
      RotateInterleaved(table, rotary_dim / 2, x, out);
    }
    if (out != x) std::copy(x + rotary_dim, x + head_dim, out + rotary_dim);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {

HWY_EXPORT(RopeTableImpl);
HWY_EXPORT(RotateImpl);

void RopeTable(const Rope& rope, Position position, float* table) {
  HWY_DYNAMIC_DISPATCH(RopeTableImpl)
  (rope.frequencies.data(), rope.frequencies.size(), rope.magnitude, position, table);
}

void Rotate(const Rope& rope, const float* table, const float* x, size_t num_heads, size_t head_dim,
            float* out) {
  if (table == nullptr || rope.frequencies.empty()) {
    if (out != x) std::memcpy(out, x, num_heads * head_dim * sizeof(float));
    return;
  }
  HWY_DYNAMIC_DISPATCH(RotateImpl)
  (rope.layout, rope.rotary_dim, table, x, num_heads, head_dim, out);
}

}  // namespace mneme
#endif  // HWY_ONCE
