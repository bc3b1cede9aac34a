#include "model/blocks/mixed.h"

#include <algorithm>
#include <cmath>

namespace mneme {

void VisitMixed(const ModelPlan& model, const MixedPlan& plan, WeightVisitor& visitor, MixedWeights* w) {
  const size_t counts[] = {model.model_dim};
  VisitDense(model, plan.dense, visitor, &w->dense);
  visitor.Norm("post_ffw_norm_1", counts, true, &w->dense_post_norm);
  visitor.Norm("pre_ffw_norm_2", counts, true, &w->experts_norm);
  visitor.Norm("post_ffw_norm_2", counts, true, &w->experts_post_norm);
  visitor.Vector("ffn_gate_inp", "scale", model.model_dim, true, &w->router_norm.weight);
  const float factor = 1.0f / std::sqrt(static_cast<float>(model.model_dim));
  for (float& weight : w->router_norm.weight) weight *= factor;
  VisitExperts(model, plan.experts, visitor, &w->experts);
}

size_t MixedFloats(const ModelPlan& model, const MixedPlan& plan, size_t num_rows) {
  // What the dense network gives, what the router and what the experts read.
  return 3 * Arena::Rounded(num_rows * model.model_dim) +
         std::max(DenseFloats(plan.dense, num_rows), ExpertsFloats(model, plan.experts, num_rows));
}

void RunMixed(const MixedPlan& plan, const MixedWeights& w, const NormWeights& post_norm, const float* input,
              Pass& pass) {
  const size_t count = pass.num_rows * pass.plan.model_dim;
  Arena arena(pass.arena);
  float* const dense = arena.Take(count);
  float* const router_input = arena.Take(count);
  float* const experts_input = arena.Take(count);
  RunDenseInto(plan.dense, w.dense, input, arena, dense, pass);
  pass.Norm(w.dense_post_norm, dense, pass.num_rows, dense);
  pass.Norm(w.router_norm, pass.x, pass.num_rows, router_input);
  pass.Norm(w.experts_norm, pass.x, pass.num_rows, experts_input);
  RunExpertsInto(plan.experts, w.experts, router_input, experts_input, arena, pass.branch, pass);
  pass.Norm(w.experts_post_norm, pass.branch, pass.num_rows, pass.branch);
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kAdd, .x = pass.branch, .y = dense, .count = count});
  pass.AddBranch(post_norm);
}

}  // namespace mneme
