#include "kernels/memory/memory.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/memory/memory.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// out[c] = sum_r x[r] * matrix[r][c], rows in order. Columns are the lanes, so there is no horizontal sum.
void VectorTimesMatrix(const float* x, const float* matrix, size_t num_rows, size_t num_cols, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t c = 0;
  for (; c + 2 * lanes <= num_cols; c += 2 * lanes) {
    auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
    for (size_t r = 0; r < num_rows; ++r) {
      const auto factor = hn::Set(d, x[r]);
      sum0 = hn::MulAdd(factor, hn::LoadU(d, matrix + r * num_cols + c), sum0);
      sum1 = hn::MulAdd(factor, hn::LoadU(d, matrix + r * num_cols + c + lanes), sum1);
    }
    hn::StoreU(sum0, d, out + c);
    hn::StoreU(sum1, d, out + c + lanes);
  }
  for (; c + lanes <= num_cols; c += lanes) {
    auto sum = hn::Zero(d);
    for (size_t r = 0; r < num_rows; ++r) {
      sum = hn::MulAdd(hn::Set(d, x[r]), hn::LoadU(d, matrix + r * num_cols + c), sum);
    }
    hn::StoreU(sum, d, out + c);
  }
  for (; c < num_cols; ++c) {
    float sum = 0;
    for (size_t r = 0; r < num_rows; ++r) sum += x[r] * matrix[r * num_cols + c];
    out[c] = sum;
  }
}

