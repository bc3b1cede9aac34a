// Attention: queries, keys and values of the rows, what the stream's context makes of them, and their product
// with the output matrix.
#pragma once

#include <cstddef>
#include <vector>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct AttentionWeights {
  LinearLayer q;       // [num_heads * key_dim, model_dim]
  LinearLayer k;       // [num_kv_heads * key_dim, model_dim]
  LinearLayer v;       // [num_kv_heads * value_dim, model_dim]
  LinearLayer gate;    // [num_heads * value_dim, model_dim], or of the heads [num_heads, ...]; empty: none
  NormWeights q_norm;  // [key_dim], [num_heads * key_dim], or empty
  NormWeights k_norm;
  NormWeights sub_norm;            // [num_heads * value_dim], or empty
  LinearLayer o;                   // [model_dim, num_heads * value_dim]
  std::vector<float> sink_logits;  // [num_heads]: a learned logit without a value; empty: none
  // Infini-attention: the gate logits [num_heads], and the write gate [num_kv_heads, model_dim] of
  // gated-delta.
  std::vector<float> memory_gate;
  LinearLayer memory_write;
};

void VisitAttention(const ModelPlan& model, const AttentionPlan& plan, WeightVisitor& visitor,
                    AttentionWeights* weights);

// fn(LinearLayer&) for each matrix, in about the order in which a token reads them.
template <typename Weights, typename Fn>
void ForEachLinearOfAttention(Weights& w, const Fn& fn) {
  for (auto* linear : {&w.q, &w.k, &w.v, &w.gate, &w.o, &w.memory_write}) {
    if (!linear->empty()) fn(*linear);
  }
}

// q [num_rows, num_heads, key_dim] times what queries grow by with their position. growth [num_rows]:
// scratch.
void GrowQueries(const AttentionPlan& plan, float* q, float* growth, Pass& pass);

// Floats of the arena that `num_rows` rows need.
size_t AttentionFloats(const ModelPlan& model, const AttentionPlan& plan, size_t num_rows);

// What the heads make of `input`, [num_rows, num_heads * value_dim] in the arena: attention but for the last
// product. adapters: what is added to the matrices of queries, keys and values; null: nothing.
float* RunHeads(const AttentionPlan& plan, const AttentionWeights& weights, const LowRank* adapters,
                size_t index, const float* input, Arena arena, Pass& pass);
// pass.x += attention over `input` [num_rows, model_dim]. index: of the layer among those with attention, as
// contexts count them. input may be pass.x.
void RunAttention(const AttentionPlan& plan, const AttentionWeights& weights, const NormWeights& post_norm,
                  size_t index, const float* input, Pass& pass);

}  // namespace mneme
