// The selective scan of Mamba (Gu and Dao 2023, arXiv 2312.00752): channels go through a short convolution,
// and what comes out decides itself how much of each channel's state it makes forget, where it is written and
// what is read; a gate follows.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct SelectiveWeights {
  LinearLayer value;               // [num_channels, model_dim]: x
  LinearLayer gate;                // [num_channels, model_dim]: z
  std::vector<float> convolution;  // [conv_width, num_channels]
  std::vector<float> convolution_bias;
  LinearLayer narrow;       // [step_rank, num_channels]: of what steps are made
  LinearLayer key;          // [key_dim, num_channels]: B
  LinearLayer query;        // [key_dim, num_channels]: C
  NormWeights step_norm;    // [step_rank], or empty; likewise:
  NormWeights key_norm;     // [key_dim]
  NormWeights query_norm;   // [key_dim]
  LinearLayer step;         // [num_channels, step_rank]
  std::vector<float> rate;  // as RecurCall has it
  std::vector<float> skip;  // [num_channels]: D
  LinearLayer out;          // [model_dim, num_channels]
};

void VisitSelective(const ModelPlan& model, const SelectivePlan& plan, WeightVisitor& visitor,
                    SelectiveWeights* weights);

template <typename Weights, typename Fn>
void ForEachLinearOfSelective(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.value, &w.gate, &w.narrow, &w.key, &w.query, &w.step, &w.out}) fn(*linear);
}

// Floats of the arena that `num_rows` rows need.
size_t SelectiveFloats(const SelectivePlan& plan, size_t num_rows, size_t num_threads);

// pass.x += the layer's output for `input` [num_rows, model_dim]. index: of the first of its two states, as
// contexts count them. input may be pass.x.
void RunSelective(const SelectivePlan& plan, const SelectiveWeights& weights, const NormWeights& post_norm,
                  size_t index, const float* input, Pass& pass);

}  // namespace mneme
