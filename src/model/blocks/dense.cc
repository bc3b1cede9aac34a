#include "model/blocks/dense.h"

#include <array>

namespace mneme {

void VisitDense(const ModelPlan& model, const DensePlan& plan, WeightVisitor& visitor, DenseWeights* w) {
  if (plan.is_gated) {
    visitor.GateUp(plan.dim, &w->gate, &w->up);
  } else {
    visitor.Matrix("ffn_up", plan.dim, model.model_dim, &w->up);
  }
  visitor.Matrix("ffn_down", model.model_dim, plan.dim, &w->down);
}

size_t DenseFloats(const DensePlan& plan, size_t num_rows) {
  return (plan.is_gated ? 2 : 1) * Arena::Rounded(num_rows * plan.dim);
}

void RunDense(const DensePlan& plan, const DenseWeights& w, const NormWeights& post_norm, const float* input,
              Pass& pass) {
  Arena arena(pass.arena);
  float* const up = arena.Take(pass.num_rows * plan.dim);
  // In the order in which they lie in memory.
  std::array<MatMulJob, 2> jobs;
  size_t num_jobs = 0;
  if (plan.is_gated) jobs[num_jobs++] = Pass::Job(w.gate, arena.Take(pass.num_rows * plan.dim), false);
  jobs[num_jobs++] = Pass::Job(w.up, up, false);
  pass.Linear(plan.is_gated ? "gate, up" : "up", input, pass.num_rows, {jobs.data(), num_jobs},
              ThenActivate{.activation = plan.activation, .rounds_to_half = plan.half_gelu});
  pass.AddProduct("down", w.down, jobs[0].out, post_norm);
}

}  // namespace mneme
