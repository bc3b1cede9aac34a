#include "model/blocks/state/channel_delta.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace mneme {
namespace {

// Files have the convolutions of q, k and v apart.
void VisitConvolutions(const RecurShape& shape, WeightVisitor& visitor, std::vector<float>* taps) {
  constexpr std::string_view kNames[3] = {"ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v"};
  const size_t keys = shape.key_channels(), channels = shape.num_channels();
  const size_t counts[3] = {keys, keys, shape.value_channels()};
  taps->resize(shape.conv_width * channels);
  size_t first = 0;
  for (size_t part = 0; part < 3; ++part) {
    const RecurShape alone = {.rule = RecurRule::kConvolution,
                              .num_value_heads = 1,
                              .value_dim = counts[part],
                              .conv_width = shape.conv_width};
    std::vector<float> own, no_bias;
    visitor.Convolution(kNames[part], alone, &own, &no_bias);
    for (size_t tap = 0; tap < shape.conv_width && !own.empty(); ++tap) {
      std::copy_n(&own[tap * counts[part]], counts[part], &(*taps)[tap * channels + first]);
    }
    first += counts[part];
  }
}

}  // namespace

void VisitChannelDelta(const ModelPlan& model, const ChannelDeltaPlan& plan, WeightVisitor& visitor,
                       ChannelDeltaWeights* w) {
  const RecurShape& shape = plan.shape;
  const size_t heads = shape.num_value_heads, keys = shape.key_channels(), values = shape.value_channels();
  visitor.Matrix("ssm_q", keys, model.model_dim, &w->q);
  visitor.Matrix("ssm_k", keys, model.model_dim, &w->k);
  visitor.Matrix("ssm_v", values, model.model_dim, &w->v);
  visitor.Matrix("ssm_f_a", plan.gate_rank, model.model_dim, &w->decay_down);
  visitor.Matrix("ssm_f_b", keys, plan.gate_rank, &w->decay);
  visitor.Matrix("ssm_beta", heads, model.model_dim, &w->beta);
  visitor.Matrix("ssm_g_a", plan.gate_rank, model.model_dim, &w->gate_down);
  visitor.Matrix("ssm_g_b", values, plan.gate_rank, &w->gate);
  VisitConvolutions(shape, visitor, &w->convolution);
  visitor.Vector("ssm_dt", "bias", keys, true, &w->step_bias);
  std::vector<float> rates;
  visitor.PerHead("ssm_a", heads, 1, true, &rates);
  for (const float rate : rates) w->rate.insert(w->rate.end(), shape.key_dim, rate);
  visitor.Vector("ssm_norm", "weight", shape.value_dim, true, &w->norm);
  visitor.Matrix("ssm_out", model.model_dim, values, &w->out);
}

size_t ChannelDeltaFloats(const ChannelDeltaPlan& plan, size_t num_rows, size_t num_threads) {
  const RecurShape& shape = plan.shape;
  return Arena::Rounded(num_rows * shape.num_channels()) +
         2 * Arena::Rounded(num_rows * shape.value_channels()) +
         Arena::Rounded(num_rows * shape.num_decays()) + 2 * Arena::Rounded(num_rows * plan.gate_rank) +
         Arena::Rounded(num_rows * shape.num_value_heads) + RecurScratchFloats(shape, num_rows, num_threads);
}

void RunChannelDelta(const ChannelDeltaPlan& plan, const ChannelDeltaWeights& w, const NormWeights& post_norm,
                     size_t index, const float* input, Pass& pass) {
  const RecurShape& shape = plan.shape;
  const size_t num_rows = pass.num_rows, heads = shape.num_value_heads;
  Arena arena(pass.arena);
  float* const mixed = arena.Take(num_rows * shape.num_channels());
  float* const gate = arena.Take(num_rows * shape.value_channels());
  float* const out = arena.Take(num_rows * shape.value_channels());
  float* const decay = arena.Take(num_rows * shape.num_decays());
  float* const decay_values = arena.Take(num_rows * plan.gate_rank);
  float* const gate_values = arena.Take(num_rows * plan.gate_rank);
  float* const beta = arena.Take(num_rows * heads);
  const auto into_mixed = [&](const LinearLayer& linear, size_t channel) {
    MatMulJob job = Pass::Job(linear, mixed + channel, false);
    job.out_stride = shape.num_channels();
    return job;
  };
  const std::array<MatMulJob, 6> jobs = {
      into_mixed(w.q, shape.q_channel()),         into_mixed(w.k, shape.k_channel()),
      into_mixed(w.v, shape.v_channel()),         Pass::Job(w.decay_down, decay_values, false),
      Pass::Job(w.gate_down, gate_values, false), Pass::Job(w.beta, beta, false)};
  pass.Linear("q, k, v, gates", input, num_rows, jobs);
  const MatMulJob decay_job = Pass::Job(w.decay, decay, false), gate_job = Pass::Job(w.gate, gate, false);
  pass.Linear("decays", decay_values, num_rows, {&decay_job, 1});
  pass.Linear("output gates", gate_values, num_rows, {&gate_job, 1});
  pass.device.Gates({.num_rows = num_rows,
                     .num_heads = shape.num_decays(),
                     .step = decay,
                     .step_bias = w.step_bias.data(),
                     .rate = w.rate.data(),
                     .log_decay = decay});
  pass.device.Pointwise(
      {.kind = PointwiseCall::Kind::kWriteGate, .x = beta, .value = 0.0f, .count = num_rows * heads});
  pass.Recur(index, {.conv_weight = w.convolution.data()},
             {.x = mixed, .log_decay = decay, .beta = beta, .out = out}, arena);
  pass.device.Norm({.kind = NormKind::kRms,
                    .epsilon = pass.plan.norm_epsilon,
                    .weight = w.norm.data(),
                    .num_rows = num_rows,
                    .num_parts = heads,
                    .num_cols = shape.value_dim,
                    .x = out,
                    .gate_kind = NormGate::kSigmoidAfter,
                    .gate = gate,
                    .out = out});
  pass.AddProduct("attention output", w.out, out, post_norm);
}

}  // namespace mneme
