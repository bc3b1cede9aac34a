// Kimi Delta Attention (arXiv 2510.26692): the gated delta rule with a decay for each channel of the key
// behind a short convolution, its output normed and gated by a sigmoid.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct ChannelDeltaWeights {
  LinearLayer q, k, v;             // each [heads * key_dim or value_dim, model_dim]
  LinearLayer decay_down;          // [gate_rank, model_dim]
  LinearLayer decay;               // [heads * key_dim, gate_rank]: how much of the state a token leaves
  LinearLayer beta;                // [heads, model_dim]: how strongly it writes
  LinearLayer gate_down;           // [gate_rank, model_dim]
  LinearLayer gate;                // [heads * value_dim, gate_rank]
  std::vector<float> convolution;  // [conv_width, num_channels]
  std::vector<float> step_bias;    // [heads * key_dim]
  std::vector<float> rate;         // [heads * key_dim], negative, the same for all channels of a head
  std::vector<float> norm;         // [value_dim]
  LinearLayer out;                 // [model_dim, heads * value_dim]
};

void VisitChannelDelta(const ModelPlan& model, const ChannelDeltaPlan& plan, WeightVisitor& visitor,
                       ChannelDeltaWeights* weights);

template <typename Weights, typename Fn>
void ForEachLinearOfChannelDelta(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.q, &w.k, &w.v, &w.decay_down, &w.gate_down, &w.beta, &w.decay, &w.gate, &w.out}) {
    fn(*linear);
  }
}

// Floats of the arena that `num_rows` rows need.
size_t ChannelDeltaFloats(const ChannelDeltaPlan& plan, size_t num_rows, size_t num_threads);

// pass.x += the layer's output for `input` [num_rows, model_dim]. index: of the layer among those with a
// state, as contexts count them. input may be pass.x.
void RunChannelDelta(const ChannelDeltaPlan& plan, const ChannelDeltaWeights& weights,
                     const NormWeights& post_norm, size_t index, const float* input, Pass& pass);

}  // namespace mneme
