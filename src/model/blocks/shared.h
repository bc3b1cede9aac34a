// A transformer that several layers share (Zamba 2, Glorioso et al. 2024, arXiv 2411.15242): attention over
// the row and the token's embedding side by side, then a network. What it makes of a row, through a matrix of
// the layer's own, is added to what the layer's scan reads, and to nothing else. Matrices of low rank, which
// are the layer's own too, are added to the shared ones.
#pragma once

#include <array>
#include <cstddef>

#include "model/blocks/attention.h"
#include "model/blocks/pass.h"
#include "model/blocks/state/scan.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

struct SharedWeights {
  // Of the layer that others share; empty in those.
  NormWeights norm;  // [2 * model_dim]
  AttentionWeights attention;
  NormWeights ffn_norm;
  LinearLayer gate, up;  // [dim, model_dim]
  LinearLayer down;      // [model_dim, dim]
  // Of each layer.
  std::array<LowRank, 3> qkv;  // empty: none
  LowRank gate_up;
  LinearLayer out;  // [model_dim, model_dim]
  ScanWeights scan;
};

void VisitShared(const ModelPlan& model, const SharedPlan& plan, WeightVisitor& visitor,
                 SharedWeights* weights);

// The transformer's; nothing in layers that share another's.
template <typename Weights, typename Fn>
void ForEachLinearOfTransformer(Weights& w, const Fn& fn) {
  ForEachLinearOfAttention(w.attention, fn);
  for (auto* linear : {&w.gate, &w.up, &w.down}) {
    if (!linear->empty()) fn(*linear);
  }
}

template <typename Weights, typename Fn>
void ForEachLinearOfShared(Weights& w, const Fn& fn) {
  ForEachLinearOfTransformer(w, fn);
  for (auto* adapter : {&w.qkv[0], &w.qkv[1], &w.qkv[2], &w.gate_up}) {
    if (adapter->empty()) continue;
    fn(adapter->down);
    for (auto& up : adapter->up) {
      if (!up.empty()) fn(up);
    }
  }
  fn(w.out);
  ForEachLinearOfScan(w.scan, fn);
}

// Floats of the arena that `num_rows` rows need.
size_t SharedFloats(const ModelPlan& model, const SharedPlan& plan, size_t num_rows);

// to [num_rows, model_dim] = pass.x + what the transformer makes of it and of pass.embedding. source: the
// weights that the layer shares. index: of the layer among those with attention.
void RunShared(const SharedPlan& plan, const SharedWeights& weights, const SharedWeights& source,
               size_t index, float* to, Pass& pass);

}  // namespace mneme
