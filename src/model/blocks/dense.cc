#include "model/blocks/dense.h"

#include <array>

namespace mneme {

void VisitDense(const ModelPlan& model, const DensePlan& plan, WeightVisitor& visitor, DenseWeights* w) {
  if (plan.is_gated) {
    visitor.GateUp(plan.dim, &w->gate, &w->up);
  } else {
    visitor.Matrix("ffn_up", plan.dim, model.model_dim, &w->up);
  }
  if (plan.has_sub_norm) visitor.Norm("ffn_sub_norm", {&plan.dim, 1}, true, &w->sub_norm);
  if (plan.is_xielu) visitor.XieluOf(&w->xielu);
  visitor.Matrix("ffn_down", model.model_dim, plan.dim, &w->down);
}

size_t DenseFloats(const DensePlan& plan, size_t num_rows) {
  return (plan.is_gated ? 2 : 1) * Arena::Rounded(num_rows * plan.dim);
}

namespace {

// The hidden values, in the arena.
float* Hidden(const DensePlan& plan, const DenseWeights& w, const float* input, Arena arena, Pass& pass) {
  float* const up = arena.Take(pass.num_rows * plan.dim);
  // In the order in which they lie in memory.
  std::array<MatMulJob, 2> jobs;
  size_t num_jobs = 0;
  if (plan.is_gated) jobs[num_jobs++] = Pass::Job(w.gate, arena.Take(pass.num_rows * plan.dim), false);
  jobs[num_jobs++] = Pass::Job(w.up, up, false);
  pass.Linear(plan.is_gated ? "gate, up" : "up", input, pass.num_rows, {jobs.data(), num_jobs},
              ThenActivate{.activation = plan.activation,
                           .rounds_to_half = plan.half_gelu && !pass.plan.is_exact,
                           .xielu = plan.is_xielu ? &w.xielu : nullptr});
  if (plan.has_sub_norm) pass.Norm(w.sub_norm, jobs[0].out, pass.num_rows, jobs[0].out);
  return jobs[0].out;
}

}  // namespace

void RunDenseInto(const DensePlan& plan, const DenseWeights& w, const float* input, Arena arena, float* out,
                  Pass& pass) {
  const MatMulJob down = Pass::Job(w.down, out, false);
  pass.Linear("down", Hidden(plan, w, input, arena, pass), pass.num_rows, {&down, 1});
}

void RunDense(const DensePlan& plan, const DenseWeights& w, const NormWeights& post_norm, const float* input,
              Pass& pass) {
  pass.AddProduct("down", w.down, Hidden(plan, w, input, Arena(pass.arena), pass), post_norm);
}

}  // namespace mneme
