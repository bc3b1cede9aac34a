// Attention of heads in double precision, and that of latents.
#pragma once

#include <cstddef>
#include <span>

#include "model/blocks/latent.h"
#include "reference/rows.h"

namespace mneme::reference {

// Rows of heads of head_dim, whose first entries are rotated; the first row stands at `start`.
void RotateRows(const ModelPlan& m, const AttentionPlan& plan, size_t head_dim, Position start, Rows* rows);
// Times what queries grow by with their position.
void Grow(const AttentionPlan& plan, Position start, Rows* q);
// One head of one row over the keys that it may see.
void AttendHead(const ModelPlan& m, const AttentionPlan& plan, std::span<const float> sink_logits,
                size_t start, size_t row, size_t head, const Rows& q, const Rows& k, const Rows& v, Row* out);
// As the model is written down: keys and values of all heads are unfolded, token by token.
Rows LatentAttention(const ModelPlan& m, const LatentPlan& plan, const LatentWeights& w, Position start,
                     const Rows& input);

}  // namespace mneme::reference
