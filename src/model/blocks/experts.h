// A mixture of experts in place of the feed-forward network.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/dense.h"
#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct ExpertsWeights {
  LinearLayer router;             // [num_experts, model_dim]
  std::vector<float> correction;  // [num_experts], or empty
  std::vector<DenseWeights> experts;
  DenseWeights shared;              // empty: none
  LinearLayer shared_gate;          // [1, model_dim]; empty: none
  std::vector<float> expert_scale;  // [num_experts], or empty
  // The same as the device takes them. Made by whoever has packed the matrices.
  std::vector<ExpertMatrices> matrices;
};

void VisitExperts(const ModelPlan& model, const ExpertsPlan& plan, WeightVisitor& visitor,
                  ExpertsWeights* weights);

// fn(LinearLayer&, bool is_expert).
template <typename Weights, typename Fn>
void ForEachLinearOfExperts(Weights& w, const Fn& fn) {
  const auto plain = [&](auto& linear) { fn(linear, false); };
  plain(w.router);
  if (!w.shared.up.empty()) ForEachLinearOfDense(w.shared, plain);
  if (!w.shared_gate.empty()) plain(w.shared_gate);
  for (auto& expert : w.experts) {
    ForEachLinearOfDense(expert, [&](auto& linear) { fn(linear, true); });
  }
}

// Fills `matrices`; to be called again where the matrices were moved.
void ListMatrices(ExpertsWeights* weights);

// Floats of the arena that `num_rows` rows need.
size_t ExpertsFloats(const ModelPlan& model, const ExpertsPlan& plan, size_t num_rows);

// out [num_rows, model_dim] = the weighted sum of the experts' outputs for `input`, and the shared one. Takes
// its activations from `arena`. router_input [num_rows, model_dim]: what the router reads.
void RunExpertsInto(const ExpertsPlan& plan, const ExpertsWeights& weights, const float* router_input,
                    const float* input, Arena arena, float* out, Pass& pass);
// pass.x += the weighted sum of the experts' outputs for `input` [num_rows, model_dim], and the shared one.
void RunExperts(const ExpertsPlan& plan, const ExpertsWeights& weights, const NormWeights& post_norm,
                const float* input, Pass& pass);

}  // namespace mneme
