#include "kernels/pointwise/elementwise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/half.h"
#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/pointwise/elementwise.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
//
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/pointwise/map-inl.h"
#include "kernels/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace {

void RmsNormRow(const float* x, const float* weight, float epsilon, size_t num_cols, float* out) {
  const DF d;
  const double mean_square = SumOfSquares(x, num_cols) / static_cast<double>(num_cols);
  const VF factor = hn::Set(d, static_cast<float>(1.0 / std::sqrt(mean_square + epsilon)));
  if (weight == nullptr) {
    Map(x, num_cols, out, [factor](VF v, const auto&) { return hn::Mul(v, factor); });
  } else {
    Map(x, num_cols, out,
        [factor, weight](VF v, const auto& load) { return hn::Mul(hn::Mul(v, factor), load(weight)); });
  }
}

// x and out may be the same.
void GatedRmsNormRow(NormGate kind, const float* x, const float* gate, const float* weight, float epsilon,
                     size_t num_cols, float* out) {
  if (kind == NormGate::kSiluBefore) {
    Map(x, num_cols, out, [gate](VF v, const auto& load) { return hn::Mul(v, Silu()(load(gate))); });
    return RmsNormRow(out, weight, epsilon, num_cols, out);
  }
  RmsNormRow(x, weight, epsilon, num_cols, out);
  if (kind == NormGate::kSiluAfter) {
    Map(out, num_cols, out, [gate](VF v, const auto& load) { return hn::Mul(v, Silu()(load(gate))); });
  } else {
    Map(out, num_cols, out, [gate](VF v, const auto& load) { return hn::Mul(v, Sigmoid()(load(gate))); });
  }
}

void LayerNormRow(const float* x, const float* weight, const float* bias, float epsilon, size_t num_cols,
                  float* out) {
  const DF d;
  const double count = static_cast<double>(num_cols);
  const double mean = SumOver(x, num_cols, [](VF sum, VF v) { return hn::Add(sum, v); }) / count;
  const VF center = hn::Set(d, static_cast<float>(mean));
  const double variance = SumOver(x, num_cols,
                                  [center](VF sum, VF v) {
                                    const VF delta = hn::Sub(v, center);
                                    return hn::MulAdd(delta, delta, sum);
                                  }) /
                          count;
  const VF factor = hn::Set(d, static_cast<float>(1.0 / std::sqrt(variance + epsilon)));
  Map(x, num_cols, out, [=](VF v, const auto& load) {
    VF y = hn::Mul(hn::Sub(v, center), factor);
    if (weight != nullptr) y = hn::Mul(y, load(weight));
    if (bias != nullptr) y = hn::Add(y, load(bias));
    return y;
  });
}

struct GeluTanh {
  HWY_INLINE VF operator()(VF x) const {
    const DF d;
    const VF cubic = hn::MulAdd(hn::Mul(hn::Mul(x, x), x), hn::Set(d, 0.044715f), x);
    const VF tanh = TanhF32(d, hn::Mul(cubic, hn::Set(d, 0.797884561f)));
    return hn::Mul(hn::Mul(x, hn::Set(d, 0.5f)), hn::Add(tanh, hn::Set(d, 1.0f)));
  }
};

struct Gelu {
  HWY_INLINE VF operator()(VF x) const {
    const DF d;
    const VF erf = ErfF32(d, hn::Mul(x, hn::Set(d, 0.707106781f)));
    return hn::Mul(hn::Mul(x, hn::Set(d, 0.5f)), hn::Add(erf, hn::Set(d, 1.0f)));
  }
};

struct Relu {
  HWY_INLINE VF operator()(VF x) const {
    const DF d;
    return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x);  // keeps NaN
  }
};

struct Relu2 {
  HWY_INLINE VF operator()(VF x) const {
    const VF positive = Relu()(x);
    return hn::Mul(positive, positive);
  }
};

template <class Fn>
void ActivateWith(const Fn& fn, float* x, const float* up, size_t count) {
  if (up == nullptr) {
    Map(x, count, x, [fn](VF v, const auto&) { return fn(v); });
  } else {
    Map(x, count, x, [fn, up](VF v, const auto& load) { return hn::Mul(fn(v), load(up)); });
  }
}

void ActivateImpl(Activation activation, float* x, const float* up, size_t count) {
  switch (activation) {
    case Activation::kSilu:
      return ActivateWith(Silu(), x, up, count);
    case Activation::kGeluTanh:
      return ActivateWith(GeluTanh(), x, up, count);
    case Activation::kGelu:
      return ActivateWith(Gelu(), x, up, count);
    case Activation::kRelu:
      return ActivateWith(Relu(), x, up, count);
    case Activation::kRelu2:
      return ActivateWith(Relu2(), x, up, count);
  }
}

