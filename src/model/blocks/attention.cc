#include "model/blocks/attention.h"

#include <array>
#include <cmath>

namespace mneme {
namespace {

bool HasWriteGate(const ModelPlan& model) {
  return model.memory.segment > 0 && model.memory.update == MemoryUpdate::kGatedDelta;
}

void Clamp(float limit, size_t count, float* values, Pass& pass) {
  pass.device.Pointwise(
      {.kind = PointwiseCall::Kind::kClamp, .x = values, .value = limit, .count = pass.num_rows * count});
}

// Of the gates of a row's outputs.
size_t GateWidth(const AttentionPlan& plan) {
  if (plan.has_head_gate) return plan.num_heads;
  return plan.has_output_gate || plan.has_value_gate ? plan.num_heads * plan.value_dim : 0;
}

// out [num_rows, num_heads, value_dim] times the functions of the gates, which become these but for sigmoids
// of values.
void GateOutputs(const AttentionPlan& plan, float* gate, float* out, Pass& pass) {
  const size_t num_heads = pass.num_rows * plan.num_heads;
  const size_t count = num_heads * plan.value_dim;
  const size_t num_gates = plan.has_head_gate ? num_heads : count;
  if (plan.softplus_gates) {
    pass.device.Pointwise({.kind = PointwiseCall::Kind::kSoftplus, .x = gate, .count = num_gates});
  }
  if (!plan.has_head_gate) {
    const auto kind =
        plan.softplus_gates ? PointwiseCall::Kind::kMultiply : PointwiseCall::Kind::kSigmoidGate;
    pass.device.Pointwise({.kind = kind, .x = out, .y = gate, .count = count});
    return;
  }
  if (!plan.softplus_gates) {
    pass.device.Pointwise(
        {.kind = PointwiseCall::Kind::kWriteGate, .x = gate, .value = 0.0f, .count = num_heads});
  }
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kScaleRows,
                         .x = out,
                         .count = count,
                         .gate = gate,
                         .num_cols = plan.value_dim});
}

}  // namespace

void GrowQueries(const AttentionPlan& plan, float* q, float* growth, Pass& pass) {
  size_t row = 0;
  for (const ForwardChunk& chunk : pass.chunks) {
    const Position first = chunk.context->next_position();
    for (size_t i = 0; i < chunk.tokens.size(); ++i) {
      const Position place = first + static_cast<Position>(i) + plan.query_growth_offset;
      const Position steps = place / plan.query_growth_length;
      growth[row++] = 1.0f + plan.query_growth * std::log(1.0f + static_cast<float>(steps));
    }
  }
  const size_t num_cols = plan.num_heads * plan.key_dim;
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kScaleRows,
                         .x = q,
                         .count = pass.num_rows * num_cols,
                         .gate = growth,
                         .num_cols = num_cols});
}

void VisitAttention(const ModelPlan& model, const AttentionPlan& plan, WeightVisitor& visitor,
                    AttentionWeights* w) {
  const size_t q_size = plan.num_heads * plan.key_dim;
  const size_t k_size = plan.num_kv_heads * plan.key_dim;
  if (plan.qk_norm == HeadNorm::kPerHead) {
    // One norm for all heads, or one for each.
    const size_t q_counts[] = {plan.key_dim, q_size};
    const size_t k_counts[] = {plan.key_dim, k_size};
    visitor.Norm("attn_q_norm", q_counts, true, &w->q_norm);
    if (plan.kv_source < 0) visitor.Norm("attn_k_norm", k_counts, true, &w->k_norm);
  } else if (plan.qk_norm == HeadNorm::kRotated) {
    visitor.Norm("attn_q_norm", {&plan.key_dim, 1}, true, &w->q_norm);
    visitor.Norm("attn_k_norm", {&plan.key_dim, 1}, true, &w->k_norm);
  } else if (plan.qk_norm == HeadNorm::kWhole) {
    visitor.Norm("attn_q_norm", {&q_size, 1}, true, &w->q_norm);
    visitor.Norm("attn_k_norm", {&k_size, 1}, true, &w->k_norm);
  }
  visitor.Qkv(plan, &w->q, &w->k, &w->v, &w->gate);
  if (plan.has_head_gate || plan.has_value_gate) {
    visitor.Matrix("attn_gate", GateWidth(plan), model.model_dim, &w->gate);
  }
  const size_t out_size = plan.num_heads * plan.value_dim;
  if (plan.has_sub_norm) visitor.Norm("attn_sub_norm", {&out_size, 1}, true, &w->sub_norm);
  visitor.Matrix("attn_output", model.model_dim, plan.num_heads * plan.value_dim, &w->o);
  visitor.Vector("attn_sinks", "weight", plan.num_heads, false, &w->sink_logits);
  if (model.memory.segment == 0) return;
  visitor.Vector("infini_gate", "weight", plan.num_heads, true, &w->memory_gate);
  if (HasWriteGate(model)) {
    visitor.Matrix("infini_write", plan.num_kv_heads, model.model_dim, &w->memory_write);
  }
}

