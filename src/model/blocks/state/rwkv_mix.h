// RWKV-4 (Peng et al. 2023, arXiv 2305.13048): instead of attention a mean of all values so far, each
// weighted by its key and by how long ago it was; and a feed-forward network. Both read each row mixed with
// the one before.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

// Rows mixed with the ones before, channel by channel, and what is made of them. All products but the last
// are without biases.
struct ShiftedLinear {
  std::vector<float> taps;  // [2, model_dim]: the share of the row before, of the row
  LinearLayer linear;
};

struct TimeMixWeights {
  ShiftedLinear key, value, gate;  // [num_channels, model_dim]
  std::vector<float> rate;         // as RecurCall has it; likewise:
  std::vector<float> boost;
  LinearLayer out;  // [model_dim, num_channels]
};

struct ChannelMixWeights {
  ShiftedLinear up;    // [dim, model_dim]
  ShiftedLinear gate;  // [model_dim, model_dim]
  LinearLayer down;    // [model_dim, dim]
};

void VisitTimeMix(const ModelPlan& model, const TimeMixPlan& plan, WeightVisitor& visitor, TimeMixWeights* w);
void VisitChannelMix(const ModelPlan& model, const ChannelMixPlan& plan, WeightVisitor& visitor,
                     ChannelMixWeights* w);

template <typename Weights, typename Fn>
void ForEachLinearOfTimeMix(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.key.linear, &w.value.linear, &w.gate.linear, &w.out}) fn(*linear);
}
template <typename Weights, typename Fn>
void ForEachLinearOfChannelMix(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.up.linear, &w.gate.linear, &w.down}) fn(*linear);
}

// Floats of the arena that `num_rows` rows need.
size_t TimeMixFloats(const TimeMixPlan& plan, size_t num_rows, size_t num_threads);
size_t ChannelMixFloats(const ChannelMixPlan& plan, size_t num_rows, size_t num_threads);

// pass.x += the part's output for `input` [num_rows, model_dim], which may be pass.x. index: of the first of
// its states, as contexts count them.
void RunTimeMix(const TimeMixPlan& plan, const TimeMixWeights& weights, const NormWeights& post_norm,
                size_t index, const float* input, Pass& pass);
void RunChannelMix(const ChannelMixPlan& plan, const ChannelMixWeights& weights, const NormWeights& post_norm,
                   size_t index, const float* input, Pass& pass);

}  // namespace mneme
