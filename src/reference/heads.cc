#include "reference/heads.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mneme::reference {
namespace {

void RotateHeads(const Rope& rope, size_t head_dim, Position position, Row* x) {
  const size_t half = rope.rotary_dim / 2;
  for (size_t head = 0; head < x->size(); head += head_dim) {
    for (size_t i = 0; i < half; ++i) {
      const long double angle =
          static_cast<long double>(position) * static_cast<long double>(rope.frequencies[i]);
      const double cosine = static_cast<double>(std::cos(angle)) * static_cast<double>(rope.magnitude);
      const double sine = static_cast<double>(std::sin(angle)) * static_cast<double>(rope.magnitude);
      const bool is_interleaved = rope.layout == RopeLayout::kInterleaved;
      double& a = (*x)[head + (is_interleaved ? 2 * i : i)];
      double& b = (*x)[head + (is_interleaved ? 2 * i + 1 : i + half)];
      const double rotated = a * cosine - b * sine;
      b = a * sine + b * cosine;
      a = rotated;
    }
  }
}

Rows NormedLatents(const LatentPlan& plan, const NormWeights& norm, Rows x) {
  for (Row& row : x) {
    double square = 0;
    for (const double value : row) square += value * value / static_cast<double>(row.size());
    const double scale = 1 / std::sqrt(square + static_cast<double>(plan.norm_epsilon));
    for (size_t i = 0; i < row.size(); ++i) row[i] *= scale * static_cast<double>(norm.weight[i]);
  }
  return x;
}

// Keys of one head out of the latents [row, rank], by the matrix [rank, plain_dim].
Rows Unfolded(const LinearLayer& matrix, const Rows& latents) {
  Rows out(latents.size(), Row(matrix.file.num_cols));
  for (size_t r = 0; r < matrix.file.num_rows; ++r) {
    const Row weights = DecodedRow(matrix.file, r);
    for (size_t row = 0; row < latents.size(); ++row) {
      for (size_t i = 0; i < weights.size(); ++i) out[row][i] += weights[i] * latents[row][r];
    }
  }
  return out;
}

}  // namespace

void RotateRows(const ModelPlan& m, const AttentionPlan& plan, size_t head_dim, Position start, Rows* rows) {
  if (m.position != PositionKind::kRope) return;
  for (size_t row = 0; row < rows->size(); ++row) {
    RotateHeads(m.ropes[plan.rope], head_dim, start + static_cast<Position>(row), &(*rows)[row]);
  }
}

void Grow(const AttentionPlan& plan, Position start, Rows* q) {
  if (plan.query_growth == 0) return;
  for (size_t row = 0; row < q->size(); ++row) {
    const Position place = start + static_cast<Position>(row) + plan.query_growth_offset;
    const Position steps = place / plan.query_growth_length;
    const double growth =
        1 + static_cast<double>(plan.query_growth) * std::log(1 + static_cast<double>(steps));
    for (double& value : (*q)[row]) value *= growth;
  }
}

void AttendHead(const ModelPlan& m, const AttentionPlan& plan, std::span<const float> sink_logits,
                size_t start, size_t row, size_t head, const Rows& q, const Rows& k, const Rows& v,
                Row* out) {
  const size_t kv_head = head / (plan.num_heads / plan.num_kv_heads);
  const size_t window = static_cast<size_t>(plan.window);
  std::vector<double> scores(row + 1, -std::numeric_limits<double>::infinity());
  double largest = scores[0];
  for (size_t t = 0; t <= row; ++t) {
    if (window > 0 && !plan.is_chunked && row - t >= window) continue;
    if (plan.is_chunked && (start + row) / window != (start + t) / window) continue;
    double dot = 0;
    for (size_t i = 0; i < plan.key_dim; ++i)
      dot += q[row][head * plan.key_dim + i] * k[t][kv_head * plan.key_dim + i];
    dot *= static_cast<double>(plan.scale);
    const double cap = static_cast<double>(plan.soft_cap);
    if (cap > 0) dot = cap * std::tanh(dot / cap);
    if (!m.alibi_slopes.empty()) {
      dot -= static_cast<double>(m.alibi_slopes[head]) * static_cast<double>(row - t);
    }
    scores[t] = dot;
    largest = std::max(largest, dot);
  }
  // A learned logit takes its share and gives nothing.
  const bool has_sink = !sink_logits.empty();
  if (has_sink) largest = std::max(largest, static_cast<double>(sink_logits[head]));
  double sum = has_sink ? std::exp(static_cast<double>(sink_logits[head]) - largest) : 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (size_t i = 0; i < plan.value_dim; ++i) {
    double value = 0;
    for (size_t t = 0; t <= row; ++t) value += scores[t] * v[t][kv_head * plan.value_dim + i];
    (*out)[head * plan.value_dim + i] = value / sum;
  }
}

Rows LatentAttention(const ModelPlan& m, const LatentPlan& plan, const LatentWeights& w, Position start,
                     const Rows& input) {
  const size_t num_heads = plan.attention.num_heads, num_rows = input.size();
  const size_t rotated = plan.rotated_dim(), plain = plan.plain_dim, query_dim = plan.query_dim();
  Rows from = input;
  if (plan.query_rank > 0) from = NormedLatents(plan, w.query_norm, Product(w.query_down, input));
  Rows heads = Product(w.query, from);
  Grow(plan.attention, start, &heads);
  const Rows latents = NormedLatents(plan, w.latent_norm, Product(w.latent, input));
  Rows rotated_keys = Product(w.rotated_key, input);
  RotateRows(m, plan.attention, rotated, start, &rotated_keys);
  Rows out(num_rows, Row(num_heads * plan.head_value_dim));
  AttentionPlan one = plan.attention;  // of one head after the other
  one.num_heads = one.num_kv_heads = 1;
  one.key_dim = query_dim;
  one.value_dim = plan.head_value_dim;
  for (size_t head = 0; head < num_heads; ++head) {
    const Rows plain_keys = Unfolded(w.head_keys[head], latents);
    const Rows values = Product(w.head_values[head], latents);
    Rows q, k;
    for (size_t row = 0; row < num_rows; ++row) {
      const auto first = heads[row].begin() + static_cast<ptrdiff_t>(head * query_dim);
      const auto middle = first + static_cast<ptrdiff_t>(plain);
      q.emplace_back(middle, middle + static_cast<ptrdiff_t>(rotated));
      q.back().insert(q.back().end(), first, middle);
      k.push_back(rotated_keys[row]);
      k.back().insert(k.back().end(), plain_keys[row].begin(), plain_keys[row].end());
    }
    RotateRows(m, plan.attention, query_dim, start, &q);
    for (size_t row = 0; row < num_rows; ++row) {
      Row attended(plan.head_value_dim);
      AttendHead(m, one, {}, static_cast<size_t>(start), row, 0, q, k, values, &attended);
      std::copy(attended.begin(), attended.end(),
                out[row].begin() + static_cast<ptrdiff_t>(head * plan.head_value_dim));
    }
  }
  return Product(w.o, out);
}

}  // namespace mneme::reference
