#include "model/blocks/experts.h"

#include <algorithm>
#include <array>

namespace mneme {

void VisitExperts(const ModelPlan& model, const ExpertsPlan& plan, WeightVisitor& visitor,
                  ExpertsWeights* w) {
  visitor.Matrix("ffn_gate_inp", plan.router.num_experts, model.model_dim, &w->router);
  if (plan.has_correction) {
    visitor.Vector("exp_probs_b", "bias", plan.router.num_experts, true, &w->correction);
  }
  if (plan.has_expert_scale) {
    visitor.Vector("ffn_down_exps", "scale", plan.router.num_experts, true, &w->expert_scale);
  }
  w->experts.resize(plan.router.num_experts);
  visitor.Experts(plan, w->experts);
  if (plan.shared_dim == 0) return;
  if (plan.is_gated) visitor.Matrix("ffn_gate_shexp", plan.shared_dim, model.model_dim, &w->shared.gate);
  visitor.Matrix("ffn_up_shexp", plan.shared_dim, model.model_dim, &w->shared.up);
  visitor.Matrix("ffn_down_shexp", model.model_dim, plan.shared_dim, &w->shared.down);
  if (plan.has_shared_gate) visitor.Matrix("ffn_gate_inp_shexp", 1, model.model_dim, &w->shared_gate);
}

void ListMatrices(ExpertsWeights* w) {
  const auto matrix = [](const LinearLayer& linear) { return linear.empty() ? nullptr : &linear.weights; };
  w->matrices.clear();
  for (const DenseWeights& expert : w->experts) {
    w->matrices.push_back({.gate = matrix(expert.gate),
                           .up = matrix(expert.up),
                           .down = matrix(expert.down),
                           .gate_bias = expert.gate.bias_or_null(),
                           .up_bias = expert.up.bias_or_null(),
                           .down_bias = expert.down.bias_or_null()});
  }
}

namespace {

// Of the shared expert: what it gives, its gate and up, and the gate of the whole.
size_t SharedFloats(const ModelPlan& model, const ExpertsPlan& plan, size_t num_rows) {
  if (plan.shared_dim == 0) return 0;
  return Arena::Rounded(num_rows * model.model_dim) + 2 * Arena::Rounded(num_rows * plan.shared_dim) +
         Arena::Rounded(num_rows);
}

// out += the shared expert's output.
void AddShared(const ExpertsPlan& plan, const ExpertsWeights& w, const float* input, Arena arena, float* out,
               Pass& pass) {
  const size_t num_rows = pass.num_rows;
  const size_t count = num_rows * pass.plan.model_dim;
  float* const shared = arena.Take(count);
  float* const up = arena.Take(num_rows * plan.shared_dim);
  std::array<MatMulJob, 2> jobs;
  size_t num_jobs = 0;
  if (plan.is_gated) {
    jobs[num_jobs++] = Pass::Job(w.shared.gate, arena.Take(num_rows * plan.shared_dim), false);
  }
  jobs[num_jobs++] = Pass::Job(w.shared.up, up, false);
  pass.Linear("shared gate, up", input, num_rows, {jobs.data(), num_jobs},
              ThenActivate{.activation = plan.activation});
  const MatMulJob down = Pass::Job(w.shared.down, shared, false);
  pass.Linear("shared down", jobs[0].out, num_rows, {&down, 1});
  PointwiseCall add{.kind = PointwiseCall::Kind::kAdd, .x = out, .y = shared, .count = count};
  if (plan.has_shared_gate) {
    float* const open = arena.Take(num_rows);
    const MatMulJob job = Pass::Job(w.shared_gate, open, false);
    pass.Linear("shared expert's gate", input, num_rows, {&job, 1});
    add.kind = PointwiseCall::Kind::kAddGated;
    add.gate = open;
    add.num_cols = pass.plan.model_dim;
  }
  pass.device.Pointwise(add);
}

}  // namespace

size_t ExpertsFloats(const ModelPlan& model, const ExpertsPlan& plan, size_t num_rows) {
  const size_t scratch = ExpertsScratchFloats(num_rows, plan.router.num_used, plan.dim, model.model_dim);
  return Arena::Rounded(num_rows * plan.router.num_experts) +
         std::max(scratch, SharedFloats(model, plan, num_rows));
}

void RunExpertsInto(const ExpertsPlan& plan, const ExpertsWeights& w, const float* router_input,
                    const float* input, Arena arena, float* out, Pass& pass) {
  const size_t num_rows = pass.num_rows;
  float* const logits = arena.Take(num_rows * plan.router.num_experts);
  const MatMulJob router = Pass::Job(w.router, logits, false);
  pass.Linear("router", router_input, num_rows, {&router, 1});
  pass.device.Experts({.router = plan.router,
                       .logits = logits,
                       .correction = w.correction.empty() ? nullptr : w.correction.data(),
                       .expert_scale = w.expert_scale.empty() ? nullptr : w.expert_scale.data(),
                       .experts = w.matrices,
                       .activation = plan.activation,
                       .clamp = plan.clamp,
                       .weighs_inputs = plan.weighs_inputs,
                       .x = input,
                       .num_rows = num_rows,
                       .out = out,
                       .scratch = Arena(arena).Take(0),
                       .rows_memory = pass.linear_scratch});
  if (plan.shared_dim > 0) AddShared(plan, w, input, arena, out, pass);
}

void RunExperts(const ExpertsPlan& plan, const ExpertsWeights& w, const NormWeights& post_norm,
                const float* input, Pass& pass) {
  RunExpertsInto(plan, w, input, input, Arena(pass.arena), pass.branch, pass);
  pass.AddBranch(post_norm);
}

}  // namespace mneme
