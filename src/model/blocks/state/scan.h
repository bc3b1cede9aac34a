// The scan of Mamba 2 (Dao and Gu 2024, arXiv 2405.21060): values, keys and queries (x, B, C) go through a
// short convolution, a state of fixed size reads and writes them, a gate and a norm over each group follow.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct ScanWeights {
  LinearLayer gate;                // [heads * value_dim, model_dim]: z
  LinearLayer mixed;               // [num_channels, model_dim]: x, B, C
  LinearLayer step;                // [heads, model_dim]: how much a token writes, and makes forget
  std::vector<float> convolution;  // [conv_width, num_channels]
  std::vector<float> convolution_bias;
  std::vector<float> step_bias;  // [heads]
  std::vector<float> rate;       // [heads], negative
  std::vector<float> skip;       // [heads]: D
  NormWeights norm;              // [heads * value_dim]; empty: none
  LinearLayer out;               // [model_dim, heads * value_dim]
};

void VisitScan(const ModelPlan& model, const ScanPlan& plan, WeightVisitor& visitor, ScanWeights* weights);

template <typename Weights, typename Fn>
void ForEachLinearOfScan(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.gate, &w.mixed, &w.step, &w.out}) fn(*linear);
}

// Floats of the arena that `num_rows` rows need.
size_t ScanFloats(const ScanPlan& plan, size_t num_rows, size_t num_threads);

// pass.x += the layer's output for `input` [num_rows, model_dim]. index: of its state, as contexts
// count them. input may be pass.x.
void RunScan(const ScanPlan& plan, const ScanWeights& weights, const NormWeights& post_norm, size_t index,
             const float* input, Pass& pass);

}  // namespace mneme
