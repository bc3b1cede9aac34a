#include "context/middle.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace mneme {

MiddleReader::MiddleReader(int64_t top_k, int64_t max_candidates, const KvLayout& layout, size_t num_threads)
    : top_k_(top_k), scratch_(num_threads) {
  for (Scratch& scratch : scratch_) {
    scratch.scores.resize(static_cast<size_t>(max_candidates));
    scratch.order.resize(static_cast<size_t>(max_candidates));
    scratch.value.resize(layout.num_kv_heads * layout.value_dim);
    scratch.picked.resize(layout.value_dim);
  }
}

size_t MiddleReader::Bytes(int64_t, int64_t max_candidates, const KvLayout& layout, size_t num_threads) {
  return num_threads * sizeof(float) *
         (2 * static_cast<size_t>(max_candidates) + (layout.num_kv_heads + 1) * layout.value_dim);
}

void MiddleReader::MergeInto(const AttendShape& shape, const BlockTable& table, const float* q,
                             const Row* rows, const float* bias, float* out, float* log_sum_exp,
                             ThreadPool& pool) {
  MNEME_CHECK(pool.num_threads() <= scratch_.size());
  pool.Run(shape.num_rows * shape.num_heads, [&](size_t task, size_t thread) {
    const size_t row = task / shape.num_heads;
    const size_t head = task % shape.num_heads;
    if (rows[row].begin >= rows[row].end) return;
    MergeOne(shape, table, q + task * shape.layout.key_dim, rows[row], head,
             bias != nullptr ? bias[head] : 0.0f, out + task * shape.layout.value_dim, log_sum_exp + task,
             thread);
  });
}

void MiddleReader::MergeOne(const AttendShape& shape, const BlockTable& table, const float* q, const Row& row,
                            size_t head, float bias, float* out, float* log_sum_exp, size_t thread) {
  Scratch& scratch = scratch_[thread];
  const auto count = static_cast<size_t>(row.end - row.begin);
  MNEME_CHECK(count <= scratch.scores.size());
  const size_t kv_head = head / (shape.num_heads / shape.layout.num_kv_heads);
  const int64_t first_block = row.begin / static_cast<int64_t>(kBlockTokens);
  const auto first_slot = static_cast<size_t>(row.begin % static_cast<int64_t>(kBlockTokens));
  KvSpan span;
  span.blocks = table.Blocks(first_block);
  span.first_slot = first_slot;
  span.first_block_number = first_block;
  ScoreKeys(shape, span, q, kv_head, 0, count, scratch.scores.data());

  const size_t num_picked = std::min(count, static_cast<size_t>(top_k_));
  for (size_t i = 0; i < count; ++i) scratch.order[i] = static_cast<int32_t>(i);
  const auto before = [&](int32_t a, int32_t b) {
    const float score_a = scratch.scores[static_cast<size_t>(a)];
    const float score_b = scratch.scores[static_cast<size_t>(b)];
    return score_a != score_b ? score_a > score_b : a < b;
  };
  std::partial_sort(scratch.order.begin(), scratch.order.begin() + static_cast<ptrdiff_t>(num_picked),
                    scratch.order.begin() + static_cast<ptrdiff_t>(count), before);

  // Attention over the picked tokens, in stream order so that the sum does not depend on how the sort broke
  // near-ties.
  std::sort(scratch.order.begin(), scratch.order.begin() + static_cast<ptrdiff_t>(num_picked));
  float peak = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < num_picked; ++i)
    peak = std::max(peak, scratch.scores[static_cast<size_t>(scratch.order[i])]);
  if (!(peak > -std::numeric_limits<float>::infinity())) return;
  std::fill(scratch.picked.begin(), scratch.picked.end(), 0.0f);
  float sum = 0;
  for (size_t i = 0; i < num_picked; ++i) {
    const auto index = static_cast<size_t>(scratch.order[i]);
    const float weight = std::exp(scratch.scores[index] - peak);
    sum += weight;
    table.Load(row.begin + static_cast<int64_t>(index), nullptr, scratch.value.data());
    const float* value = scratch.value.data() + kv_head * shape.layout.value_dim;
    for (size_t d = 0; d < shape.layout.value_dim; ++d) scratch.picked[d] += weight * value[d];
  }
  for (float& x : scratch.picked) x /= sum;
  const float picked_lse = peak + std::log(sum) + bias;
  MergePartials(1, 1, shape.layout.value_dim, out, log_sum_exp, scratch.picked.data(), &picked_lse);
}

}  // namespace mneme