size_t AttentionFloats(const ModelPlan& model, const AttentionPlan& plan, size_t num_rows) {
  const size_t heads = plan.num_heads * (plan.key_dim + plan.value_dim);
  const size_t kv_heads = plan.num_kv_heads * (plan.key_dim + plan.value_dim);
  const size_t write_gate = HasWriteGate(model) ? plan.num_kv_heads : 0;
  const size_t growth = plan.query_growth != 0 ? 1 : 0;
  const size_t gate = GateWidth(plan);
  // Each of the seven parts may be rounded up.
  return num_rows * (heads + kv_heads + write_gate + growth + gate) + 7 * Arena::Rounded(1);
}

float* RunHeads(const AttentionPlan& plan, const AttentionWeights& w, const LowRank* adapters, size_t index,
                const float* input, Arena arena, Pass& pass) {
  const size_t num_rows = pass.num_rows;
  const size_t q_row = plan.num_heads * plan.key_dim;
  const size_t k_row = plan.num_kv_heads * plan.key_dim;
  const size_t v_row = plan.num_kv_heads * plan.value_dim;
  const size_t out_row = plan.num_heads * plan.value_dim;
  float* const q = arena.Take(num_rows * q_row);
  float* const k = arena.Take(num_rows * k_row);
  float* const v = arena.Take(num_rows * v_row);
  float* const attended = arena.Take(num_rows * out_row);
  const bool has_write_gate = !w.memory_write.empty();
  float* const write_gate = arena.Take(has_write_gate ? num_rows * plan.num_kv_heads : 0);
  float* const gate = arena.Take(num_rows * GateWidth(plan));
  const bool is_added = adapters != nullptr;
  for (size_t i = 0; is_added && i < 3; ++i) {
    const MatMulJob job = Pass::Job(adapters[i].up[0], i == 0 ? q : i == 1 ? k : v, false);
    pass.LowRankProducts(adapters[i], input, {&job, 1}, arena);
  }
  std::array<MatMulJob, 5> jobs = {Pass::Job(w.q, q, is_added)};
  size_t num_jobs = 1;
  if (!w.k.empty()) jobs[num_jobs++] = Pass::Job(w.k, k, is_added);
  if (!w.v.empty()) jobs[num_jobs++] = Pass::Job(w.v, v, is_added);
  if (!w.gate.empty()) jobs[num_jobs++] = Pass::Job(w.gate, gate, false);
  if (has_write_gate) jobs[num_jobs++] = Pass::Job(w.memory_write, write_gate, false);
  pass.Linear("q, k, v", input, num_rows, {jobs.data(), num_jobs});
  if (plan.value_is_key) {
    pass.device.Pointwise({.kind = PointwiseCall::Kind::kCopy, .x = v, .y = k, .count = num_rows * v_row});
  }
  if (plan.value_scale != 1.0f) {
    pass.device.Pointwise(
        {.kind = PointwiseCall::Kind::kScale, .x = v, .value = plan.value_scale, .count = num_rows * v_row});
  }
  if (has_write_gate) {
    pass.device.Pointwise({.kind = PointwiseCall::Kind::kWriteGate,
                           .x = write_gate,
                           .value = pass.plan.memory.write_floor,
                           .count = num_rows * plan.num_kv_heads});
  }
  const auto clamp = [&] {
    if (plan.clamp_qkv == 0) return;
    Clamp(plan.clamp_qkv, q_row, q, pass);
    Clamp(plan.clamp_qkv, k_row, k, pass);
    Clamp(plan.clamp_qkv, v_row, v, pass);
  };
  if (!plan.clamps_normed) clamp();
  pass.NormHeads(plan.qk_norm, w.q_norm, plan.num_heads, plan.key_dim, q);
  if (plan.kv_source < 0) pass.NormHeads(plan.qk_norm, w.k_norm, plan.num_kv_heads, plan.key_dim, k);
  if (plan.value_norm && plan.kv_source < 0) {
    pass.device.Norm({.kind = NormKind::kRms,
                      .epsilon = pass.plan.norm_epsilon,
                      .num_rows = num_rows,
                      .num_parts = plan.num_kv_heads,
                      .num_cols = plan.value_dim,
                      .x = v,
                      .out = v});
  }
  if (plan.clamps_normed) clamp();
  if (plan.query_growth != 0) GrowQueries(plan, q, arena.Take(num_rows), pass);
  pass.attend_calls.clear();
  size_t row = 0;
  for (const ForwardChunk& chunk : pass.chunks) {
    if (has_write_gate) chunk.context->SetWriteGate(index, write_gate + row * plan.num_kv_heads);
    pass.attend_calls.push_back(chunk.context->Plan(index, q + row * q_row, k + row * k_row, v + row * v_row,
                                                    attended + row * out_row));
    row += chunk.tokens.size();
  }
  pass.device.Attend(pass.attend_calls, pass.attend_scratch);
  for (const ForwardChunk& chunk : pass.chunks) chunk.context->Finish(index, pass.device);
  if (!w.gate.empty()) GateOutputs(plan, gate, attended, pass);
  if (plan.has_sub_norm) pass.Norm(w.sub_norm, attended, num_rows, attended);
  return attended;
}

void RunAttention(const AttentionPlan& plan, const AttentionWeights& w, const NormWeights& post_norm,
                  size_t index, const float* input, Pass& pass) {
  const float* const attended = RunHeads(plan, w, nullptr, index, input, Arena(pass.arena), pass);
  pass.AddProduct("attention output", w.o, attended, post_norm);
}

}  // namespace mneme