void XieluImpl(const Xielu& xielu, float* x, size_t count) {
  const DF d;
  const VF zero = hn::Zero(d), below = hn::Set(d, xielu.below);
  Map(x, count, x, [=](VF v, const auto&) {
    const VF line = hn::Mul(hn::Set(d, xielu.line), v);
    const VF least = hn::IfThenElse(hn::Gt(v, below), below, v);  // keeps NaN
    const VF power = Exp2MinusOne(d, hn::Mul(least, hn::Set(d, 1.44269504f)));
    const VF bent = hn::MulAdd(hn::Set(d, xielu.bend), hn::Sub(power, v), line);
    const VF squared = hn::MulAdd(hn::Mul(hn::Set(d, xielu.square), v), v, line);
    return hn::IfThenElse(hn::Gt(v, zero), squared, bent);
  });
}

void AddImpl(float* x, const float* y, size_t count) {
  Map(x, count, x, [y](VF v, const auto& load) { return hn::Add(v, load(y)); });
}

void MultiplyImpl(float* x, const float* y, size_t count) {
  Map(x, count, x, [y](VF v, const auto& load) { return hn::Mul(v, load(y)); });
}

void SigmoidGateImpl(float* x, const float* y, size_t count) {
  Map(x, count, x, [y](VF v, const auto& load) { return hn::Mul(v, Sigmoid()(load(y))); });
}

void SoftplusImpl(float* x, size_t count) {
  Map(x, count, x, [](VF v, const auto&) { return Softplus(v); });
}

void ScaleImpl(float* x, float factor, size_t count) {
  const VF f = hn::Set(DF(), factor);
  Map(x, count, x, [f](VF v, const auto&) { return hn::Mul(v, f); });
}

void ClampImpl(float* x, float limit, size_t count) {
  const VF high = hn::Set(DF(), limit);
  const VF low = hn::Set(DF(), -limit);
  Map(x, count, x, [=](VF v, const auto&) {
    v = hn::IfThenElse(hn::Lt(v, low), low, v);  // keeps NaN
    return hn::IfThenElse(hn::Gt(v, high), high, v);
  });
}

void SoftCapImpl(float* x, float cap, size_t count) {
  const DF d;
  const VF factor = hn::Set(d, cap);
  Map(x, count, x, [=](VF v, const auto&) { return hn::Mul(TanhF32(d, hn::Div(v, factor)), factor); });
}

// Largest value that is not NaN (-inf if there is none).
float MaxValue(const float* x, size_t count) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  VF best = hn::Set(d, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const VF v = hn::LoadU(d, x + i);
    best = hn::IfThenElse(hn::Gt(v, best), v, best);
  }
  float result = hn::GetLane(hn::MaxOfLanes(d, best));
  for (; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

void RoundToHalvesImpl(const float* HWY_RESTRICT x, size_t count, uint16_t* HWY_RESTRICT out) {
  for (size_t i = 0; i < count; ++i) out[i] = F32ToF16(x[i]);
}

size_t ArgMaxImpl(const float* x, size_t count) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const float best = MaxValue(x, count);
  const VF target = hn::Set(d, best);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    if (!hn::AllFalse(d, hn::Eq(hn::LoadU(d, x + i), target))) break;
  }
  for (; i < count; ++i) {
    if (x[i] == best) return i;
  }
  return 0;
}

double LogSumExpImpl(const float* x, size_t count) {
  const float maximum = MaxValue(x, count);
  double nan = 0;
  for (size_t i = 0; i < count; ++i) nan += x[i] != x[i] ? 1 : 0;
  if (nan > 0) return std::numeric_limits<double>::quiet_NaN();
  if (std::isinf(maximum)) return maximum;
#if HWY_HAVE_FLOAT64
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  const size_t lanes = hn::Lanes(d);
  const auto shift = hn::Set(d, static_cast<double>(maximum));
  auto sums = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    sums = hn::Add(sums, hn::Exp(d, hn::Sub(hn::PromoteTo(d, hn::LoadU(df, x + i)), shift)));
  }
  double total = hn::GetLane(hn::SumOfLanes(d, sums));
#else
  double total = 0;
  size_t i = 0;
