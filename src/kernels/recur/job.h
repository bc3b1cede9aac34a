// One call of Recur cut into tasks, and where its intermediate results lie. Shared by the parts of recur.cc.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/recur/recur.h"

namespace mneme {

// Rows of q and k that a token brings to the products: k, q; or q alone where nothing is corrected.
inline size_t RowsPerToken(const RecurShape& shape) { return shape.rule == RecurRule::kDelta ? 2 : 1; }

// The rows of a chunk that lie in one block; the first has place `offset` in it.
struct BlockRows {
  size_t begin = 0;
  size_t end = 0;
  size_t offset = 0;
  size_t count() const { return end - begin; }
  bool ends_block() const { return offset + count() == kRecurBlockTokens; }
};

struct RecurJob {
  const RecurCall* call = nullptr;
  size_t num_blocks = 0;
  float* rows = nullptr;         // [num_key_heads][num_rows][RowsPerToken][key_dim]
  float* products = nullptr;     // [num_key_heads][num_rows][RowsPerToken][64]: with the keys of the block
  float* values = nullptr;       // [num_value_heads][num_rows][panels * 64]
  float* unkept_keys = nullptr;  // [blocks that are not kept][key_floats]

  BlockRows RowsOf(size_t block) const {
    const auto start =
        static_cast<size_t>(call->stream.first_index % static_cast<int64_t>(kRecurBlockTokens));
    const size_t end = std::min(call->num_rows, (block + 1) * kRecurBlockTokens - start);
    if (block == 0) return {0, end, start};
    return {block * kRecurBlockTokens - start, end, 0};
  }
  float* Rows(size_t key_head, size_t row) const {
    return rows + (key_head * call->num_rows + row) * RowsPerToken(*call->shape) * call->shape->key_dim;
  }
  float* Products(size_t key_head, size_t row) const {
    return products + (key_head * call->num_rows + row) * RowsPerToken(*call->shape) * kRecurBlockTokens;
  }
  float* Values(size_t value_head, size_t row) const {
    return values + (value_head * call->num_rows + row) * call->shape->num_panels() * kRecurPanel;
  }
  float* KeysOf(size_t block, size_t key_head) const {
    const RecurShape& shape = *call->shape;
    const int32_t* const slots = call->stream.block_slots;
    const size_t head = key_head * shape.key_dim * kRecurBlockTokens;
    if (slots[block] >= 0) {
      return call->stream.keys + static_cast<size_t>(slots[block]) * shape.key_floats() + head;
    }
    size_t before = 0;
    for (size_t i = 0; i < block; ++i) before += slots[i] < 0 ? 1 : 0;
    return unkept_keys + before * shape.key_floats() + head;
  }
};

// What a task of the rule needs beside: [64][RowsPerToken][64] weights, [key_dim][64] keys that have decayed,
// u of a block that is not kept; with decays by channel also G of one [key_dim][64], decays of one token
// [key_dim], and k and q that have decayed [64][2][key_dim].
struct RecurThreadScratch {
  RecurThreadScratch(const RecurShape& shape, float* at)
      : weights(at),
        decayed_keys(weights + RowsPerToken(shape) * kRecurBlockTokens * kRecurBlockTokens),
        updates(decayed_keys + shape.key_dim * kRecurBlockTokens),
        sums(reinterpret_cast<double*>(updates + shape.num_panels() * kRecurPanel * kRecurBlockTokens)),
        decays(reinterpret_cast<float*>(sums + shape.key_dim * kRecurBlockTokens)),
        decayed_rows(decays + DecayFloats(shape)) {}
  static size_t Floats(const RecurShape& shape) {
    const size_t always =
        (RowsPerToken(shape) * kRecurBlockTokens + shape.key_dim + shape.num_panels() * kRecurPanel) *
        kRecurBlockTokens;
    if (!shape.decays_by_channel) return always;
    return always + 4 * shape.key_dim * kRecurBlockTokens + DecayFloats(shape);
  }
  // Whole vectors.
  static size_t DecayFloats(const RecurShape& shape) {
    return (shape.key_dim + kRecurPanel - 1) / kRecurPanel * kRecurPanel;
  }
  float* weights;
  float* decayed_keys;
  float* updates;
  double* sums;
  float* decays;
  float* decayed_rows;
};

}  // namespace mneme
