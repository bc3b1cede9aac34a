// The compressive memory from its definition, in double precision.
#include "kernels/memory/memory.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace mneme {
namespace {

// expm1(x) + 1 would give 0 where exp(x) is a small number.
double Sigma(double x) { return x > 0 ? x + 1 : std::exp(x); }

double Silu(double x) { return x / (1 + std::exp(-x)); }

// What a key or query looks like to the memory. feature [key_dim].
void Feature(const MemoryShape& shape, const float* x, double* feature) {
  if (shape.update != MemoryUpdate::kGatedDelta) {
    for (size_t d = 0; d < shape.key_dim; ++d) feature[d] = Sigma(static_cast<double>(x[d]));
    return;
  }
  double square = 0;
  for (size_t d = 0; d < shape.key_dim; ++d) {
    feature[d] = Silu(static_cast<double>(x[d]));
    square += feature[d] * feature[d];
  }
  const double inverse = 1 / std::sqrt(square + static_cast<double>(kMemoryEpsilon));
  for (size_t d = 0; d < shape.key_dim; ++d) feature[d] *= inverse;
}

double Dot(const double* a, const double* b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void RmsScale(double* out, size_t count) {
  const double inverse =
      1 / std::sqrt(Dot(out, out, count) / static_cast<double>(count) + static_cast<double>(kMemoryEpsilon));
  for (size_t i = 0; i < count; ++i) out[i] *= inverse;
}

size_t NormaliserAt(const MemoryShape& shape, size_t kv_head) {
  return shape.num_kv_heads * shape.key_dim * shape.value_dim + kv_head * shape.key_dim;
}

}  // namespace

void MemoryReadReference(const MemoryShape& shape, const double* memory, const float* q, size_t num_rows,
                         double* out) {
  std::vector<double> feature(shape.key_dim);
  const size_t group = shape.num_heads / shape.num_kv_heads;
  for (size_t at = 0; at < num_rows * shape.num_heads; ++at) {
    const size_t kv_head = at % shape.num_heads / group;
    Feature(shape, q + at * shape.key_dim, feature.data());
    const double* matrix = memory + kv_head * shape.key_dim * shape.value_dim;
    double* result = out + at * shape.value_dim;
    std::fill(result, result + shape.value_dim, 0.0);
    for (size_t i = 0; i < shape.key_dim; ++i) {
      for (size_t d = 0; d < shape.value_dim; ++d) result[d] += feature[i] * matrix[i * shape.value_dim + d];
    }
    if (shape.update == MemoryUpdate::kGatedDelta) {
      RmsScale(result, shape.value_dim);
    } else {
      const double total = Dot(feature.data(), memory + NormaliserAt(shape, kv_head), shape.key_dim);
      for (size_t d = 0; d < shape.value_dim; ++d)
        result[d] /= std::max(total, static_cast<double>(kMemoryFloor));
    }
  }
}

void MemoryWriteReference(const MemoryShape& shape, double* memory, bool is_empty, const float* k,
                          const float* v, const float* write_gate, size_t num_tokens) {
  const std::vector<double> before(memory, memory + shape.num_floats());
  std::vector<double> feature(shape.key_dim);
  for (size_t kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
    double* matrix = memory + kv_head * shape.key_dim * shape.value_dim;
    const double* old_matrix = before.data() + kv_head * shape.key_dim * shape.value_dim;
    double* normaliser = memory + NormaliserAt(shape, kv_head);
    const double* old_normaliser = before.data() + NormaliserAt(shape, kv_head);
    for (size_t token = 0; token < num_tokens; ++token) {
      Feature(shape, k + (token * shape.num_kv_heads + kv_head) * shape.key_dim, feature.data());
      const float* value = v + (token * shape.num_kv_heads + kv_head) * shape.value_dim;
      const bool gated = shape.update == MemoryUpdate::kGatedDelta;
      const bool subtracts = gated || (shape.update == MemoryUpdate::kDelta && !is_empty);
      const double* read_from = gated ? matrix : old_matrix;
      const double scale = gated ? 1.0
                                 : 1.0 / std::max(Dot(feature.data(), old_normaliser, shape.key_dim),
                                                  static_cast<double>(kMemoryFloor));
      const double gate = gated ? write_gate[token * shape.num_kv_heads + kv_head] : 1.0;
      for (size_t d = 0; d < shape.value_dim; ++d) {
        double read = 0;
        for (size_t i = 0; i < shape.key_dim && subtracts; ++i)
          read += feature[i] * read_from[i * shape.value_dim + d];
        const double added = gate * (value[d] - (subtracts ? read * scale : 0.0));
        for (size_t i = 0; i < shape.key_dim; ++i) matrix[i * shape.value_dim + d] += feature[i] * added;
      }
      for (size_t i = 0; i < shape.key_dim && !gated; ++i) normaliser[i] += feature[i];
    }
  }
}

}  // namespace mneme
