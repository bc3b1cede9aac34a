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

// Scales and minimums from a head of six bits, [2 blocks][16 rows] each.
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

// The factors of a super-block together: [16] d, [16] dmin.
template <ChunkLayout kLayout>
HWY_INLINE void GatherSuperFactors(const uint8_t* super_block, uint8_t* factors) {
  constexpr size_t kPart = kUnitSuperFactors;
  for (size_t unit = 0; unit < kSuperUnits; ++unit)
    std::memcpy(factors + unit * kPart * 2, super_block + SuperFactorOffset(kLayout, unit * kPart),
                kPart * 2);
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
template <ChunkLayout kLayout>
HWY_INLINE void UnpackSixBitScales(const uint8_t* super_block, float* scales, float* mins) {
  alignas(64) uint8_t halves[4 * kGroupRows];
  alignas(64) float factors[2 * kGroupRows];
  alignas(64) uint8_t scale_bytes[kSuperBlocks * kGroupRows];
  alignas(64) uint8_t min_bytes[kSuperBlocks * kGroupRows];
  GatherSuperFactors<kLayout>(super_block, halves);
  WidenHalves(halves, 2 * kGroupRows, factors);
  for (size_t unit = 0; unit < kSuperUnits; ++unit) {
    UnpackScalePlanes(super_block + unit * UnitBytes(kLayout), scale_bytes + unit * 2 * kGroupRows,
                      min_bytes + unit * 2 * kGroupRows);
  }
  ScaleBytes(factors, scale_bytes, kSuperBlocks, scales);
  ScaleBytes(factors + kGroupRows, min_bytes, kSuperBlocks, mins);
}

// A head of nibbles: out[16 halves of blocks][16 rows] each.
HWY_INLINE void UnpackNibbleScales(const uint8_t* head, float* scales, float* mins) {
  constexpr size_t kCount = 2 * kSuperBlocks * kGroupRows;
  alignas(64) float factors[2 * kGroupRows];
  alignas(64) uint8_t scale_bytes[kCount];
  alignas(64) uint8_t min_bytes[kCount];
  WidenHalves(head, 2 * kGroupRows, factors);
  for (size_t i = 0; i < kCount; ++i) {
    scale_bytes[i] = head[kUnitFactorBytes + i] & 15;
    min_bytes[i] = head[kUnitFactorBytes + i] >> 4;
  }
  ScaleBytes(factors, scale_bytes, 2 * kSuperBlocks, scales);
  ScaleBytes(factors + kGroupRows, min_bytes, 2 * kSuperBlocks, mins);
}

// A head of `count` signed scales for each row: out[count][16 rows].
HWY_INLINE void UnpackByteScales(const uint8_t* head, size_t count, float* scales) {
  alignas(64) float factors[kGroupRows];
  WidenHalves(head, kGroupRows, factors);
  ScaleBytes(factors, reinterpret_cast<const int8_t*>(head) + kUnitFactorBytes, count, scales);
}

// 2^(e - 128), which is no normal number for the smallest two e.
HWY_INLINE float PowerOfTwo(uint8_t e) {
  const uint32_t bits = e < 2 ? 0x00200000u << e : (e - 1u) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return power;
}

// What the head of a unit of `blocks` blocks holds; of q4_k and q5_k, the heads of the super-block that
// begins with it, and nothing of its others. out[parts of blocks][16 rows] each.
template <ChunkLayout kLayout>
HWY_INLINE void UnpackScales(const uint8_t* head, size_t unit, size_t blocks, float* scales, float* mins) {
  constexpr UnitHead kHead = TraitsOf(kLayout).head;
  if constexpr (kHead == UnitHead::kFactors || kHead == UnitHead::kFactorsMinimums)
    WidenHalves(head, blocks * kGroupRows, scales);
  if constexpr (kHead == UnitHead::kFactorsMinimums)
    WidenHalves(head + kUnitFactorBytes, blocks * kGroupRows, mins);
  if constexpr (kHead == UnitHead::kPowers) {
    for (size_t i = 0; i < blocks * kGroupRows; ++i) scales[i] = PowerOfTwo(head[i]);
  }
  if constexpr (kHead == UnitHead::kSixBits) {
    if (unit % kSuperUnits == 0) UnpackSixBitScales<kLayout>(head, scales, mins);
  }
  if constexpr (kHead == UnitHead::kNibbles) UnpackNibbleScales(head, scales, mins);
  if constexpr (kHead == UnitHead::kBytes) UnpackByteScales(head, blocks * PartsOf(kLayout), scales);
}

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
