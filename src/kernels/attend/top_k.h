// Spans of which each head takes the keys with the largest logits alone. Private to the attention kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/attend/attend.h"

namespace mneme {

// What one thread works with.
class TopKReader {
 public:
  TopKReader(const AttendShape& shape, const KvSpan& span);

  // Takes the span's keys for one row and head, and merges their attention into out [value_dim] and
  // *log_sum_exp, which hold that of the other spans. Must not throw.
  void MergeInto(size_t row, size_t head, float* out, float* log_sum_exp);

 private:
  struct Candidate {
    float score;
    int32_t key;
    // Whether it is taken before `other`: the larger logit, then the older key.
    bool Before(const Candidate& other) const {
      return score != other.score ? score > other.score : key < other.key;
    }
  };
  void Choose(size_t row, size_t head);
  // The attention over what was chosen, in the order of the keys, so that the sum does not depend on how
  // near-ties broke; false if nothing has a finite logit.
  bool Sum(size_t kv_head, float* log_sum_exp);

  const AttendShape& shape_;
  const KvSpan& span_;
  std::vector<Candidate> chosen_;  // room for top_k
  std::vector<float> q_;           // rotated, [key_dim]
  std::vector<float> value_;       // V of one token, all KV heads
  std::vector<float> sum_;         // [value_dim]
};

// All rows and heads of the call's span, by all threads.
void MergeTopK(const AttendCall& call, const KvSpan& span, float* log_sum_exp, ThreadPool& pool);

}  // namespace mneme
