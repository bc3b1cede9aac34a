// The gated delta rule (Yang et al. 2024, arXiv 2412.06464) as Qwen3-Next and Qwen3.5 have it: queries, keys
// and values go through a short convolution, a state of fixed size reads and writes them, a norm with a gate
// follows.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct DeltaWeights {
  LinearLayer qkv;                 // [num_channels, model_dim]
  LinearLayer gate;                // [value heads * value_dim, model_dim]
  LinearLayer alpha;               // [value heads, model_dim]: how much of the state a token leaves
  LinearLayer beta;                // [value heads, model_dim]: how strongly it writes
  std::vector<float> convolution;  // [conv_width, num_channels]
  std::vector<float> step_bias;    // [value heads]
  std::vector<float> rate;         // [value heads], negative
  std::vector<float> norm;         // [value_dim]
  LinearLayer out;                 // [model_dim, value heads * value_dim]
};

template <typename Weights, typename Fn>
void ForEachLinearOfDelta(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.qkv, &w.gate, &w.alpha, &w.beta, &w.out}) fn(*linear);
}

// Floats of the arena that `num_rows` rows need.
size_t DeltaFloats(const DeltaPlan& plan, size_t num_rows, size_t num_threads);

// pass.x += the layer's output for `input` [num_rows, model_dim]. index: of its state, as contexts
// count them. input may be pass.x.
void RunDelta(const DeltaPlan& plan, const DeltaWeights& weights, const NormWeights& post_norm, size_t index,
              const float* input, Pass& pass);

}  // namespace mneme
