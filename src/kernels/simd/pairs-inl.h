// Pairs of bfloat16 and their products into float32. Per SIMD target, and once more where a processor of the
// target may have an instruction for it: the includer names the namespace (MNEME_PAIRS_NAMESPACE) and says
// whether that instruction is there (MNEME_PAIRS_NATIVE). No include guard.
//
// A pair is 32 bits: two bfloat16 that are neighbours in the direction of the sum, the first in the low half.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "kernels/simd/targets.h"
#include "kernels/simd/vectors-inl.h"

#if MNEME_PAIRS_NATIVE
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme {
namespace HWY_NAMESPACE {
namespace MNEME_PAIRS_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Two vectors of float32 rounded to bfloat16, in order.
struct RoundedPairs {
#if MNEME_PAIRS_NATIVE
  HWY_INLINE RoundedPairs(VF low, VF high) : bits(_mm512_cvtne2ps_pbh(high.raw, low.raw)) {}
  HWY_INLINE void Store(uint32_t* to) const { _mm512_storeu_si512(to, (__m512i)bits); }
  // sum plus all of them, in an order of its own.
  HWY_INLINE VF AddTo(VF sum) const {
    return VF{_mm512_dpbf16_ps(sum.raw, bits, (__m512bh)_mm512_set1_epi32(0x3F803F80))};
  }
  __m512bh bits;
#else
  HWY_INLINE RoundedPairs(VF low, VF high) : low_bits(Round(low)), high_bits(Round(high)) {}
  HWY_INLINE void Store(uint32_t* to) const {
    StoreHalf(low_bits, reinterpret_cast<uint16_t*>(to));
    StoreHalf(high_bits, reinterpret_cast<uint16_t*>(to) + kLanes);
  }
  HWY_INLINE VF AddTo(VF sum) const {
    return hn::Add(hn::Add(sum, hn::BitCast(DF(), low_bits)), hn::BitCast(DF(), high_bits));
  }

  // To nearest even. A NaN keeps its high bits: rounding could carry it into the sign.
  static HWY_INLINE VU Round(VF value) {
    const DU du;
    const VU bits = hn::BitCast(du, value);
    const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    const VU rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
    const VU quiet = hn::Or(bits, hn::Set(du, 0x400000));
    const VU chosen = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(value)), quiet, rounded);
    return hn::And(chosen, hn::Set(du, 0xFFFF0000u));
  }
  static HWY_INLINE void StoreHalf(VU bits, uint16_t* to) {
    const hn::Rebind<uint16_t, DF> d16;
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DI(), hn::ShiftRight<16>(bits))), d16, to);
  }
  VU low_bits, high_bits;
#endif
};

HWY_INLINE uint32_t LoadPair(const uint32_t* from) {
  uint32_t pair;
  std::memcpy(&pair, from, sizeof(pair));  // written as vectors of other types
  return pair;
}

// acc plus the two products of a pair in each lane: the low one first, or in the instruction's own order.
HWY_INLINE VF AddProducts(VF acc, VU a, VU b) {
#if MNEME_PAIRS_NATIVE
  return VF{_mm512_dpbf16_ps(acc.raw, (__m512bh)a.raw, (__m512bh)b.raw)};
#else
  const auto low = [](VU pairs) HWY_ATTR { return hn::BitCast(DF(), hn::ShiftLeft<16>(pairs)); };
  const auto high = [](VU pairs)
                        HWY_ATTR { return hn::BitCast(DF(), hn::And(pairs, hn::Set(DU(), 0xFFFF0000u))); };
  return hn::MulAdd(high(a), high(b), hn::MulAdd(low(a), low(b), acc));
#endif
}

// to = from * factor, rounded; `count` values and zeros up to a whole pair.
inline void RoundPairs(const float* HWY_RESTRICT from, float factor, size_t count,
                       uint32_t* HWY_RESTRICT to) {
  const DF d;
  size_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const RoundedPairs pairs(hn::Mul(hn::LoadU(d, from + i), hn::Set(d, factor)),
                             hn::Mul(hn::LoadU(d, from + i + kLanes), hn::Set(d, factor)));
    pairs.Store(to + i / 2);
  }
  for (; i < count; i += 2) {
    const uint32_t low = F32ToBF16(from[i] * factor);
    const uint32_t high = i + 1 < count ? F32ToBF16(from[i + 1] * factor) : 0;
    const uint32_t pair = low | high << 16;
    std::memcpy(to + i / 2, &pair, sizeof(pair));
  }
}

}  // namespace MNEME_PAIRS_NAMESPACE
}  // namespace HWY_NAMESPACE
}  // namespace mneme
#if MNEME_PAIRS_NATIVE
HWY_POP_ATTRIBUTES
#else
HWY_AFTER_NAMESPACE();
#endif
