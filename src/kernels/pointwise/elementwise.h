// Norms, activations, and reductions over logits. All take float32. Sums are float32 within runs of 512
// values and double across them, in a fixed order per row (lane count of the target, never the thread).
// In-place (out == x) is allowed everywhere. NaN in gives NaN out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/types.h"

namespace mneme {

enum class NormKind : uint8_t { kRms, kLayer };

// out = x / sqrt(mean(x^2) + epsilon) * weight, rows of num_cols. The sum of squares is exact to 4e-6
// relative. weight [num_cols] (null: ones). Rows are `stride` apart in x and out.
void RmsNorm(const float* x, const float* weight, float epsilon, size_t num_rows, size_t num_cols,
             size_t stride, float* out);

// What an RMS norm is multiplied with, value by value: z is a second row.
enum class NormGate : uint8_t {
  kNone,
  kSiluAfter,     // rmsnorm(x) * weight * silu(z): Qwen3-Next
  kSigmoidAfter,  // rmsnorm(x) * weight * sigmoid(z): Kimi Linear
  kSiluBefore,    // rmsnorm(x * silu(z)) * weight: Mamba 2, over groups of heads
};

// RmsNorm with a gate; rows of `gate` are `stride` apart as well. The error of the gate, 4e-6 relative, comes
// on top. gate is not read with kNone and must not be `out`.
void GatedRmsNorm(NormGate kind, const float* x, const float* gate, const float* weight, float epsilon,
                  size_t num_rows, size_t num_cols, size_t stride, float* out);

// out = (x - mean) / sqrt(variance + epsilon) * weight + bias; two passes. weight and bias may be null.
void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, size_t num_rows,
               size_t num_cols, size_t stride, float* out);

enum class Activation : uint8_t {
  kSilu,
  kGeluTanh,  // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  kGelu,      // 0.5 x (1 + erf(x / sqrt 2))
  kRelu,
  kRelu2,  // max(x, 0)^2; its error is relative to x^2
};

// x[i] = activation(x[i]). Error at most 4e-6 absolute per unit of |x|.
void Activate(Activation activation, float* x, size_t count);
// gate[i] = activation(gate[i]) * up[i].
void ActivateGated(Activation activation, float* gate, const float* up, size_t count);

// xIELU (Huang & Schlag 2024, arXiv 2411.13010): square x^2 + line x above 0, and below it
// bend (exp(min(x, below)) - 1 - x) + line x.
struct Xielu {
  float square = 0;
  float bend = 0;
  float line = 0;
  float below = 0;  // a number just under 0
};
// x[i] = xielu(x[i]). Error at most 4e-6 of |x| or |below| times the sum of the factors' magnitudes, or
// relative to x^2.
void ActivateXielu(const Xielu& xielu, float* x, size_t count);

// x[i] = 0.5 x (1 + tanh(...)) as kGeluTanh, times factor[i] unless factor is null, as the engines that GGUF
// files are made for compute it: argument and result rounded to half precision (their table has 65536
// entries), 0 below -10, the argument itself above 10.
void ActivateHalfGelu(float* x, const float* factor, size_t count);

void AddInPlace(float* x, const float* y, size_t count);          // x += y
void MultiplyInPlace(float* x, const float* y, size_t count);     // x *= y
void SigmoidGateInPlace(float* x, const float* y, size_t count);  // x *= sigmoid(y)
void SoftplusInPlace(float* x, size_t count);                     // x = log(1 + exp x), to 1e-6 relative
void ScaleInPlace(float* x, float factor, size_t count);          // x *= factor
void ClampInPlace(float* x, float limit, size_t count);           // x = min(max(x, -limit), limit)
void SoftCapInPlace(float* x, float cap, size_t count);           // x = cap * tanh(x / cap)

void RoundToHalves(const float* x, size_t count, uint16_t* out);  // out = F32ToF16(x)

// Index of the largest value, the lowest on ties. NaN never wins; 0 if all are NaN. count > 0.
size_t ArgMax(const float* x, size_t count);
// log(sum(exp(x))) in double. -inf for all -inf. count > 0.
double LogSumExp(const float* x, size_t count);

}  // namespace mneme
