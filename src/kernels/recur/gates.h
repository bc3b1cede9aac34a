// The gates of layers with a state: how much of it a token leaves, and how strongly it writes.
#pragma once

#include <cstddef>
#include <limits>

namespace mneme {

// Relative error of both gates, of log_decay also where it is tiny.
inline constexpr double kGatesError = 2e-6;

// All [num_rows, num_heads], or [num_heads] where it says so. With s = softplus(step + step_bias), between
// min_step and max_step:
//   log_decay = rate * s
//   beta = most_strength * sigmoid(strength)    gated delta rule
//        = s                                    Mamba, where strength is null
struct GatesCall {
  size_t num_rows = 0;
  size_t num_heads = 0;
  const float* step = nullptr;
  const float* step_bias = nullptr;  // [num_heads]; null: none
  const float* rate = nullptr;       // [num_heads]: -exp(A_log)
  const float* strength = nullptr;
  float most_strength = 1.0f;  // 2 in models that may turn what they remember round (negative eigenvalues)
  float min_step = 0;
  float max_step = std::numeric_limits<float>::infinity();
  float* log_decay = nullptr;  // may be step
  float* beta = nullptr;       // may be strength; where strength is null not step
};

void Gates(const GatesCall& call);

}  // namespace mneme
