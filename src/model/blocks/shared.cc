#include "model/blocks/shared.h"

#include <algorithm>

namespace mneme {
namespace {

void VisitLowRank(const SharedPlan& plan, std::string_view down, std::string_view up,
                  std::span<const size_t> num_rows, size_t num_cols, WeightVisitor& visitor, LowRank* w) {
  const size_t rank = plan.adapter_rank;
  LinearLayer* const first = &w->down;
  LinearLayer* const ups[2] = {&w->up[0], &w->up[1]};
  visitor.Adapter(down, plan.source, plan.number, {&rank, 1}, num_cols, {&first, 1});
  visitor.Adapter(up, plan.source, plan.number, num_rows, rank, {ups, num_rows.size()});
}

void CopyColumns(const float* from, size_t num_cols, size_t stride, float* to, Pass& pass) {
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kCopyRows,
                         .x = to,
                         .y = from,
                         .count = pass.num_rows * num_cols,
                         .num_cols = num_cols,
                         .x_stride = stride,
                         .y_stride = num_cols});
}

}  // namespace

void VisitShared(const ModelPlan& model, const SharedPlan& plan, WeightVisitor& visitor, SharedWeights* w) {
  const AttentionPlan& attention = plan.attention;
  const size_t dim = model.model_dim, wide = attention.input_dim;
  if (plan.is_source) {
    visitor.Norm("shared_norm", {&wide, 1}, true, &w->norm);
    VisitAttention(model, attention, visitor, &w->attention);
    visitor.Norm("ffn_norm", {&dim, 1}, true, &w->ffn_norm);
    visitor.GateUp(plan.ffn_dim, &w->gate, &w->up);
    visitor.Matrix("ffn_down", dim, plan.ffn_dim, &w->down);
  }
  if (plan.has_attention_adapters) {
    const size_t q = attention.num_heads * attention.key_dim, k = attention.num_kv_heads * attention.key_dim;
    const size_t v = attention.num_kv_heads * attention.value_dim;
    VisitLowRank(plan, "shared_q_down", "shared_q_up", {&q, 1}, wide, visitor, &w->qkv[0]);
    VisitLowRank(plan, "shared_k_down", "shared_k_up", {&k, 1}, wide, visitor, &w->qkv[1]);
    VisitLowRank(plan, "shared_v_down", "shared_v_up", {&v, 1}, wide, visitor, &w->qkv[2]);
  }
  const size_t rows[2] = {plan.ffn_dim, plan.ffn_dim};
  VisitLowRank(plan, "shared_ffn_down", "shared_ffn_up", rows, dim, visitor, &w->gate_up);
  visitor.Matrix("shared_out", dim, dim, &w->out);
  VisitScan(model, plan.scan, visitor, &w->scan);
}

size_t SharedFloats(const ModelPlan& model, const SharedPlan& plan, size_t num_rows) {
  return Arena::Rounded(num_rows * plan.attention.input_dim) +
         std::max(
             AttentionFloats(model, plan.attention, num_rows) + Arena::Rounded(num_rows * plan.adapter_rank),
             2 * Arena::Rounded(num_rows * plan.ffn_dim) + Arena::Rounded(num_rows * plan.adapter_rank));
}

namespace {

// to = the network's output for `input`, [num_rows, model_dim] both.
void RunNetwork(const SharedPlan& plan, const SharedWeights& w, const SharedWeights& source,
                const float* input, float* to, Arena arena, Pass& pass) {
  float* const gate = arena.Take(pass.num_rows * plan.ffn_dim);
  float* const up = arena.Take(pass.num_rows * plan.ffn_dim);
  const std::array<MatMulJob, 2> own = {Pass::Job(w.gate_up.up[0], gate, false),
                                        Pass::Job(w.gate_up.up[1], up, false)};
  pass.LowRankProducts(w.gate_up, input, own, arena);
  const std::array<MatMulJob, 2> jobs = {Pass::Job(source.gate, gate, true), Pass::Job(source.up, up, true)};
  pass.Linear("gate, up", input, pass.num_rows, jobs, ThenActivate{.activation = Activation::kGelu});
  const MatMulJob down = Pass::Job(source.down, to, false);
  pass.Linear("down", gate, pass.num_rows, {&down, 1});
}

}  // namespace

void RunShared(const SharedPlan& plan, const SharedWeights& w, const SharedWeights& source, size_t index,
               float* to, Pass& pass) {
  const size_t num_rows = pass.num_rows, dim = pass.plan.model_dim, wide = plan.attention.input_dim;
  Arena arena(pass.arena);
  float* const both = arena.Take(num_rows * wide);
  CopyColumns(pass.x, dim, wide, both, pass);
  CopyColumns(pass.embedding, dim, wide, both + dim, pass);
  pass.device.Norm({.kind = NormKind::kRms,
                    .epsilon = pass.plan.norm_epsilon,
                    .weight = source.norm.weight.data(),
                    .num_rows = num_rows,
                    .num_cols = wide,
                    .x = both,
                    .out = both});
  const float* const attended =
      RunHeads(plan.attention, source.attention, plan.has_attention_adapters ? w.qkv.data() : nullptr, index,
               both, arena, pass);
  const MatMulJob o = Pass::Job(source.attention.o, to, false);
  pass.Linear("attention output", attended, num_rows, {&o, 1});
  pass.Norm(source.ffn_norm, to, num_rows, to);
  RunNetwork(plan, w, source, to, pass.branch, arena, pass);
  const MatMulJob out = Pass::Job(w.out, to, false);
  pass.Linear("shared output", pass.branch, num_rows, {&out, 1});
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kAdd, .x = to, .y = pass.x, .count = num_rows * dim});
}

}  // namespace mneme
