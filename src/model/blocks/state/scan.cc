#include "model/blocks/state/scan.h"

#include <array>

namespace mneme {

void VisitScan(const ModelPlan& model, const ScanPlan& plan, WeightVisitor& visitor, ScanWeights* w) {
  const RecurShape& shape = plan.shape;
  const size_t heads = shape.num_value_heads, values = shape.value_channels();
  const std::array<size_t, 3> num_rows = {values, shape.num_channels(), heads};
  const std::array<LinearLayer*, 3> parts = {&w->gate, &w->mixed, &w->step};
  visitor.Parts("ssm_in", num_rows, model.model_dim, parts);
  visitor.Convolution("ssm_conv1d", shape, &w->convolution, &w->convolution_bias);
  visitor.Vector("ssm_dt", "bias", heads, true, &w->step_bias);
  visitor.PerHead("ssm_a", heads, 1, true, &w->rate);
  visitor.PerHead("ssm_d", heads, 1, false, &w->skip);
  const size_t counts[] = {values / shape.num_key_heads, values};
  if (plan.has_norm) visitor.Norm("ssm_norm", counts, true, &w->norm);
  visitor.Matrix("ssm_out", model.model_dim, values, &w->out);
}

size_t ScanFloats(const ScanPlan& plan, size_t num_rows, size_t num_threads) {
  const RecurShape& shape = plan.shape;
  return Arena::Rounded(num_rows * shape.num_channels()) +
         2 * Arena::Rounded(num_rows * shape.value_channels()) +
         2 * Arena::Rounded(num_rows * shape.num_value_heads) +
         RecurScratchFloats(shape, num_rows, num_threads);
}

namespace {

// out *= silu(gate), and the norm of it where there is one.
void GateAndNorm(const ScanPlan& plan, const ScanWeights& w, const float* gate, float* out, Pass& pass) {
  const size_t count = pass.num_rows * plan.shape.value_channels();
  if (!plan.has_norm) {
    pass.device.Pointwise({.kind = PointwiseCall::Kind::kMultiply, .x = out, .y = gate, .count = count});
    pass.device.Pointwise({.kind = PointwiseCall::Kind::kSigmoidGate, .x = out, .y = gate, .count = count});
    return;
  }
  const size_t group = plan.shape.value_channels() / plan.shape.num_key_heads;
  pass.device.Norm({.kind = NormKind::kRms,
                    .epsilon = pass.plan.norm_epsilon,
                    .weight = w.norm.weight.data(),
                    .has_weights_per_part = w.norm.weight.size() != group,
                    .num_rows = pass.num_rows,
                    .num_parts = plan.shape.num_key_heads,
                    .num_cols = group,
                    .x = out,
                    .gate_kind = plan.gates_normed ? NormGate::kSiluAfter : NormGate::kSiluBefore,
                    .gate = gate,
                    .out = out});
}

}  // namespace

void RunScan(const ScanPlan& plan, const ScanWeights& w, const NormWeights& post_norm, size_t index,
             const float* input, Pass& pass) {
  const RecurShape& shape = plan.shape;
  const size_t num_rows = pass.num_rows;
  Arena arena(pass.arena);
  float* const mixed = arena.Take(num_rows * shape.num_channels());
  float* const gate = arena.Take(num_rows * shape.value_channels());
  float* const out = arena.Take(num_rows * shape.value_channels());
  float* const decay = arena.Take(num_rows * shape.num_value_heads);
  float* const strength = arena.Take(num_rows * shape.num_value_heads);
  const std::array<MatMulJob, 3> jobs = {Pass::Job(w.gate, gate, false), Pass::Job(w.mixed, mixed, false),
                                         Pass::Job(w.step, decay, false)};
  pass.Linear("gates, x, B, C, steps", input, num_rows, jobs);
  pass.device.Gates({.num_rows = num_rows,
                     .num_heads = shape.num_value_heads,
                     .step = decay,
                     .step_bias = w.step_bias.data(),
                     .rate = w.rate.data(),
                     .min_step = plan.min_step,
                     .max_step = plan.max_step,
                     .log_decay = decay,
                     .beta = strength});
  pass.Recur(index,
             {.conv_weight = w.convolution.data(),
              .conv_bias = DataOrNull(w.convolution_bias),
              .skip = w.skip.data()},
             {.x = mixed, .log_decay = decay, .beta = strength, .out = out}, arena);
  GateAndNorm(plan, w, gate, out, pass);
  pass.AddProduct("scan output", w.out, out, post_norm);
}

}  // namespace mneme
