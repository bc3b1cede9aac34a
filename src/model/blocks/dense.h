// The feed-forward network that every row goes through whole.
#pragma once

#include <cstddef>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct DenseWeights {
  LinearLayer gate;      // [dim, model_dim]; empty without gating
  LinearLayer up;        // [dim, model_dim]
  LinearLayer down;      // [model_dim, dim]
  NormWeights sub_norm;  // [dim], or empty
  Xielu xielu;           // where the plan has one
};

void VisitDense(const ModelPlan& model, const DensePlan& plan, WeightVisitor& visitor, DenseWeights* weights);

template <typename Weights, typename Fn>
void ForEachLinearOfDense(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.gate, &w.up, &w.down}) {
    if (!linear->empty()) fn(*linear);
  }
}

// Floats of the arena that `num_rows` rows need.
size_t DenseFloats(const DensePlan& plan, size_t num_rows);

// out [num_rows, model_dim] = the network's output for `input`. Takes its activations from `arena`.
void RunDenseInto(const DensePlan& plan, const DenseWeights& weights, const float* input, Arena arena,
                  float* out, Pass& pass);
// pass.x += the network's output for `input` [num_rows, model_dim], which may be pass.x.
void RunDense(const DensePlan& plan, const DenseWeights& weights, const NormWeights& post_norm,
              const float* input, Pass& pass);

}  // namespace mneme
