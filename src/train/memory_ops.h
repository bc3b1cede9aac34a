// The compressive memory of kernels/memory/memory.h as differentiable tensors: the same three update rules,
// the same constants, written a second time on purpose so that each checks the other.
//
// Shapes: B rows, K KV heads, G query heads of each, N tokens, D key dim, E value dim. Keys and queries come
// without position encoding. The gradient flows through M and z.
#pragma once

#include <torch/types.h>

#include "kernels/memory/memory.h"

namespace mneme::train {

struct MemoryTensors {
  torch::Tensor m;  // [B, K, D, E]
  torch::Tensor z;  // [B, K, D]; zero and unused for gated-delta
};

MemoryTensors EmptyMemory(int64_t batch, int64_t num_kv_heads, int64_t key_dim, int64_t value_dim,
                          const torch::TensorOptions& options);

// q [B, K, G, N, D] -> [B, K, G, N, E]. Zero for an empty memory.
torch::Tensor ReadMemory(MemoryUpdate update, const MemoryTensors& memory, const torch::Tensor& q);

// The memory after one segment. k [B, K, N, D], v [B, K, N, E]; write_gate [B, K, N] in [0, 1], undefined
// unless gated-delta. Gated-delta is the token-by-token rule in closed form: with A = strict_lower(diag(b) K
// K^T), U = (I + A)^-1 diag(b) (V - K M), M' = M + K^T U, one triangular solve.
MemoryTensors WriteMemory(MemoryUpdate update, const MemoryTensors& memory, const torch::Tensor& k,
                          const torch::Tensor& v, const torch::Tensor& write_gate);

}  // namespace mneme::train
