// Scales of packed integer weights as float. Included by linear.cc once per target.
#include <cstring>

#include "base/half.h"
#include "kernels/linear/layout.h"
#include "kernels/simd/targets.h"

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

// Scales and minimums from the head of a q4_k unit, [2 blocks][16 rows] each.
HWY_INLINE void UnpackScalePlanes(const uint8_t* head, uint8_t* scales, uint8_t* mins) {
  // 8 bytes at a time without vectors; bits that a shift brings from the next byte are masked off.
  const hn::CappedTag<uint64_t, 2> d;
  const auto low6 = hn::Set(d, Bytes(63));
  const auto load = [&](const uint8_t* from)
                        HWY_ATTR { return hn::LoadU(d, reinterpret_cast<const uint64_t*>(from)); };
  const auto store = [&](auto v, uint8_t* to) HWY_ATTR { hn::StoreU(v, d, reinterpret_cast<uint64_t*>(to)); };
  for (size_t at = 0; at < kGroupRows; at += 8 * hn::Lanes(d)) {
    const auto a = load(head + at), b = load(head + kGroupRows + at), c = load(head + 2 * kGroupRows + at);
    store(hn::And(a, low6), scales + at);
    store(hn::And(b, low6), scales + kGroupRows + at);
    store(hn::And(c, low6), mins + at);
    const auto high = hn::Or(hn::And(hn::ShiftRight<6>(a), hn::Set(d, Bytes(3))),
                             hn::And(hn::ShiftRight<4>(b), hn::Set(d, Bytes(12))));
    store(hn::Or(high, hn::And(hn::ShiftRight<2>(c), hn::Set(d, Bytes(48)))), mins + kGroupRows + at);
  }
}

// The factors of a q4_k super-block together: [16] d, [16] dmin.
HWY_INLINE void GatherFactorsQ4_K(const uint8_t* super_block, uint8_t* factors) {
  constexpr size_t kPart = kUnitFactorsQ4_K;
  for (size_t unit = 0; unit < kSuperUnits; ++unit)
    std::memcpy(factors + unit * kPart * 2, super_block + FactorOffsetQ4_K(unit * kPart), kPart * 2);
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

// The heads of a super-block: out[8 blocks][16 rows] each.
HWY_INLINE void UnpackScalesQ4_K(const uint8_t* super_block, float* scales, float* mins) {
  alignas(64) uint8_t halves[4 * kGroupRows];
  alignas(64) float factors[2 * kGroupRows];
  alignas(64) uint8_t scale_bytes[kSuperBlocks * kGroupRows];
  alignas(64) uint8_t min_bytes[kSuperBlocks * kGroupRows];
  GatherFactorsQ4_K(super_block, halves);
  WidenHalves(halves, 2 * kGroupRows, factors);
  for (size_t unit = 0; unit < kSuperUnits; ++unit) {
    UnpackScalePlanes(super_block + unit * UnitBytes(ChunkLayout::kQ4_K), scale_bytes + unit * 2 * kGroupRows,
                      min_bytes + unit * 2 * kGroupRows);
  }
  ScaleBytes(factors, scale_bytes, kSuperBlocks, scales);
  ScaleBytes(factors + kGroupRows, min_bytes, kSuperBlocks, mins);
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
