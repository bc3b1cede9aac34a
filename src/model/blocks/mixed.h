// A dense network and a mixture of experts side by side, each between norms of its own (Gemma 4).
#pragma once

#include <cstddef>

#include "model/blocks/dense.h"
#include "model/blocks/experts.h"
#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct MixedWeights {
  DenseWeights dense;
  ExpertsWeights experts;
  NormWeights dense_post_norm;  // of what the dense network gives
  NormWeights experts_norm;     // before the experts
  NormWeights experts_post_norm;
  NormWeights router_norm;  // before the router, its weights with what the file scales them by
};

void VisitMixed(const ModelPlan& model, const MixedPlan& plan, WeightVisitor& visitor, MixedWeights* weights);

// fn(LinearLayer&, bool is_expert).
template <typename Weights, typename Fn>
void ForEachLinearOfMixed(Weights& w, const Fn& fn) {
  ForEachLinearOfDense(w.dense, [&](auto& linear) { fn(linear, false); });
  ForEachLinearOfExperts(w.experts, fn);
}

// Floats of the arena that `num_rows` rows need.
size_t MixedFloats(const ModelPlan& model, const MixedPlan& plan, size_t num_rows);

// pass.x += post_norm(dense(input) + experts(pass.x)), all between norms. input [num_rows, model_dim]:
// pass.x, normed for the dense network.
void RunMixed(const MixedPlan& plan, const MixedWeights& weights, const NormWeights& post_norm,
              const float* input, Pass& pass);

}  // namespace mneme
