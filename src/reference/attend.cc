// AttendReference: attention from its definition, in double. Nothing is shared with attend.cc but the decoded
// K and V.
#include "kernels/attend/attend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace mneme {
namespace {

// The decoded keys and values of one span: key t at keys[t * num_kv_heads * key_dim].
struct DecodedSpan {
  std::vector<float> keys;
  std::vector<float> values;
};

DecodedSpan Decode(const AttendShape& shape, const KvSpan& span) {
  const KvLayout& layout = shape.layout;
  size_t num_keys = 0;
  for (size_t row = 0; row < shape.num_rows; ++row) {
    if (span.begin[row] < span.end[row]) {
      num_keys = std::max(num_keys, static_cast<size_t>(span.end[row]));
    }
  }
  const size_t key_values = layout.num_kv_heads * layout.key_dim;
  const size_t value_values = layout.num_kv_heads * layout.value_dim;
  DecodedSpan decoded;
  decoded.keys.resize(num_keys * key_values);
  decoded.values.resize(num_keys * value_values);
  for (size_t t = 0; t < num_keys; ++t) {
    const size_t place = span.first_slot + t;
    const uint8_t* block = span.blocks[place / kBlockTokens];
    if (block == nullptr) continue;  // no row sees this block
    KvLoad(layout, block, place % kBlockTokens, decoded.keys.data() + t * key_values,
           decoded.values.data() + t * value_values);
  }
  return decoded;
}

double Logit(const AttendShape& shape, const KvSpan& span, const DecodedSpan& decoded, size_t row,
             size_t head, size_t kv_head, size_t t) {
  const size_t key_dim = shape.layout.key_dim;
  const float* q = span.q + (row * shape.num_heads + head) * key_dim;
  const float* k = decoded.keys.data() + (t * shape.layout.num_kv_heads + kv_head) * key_dim;
  double dot = 0;
  for (size_t i = 0; i < key_dim; ++i) {
    const double factor = shape.query_factors == nullptr ? 1 : static_cast<double>(shape.query_factors[i]);
    dot += static_cast<double>(q[i]) * factor * k[i];
  }
  double logit = dot * shape.scale;
  if (shape.soft_cap != 0) logit = shape.soft_cap * std::tanh(logit / shape.soft_cap);
  logit += static_cast<double>(span.bias);
  if (shape.alibi_slopes != nullptr) {
    const int64_t distance = span.distance[row] - span.distance_step * static_cast<int64_t>(t);
    logit -= static_cast<double>(shape.alibi_slopes[head]) * static_cast<double>(distance);
  }
  return logit;
}

void AttendRowHead(const AttendShape& shape, std::span<const KvSpan> spans,
                   const std::vector<DecodedSpan>& decoded, size_t row, size_t head, double* out,
                   double* log_sum_exp) {
  const size_t value_dim = shape.layout.value_dim;
  const size_t kv_head = head / (shape.num_heads / shape.layout.num_kv_heads);
  const double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> logits;
  std::vector<const float*> values;
  for (size_t s = 0; s < spans.size(); ++s) {
    for (int32_t t = spans[s].begin[row]; t < spans[s].end[row]; ++t) {
      const size_t key = static_cast<size_t>(t);
      logits.push_back(Logit(shape, spans[s], decoded[s], row, head, kv_head, key));
      values.push_back(decoded[s].values.data() + (key * shape.layout.num_kv_heads + kv_head) * value_dim);
    }
  }
  double maximum = shape.sink_logits != nullptr ? shape.sink_logits[head] : -infinity;
  for (const double logit : logits) maximum = std::max(maximum, logit);
  if (maximum == -infinity) maximum = 0;
  double sum = shape.sink_logits != nullptr ? std::exp(shape.sink_logits[head] - maximum) : 0.0;
  std::fill_n(out, value_dim, 0.0);
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp(logits[i] - maximum);
    sum += weight;
    for (size_t c = 0; c < value_dim; ++c) out[c] += weight * values[i][c];
  }
  if (sum != 0) {
    for (size_t c = 0; c < value_dim; ++c) out[c] /= sum;
  }
  if (log_sum_exp != nullptr) *log_sum_exp = sum == 0 ? -infinity : maximum + std::log(sum);
}

}  // namespace

void AttendReference(const AttendShape& shape, std::span<const KvSpan> spans, double* out,
                     double* log_sum_exp) {
  std::vector<DecodedSpan> decoded;
  for (const KvSpan& span : spans) decoded.push_back(Decode(shape, span));
  for (size_t row = 0; row < shape.num_rows; ++row) {
    for (size_t head = 0; head < shape.num_heads; ++head) {
      const size_t pair = row * shape.num_heads + head;
      AttendRowHead(shape, spans, decoded, row, head, out + pair * shape.layout.value_dim,
                    log_sum_exp == nullptr ? nullptr : log_sum_exp + pair);
    }
  }
}

}  // namespace mneme
