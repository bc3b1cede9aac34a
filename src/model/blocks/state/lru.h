// The recurrent block of Griffin (De et al. 2024, arXiv 2402.19427): one branch goes through a short
// convolution and the RG-LRU, whose gates are made of the branch itself, head by head; the other gates the
// result.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct LruWeights {
  LinearLayer gate;                // [num_channels, model_dim]: y
  LinearLayer value;               // [num_channels, model_dim]: x
  std::vector<float> convolution;  // [conv_width, num_channels]
  std::vector<float> convolution_bias;
  std::vector<LinearLayer> input_gates;  // of each head, [head_dim, head_dim]; likewise:
  std::vector<LinearLayer> decay_gates;
  std::vector<float> rate;  // [num_channels]: the logarithm of the decay at an open gate
  LinearLayer out;          // [model_dim, num_channels]
};

void VisitLru(const ModelPlan& model, const LruPlan& plan, WeightVisitor& visitor, LruWeights* weights);

template <typename Weights, typename Fn>
void ForEachLinearOfLru(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.gate, &w.value}) fn(*linear);
  for (auto* gates : {&w.input_gates, &w.decay_gates}) {
    for (auto& gate : *gates) fn(gate);
  }
  fn(w.out);
}

// Floats of the arena that `num_rows` rows need.
size_t LruFloats(const LruPlan& plan, size_t num_rows, size_t num_threads);

// pass.x += the layer's output for `input` [num_rows, model_dim]. index: of the first of its two states, as
// contexts count them. input may be pass.x.
void RunLru(const LruPlan& plan, const LruWeights& weights, const NormWeights& post_norm, size_t index,
            const float* input, Pass& pass);

}  // namespace mneme