#endif
  for (; i < count; ++i) total += std::exp(static_cast<double>(x[i]) - maximum);
  return maximum + std::log(total);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {

HWY_EXPORT(RmsNormRow);
HWY_EXPORT(GatedRmsNormRow);
HWY_EXPORT(LayerNormRow);
HWY_EXPORT(ActivateImpl);
HWY_EXPORT(XieluImpl);
HWY_EXPORT(AddImpl);
HWY_EXPORT(MultiplyImpl);
HWY_EXPORT(SigmoidGateImpl);
HWY_EXPORT(SoftplusImpl);
HWY_EXPORT(ScaleImpl);
HWY_EXPORT(ClampImpl);
HWY_EXPORT(SoftCapImpl);
HWY_EXPORT(RoundToHalvesImpl);
HWY_EXPORT(ArgMaxImpl);
HWY_EXPORT(LogSumExpImpl);

void RmsNorm(const float* x, const float* weight, float epsilon, size_t num_rows, size_t num_cols,
             size_t stride, float* out) {
  for (size_t row = 0; row < num_rows; ++row) {
    HWY_DYNAMIC_DISPATCH(RmsNormRow)(x + row * stride, weight, epsilon, num_cols, out + row * stride);
  }
}

void GatedRmsNorm(NormGate kind, const float* x, const float* gate, const float* weight, float epsilon,
                  size_t num_rows, size_t num_cols, size_t stride, float* out) {
  if (kind == NormGate::kNone) return RmsNorm(x, weight, epsilon, num_rows, num_cols, stride, out);
  for (size_t row = 0; row < num_rows; ++row) {
    HWY_DYNAMIC_DISPATCH(GatedRmsNormRow)
    (kind, x + row * stride, gate + row * stride, weight, epsilon, num_cols, out + row * stride);
  }
}

void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, size_t num_rows,
               size_t num_cols, size_t stride, float* out) {
  for (size_t row = 0; row < num_rows; ++row) {
    HWY_DYNAMIC_DISPATCH(LayerNormRow)
    (x + row * stride, weight, bias, epsilon, num_cols, out + row * stride);
  }
}

void Activate(Activation activation, float* x, size_t count) {
  HWY_DYNAMIC_DISPATCH(ActivateImpl)(activation, x, nullptr, count);
}

void ActivateGated(Activation activation, float* gate, const float* up, size_t count) {
  HWY_DYNAMIC_DISPATCH(ActivateImpl)(activation, gate, up, count);
}

namespace {

// The nearest half-precision value, for |x| < 65520; written so that compilers vectorise it.
float RoundToHalf(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const float normal = std::bit_cast<float>((bits + 0xFFFu + ((bits >> 13) & 1u)) & ~0x1FFFu);
  const float subnormal = (x + 0.75f) - 0.75f;  // multiples of 2^-24, by the addition's rounding
  return magnitude >= 0x38800000u ? normal : subnormal;
}

}  // namespace

void ActivateHalfGelu(float* x, const float* factor, size_t count) {
  constexpr size_t kStep = 256;
  std::array<float, kStep> y;
  for (size_t first = 0; first < count; first += kStep) {
    const size_t num = std::min(kStep, count - first);
    float* const part = x + first;
    for (size_t i = 0; i < num; ++i) y[i] = RoundToHalf(std::clamp(part[i], -10.0f, 10.0f));
    Activate(Activation::kGeluTanh, y.data(), num);
    for (size_t i = 0; i < num; ++i) {
      const float inside = part[i] <= -10.0f ? 0.0f : RoundToHalf(y[i]);
      part[i] = part[i] >= 10.0f ? part[i] : inside;
    }
    if (factor == nullptr) continue;
    for (size_t i = 0; i < num; ++i) part[i] *= factor[first + i];
  }
}

void ActivateXielu(const Xielu& xielu, float* x, size_t count) {
  HWY_DYNAMIC_DISPATCH(XieluImpl)(xielu, x, count);
}

void AddInPlace(float* x, const float* y, size_t count) { HWY_DYNAMIC_DISPATCH(AddImpl)(x, y, count); }

void MultiplyInPlace(float* x, const float* y, size_t count) {
  HWY_DYNAMIC_DISPATCH(MultiplyImpl)(x, y, count);
}

void SigmoidGateInPlace(float* x, const float* y, size_t count) {
  HWY_DYNAMIC_DISPATCH(SigmoidGateImpl)(x, y, count);
}

void SoftplusInPlace(float* x, size_t count) { HWY_DYNAMIC_DISPATCH(SoftplusImpl)(x, count); }

void ScaleInPlace(float* x, float factor, size_t count) { HWY_DYNAMIC_DISPATCH(ScaleImpl)(x, factor, count); }

void ClampInPlace(float* x, float limit, size_t count) { HWY_DYNAMIC_DISPATCH(ClampImpl)(x, limit, count); }

void SoftCapInPlace(float* x, float cap, size_t count) { HWY_DYNAMIC_DISPATCH(SoftCapImpl)(x, cap, count); }

void RoundToHalves(const float* x, size_t count, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(RoundToHalvesImpl)(x, count, out);
}

size_t ArgMax(const float* x, size_t count) {
  MNEME_CHECK(count > 0);
  return HWY_DYNAMIC_DISPATCH(ArgMaxImpl)(x, count);
}

double LogSumExp(const float* x, size_t count) {
  MNEME_CHECK(count > 0);
  return HWY_DYNAMIC_DISPATCH(LogSumExpImpl)(x, count);
}

}  // namespace mneme
#endif  // HWY_ONCE
