// Products of queries with the keys of many slices of a stream, of which the largest of each slice counts:
// what a choice of slices is made by (src/recall).
//
// Keys to choose by are those of a few KV heads, not rotated, as int8 with one float32 scale for each token.
// So a product is off by at most kChoiceError * sum |q_i| * max |k_i|, and sums of products are float32 in
// the order of the dimensions: the same bits on any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/thread_pool.h"

namespace mneme {

inline constexpr double kChoiceError = 0.5 / 127 + 1e-5;

// Of one KV head and one slice of kBlockTokens tokens: [key_dim][kBlockTokens] int8, dimension-major, then
// [kBlockTokens] float32 scales.
size_t ChoiceKeyBytes(size_t key_dim);
// keys [kBlockTokens, key_dim], rows `stride` values apart. What is not finite counts as zero.
void PackChoiceKeys(const float* keys, size_t stride, size_t key_dim, uint8_t* out);

struct ScoreCall {
  // Where the keys of each slice begin, and the first of its tokens that counts.
  std::span<const uint8_t* const> slices = {};
  std::span<const int32_t> first_tokens = {};
  size_t offset = 0;  // of the head's keys in those of a slice
  size_t key_dim = 0;
  const float* q = nullptr;  // [num_queries, key_dim]
  size_t num_queries = 0;
  float* out = nullptr;  // [num_queries, slices.size()]: the largest product with a token of the slice
};
void ScoreSlices(const ScoreCall& call, ThreadPool& pool);

}  // namespace mneme
