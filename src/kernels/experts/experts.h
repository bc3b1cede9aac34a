// Mixtures of experts: which of a layer's feed-forward networks a row goes through, with which weights
// (Shazeer et al. 2017, arXiv 1701.06538; groups and the correction bias: DeepSeek-V3, arXiv 2412.19437), and
// the products of the rows that share an expert.
//
// A row's result depends on that row alone: its experts are added in the order of their numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "kernels/linear/linear.h"
#include "kernels/pointwise/elementwise.h"

namespace mneme {

enum class RouterScore : uint8_t {
  kSoftmax,        // over all experts
  kSoftmaxChosen,  // over those that were chosen, by their logits (gpt-oss)
  kSigmoid,        // of each on its own (DeepSeek-V3)
  // Softmax over the experts that come near the one that is weighed and were not chosen before it
  // (Phi-3.5-MoE; SparseMixer-v2, arXiv 2409.12136). Without a correction.
  kSparseMixer,
};

struct RouterShape {
  size_t num_experts = 0;
  size_t num_used = 0;  // experts of a row, at most num_experts
  RouterScore score = RouterScore::kSoftmax;
  bool renormalise = false;  // the chosen scores are divided by their sum
  float scale = 1.0f;        // of the weights, after that
  // kSparseMixer: a logit is near the largest one where it is below it by at most so much of its own size, or
  // of the largest one's.
  float nearness = 0.0f;
  // The experts stand in so many groups, and only those of the best num_used_groups are looked at; a group is
  // as good as its best two (with a correction) or its best one. 1: no groups.
  size_t num_groups = 1;
  size_t num_used_groups = 1;
};

// logits [num_rows, num_experts]. correction [num_experts]: added to the scores when experts are chosen, not
// to their weights; null: none. experts, weights [num_rows, num_used], experts ascending. Of equal scores the
// lower number is chosen. A row with a NaN gets experts 0, 1, ... and weights of NaN. Allocates nothing that
// grows with num_rows.
void Route(const RouterShape& shape, const float* logits, const float* correction, size_t num_rows,
           int32_t* experts, float* weights);

// Softmax and sigmoid take exp in double precision; the error of a weight is the rounding to float32.
inline constexpr double kRouteError = 2e-7;

// One feed-forward network. Biases null: none. gate null: none, and up is activated.
struct ExpertMatrices {
  const LinearWeights* gate = nullptr;  // [dim, model_dim]
  const LinearWeights* up = nullptr;
  const LinearWeights* down = nullptr;  // [model_dim, dim]
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
  const float* down_bias = nullptr;
};

struct ExpertsCall {
  RouterShape router = {};
  const float* logits = nullptr;  // [num_rows, num_experts]
  const float* correction = nullptr;
  const float* expert_scale = nullptr;           // [num_experts]: factors of the weights; null: none
  std::span<const ExpertMatrices> experts = {};  // all of one shape and the same encodings
  Activation activation = Activation::kSilu;
  // What a hidden value is made of gate and up, where it is more than activation(gate) * up: 0, or the limit
  // of gpt-oss: gate = min(gate, limit), up = clamp(up, -limit, limit), (up + 1) * gate * sigmoid(1.702 *
  // gate).
  float clamp = 0.0f;
  // An expert's weight multiplies what it reads, not what it gives (Llama 4). Without biases.
  bool weighs_inputs = false;
  const float* x = nullptr;  // [num_rows, model_dim]
  size_t num_rows = 0;
  float* out = nullptr;      // [num_rows, model_dim], not x: the weighted sum
  float* scratch = nullptr;  // ExpertsScratchFloats
  uint8_t* rows_memory =
      nullptr;  // ActivationRows::Bytes of num_rows rows and the wider of dim and model_dim
};

size_t ExpertsScratchFloats(size_t num_rows, size_t num_used, size_t dim, size_t model_dim);

void RunExperts(const ExpertsCall& call, ThreadPool& pool);

}  // namespace mneme
