// One forward call as the blocks of a model see it: the rows, the memory for activations, and operations in
// the model's terms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/device.h"
#include "model/blocks/weights.h"
#include "model/forward_chunk.h"
#include "model/plan.h"

namespace mneme {

// Takes activations of a block out of the memory that all blocks use in turn.
class Arena {
 public:
  explicit Arena(float* begin) : next_(begin) {}
  static constexpr size_t Rounded(size_t count) { return (count + 15) / 16 * 16; }
  float* Take(size_t count) {
    float* const part = next_;
    next_ += Rounded(count);
    return part;
  }

 private:
  float* next_;
};

inline const float* DataOrNull(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

// What a layer with a state has of its own, and the rows of all chunks; both as RecurCall has them.
struct RecurWeights {
  const float* conv_weight = nullptr;
  const float* conv_bias = nullptr;
  const float* skip = nullptr;
  const float* rate = nullptr;
  const float* boost = nullptr;
};
struct RecurRows {
  const float* x = nullptr;
  const float* log_decay = nullptr;
  const float* beta = nullptr;
  const float* keys = nullptr;
  const float* queries = nullptr;
  float* out = nullptr;
};

struct Pass {
  const ModelPlan& plan;
  Device& device;
  std::span<const ForwardChunk> chunks = {};
  size_t num_rows = 0;         // of all chunks
  float* x = nullptr;          // [num_rows, model_dim], what layers add to
  float* branch = nullptr;     // as large, for whoever needs it
  float* embedding = nullptr;  // as large: of the tokens, where a layer reads it (zamba2)
  float* arena = nullptr;      // a block's own activations; free again when it returns
  uint8_t* linear_scratch = nullptr;
  uint8_t* attend_scratch = nullptr;
  std::vector<AttendCall> attend_calls = {};  // of all chunks, in one layer
  std::vector<RecurCall> recur_calls = {};
  std::vector<MatMulJob> head_jobs = {};  // of all heads, where each has a matrix

  // A norm of `count` rows of the model's width, or of as many values as it has weights.
  void Norm(const NormWeights& norm, const float* from, size_t count, float* out);
  // Norms of queries or keys [num_rows, num_heads, head_dim], in place. Those that follow the rotation are
  // done before it, which changes no sum of squares, and their weights are left to what rotates.
  void NormHeads(HeadNorm kind, const NormWeights& norm, size_t num_heads, size_t head_dim, float* heads);
  static MatMulJob Job(const LinearLayer& linear, float* out, bool accumulate) {
    return {&linear.weights, linear.bias_or_null(), out, linear.weights.num_rows(), accumulate};
  }
  // The product of `count` rows of `from` with each job's matrix.
  void Linear(std::string_view label, const float* from, size_t count, std::span<const MatMulJob> jobs,
              std::optional<ThenActivate> then = std::nullopt);
  // Of the columns from `from` on, rows stride apart, as many as the matrices read; job i from column
  // i * job_step on.
  void LinearOfColumns(std::string_view label, const float* from, size_t stride,
                       std::span<const MatMulJob> jobs, size_t job_step = 0);
  // The jobs with the rows' products with w.down, which go into the arena.
  void LowRankProducts(const LowRank& w, const float* from, std::span<const MatMulJob> jobs, Arena arena);
  // The rows of all chunks through a state of a layer. index: of the state, as contexts count them. arena:
  // whose rest is RecurScratchFloats long.
  void Recur(size_t index, const RecurWeights& weights, const RecurRows& rows, Arena arena);
  // x += the product with `from`, through its norm where it has one.
  void AddProduct(std::string_view label, const LinearLayer& linear, const float* from,
                  const NormWeights& post_norm);
  // x += branch, through the norm where there is one.
  void AddBranch(const NormWeights& post_norm);

 private:
  NormCall CallOf(const NormWeights& norm) const;
};

}  // namespace mneme
