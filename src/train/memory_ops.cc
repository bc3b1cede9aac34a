#include "train/memory_ops.h"

namespace mneme::train {
namespace {

using torch::Tensor;

// sigma(x) = x + 1 above 0, exp(x) below; exp sees no large argument, so its gradient is finite.
Tensor Sigma(const Tensor& x) { return torch::where(x > 0, x + 1, torch::exp(x.clamp_max(0))); }

Tensor UnitSilu(const Tensor& x) {
  const Tensor y = torch::silu(x);
  return y * torch::rsqrt(y.square().sum(-1, true) + static_cast<double>(kMemoryEpsilon));
}

Tensor Feature(MemoryUpdate update, const Tensor& x) {
  return update == MemoryUpdate::kGatedDelta ? UnitSilu(x) : Sigma(x);
}

Tensor WriteGated(const Tensor& m, const Tensor& k, const Tensor& v, const Tensor& write_gate) {
  const Tensor b = write_gate.unsqueeze(-1);  // [B, K, N, 1]
  const Tensor keys = Feature(MemoryUpdate::kGatedDelta, k);
  const Tensor gated = b * keys;
  const Tensor lower = torch::matmul(gated, keys.transpose(-1, -2)).tril(-1);
  const Tensor right = b * (v - torch::matmul(keys, m));
  // Unit triangular: the diagonal is not read.
  const Tensor u = at::linalg_solve_triangular(lower, right, /*upper=*/false, /*left=*/true,
                                               /*unitriangular=*/true);
  return m + torch::matmul(keys.transpose(-1, -2), u);
}

}  // namespace

MemoryTensors EmptyMemory(int64_t batch, int64_t num_kv_heads, int64_t key_dim, int64_t value_dim,
                          const torch::TensorOptions& options) {
  return {torch::zeros({batch, num_kv_heads, key_dim, value_dim}, options),
          torch::zeros({batch, num_kv_heads, key_dim}, options)};
}

Tensor ReadMemory(MemoryUpdate update, const MemoryTensors& memory, const Tensor& q) {
  const Tensor feature = Feature(update, q);
  const Tensor sum = torch::matmul(feature, memory.m.unsqueeze(2));
  if (update == MemoryUpdate::kGatedDelta) {
    return sum * torch::rsqrt(sum.square().mean(-1, true) + static_cast<double>(kMemoryEpsilon));
  }
  const Tensor total = torch::matmul(feature, memory.z.unsqueeze(2).unsqueeze(-1));
  return sum / total.clamp_min(static_cast<double>(kMemoryFloor));
}

MemoryTensors WriteMemory(MemoryUpdate update, const MemoryTensors& memory, const Tensor& k, const Tensor& v,
                          const Tensor& write_gate) {
  if (update == MemoryUpdate::kGatedDelta) return {WriteGated(memory.m, k, v, write_gate), memory.z};
  const Tensor keys = Feature(update, k);
  Tensor values = v;
  if (update == MemoryUpdate::kDelta) {
    // An empty memory gives 0 / floor = 0: the first segment is written as by the linear rule.
    const Tensor total =
        torch::matmul(keys, memory.z.unsqueeze(-1)).clamp_min(static_cast<double>(kMemoryFloor));
    values = v - torch::matmul(keys, memory.m) / total;
  }
  return {memory.m + torch::matmul(keys.transpose(-1, -2), values), memory.z + keys.sum(-2)};
}

}  // namespace mneme::train
