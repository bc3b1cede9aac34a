// The compressive memory of Infini-attention (Munkhdalai et al. 2024, arXiv 2404.07143): per KV head a matrix
// M [key_dim, value_dim] and a normaliser z [key_dim], float32. Keys and queries come without position
// encoding.
//
// Three update rules, s being a finished segment and M, z the memory before it:
//   linear       M += sigma(K)^T V                                    sigma(x) = x + 1 for x > 0, exp(x)
//   otherwise delta        M += sigma(K)^T (V - sigma(K) M / sigma(K) z)        z += column sums of sigma(K),
//   for both gated-delta  for each token in turn: M += b k (v - M^T k)^T       k = l2norm(silu(k)), b in [0,
//   1] per token and head; no z
// Reads:
//   linear, delta  sigma(q) M / sigma(q) z
//   gated-delta    rmsnorm(q M), q = l2norm(silu(q))                  (the delta rule of DeltaNet, arXiv
//   2406.06484, with a write gate)
// Sums over a segment are formed apart and added to M and z once, so that millions of tokens do not drown in
// rounding. A segment is always written whole, so the bits do not depend on how the input was cut into
// chunks; rows are read independently of each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/thread_pool.h"

namespace mneme {

enum class MemoryUpdate : uint8_t { kLinear, kDelta, kGatedDelta };

// Relative difference from MemoryReadReference / MemoryWriteReference, per row of a head and per matrix: sums
// of a few hundred terms.
inline constexpr double kMemoryError = 5e-6;
// Added to the mean square in rmsnorm and to the squared length in l2norm.
inline constexpr float kMemoryEpsilon = 1e-6f;
// Floor of sigma(q) z and sigma(K) z, for keys whose sigma underflows.
inline constexpr float kMemoryFloor = 1e-10f;

struct MemoryShape {
  size_t num_heads = 0;  // a multiple of num_kv_heads
  size_t num_kv_heads = 0;
  size_t key_dim = 0;
  size_t value_dim = 0;
  MemoryUpdate update = MemoryUpdate::kLinear;

  // A memory is [num_kv_heads][key_dim][value_dim] of M, then [num_kv_heads][key_dim] of z (zero and unused
  // for gated-delta).
  size_t num_floats() const { return num_kv_heads * key_dim * (value_dim + 1); }
};

// out [num_rows, num_heads, value_dim]. q [num_rows, num_heads, key_dim]. Zero for an empty memory (all
// zeros). Allocates nothing that grows with num_rows.
void MemoryRead(const MemoryShape& shape, const float* memory, const float* q, size_t num_rows, float* out,
                ThreadPool& pool);

// Writes one segment: k [num_tokens, num_kv_heads, key_dim], v [num_tokens, num_kv_heads, value_dim],
// write_gate [num_tokens, num_kv_heads] in [0, 1] for gated-delta (else null). is_empty: nothing was written
// before, so delta equals linear. scratch: MemoryScratchFloats(shape, num_threads) floats.
void MemoryWrite(const MemoryShape& shape, float* memory, bool is_empty, const float* k, const float* v,
                 const float* write_gate, size_t num_tokens, float* scratch, ThreadPool& pool);
size_t MemoryScratchFloats(const MemoryShape& shape, size_t num_threads);

// The same from the definitions, in double precision.
void MemoryReadReference(const MemoryShape& shape, const double* memory, const float* q, size_t num_rows,
                         double* out);
void MemoryWriteReference(const MemoryShape& shape, double* memory, bool is_empty, const float* k,
                          const float* v, const float* write_gate, size_t num_tokens);

// out = sigmoid(gate[h]) * memory_out + (1 - sigmoid(gate[h])) * local_out, in place in local_out.
// Both [num_rows, num_heads, value_dim]; gate [num_heads].
void MemoryMix(size_t num_rows, size_t num_heads, size_t value_dim, const float* gate,
               const float* memory_out, float* local_out);

}  // namespace mneme
