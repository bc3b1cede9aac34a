#include "kernels/recur/gates.h"

#include <algorithm>
#include <limits>

#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/recur/gates.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
//
#include "hwy/highway.h"
#include "kernels/pointwise/map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace {

// Keeps NaN.
HWY_INLINE VF Between(VF x, float low, float high) {
  const DF d;
  x = hn::IfThenElse(hn::Lt(x, hn::Set(d, low)), hn::Set(d, low), x);
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, high)), hn::Set(d, high), x);
}

void GatesRow(const GatesCall& call, size_t row) {
  const size_t first = row * call.num_heads;
  const float* const step_bias = call.step_bias;
  const float* const rate = call.rate;
  const auto step = [&call, step_bias](VF x, const auto& load) {
    if (step_bias != nullptr) x = hn::Add(x, load(step_bias));
    return Between(Softplus(x), call.min_step, call.max_step);
  };
  if (call.strength != nullptr) {
    const VF most = hn::Set(DF(), call.most_strength);
    Map(call.strength + first, call.num_heads, call.beta + first,
        [most](VF x, const auto&) { return hn::Mul(Sigmoid()(x), most); });
  } else if (call.beta != nullptr) {
    Map(call.step + first, call.num_heads, call.beta + first, step);
  }
  if (rate == nullptr) {
    Map(call.step + first, call.num_heads, call.log_decay + first,
        [step](VF x, const auto& load) { return hn::Neg(step(x, load)); });
    return;
  }
  Map(call.step + first, call.num_heads, call.log_decay + first,
      [step, rate](VF x, const auto& load) { return hn::Mul(step(x, load), load(rate)); });
}

void NormalisedRow(const GatesCall& call, size_t row) {
  const DF d;
  float* const log_decay = call.log_decay + row * call.num_heads;
  const float* const rate = call.rate;
  Map(call.step + row * call.num_heads, call.num_heads, log_decay,
      [rate](VF x, const auto& load) { return hn::Mul(Sigmoid()(x), load(rate)); });
  if (std::find(call.first_rows.begin(), call.first_rows.end(), row) != call.first_rows.end()) {
    std::fill_n(log_decay, call.num_heads, -std::numeric_limits<float>::infinity());
  }
  Map(call.strength + row * call.num_heads, call.num_heads, call.beta + row * call.num_heads,
      [d, log_decay](VF x, const auto& load) {
        const VF lost = Exp2MinusOne(d, hn::Mul(load(log_decay), hn::Set(d, 2 * 1.44269504f)));
        return hn::Mul(Sigmoid()(x), hn::Sqrt(hn::Neg(lost)));
      });
}

void GatesRows(const GatesCall& call, size_t first, size_t last) {
  for (size_t row = first; row < last; ++row) {
    if (call.is_normalised) {
      NormalisedRow(call, row);
    } else {
      GatesRow(call, row);
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {

HWY_EXPORT(GatesRows);
void Gates(const GatesCall& call, size_t first_row, size_t last_row) {
  HWY_DYNAMIC_DISPATCH(GatesRows)(call, first_row, last_row);
}

}  // namespace mneme
#endif  // HWY_ONCE
