// The short gated convolution of LFM2: a convolution over a few tokens whose inputs and outputs are gated.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct ShortConvWeights {
  LinearLayer input_gate;          // [num_channels, model_dim]: B
  LinearLayer output_gate;         // C
  LinearLayer value;               // x
  std::vector<float> convolution;  // [conv_width, num_channels]
  std::vector<float> convolution_bias;
  LinearLayer out;  // [model_dim, num_channels]
};

void VisitShortConv(const ModelPlan& model, const ShortConvPlan& plan, WeightVisitor& visitor,
                    ShortConvWeights* weights);

template <typename Weights, typename Fn>
void ForEachLinearOfShortConv(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.input_gate, &w.output_gate, &w.value, &w.out}) fn(*linear);
}

// Floats of the arena that `num_rows` rows need.
size_t ShortConvFloats(const ShortConvPlan& plan, size_t num_rows, size_t num_threads);

// pass.x += the layer's output for `input` [num_rows, model_dim]. index: of its state, as contexts
// count them. input may be pass.x.
void RunShortConv(const ShortConvPlan& plan, const ShortConvWeights& weights, const NormWeights& post_norm,
                  size_t index, const float* input, Pass& pass);

}  // namespace mneme
