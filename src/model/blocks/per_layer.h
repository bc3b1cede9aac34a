// An embedding of the token for each layer, besides the one that all start from (Gemma 3n and 4, E2B and
// E4B): large tables of which a token reads little.
#pragma once

#include <cstddef>
#include <span>

#include "model/blocks/pass.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme {

// Of the model.
struct PerLayerTables {
  WeightView embedding;    // [vocab_size, num_layers * dim]; empty: the model has none
  LinearLayer projection;  // [num_layers * dim, model_dim]
  NormWeights norm;        // [dim]
};

// Of a layer.
struct PerLayerWeights {
  LinearLayer gate;        // [dim, model_dim]; empty: none
  LinearLayer projection;  // [model_dim, dim]
  NormWeights norm;
};

void VisitPerLayer(const ModelPlan& model, WeightVisitor& visitor, PerLayerWeights* weights);

// Floats of the arena that `num_rows` rows need.
size_t PerLayerFloats(const ModelPlan& model, size_t num_rows);

// out [num_rows, num_layers * dim]: what the layers read, from the tokens and their embeddings pass.x.
void MakePerLayerInputs(const PerLayerTables& tables, std::span<const TokenId> ids, float* out, Pass& pass);
// pass.x += what a layer makes of its input.
void RunPerLayer(const PerLayerWeights& weights, size_t layer, const float* inputs, Pass& pass);

}  // namespace mneme
