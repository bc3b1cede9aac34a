#include "model/blocks/state/selective.h"

#include <algorithm>
#include <array>

namespace mneme {

void VisitSelective(const ModelPlan& model, const SelectivePlan& plan, WeightVisitor& visitor,
                    SelectiveWeights* w) {
  const size_t channels = plan.scan.value_channels(), depth = plan.scan.key_dim;
  const std::array<size_t, 2> in_rows = {channels, channels};
  const std::array<LinearLayer*, 2> in_parts = {&w->value, &w->gate};
  visitor.Parts("ssm_in", in_rows, model.model_dim, in_parts);
  visitor.Convolution("ssm_conv1d", plan.convolution, &w->convolution, &w->convolution_bias);
  const std::array<size_t, 3> x_rows = {plan.step_rank, depth, depth};
  const std::array<LinearLayer*, 3> x_parts = {&w->narrow, &w->key, &w->query};
  visitor.Parts("ssm_x", x_rows, channels, x_parts);
  if (plan.norms_have_weights) {
    visitor.Norm("ssm_dt_norm", {&plan.step_rank, 1}, true, &w->step_norm);
    visitor.Norm("ssm_b_norm", {&depth, 1}, true, &w->key_norm);
    visitor.Norm("ssm_c_norm", {&depth, 1}, true, &w->query_norm);
  }
  visitor.Matrix("ssm_dt", channels, plan.step_rank, &w->step);
  visitor.PerHead("ssm_a", channels, depth, true, &w->rate);
  if (!w->rate.empty()) {
    for (float& rate : w->rate) rate = -rate;
    w->rate = ByPanels(plan.scan, depth, w->rate);
  }
  visitor.Vector("ssm_d", "", channels, true, &w->skip);
  visitor.Matrix("ssm_out", model.model_dim, channels, &w->out);
}

size_t SelectiveFloats(const SelectivePlan& plan, size_t num_rows, size_t num_threads) {
  return 5 * Arena::Rounded(num_rows * plan.scan.value_channels()) +
         Arena::Rounded(num_rows * plan.step_rank) + 2 * Arena::Rounded(num_rows * plan.scan.key_dim) +
         std::max(RecurScratchFloats(plan.convolution, num_rows, num_threads),
                  RecurScratchFloats(plan.scan, num_rows, num_threads));
}

namespace {

void Norm(const SelectivePlan& plan, const NormWeights& norm, size_t num_cols, float* x, Pass& pass) {
  if (!plan.has_norms) return;
  pass.device.Norm({.kind = NormKind::kRms,
                    .epsilon = plan.norm_epsilon > 0 ? plan.norm_epsilon : pass.plan.norm_epsilon,
                    .weight = DataOrNull(norm.weight),
                    .num_rows = pass.num_rows,
                    .num_cols = num_cols,
                    .x = x,
                    .out = x});
}

}  // namespace

void RunSelective(const SelectivePlan& plan, const SelectiveWeights& w, const NormWeights& post_norm,
                  size_t index, const float* input, Pass& pass) {
  const size_t num_rows = pass.num_rows, depth = plan.scan.key_dim;
  const size_t count = num_rows * plan.scan.value_channels();
  Arena arena(pass.arena);
  float* const value = arena.Take(count);
  float* const gate = arena.Take(count);
  float* const convolved = arena.Take(count);
  float* const decay = arena.Take(count);
  float* const step = arena.Take(count);
  float* const narrow = arena.Take(num_rows * plan.step_rank);
  float* const key = arena.Take(num_rows * depth);
  float* const query = arena.Take(num_rows * depth);
  const std::array<MatMulJob, 2> in_jobs = {Pass::Job(w.value, value, false), Pass::Job(w.gate, gate, false)};
  pass.Linear("x, gates", input, num_rows, in_jobs);
  pass.Recur(index, {.conv_weight = w.convolution.data(), .conv_bias = DataOrNull(w.convolution_bias)},
             {.x = value, .out = convolved}, arena);
  const std::array<MatMulJob, 3> x_jobs = {Pass::Job(w.narrow, narrow, false), Pass::Job(w.key, key, false),
                                           Pass::Job(w.query, query, false)};
  pass.Linear("steps, B, C", convolved, num_rows, x_jobs);
  Norm(plan, w.step_norm, plan.step_rank, narrow, pass);
  Norm(plan, w.key_norm, depth, key, pass);
  Norm(plan, w.query_norm, depth, query, pass);
  const MatMulJob step_job = Pass::Job(w.step, decay, false);
  pass.Linear("steps", narrow, num_rows, {&step_job, 1});
  pass.device.Gates({.num_rows = num_rows,
                     .num_heads = plan.scan.value_channels(),
                     .step = decay,
                     .log_decay = decay,
                     .beta = step});
  float* const out = value;
  pass.Recur(index + 1, {.skip = w.skip.data(), .rate = w.rate.data()},
             {.x = convolved, .log_decay = decay, .beta = step, .keys = key, .queries = query, .out = out},
             arena);
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kMultiply, .x = out, .y = gate, .count = count});
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kSigmoidGate, .x = out, .y = gate, .count = count});
  pass.AddProduct("scan output", w.out, out, post_norm);
}

}  // namespace mneme
