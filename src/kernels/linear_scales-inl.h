// Scales of packed integer weights as float. Included by linear.cc once per target.
#include <cstring>

#include "base/half.h"
#include "kernels/linear_layout.h"
#include "kernels/simd_targets.h"

#if defined(MNEME_KERNELS_LINEAR_SCALES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_LINEAR_SCALES_INL_H_
#undef MNEME_KERNELS_LINEAR_SCALES_INL_H_
#else
#define MNEME_KERNELS_LINEAR_SCALES_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::linear::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr uint64_t Bytes(uint64_t byte) { return byte * 0x0101010101010101ull; }

// Half precision to float, 16 at a time.
HWY_INLINE void WidenHalves(const void* halves, size_t count, float* out) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, static_cast<const uint8_t*>(halves) + 2 * i, 2);
    out[i] = F16ToF32(half);
  }
#else
  const hn::CappedTag<float, 16> df;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  const auto* from = static_cast<const hwy::float16_t*>(halves);
  for (size_t i = 0; i < count; i += hn::Lanes(df))
    hn::StoreU(hn::PromoteTo(df, hn::LoadU(dh, from + i)), df, out + i);
#endif
}

// Scales and minimums of one super-block, 16 rows: 12 bytes of each row, plane by plane, to [8][16].
HWY_INLINE void UnpackScalePlanes(const uint8_t* planes, uint8_t* scales, uint8_t* mins) {
  // 8 bytes at a time without vectors; bits that a shift brings from the next byte are masked off.
  const hn::CappedTag<uint64_t, 8> d;
  const auto low6 = hn::Set(d, Bytes(63)), low4 = hn::Set(d, Bytes(15)), high2 = hn::Set(d, Bytes(48));
  const auto load = [&](const uint8_t* from)
                        HWY_ATTR { return hn::LoadU(d, reinterpret_cast<const uint64_t*>(from)); };
  const auto store = [&](auto v, uint8_t* to) HWY_ATTR { hn::StoreU(v, d, reinterpret_cast<uint64_t*>(to)); };
  for (size_t at = 0; at < 64; at += 8 * hn::Lanes(d)) {
    const auto a = load(planes + at), b = load(planes + 64 + at), c = load(planes + 128 + at);
    store(hn::And(a, low6), scales + at);
    store(hn::Or(hn::And(c, low4), hn::And(hn::ShiftRight<2>(a), high2)), scales + 64 + at);
    store(hn::And(b, low6), mins + at);
    store(hn::Or(hn::And(hn::ShiftRight<4>(c), low4), hn::And(hn::ShiftRight<2>(b), high2)), mins + 64 + at);
  }
}

// out[s][row] = factors[row] * bytes[s][row].
template <typename Byte>
HWY_INLINE void ScaleBytes(const float* factors, const Byte* bytes, size_t count, float* out) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t i = 0; i < count * kGroupRows; ++i)
    out[i] = factors[i % kGroupRows] * static_cast<float>(bytes[i]);
#else
  const hn::CappedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<Byte, decltype(df)> db;
  for (size_t lane = 0; lane < kGroupRows; lane += hn::Lanes(df)) {
    const auto factor = hn::LoadU(df, factors + lane);
    for (size_t s = 0; s < count; ++s) {
      const auto value = hn::ConvertTo(df, hn::PromoteTo(di, hn::LoadU(db, bytes + s * kGroupRows + lane)));
      hn::StoreU(hn::Mul(factor, value), df, out + s * kGroupRows + lane);
    }
  }
#endif
}

// The head of a unit: out[8 blocks][16 rows] each.
HWY_INLINE void UnpackScalesQ4_K(const uint8_t* head, float* scales, float* mins) {
  alignas(64) float factors[2 * kGroupRows];
  alignas(64) uint8_t scale_bytes[8 * kGroupRows];
  alignas(64) uint8_t min_bytes[8 * kGroupRows];
  WidenHalves(head, 2 * kGroupRows, factors);
  UnpackScalePlanes(head + kUnitFactorBytes, scale_bytes, min_bytes);
  ScaleBytes(factors, scale_bytes, 8, scales);
  ScaleBytes(factors + kGroupRows, min_bytes, 8, mins);
}

// The head of a unit: out[16 halves of blocks][16 rows].
HWY_INLINE void UnpackScalesQ6_K(const uint8_t* head, float* scales) {
  alignas(64) float factors[kGroupRows];
  WidenHalves(head, kGroupRows, factors);
  ScaleBytes(factors, reinterpret_cast<const int8_t*>(head) + kUnitFactorBytes, 16, scales);
}

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
