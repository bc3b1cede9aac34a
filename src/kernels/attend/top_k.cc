#include "kernels/attend/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mneme {

TopKReader::TopKReader(const AttendShape& shape, const KvSpan& span)
    : shape_(shape),
      span_(span),
      q_(shape.layout.key_dim),
      value_(shape.layout.num_kv_heads * shape.layout.value_dim),
      sum_(shape.layout.value_dim) {
  int64_t most = 0;
  for (size_t row = 0; row < shape.num_rows; ++row) {
    most = std::max(most, int64_t{span.end[row]} - span.begin[row]);
  }
  chosen_.reserve(static_cast<size_t>(std::min(most, span.top_k)));
}

void TopKReader::MergeInto(size_t row, size_t head, float* out, float* log_sum_exp) {
  Choose(row, head);
  float chosen_lse;
  if (!Sum(head / (shape_.num_heads / shape_.layout.num_kv_heads), &chosen_lse)) return;
  if (shape_.alibi_slopes != nullptr) {
    chosen_lse += -shape_.alibi_slopes[head] * static_cast<float>(span_.distance[row]);
  }
  MergePartials(1, 1, shape_.layout.value_dim, out, log_sum_exp, sum_.data(), &chosen_lse);
}

void TopKReader::Choose(size_t row, size_t head) {
  chosen_.clear();
  const float* q = span_.q + (row * shape_.num_heads + head) * shape_.layout.key_dim;
  if (span_.rope != nullptr) {
    Rotate(*shape_.rope, span_.rope[row], q, 1, shape_.layout.key_dim, q_.data());
    q = q_.data();
  }
  if (shape_.query_factors != nullptr) {
    for (size_t i = 0; i < q_.size(); ++i) q_[i] = q[i] * shape_.query_factors[i];
    q = q_.data();
  }
  const size_t kv_head = head / (shape_.num_heads / shape_.layout.num_kv_heads);
  const auto worst_first = [](const Candidate& a, const Candidate& b) { return a.Before(b); };
  float scores[kBlockTokens];
  const auto end = static_cast<size_t>(std::max(span_.end[row], int32_t{0}));
  for (auto begin = static_cast<size_t>(std::max(span_.begin[row], int32_t{0})); begin < end;) {
    const size_t slot = (span_.first_slot + begin) % kBlockTokens;
    const size_t count = std::min(kBlockTokens - slot, end - begin);
    ScoreKeys(shape_, span_, q, kv_head, begin, begin + count, scores);
    for (size_t i = 0; i < count; ++i) {
      const Candidate candidate{scores[i], static_cast<int32_t>(begin + i)};
      if (chosen_.size() == static_cast<size_t>(span_.top_k)) {
        if (!candidate.Before(chosen_.front())) continue;
        std::pop_heap(chosen_.begin(), chosen_.end(), worst_first);
        chosen_.pop_back();
      }
      chosen_.push_back(candidate);
      std::push_heap(chosen_.begin(), chosen_.end(), worst_first);
    }
    begin += count;
  }
}

bool TopKReader::Sum(size_t kv_head, float* log_sum_exp) {
  std::sort(chosen_.begin(), chosen_.end(),
            [](const Candidate& a, const Candidate& b) { return a.key < b.key; });
  const KvLayout& layout = shape_.layout;
  float peak = -std::numeric_limits<float>::infinity();
  for (const Candidate& one : chosen_) peak = std::max(peak, one.score);
  if (!(peak > -std::numeric_limits<float>::infinity())) return false;
  std::fill(sum_.begin(), sum_.end(), 0.0f);
  float weights = 0;
  for (const Candidate& one : chosen_) {
    const float weight = std::exp(one.score - peak);
    weights += weight;
    const size_t place = span_.first_slot + static_cast<size_t>(one.key);
    KvLoad(layout, span_.blocks[place / kBlockTokens], place % kBlockTokens, nullptr, value_.data());
    const float* const value = value_.data() + kv_head * layout.value_dim;
    for (size_t d = 0; d < layout.value_dim; ++d) sum_[d] += weight * value[d];
  }
  for (float& x : sum_) x /= weights;
  *log_sum_exp = peak + std::log(weights);
  return true;
}

void MergeTopK(const AttendCall& call, const KvSpan& span, float* log_sum_exp, ThreadPool& pool) {
  const AttendShape& shape = call.shape;
  std::vector<TopKReader> readers;
  readers.reserve(pool.num_threads());
  for (size_t i = 0; i < pool.num_threads(); ++i) readers.emplace_back(shape, span);
  pool.Run(shape.num_rows * shape.num_heads, [&](size_t task, size_t thread) {
    readers[thread].MergeInto(task / shape.num_heads, task % shape.num_heads,
                              call.out + task * shape.layout.value_dim, log_sum_exp + task);
  });
}

}  // namespace mneme
