#include "model/blocks/pass.h"

namespace mneme {

NormCall Pass::CallOf(const NormWeights& norm) const {
  return {.kind = plan.norm,
          .epsilon = plan.norm_epsilon,
          .weight = DataOrNull(norm.weight),
          .bias = norm.bias.empty() ? nullptr : norm.bias.data()};
}

void Pass::Norm(const NormWeights& norm, const float* from, size_t count, float* out) {
  NormCall call = CallOf(norm);
  call.num_rows = count;
  call.num_cols = norm.empty() ? plan.model_dim : norm.weight.size();
  call.x = from;
  call.out = out;
  device.Norm(call);
}

void Pass::NormHeads(HeadNorm kind, const NormWeights& norm, size_t num_heads, size_t head_dim,
                     float* heads) {
  if (kind == HeadNorm::kNone) return;
  const NormWeights none;
  NormCall call = CallOf(kind == HeadNorm::kRotated ? none : norm);
  call.num_rows = num_rows;
  call.num_parts = kind == HeadNorm::kWhole ? 1 : num_heads;
  call.num_cols = num_heads * head_dim / call.num_parts;
  call.has_weights_per_part = call.weight != nullptr && norm.weight.size() != call.num_cols;
  call.x = call.out = heads;
  device.Norm(call);
}

void Pass::Linear(std::string_view label, const float* from, size_t count, std::span<const MatMulJob> jobs,
                  std::optional<ThenActivate> then) {
  device.Linear({.label = label,
                 .x = from,
                 .num_rows = count,
                 .num_cols = jobs.front().weights->num_cols(),
                 .jobs = jobs,
                 .then = then,
                 .scratch = linear_scratch});
}

void Pass::LinearOfColumns(std::string_view label, const float* from, size_t stride,
                           std::span<const MatMulJob> jobs, size_t job_step) {
  device.Linear({.label = label,
                 .x = from,
                 .num_rows = num_rows,
                 .num_cols = jobs.front().weights->num_cols(),
                 .x_stride = stride,
                 .job_step = job_step,
                 .jobs = jobs,
                 .scratch = linear_scratch});
}

void Pass::LowRankProducts(const LowRank& w, const float* from, std::span<const MatMulJob> jobs,
                           Arena arena) {
  const MatMulJob down = Job(w.down, arena.Take(num_rows * w.down.weights.num_rows()), false);
  Linear("low rank, down", from, num_rows, {&down, 1});
  Linear("low rank, up", down.out, num_rows, jobs);
}

void Pass::Recur(size_t index, const RecurWeights& weights, const RecurRows& rows, Arena arena) {
  recur_calls.clear();
  size_t row = 0;
  const auto from = [&row](auto* values, size_t width) {
    return values == nullptr ? nullptr : values + row * width;
  };
  for (const ForwardChunk& chunk : chunks) {
    const RecurShape& shape = chunk.context->recurrent()->shape(index);
    RecurCall call = chunk.context->recurrent()->Plan(
        index, from(rows.x, shape.num_channels()), from(rows.log_decay, shape.num_decays()),
        from(rows.beta, shape.num_gates()), from(rows.out, shape.value_channels()));
    call.keys = from(rows.keys, shape.key_dim);
    call.queries = from(rows.queries, shape.key_dim);
    call.conv_weight = weights.conv_weight;
    call.conv_bias = weights.conv_bias;
    call.skip = weights.skip;
    call.rate = weights.rate;
    call.boost = weights.boost;
    recur_calls.push_back(call);
    row += chunk.tokens.size();
  }
  device.Recur(recur_calls, arena.Take(0));
}

void Pass::AddProduct(std::string_view label, const LinearLayer& linear, const float* from,
                      const NormWeights& post_norm) {
  const bool is_plain = post_norm.empty() && plan.residual_scale == 1.0f;
  const MatMulJob job = Job(linear, is_plain ? x : branch, is_plain);
  Linear(label, from, num_rows, {&job, 1});
  if (!is_plain) AddBranch(post_norm);
}

void Pass::AddBranch(const NormWeights& post_norm) {
  if (!post_norm.empty()) Norm(post_norm, branch, num_rows, branch);
  if (plan.residual_scale != 1.0f) {
    device.Pointwise({.kind = PointwiseCall::Kind::kScale,
                      .x = branch,
                      .value = plan.residual_scale,
                      .count = num_rows * plan.model_dim});
  }
  device.Pointwise(
      {.kind = PointwiseCall::Kind::kAdd, .x = x, .y = branch, .count = num_rows * plan.model_dim});
}

}  // namespace mneme
