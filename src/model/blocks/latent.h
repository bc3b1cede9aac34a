// Latent attention (MLA, DeepSeek-V2, arXiv 2405.04434): what a context keeps of a token is one latent and
// one rotated key for all heads. With head h's key matrix K_h [rank, plain_dim] (what unfolds keys,
// transposed) and value matrix V_h,
//
//   logit = <plain query, K_h^T latent> + <rotated query, rotated key>
//         = <K_h plain query, latent> + ...
//   out_h = sum of weights * (V_h latent) = V_h (sum of weights * latent)
//
// so that the attention between is that of one KV head, as contexts know it.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct LatentWeights {
  LinearLayer query_down;  // [query_rank, model_dim]; empty: queries are made of the row
  NormWeights query_norm;  // [query_rank]
  LinearLayer query;       // [num_heads * query_dim, query_rank or model_dim]
  LinearLayer latent;      // [rank, model_dim]
  NormWeights latent_norm;
  LinearLayer rotated_key;               // [rotated_dim, model_dim]
  std::vector<LinearLayer> head_keys;    // of each head [rank, plain_dim]
  std::vector<LinearLayer> head_values;  // of each head [head_value_dim, rank]
  LinearLayer o;                         // [model_dim, num_heads * head_value_dim]
};

void VisitLatent(const ModelPlan& model, const LatentPlan& plan, WeightVisitor& visitor,
                 LatentWeights* weights);

// fn(LinearLayer&) for each matrix, in about the order in which a token reads them.
template <typename Weights, typename Fn>
void ForEachLinearOfLatent(Weights& w, const Fn& fn) {
  if (!w.query_down.empty()) fn(w.query_down);
  for (auto* linear : {&w.query, &w.latent, &w.rotated_key}) fn(*linear);
  for (auto& linear : w.head_keys) fn(linear);
  for (auto& linear : w.head_values) fn(linear);
  fn(w.o);
}

// Floats of the arena that `num_rows` rows need, and bytes of pass.linear_scratch: heads are multiplied side
// by side.
size_t LatentFloats(const LatentPlan& plan, size_t num_rows);
size_t LatentLinearBytes(const LatentPlan& plan, size_t num_rows, ActivationForm form, size_t num_threads);

// pass.x += attention over `input` [num_rows, model_dim]. index: of the layer among those with attention, as
// contexts count them. input may be pass.x.
void RunLatent(const LatentPlan& plan, const LatentWeights& weights, const NormWeights& post_norm,
               size_t index, const float* input, Pass& pass);

}  // namespace mneme
