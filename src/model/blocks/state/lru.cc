#include "model/blocks/state/lru.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace mneme {

void VisitLru(const ModelPlan& model, const LruPlan& plan, WeightVisitor& visitor, LruWeights* w) {
  const size_t channels = plan.scan.value_channels();
  visitor.Matrix("rec_y", channels, model.model_dim, &w->gate);
  visitor.Matrix("rec_x", channels, model.model_dim, &w->value);
  visitor.Convolution("ssm_conv1d", plan.convolution, &w->convolution, &w->convolution_bias);
  w->input_gates.resize(plan.num_heads);
  w->decay_gates.resize(plan.num_heads);
  visitor.Heads("rec_input_gate", plan.head_dim(), w->input_gates);
  visitor.Heads("rec_decay_gate", plan.head_dim(), w->decay_gates);
  visitor.Vector("rec_decay", "weight", channels, true, &w->rate);
  for (float& rate : w->rate) {
    const double x = static_cast<double>(rate);
    rate = static_cast<float>(-8 * (std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)))));
  }
  visitor.Matrix("ssm_out", model.model_dim, channels, &w->out);
}

size_t LruFloats(const LruPlan& plan, size_t num_rows, size_t num_threads) {
  return 5 * Arena::Rounded(num_rows * plan.scan.value_channels()) +
         std::max(RecurScratchFloats(plan.convolution, num_rows, num_threads),
                  RecurScratchFloats(plan.scan, num_rows, num_threads));
}

namespace {

// Rows with which a stream begins.
std::vector<size_t> FirstRows(const Pass& pass) {
  std::vector<size_t> rows;
  size_t row = 0;
  for (const ForwardChunk& chunk : pass.chunks) {
    if (chunk.context->recurrent()->num_tokens() == 0) rows.push_back(row);
    row += chunk.tokens.size();
  }
  return rows;
}

// What decides of each channel how much is let in, and how much is forgotten.
void RunGates(const LruPlan& plan, const LruWeights& w, const float* x, float* strength, float* decay,
              Pass& pass) {
  const size_t channels = plan.scan.value_channels();
  for (size_t head = 0; head < plan.num_heads; ++head) {
    const size_t first = head * plan.head_dim();
    std::array<MatMulJob, 2> jobs = {Pass::Job(w.input_gates[head], strength + first, false),
                                     Pass::Job(w.decay_gates[head], decay + first, false)};
    for (MatMulJob& job : jobs) job.out_stride = channels;
    pass.LinearOfColumns("gates", x + first, channels, jobs);
  }
  const std::vector<size_t> first_rows = FirstRows(pass);
  pass.device.Gates({.num_rows = pass.num_rows,
                     .num_heads = channels,
                     .step = decay,
                     .rate = w.rate.data(),
                     .strength = strength,
                     .is_normalised = true,
                     .first_rows = first_rows,
                     .log_decay = decay,
                     .beta = strength});
}

}  // namespace

void RunLru(const LruPlan& plan, const LruWeights& w, const NormWeights& post_norm, size_t index,
            const float* input, Pass& pass) {
  const size_t count = pass.num_rows * plan.scan.value_channels();
  Arena arena(pass.arena);
  float* const gate = arena.Take(count);
  float* const value = arena.Take(count);
  float* const convolved = arena.Take(count);
  float* const strength = arena.Take(count);
  float* const decay = arena.Take(count);
  const MatMulJob gate_job = Pass::Job(w.gate, gate, false);
  pass.Linear("output gates", input, pass.num_rows, {&gate_job, 1},
              ThenActivate{.activation = Activation::kGeluTanh});
  const MatMulJob value_job = Pass::Job(w.value, value, false);
  pass.Linear("x", input, pass.num_rows, {&value_job, 1});
  pass.Recur(index, {.conv_weight = w.convolution.data(), .conv_bias = DataOrNull(w.convolution_bias)},
             {.x = value, .out = convolved}, arena);
  RunGates(plan, w, convolved, strength, decay, pass);
  float* const out = value;
  pass.Recur(index + 1, {}, {.x = convolved, .log_decay = decay, .beta = strength, .out = out}, arena);
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kMultiply, .x = out, .y = gate, .count = count});
  pass.AddProduct("recurrent output", w.out, out, post_norm);
}

}  // namespace mneme