// matrix[r][c] += x[r] * y[c].
void AddOuter(const float* x, const float* y, size_t num_rows, size_t num_cols, float* matrix) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  for (size_t r = 0; r < num_rows; ++r) {
    if (x[r] == 0.0f) continue;
    const auto factor = hn::Set(d, x[r]);
    float* row = matrix + r * num_cols;
    size_t c = 0;
    for (; c + lanes <= num_cols; c += lanes) {
      hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, y + c), hn::LoadU(d, row + c)), d, row + c);
    }
    for (; c < num_cols; ++c) row[c] += x[r] * y[c];
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {
namespace {

HWY_EXPORT(VectorTimesMatrix);
HWY_EXPORT(AddOuter);

// expm1(x) + 1 would give 0 where exp(x) is a small number.
float Sigma(float x) { return x > 0 ? x + 1 : std::exp(x); }

float Silu(float x) { return x / (1 + std::exp(-x)); }

// What a key or query looks like to the memory. feature [key_dim].
void Feature(const MemoryShape& shape, const float* x, float* feature) {
  if (shape.update != MemoryUpdate::kGatedDelta) {
    for (size_t d = 0; d < shape.key_dim; ++d) feature[d] = Sigma(x[d]);
    return;
  }
  float square = 0;
  for (size_t d = 0; d < shape.key_dim; ++d) {
    feature[d] = Silu(x[d]);
    square += feature[d] * feature[d];
  }
  const float inverse = 1 / std::sqrt(square + kMemoryEpsilon);
  for (size_t d = 0; d < shape.key_dim; ++d) feature[d] *= inverse;
}

float Dot(const float* a, const float* b, size_t count) {
  float sum = 0;
  for (size_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void RmsScale(float* out, size_t count) {
  const float inverse = 1 / std::sqrt(Dot(out, out, count) / static_cast<float>(count) + kMemoryEpsilon);
  for (size_t i = 0; i < count; ++i) out[i] *= inverse;
}

size_t NormaliserAt(const MemoryShape& shape, size_t kv_head) {
  return shape.num_kv_heads * shape.key_dim * shape.value_dim + kv_head * shape.key_dim;
}

void ReadOne(const MemoryShape& shape, const float* memory, size_t kv_head, const float* q, float* feature,
             float* out) {
  Feature(shape, q, feature);
  const float* matrix = memory + kv_head * shape.key_dim * shape.value_dim;
  HWY_DYNAMIC_DISPATCH(VectorTimesMatrix)(feature, matrix, shape.key_dim, shape.value_dim, out);
  if (shape.update == MemoryUpdate::kGatedDelta) {
    RmsScale(out, shape.value_dim);
    return;
  }
  const float total = Dot(feature, memory + NormaliserAt(shape, kv_head), shape.key_dim);
  const float inverse = 1.0f / std::max(total, kMemoryFloor);
  for (size_t d = 0; d < shape.value_dim; ++d) out[d] *= inverse;
}

// Scratch of one head's write: the segment's sums, a feature, a value.
struct WriteScratch {
  float* matrix;
  float* normaliser;
  float* feature;
  float* value;
};

void WriteHead(const MemoryShape& shape, float* memory, size_t kv_head, bool is_empty, const float* k,
               const float* v, size_t num_tokens, const WriteScratch& scratch) {
  const size_t matrix_floats = shape.key_dim * shape.value_dim;
  float* matrix = memory + kv_head * matrix_floats;
  float* normaliser = memory + NormaliserAt(shape, kv_head);
  std::memset(scratch.matrix, 0, matrix_floats * sizeof(float));
  std::memset(scratch.normaliser, 0, shape.key_dim * sizeof(float));
  for (size_t token = 0; token < num_tokens; ++token) {
    const float* value = v + (token * shape.num_kv_heads + kv_head) * shape.value_dim;
    Feature(shape, k + (token * shape.num_kv_heads + kv_head) * shape.key_dim, scratch.feature);
    if (shape.update == MemoryUpdate::kDelta && !is_empty) {
      HWY_DYNAMIC_DISPATCH(VectorTimesMatrix)
      (scratch.feature, matrix, shape.key_dim, shape.value_dim, scratch.value);
      const float inverse = 1.0f / std::max(Dot(scratch.feature, normaliser, shape.key_dim), kMemoryFloor);
      for (size_t d = 0; d < shape.value_dim; ++d) scratch.value[d] = value[d] - scratch.value[d] * inverse;
      value = scratch.value;
    }
    HWY_DYNAMIC_DISPATCH(AddOuter)(scratch.feature, value, shape.key_dim, shape.value_dim, scratch.matrix);
    for (size_t d = 0; d < shape.key_dim; ++d) scratch.normaliser[d] += scratch.feature[d];
  }
  for (size_t i = 0; i < matrix_floats; ++i) matrix[i] += scratch.matrix[i];
  for (size_t d = 0; d < shape.key_dim; ++d) normaliser[d] += scratch.normaliser[d];
}

void WriteHeadGated(const MemoryShape& shape, float* memory, size_t kv_head, const float* k, const float* v,
                    const float* write_gate, size_t num_tokens, const WriteScratch& scratch) {
  float* matrix = memory + kv_head * shape.key_dim * shape.value_dim;
  for (size_t token = 0; token < num_tokens; ++token) {
    const float gate = write_gate[token * shape.num_kv_heads + kv_head];
    if (gate == 0.0f) continue;  // bit-identical memory
    const float* value = v + (token * shape.num_kv_heads + kv_head) * shape.value_dim;
    Feature(shape, k + (token * shape.num_kv_heads + kv_head) * shape.key_dim, scratch.feature);
    HWY_DYNAMIC_DISPATCH(VectorTimesMatrix)
    (scratch.feature, matrix, shape.key_dim, shape.value_dim, scratch.value);
    for (size_t d = 0; d < shape.value_dim; ++d) scratch.value[d] = gate * (value[d] - scratch.value[d]);
    HWY_DYNAMIC_DISPATCH(AddOuter)(scratch.feature, scratch.value, shape.key_dim, shape.value_dim, matrix);
  }
}

size_t ScratchFloatsPerThread(const MemoryShape& shape) {
  return shape.key_dim * shape.value_dim + 2 * shape.key_dim + shape.value_dim;
}

}  // namespace

void MemoryRead(const MemoryShape& shape, const float* memory, const float* q, size_t num_rows, float* out,
                ThreadPool& pool) {
  constexpr size_t kMaxKeyDim = 1024;
  MNEME_CHECK(shape.key_dim <= kMaxKeyDim && shape.num_heads % shape.num_kv_heads == 0);
  const size_t group = shape.num_heads / shape.num_kv_heads;
  pool.Run(num_rows * shape.num_kv_heads, [&](size_t task, size_t) {
    float feature[kMaxKeyDim];
    const size_t row = task / shape.num_kv_heads;
    const size_t kv_head = task % shape.num_kv_heads;
    for (size_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const size_t at = row * shape.num_heads + h;
      ReadOne(shape, memory, kv_head, q + at * shape.key_dim, feature, out + at * shape.value_dim);
    }
  });
}

size_t MemoryScratchFloats(const MemoryShape& shape, size_t num_threads) {
  return num_threads * ScratchFloatsPerThread(shape);
}

void MemoryWrite(const MemoryShape& shape, float* memory, bool is_empty, const float* k, const float* v,
                 const float* write_gate, size_t num_tokens, float* scratch, ThreadPool& pool) {
  MNEME_CHECK((shape.update == MemoryUpdate::kGatedDelta) == (write_gate != nullptr));
  pool.Run(shape.num_kv_heads, [&](size_t kv_head, size_t thread) {
    float* base = scratch + thread * ScratchFloatsPerThread(shape);
    const WriteScratch parts{.matrix = base,
                             .normaliser = base + shape.key_dim * shape.value_dim,
                             .feature = base + shape.key_dim * shape.value_dim + shape.key_dim,
                             .value = base + shape.key_dim * shape.value_dim + 2 * shape.key_dim};
    if (shape.update == MemoryUpdate::kGatedDelta) {
      WriteHeadGated(shape, memory, kv_head, k, v, write_gate, num_tokens, parts);
    } else {
      WriteHead(shape, memory, kv_head, is_empty, k, v, num_tokens, parts);
    }
  });
}

void MemoryMix(size_t num_rows, size_t num_heads, size_t value_dim, const float* gate,
               const float* memory_out, float* local_out) {
  for (size_t at = 0; at < num_rows * num_heads; ++at) {
    const float share = 1.0f / (1.0f + std::exp(-gate[at % num_heads]));
    for (size_t d = at * value_dim; d < (at + 1) * value_dim; ++d) {
      local_out[d] = share * memory_out[d] + (1.0f - share) * local_out[d];
    }
  }
}

}  // namespace mneme
#endif  // HWY_ONCE
