// LM-Infinite's top-k middle tokens: for one query row and head, the k keys with the largest logits among the
// tokens between the starts and the window, all at one distance, as further members of the same softmax.
// arXiv 2308.16137, section 4.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "kernels/attend/attend.h"
#include "kv/block_table.h"

namespace mneme {

class MiddleReader {
 public:
  // Scratch for at most max_candidates keys and top_k of them, per thread.
  MiddleReader(int64_t top_k, int64_t max_candidates, const KvLayout& layout, size_t num_threads);
  static size_t Bytes(int64_t top_k, int64_t max_candidates, const KvLayout& layout, size_t num_threads);

  struct Row {
    int64_t begin = 0;  // candidates [begin, end) by stream index
    int64_t end = 0;
  };
  // For every row and head: selects among the row's candidates in `table` (keys unrotated), and merges their
  // attention into (out, log_sum_exp). q [rows, num_heads, key_dim]: rotated to the middle distance, not
  // scaled. bias[num_heads]: added to every middle logit (ALiBi at the one distance), or null. Ties go to the
  // older token.
  void MergeInto(const AttendShape& shape, const BlockTable& table, const float* q, const Row* rows,
                 const float* bias, float* out, float* log_sum_exp, ThreadPool& pool);

 private:
  void MergeOne(const AttendShape& shape, const BlockTable& table, const float* q, const Row& row,
                size_t head, float bias, float* out, float* log_sum_exp, size_t thread);

  struct Scratch {
    std::vector<float> scores;
    std::vector<int32_t> order;
    std::vector<float> value;   // V of one token, all KV heads
    std::vector<float> picked;  // [value_dim]
  };
  int64_t top_k_;
  std::vector<Scratch> scratch_;  // per thread
};

}  // namespace mneme
