// Logits of one row and block to weights: what every kind of product shares. Per SIMD target.

#if defined(MNEME_KERNELS_ATTEND_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_ATTEND_SOFTMAX_INL_H_
#undef MNEME_KERNELS_ATTEND_SOFTMAX_INL_H_
#else
#define MNEME_KERNELS_ATTEND_SOFTMAX_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "kernels/attend/job.h"
#include "kernels/attend/sources-inl.h"
#include "kernels/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

HWY_INLINE float Exp2Scalar(float x) { return hn::GetLane(Exp2F32(DF(), hn::Set(DF(), x))); }

struct LogitRule {
  float cap = 0;       // in log2 units; 0: none
  float bias = 0;      // of the span, in log2 units
  bool alibi = false;  // subtract slope * (distance - step * slot)
  float slope = 0;     // in log2 units
  float distance = 0;  // to slot 0 of the block
  float step = 0;
};

// Applies the rule to slots [first, last) of a block, whole vectors, and hides what is outside [low, high).
HWY_INLINE void FinishLogits(const LogitRule& rule, int32_t low, int32_t high, size_t first, size_t last,
                             float* HWY_RESTRICT s) {
  const DF d;
  const bool partial = low > static_cast<int32_t>(first) || high < static_cast<int32_t>(last);
  if (rule.cap == 0 && rule.bias == 0 && !rule.alibi && !partial) return;
  for (size_t t = first; t < last; t += kLanes) {
    VF logit = hn::Load(d, s + t);
    if (rule.cap != 0) logit = hn::Mul(TanhF32(d, logit), hn::Set(d, rule.cap));
    if (rule.bias != 0) logit = hn::Add(logit, hn::Set(d, rule.bias));
    const VF slot = hn::Iota(d, static_cast<float>(t));
    if (rule.alibi) {
      const VF distance = hn::NegMulAdd(slot, hn::Set(d, rule.step), hn::Set(d, rule.distance));
      logit = hn::NegMulAdd(hn::Set(d, rule.slope), distance, logit);
    }
    if (partial) {
      const auto visible = hn::And(hn::Ge(slot, hn::Set(d, static_cast<float>(low))),
                                   hn::Lt(slot, hn::Set(d, static_cast<float>(high))));
      logit = hn::IfThenElse(visible, logit, hn::Set(d, kMinusInfinity));
    }
    hn::Store(logit, d, s + t);
  }
}

// Sees to it that no logit of a block is more than kReferenceSlack above the row's reference, and returns the
// factor for what was summed before. Most blocks need no more than the comparison.
HWY_INLINE float MoveReference(VF largest, float* reference) {
  const DF d;
  const float old = *reference;
  if (HWY_LIKELY(hn::AllFalse(d, hn::Gt(largest, hn::Set(d, old + kReferenceSlack))))) return 1.0f;
  // A NaN logit never becomes the reference; its weight is NaN and so are the sum and the values.
  const float block_maximum = hn::GetLane(hn::MaxOfLanes(d, largest));
  if (!(block_maximum > old)) return 1.0f;
  *reference = block_maximum;
  return Exp2Scalar(old - block_maximum);
}

// What weights are counted from while no finite logit was seen: anything, all weights are 0.
HWY_INLINE float FiniteReference(float reference) { return reference == kMinusInfinity ? 0.0f : reference; }

// Turns the row's scores into weights relative to its reference and updates that and the sum, kept as one sum
// per lane. Slots outside [low, high) get weight 0. Needs low < high.
HWY_INLINE void SoftmaxRow(const LogitRule& rule, int32_t low, int32_t high, float* HWY_RESTRICT s,
                           float* reference, float* HWY_RESTRICT lane_sums, float* correction) {
  const DF d;
  FinishLogits(rule, low, high, 0, kBlockTokens, s);
  VF largest = hn::Set(d, kMinusInfinity);
  for (size_t t = 0; t < kBlockTokens; t += kLanes) largest = hn::Max(largest, hn::Load(d, s + t));
  *correction = MoveReference(largest, reference);
  const VF from = hn::Set(d, FiniteReference(*reference));
  VF sums = hn::Mul(hn::LoadU(d, lane_sums), hn::Set(d, *correction));
  for (size_t t = 0; t < kBlockTokens; t += kLanes) {
    const VF weight = Exp2F32(d, hn::Sub(hn::Load(d, s + t), from));
    hn::Store(weight, d, s + t);
    sums = hn::Add(sums, weight);
  }
  hn::StoreU(sums, d, lane_sums);
}

}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
