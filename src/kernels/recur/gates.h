// The gates of layers with a state: how much of it a token leaves, and how strongly it writes.
#pragma once

#include <cstddef>
#include <limits>
#include <span>

namespace mneme {

// Relative error of both gates, of log_decay also where it is tiny.
inline constexpr double kGatesError = 2e-6;

// All [num_rows, num_heads], or [num_heads] where it says so. With s = softplus(step + step_bias), between
// min_step and max_step:
//   log_decay = rate * s
//   beta = most_strength * sigmoid(strength)    gated delta rule
//        = s                                    Mamba, where strength is null, if it is wanted
// and with is_normalised (RG-LRU, arXiv 2402.19427), where min_step, max_step and step_bias are not read:
//   log_decay = rate * sigmoid(step)
//   beta = sigmoid(strength) * sqrt(1 - e^{2 log_decay})
struct GatesCall {
  size_t num_rows = 0;
  size_t num_heads = 0;
  const float* step = nullptr;
  const float* step_bias = nullptr;  // [num_heads]; null: none
  const float* rate = nullptr;       // [num_heads]: -exp(A_log); null: -1
  const float* strength = nullptr;
  float most_strength = 1.0f;  // 2 in models that may turn what they remember round (negative eigenvalues)
  float min_step = 0;
  float max_step = std::numeric_limits<float>::infinity();
  bool is_normalised = false;
  // is_normalised: rows with which a stream begins. Their log_decay is -infinity, so that they count in full.
  std::span<const size_t> first_rows = {};
  float* log_decay = nullptr;  // may be step
  float* beta = nullptr;       // may be strength; where strength is null not step; null: not wanted
};

// Rows first_row .. last_row of the call.
void Gates(const GatesCall& call, size_t first_row, size_t last_row);
inline void Gates(const GatesCall& call) { Gates(call, 0, call.num_rows); }

}  // namespace mneme
