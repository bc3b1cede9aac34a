#include "model/blocks/latent.h"

#include <algorithm>
#include <array>

#include "model/blocks/attention.h"

namespace mneme {

void VisitLatent(const ModelPlan& model, const LatentPlan& plan, WeightVisitor& visitor, LatentWeights* w) {
  const size_t num_heads = plan.attention.num_heads;
  const size_t rank = plan.rank();
  const size_t query_rows = num_heads * plan.query_dim();
  if (plan.query_rank > 0) {
    visitor.Matrix("attn_q_a", plan.query_rank, model.model_dim, &w->query_down);
    visitor.Norm("attn_q_a_norm", {&plan.query_rank, 1}, true, &w->query_norm);
    visitor.Matrix("attn_q_b", query_rows, plan.query_rank, &w->query);
  } else {
    visitor.Matrix("attn_q", query_rows, model.model_dim, &w->query);
  }
  const std::array<size_t, 2> num_rows = {rank, plan.rotated_dim()};
  const std::array<LinearLayer*, 2> parts = {&w->latent, &w->rotated_key};
  visitor.Parts("attn_kv_a_mqa", num_rows, model.model_dim, parts);
  visitor.Norm("attn_kv_a_norm", {&rank, 1}, true, &w->latent_norm);
  w->head_keys.resize(num_heads);
  w->head_values.resize(num_heads);
  visitor.LatentHeads(plan, w);
  visitor.Matrix("attn_output", model.model_dim, num_heads * plan.head_value_dim, &w->o);
}

namespace {

// What a layer makes of its rows.
struct Activations {
  float* query_latent;  // [num_rows, query_rank]
  float* heads;         // [num_rows, num_heads, query_dim]: queries as the model has them
  float* q;             // [num_rows, num_heads, key_dim]: rotated part, latent
  float* k;             // [num_rows, key_dim]
  float* latent;        // [num_rows, rank]
  float* attended;      // [num_rows, num_heads, rank]
  float* out;           // [num_rows, num_heads, head_value_dim]
  float* growth;        // [num_rows]
};

Activations Take(const LatentPlan& plan, size_t num_rows, Arena& arena) {
  const size_t num_heads = plan.attention.num_heads;
  Activations a;
  a.query_latent = arena.Take(num_rows * plan.query_rank);
  a.heads = arena.Take(num_rows * num_heads * plan.query_dim());
  a.q = arena.Take(num_rows * num_heads * plan.attention.key_dim);
  a.k = arena.Take(num_rows * plan.attention.key_dim);
  a.latent = arena.Take(num_rows * plan.rank());
  a.attended = arena.Take(num_rows * num_heads * plan.rank());
  a.out = arena.Take(num_rows * num_heads * plan.head_value_dim);
  a.growth = arena.Take(num_rows);
  return a;
}

void NormLatent(const LatentPlan& plan, const NormWeights& norm, size_t width, float* rows, Pass& pass) {
  pass.device.Norm({.kind = NormKind::kRms,
                    .epsilon = plan.norm_epsilon,
                    .weight = norm.weight.data(),
                    .num_rows = pass.num_rows,
                    .num_cols = width,
                    .x = rows,
                    .out = rows});
}

// Queries, the latent, and the key of rotated part and latent.
void Project(const LatentPlan& plan, const LatentWeights& w, const float* input, const Activations& a,
             Pass& pass) {
  const bool has_rank = plan.query_rank > 0;
  MatMulJob rotated = Pass::Job(w.rotated_key, a.k, false);
  rotated.out_stride = plan.attention.key_dim;
  const std::array<MatMulJob, 3> jobs = {
      has_rank ? Pass::Job(w.query_down, a.query_latent, false) : Pass::Job(w.query, a.heads, false),
      Pass::Job(w.latent, a.latent, false), rotated};
  pass.Linear("queries, latents", input, pass.num_rows, jobs);
  if (has_rank) {
    NormLatent(plan, w.query_norm, plan.query_rank, a.query_latent, pass);
    const MatMulJob job = Pass::Job(w.query, a.heads, false);
    pass.Linear("queries", a.query_latent, pass.num_rows, {&job, 1});
  }
  NormLatent(plan, w.latent_norm, plan.rank(), a.latent, pass);
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kCopyRows,
                         .x = a.k + plan.rotated_dim(),
                         .y = a.latent,
                         .count = pass.num_rows * plan.rank(),
                         .num_cols = plan.rank(),
                         .x_stride = plan.attention.key_dim,
                         .y_stride = plan.rank()});
}

