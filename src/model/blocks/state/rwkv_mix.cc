#include "model/blocks/state/rwkv_mix.h"

#include <algorithm>
#include <cmath>

namespace mneme {
namespace {

void VisitShifted(std::string_view share, std::string_view name, size_t num_rows, size_t model_dim,
                  WeightVisitor& visitor, ShiftedLinear* w) {
  std::vector<float> shares;
  visitor.Vector(share, "weight", model_dim, true, &shares);
  for (const float of_row : shares) w->taps.push_back(1.0f - of_row);
  w->taps.insert(w->taps.end(), shares.begin(), shares.end());
  visitor.Matrix(name, num_rows, model_dim, &w->linear);
}

// out = the product with rows mixed with the ones before. mixed: [num_rows, model_dim].
void RunShifted(std::string_view label, const ShiftedLinear& w, size_t index, const float* input,
                float* mixed, float* out, Arena arena, Pass& pass,
                std::optional<ThenActivate> then = std::nullopt) {
  pass.Recur(index, {.conv_weight = w.taps.data()}, {.x = input, .out = mixed}, arena);
  const MatMulJob job = Pass::Job(w.linear, out, false);
  pass.Linear(label, mixed, pass.num_rows, {&job, 1}, then);
}

}  // namespace

void VisitTimeMix(const ModelPlan& model, const TimeMixPlan& plan, WeightVisitor& visitor,
                  TimeMixWeights* w) {
  const size_t channels = plan.scan.value_channels(), dim = model.model_dim;
  VisitShifted("time_mix_lerp_k", "time_mix_key", channels, dim, visitor, &w->key);
  VisitShifted("time_mix_lerp_v", "time_mix_value", channels, dim, visitor, &w->value);
  VisitShifted("time_mix_lerp_r", "time_mix_receptance", channels, dim, visitor, &w->gate);
  visitor.Vector("time_mix_decay", "weight", channels, true, &w->rate);
  visitor.Vector("time_mix_first", "weight", channels, true, &w->boost);
  if (!w->rate.empty()) {
    for (float& rate : w->rate) rate = std::exp(rate);
    w->rate = ByPanels(plan.scan, 1, w->rate);
    w->boost = ByPanels(plan.scan, 1, w->boost);
  }
  visitor.Matrix("time_mix_output", dim, channels, &w->out);
}

void VisitChannelMix(const ModelPlan& model, const ChannelMixPlan& plan, WeightVisitor& visitor,
                     ChannelMixWeights* w) {
  const size_t dim = model.model_dim;
  VisitShifted("channel_mix_lerp_k", "channel_mix_key", plan.dim, dim, visitor, &w->up);
  VisitShifted("channel_mix_lerp_r", "channel_mix_receptance", dim, dim, visitor, &w->gate);
  visitor.Matrix("channel_mix_value", dim, plan.dim, &w->down);
}

size_t TimeMixFloats(const TimeMixPlan& plan, size_t num_rows, size_t num_threads) {
  return Arena::Rounded(num_rows * plan.shift.num_channels()) +
         4 * Arena::Rounded(num_rows * plan.scan.value_channels()) +
         std::max(RecurScratchFloats(plan.shift, num_rows, num_threads),
                  RecurScratchFloats(plan.scan, num_rows, num_threads));
}

void RunTimeMix(const TimeMixPlan& plan, const TimeMixWeights& w, const NormWeights& post_norm, size_t index,
                const float* input, Pass& pass) {
  const size_t count = pass.num_rows * plan.scan.value_channels();
  Arena arena(pass.arena);
  float* const mixed = arena.Take(pass.num_rows * plan.shift.num_channels());
  float* const key = arena.Take(count);
  float* const value = arena.Take(count);
  float* const gate = arena.Take(count);
  float* const out = arena.Take(count);
  RunShifted("keys", w.key, index, input, mixed, key, arena, pass);
  RunShifted("values", w.value, index + 1, input, mixed, value, arena, pass);
  RunShifted("gates", w.gate, index + 2, input, mixed, gate, arena, pass);
  pass.Recur(index + 3, {.rate = w.rate.data(), .boost = w.boost.data()},
             {.x = value, .beta = key, .out = out}, arena);
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kSigmoidGate, .x = out, .y = gate, .count = count});
  pass.AddProduct("time mix output", w.out, out, post_norm);
}

size_t ChannelMixFloats(const ChannelMixPlan& plan, size_t num_rows, size_t num_threads) {
  return 2 * Arena::Rounded(num_rows * plan.shift.num_channels()) + Arena::Rounded(num_rows * plan.dim) +
         RecurScratchFloats(plan.shift, num_rows, num_threads);
}

void RunChannelMix(const ChannelMixPlan& plan, const ChannelMixWeights& w, const NormWeights& post_norm,
                   size_t index, const float* input, Pass& pass) {
  const size_t count = pass.num_rows * plan.shift.num_channels();
  Arena arena(pass.arena);
  float* const mixed = arena.Take(count);
  float* const gate = arena.Take(count);
  float* const up = arena.Take(pass.num_rows * plan.dim);
  RunShifted("up", w.up, index, input, mixed, up, arena, pass,
             ThenActivate{.activation = Activation::kRelu2});
  RunShifted("gates", w.gate, index + 1, input, mixed, gate, arena, pass);
  const MatMulJob down = Pass::Job(w.down, pass.branch, false);
  pass.Linear("down", up, pass.num_rows, {&down, 1});
  pass.device.Pointwise(
      {.kind = PointwiseCall::Kind::kSigmoidGate, .x = pass.branch, .y = gate, .count = count});
  pass.AddBranch(post_norm);
}

}  // namespace mneme
