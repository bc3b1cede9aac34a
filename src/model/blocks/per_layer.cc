#include "model/blocks/per_layer.h"

#include <algorithm>
#include <cmath>

namespace mneme {

void VisitPerLayer(const ModelPlan& model, WeightVisitor& visitor, PerLayerWeights* w) {
  const size_t counts[] = {model.model_dim};
  visitor.Matrix("inp_gate", model.per_layer_dim, model.model_dim, &w->gate);
  visitor.Matrix("proj", model.model_dim, model.per_layer_dim, &w->projection);
  visitor.Norm("post_norm", counts, true, &w->norm);
}

size_t PerLayerFloats(const ModelPlan& model, size_t num_rows) {
  return Arena::Rounded(num_rows * model.num_layers() * model.per_layer_dim);
}

void MakePerLayerInputs(const PerLayerTables& tables, std::span<const TokenId> ids, float* out, Pass& pass) {
  const size_t dim = pass.plan.per_layer_dim;
  const size_t count = pass.num_rows * pass.plan.num_layers() * dim;
  float* const projected = Arena(pass.arena).Take(count);
  const MatMulJob job = Pass::Job(tables.projection, projected, false);
  pass.Linear("per-layer projection", pass.x, pass.num_rows, {&job, 1});
  const auto scale = [&](float* x, double factor) {
    pass.device.Pointwise(
        {.kind = PointwiseCall::Kind::kScale, .x = x, .value = static_cast<float>(factor), .count = count});
  };
  scale(projected, 1 / std::sqrt(static_cast<double>(pass.plan.model_dim)));
  pass.device.Norm({.kind = NormKind::kRms,
                    .epsilon = pass.plan.norm_epsilon,
                    .weight = tables.norm.weight.data(),
                    .num_rows = pass.num_rows,
                    .num_parts = pass.plan.num_layers(),
                    .num_cols = dim,
                    .x = projected,
                    .out = projected});
  pass.device.Embed(
      {.tokens = tables.embedding, .ids = ids, .scale = std::sqrt(static_cast<float>(dim)), .out = out});
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kAdd, .x = out, .y = projected, .count = count});
  scale(out, 1 / std::sqrt(2.0));
}

void RunPerLayer(const PerLayerWeights& w, size_t layer, const float* inputs, Pass& pass) {
  const size_t dim = pass.plan.per_layer_dim;
  float* const gate = Arena(pass.arena).Take(pass.num_rows * dim);
  const MatMulJob job = Pass::Job(w.gate, gate, false);
  pass.Linear("per-layer gate", pass.x, pass.num_rows, {&job, 1},
              ThenActivate{.activation = Activation::kGeluTanh});
  pass.device.Pointwise({.kind = PointwiseCall::Kind::kMultiplyRows,
                         .x = gate,
                         .y = inputs + layer * dim,
                         .count = pass.num_rows * dim,
                         .num_cols = dim,
                         .y_stride = pass.plan.num_layers() * dim});
  pass.AddProduct("per-layer output", w.projection, gate, w.norm);
}

}  // namespace mneme