// For each head, out[row, head, :] = matrix x[row, head, :]; the strides are of a head.
void RunHeads(std::string_view label, const std::vector<LinearLayer>& matrices, const float* x,
              size_t x_stride, float* out, size_t out_stride, Pass& pass) {
  const size_t num_heads = matrices.size();
  pass.head_jobs.clear();
  for (size_t head = 0; head < num_heads; ++head) {
    pass.head_jobs.push_back({.weights = &matrices[head].weights,
                              .out = out + head * out_stride,
                              .out_stride = num_heads * out_stride,
                              .accumulate = false});
  }
  pass.LinearOfColumns(label, x, num_heads * x_stride, pass.head_jobs, x_stride);
}

// Queries as the latent meets them.
void TakeQueriesToLatent(const LatentPlan& plan, const LatentWeights& w, const Activations& a, Pass& pass) {
  const AttentionPlan& attention = plan.attention;
  const size_t rotated = plan.rotated_dim();
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kCopyRows,
                         .x = a.q,
                         .y = a.heads + plan.plain_dim,
                         .count = pass.num_rows * attention.num_heads * rotated,
                         .num_cols = rotated,
                         .x_stride = attention.key_dim,
                         .y_stride = plan.query_dim()});
  RunHeads("queries to latents", w.head_keys, a.heads, plan.query_dim(), a.q + rotated, attention.key_dim,
           pass);
  if (attention.query_growth != 0) GrowQueries(attention, a.q, a.growth, pass);
}

}  // namespace

size_t LatentFloats(const LatentPlan& plan, size_t num_rows) {
  const size_t of_head = plan.query_dim() + plan.attention.key_dim + plan.rank() + plan.head_value_dim;
  const size_t of_row =
      plan.attention.num_heads * of_head + plan.query_rank + plan.attention.key_dim + plan.rank() + 1;
  // Each of the eight parts may be rounded up.
  return num_rows * of_row + 8 * Arena::Rounded(1);
}

size_t LatentLinearBytes(const LatentPlan& plan, size_t num_rows, ActivationForm form, size_t num_threads) {
  return num_threads * ActivationRows::Bytes(num_rows, std::max(plan.plain_dim, plan.rank()), form);
}

void RunLatent(const LatentPlan& plan, const LatentWeights& w, const NormWeights& post_norm, size_t index,
               const float* input, Pass& pass) {
  const AttentionPlan& attention = plan.attention;
  Arena arena(pass.arena);
  const Activations a = Take(plan, pass.num_rows, arena);
  Project(plan, w, input, a, pass);
  TakeQueriesToLatent(plan, w, a, pass);
  pass.attend_calls.clear();
  size_t row = 0;
  for (const ForwardChunk& chunk : pass.chunks) {
    pass.attend_calls.push_back(chunk.context->Plan(
        index, a.q + row * attention.num_heads * attention.key_dim, a.k + row * attention.key_dim,
        a.latent + row * plan.rank(), a.attended + row * attention.num_heads * plan.rank()));
    row += chunk.tokens.size();
  }
  pass.device.Attend(pass.attend_calls, pass.attend_scratch);
  for (const ForwardChunk& chunk : pass.chunks) chunk.context->Finish(index, pass.device);
  RunHeads("latents to values", w.head_values, a.attended, plan.rank(), a.out, plan.head_value_dim, pass);
  pass.AddProduct("attention output", w.o, a.out, post_norm);
}

}  // namespace mneme
