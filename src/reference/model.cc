#include "reference/model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/half.h"
#include "formats/quant.h"
#include "model/weights.h"

namespace mneme {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

Row DecodedRow(const WeightView& view, size_t row) {
  Row values(view.num_cols);
  DecodeBlocksReference(view.encoding, view.data + row * view.row_bytes(), view.num_cols, values.data());
  return values;
}

Rows Product(const LinearLayer& linear, const Rows& x) {
  Rows out(x.size(), Row(linear.weights.num_rows()));
  for (size_t n = 0; n < linear.weights.num_rows(); ++n) {
    const Row w = DecodedRow(linear.file, n);
    const double bias = linear.bias.empty() ? 0 : static_cast<double>(linear.bias[n]);
    for (size_t r = 0; r < x.size(); ++r) {
      double sum = 0;
      for (size_t i = 0; i < w.size(); ++i) sum += w[i] * x[r][i];
      out[r][n] = sum + bias;
    }
  }
  return out;
}

// Normalises `size` values from `first` on.
void NormPart(const ModelConfig& c, const NormWeights& norm, size_t weight_first, size_t first, size_t size,
              Row* x) {
  double mean = 0;
  double square = 0;
  const double count = static_cast<double>(size);
  if (c.norm == NormKind::kLayer) {
    for (size_t i = 0; i < size; ++i) mean += (*x)[first + i] / count;
  }
  for (size_t i = 0; i < size; ++i) square += std::pow((*x)[first + i] - mean, 2) / count;
  const double scale = 1 / std::sqrt(square + static_cast<double>(c.norm_epsilon));
  for (size_t i = 0; i < size; ++i) {
    double& value = (*x)[first + i];
    value = (value - mean) * scale * static_cast<double>(norm.weight[weight_first + i]);
    if (!norm.bias.empty()) value += static_cast<double>(norm.bias[weight_first + i]);
  }
}

Rows Normed(const ModelConfig& c, const NormWeights& norm, Rows x) {
  for (Row& row : x) NormPart(c, norm, 0, 0, row.size(), &row);
  return x;
}

void HeadNorm(const ModelConfig& c, const NormWeights& norm, Rows* x) {
  if (norm.empty()) return;
  for (Row& row : *x) {
    if (c.qk_norm_whole) {
      NormPart(c, norm, 0, 0, row.size(), &row);
      continue;
    }
    for (size_t first = 0; first < row.size(); first += c.key_dim) {
      NormPart(c, norm, norm.weight.size() == c.key_dim ? 0 : first, first, c.key_dim, &row);
    }
  }
}

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

double InHalf(double x) { return static_cast<double>(F16ToF32(F32ToF16(static_cast<float>(x)))); }

double Activated(const ModelConfig& c, double x) {
  if (c.half_gelu) {
    if (x <= -10) return 0;
    if (x >= 10) return x;
    ModelConfig exact;
    exact.activation = c.activation;
    return InHalf(Activated(exact, InHalf(x)));
  }
  switch (c.activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kRelu:
      return std::max(x, 0.0);
  }
  return 0;
}

// One head of one row over the keys it may see.
void AttendHead(const ModelConfig& c, size_t layer, size_t row, size_t head, const Rows& q, const Rows& k,
                const Rows& v, Row* out) {
  const size_t kv_head = head / (c.num_heads / c.num_kv_heads[layer]);
  const size_t window = static_cast<size_t>(c.layer_window[layer]);
  std::vector<double> scores(row + 1, -std::numeric_limits<double>::infinity());
  double largest = scores[0];
  for (size_t t = 0; t <= row; ++t) {
    if (window > 0 && row - t >= window) continue;
    double dot = 0;
    for (size_t i = 0; i < c.key_dim; ++i)
      dot += q[row][head * c.key_dim + i] * k[t][kv_head * c.key_dim + i];
    dot *= static_cast<double>(c.attention_scale);
    const double cap = static_cast<double>(c.attention_soft_cap);
    if (cap > 0) dot = cap * std::tanh(dot / cap);
    if (!c.alibi_slopes.empty()) {
      dot -= static_cast<double>(c.alibi_slopes[head]) * static_cast<double>(row - t);
    }
    scores[t] = dot;
    largest = std::max(largest, dot);
  }
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (size_t i = 0; i < c.value_dim; ++i) {
    double value = 0;
    for (size_t t = 0; t <= row; ++t) value += scores[t] * v[t][kv_head * c.value_dim + i];
    (*out)[head * c.value_dim + i] = value / sum;
  }
}

Rows Attention(const ModelConfig& c, const LayerWeights& w, size_t layer, Position start, const Rows& input) {
  Rows q = Product(w.q, input);
  Rows k = Product(w.k, input);
  Rows v = Product(w.v, input);
  if (c.clamp_qkv > 0) {
    const double limit = static_cast<double>(c.clamp_qkv);
    for (Rows* rows : {&q, &k, &v}) {
      for (Row& row : *rows) {
        for (double& value : row) value = std::clamp(value, -limit, limit);
      }
    }
  }
  HeadNorm(c, w.q_norm, &q);
  HeadNorm(c, w.k_norm, &k);
  Rows attended(input.size(), Row(c.num_heads * c.value_dim));
  for (size_t row = 0; row < input.size(); ++row) {
    if (c.position == PositionKind::kRope) {
      const Rope& rope = c.ropes[c.layer_rope[layer]];
      RotateHeads(rope, c.key_dim, start + static_cast<Position>(row), &q[row]);
      RotateHeads(rope, c.key_dim, start + static_cast<Position>(row), &k[row]);
    }
    for (size_t head = 0; head < c.num_heads; ++head) {
      AttendHead(c, layer, row, head, q, k, v, &attended[row]);
    }
  }
  return Product(w.o, attended);
}

Rows FeedForward(const ModelConfig& c, const LayerWeights& w, const Rows& input) {
  Rows hidden = Product(w.up, input);
  if (w.gate.empty()) {
    for (Row& row : hidden) {
      for (double& value : row) value = Activated(c, value);
    }
  } else {
    const Rows gate = Product(w.gate, input);
    for (size_t r = 0; r < hidden.size(); ++r) {
      for (size_t i = 0; i < hidden[r].size(); ++i) hidden[r][i] *= Activated(c, gate[r][i]);
    }
  }
  return Product(w.down, hidden);
}

void Add(const Rows& y, Rows* x) {
  for (size_t r = 0; r < x->size(); ++r) {
    for (size_t i = 0; i < (*x)[r].size(); ++i) (*x)[r][i] += y[r][i];
  }
}

void RunLayer(const ModelConfig& c, const LayerWeights& w, size_t layer, Position start, Rows* x) {
  const auto post = [&](const NormWeights& norm, Rows rows) {
    return norm.empty() ? rows : Normed(c, norm, std::move(rows));
  };
  const Rows attn_input = w.attn_norm.empty() ? *x : Normed(c, w.attn_norm, *x);
  if (c.block == BlockKind::kParallel) {
    const Rows ffn_input = w.ffn_norm.empty() ? attn_input : Normed(c, w.ffn_norm, *x);
    Add(Attention(c, w, layer, start, attn_input), x);
    Add(FeedForward(c, w, ffn_input), x);
    return;
  }
  Add(post(w.post_attn_norm, Attention(c, w, layer, start, attn_input)), x);
  const Rows ffn_input = w.ffn_norm.empty() ? *x : Normed(c, w.ffn_norm, *x);
  Add(post(w.post_ffn_norm, FeedForward(c, w, ffn_input)), x);
}

}  // namespace

std::vector<double> ReferenceLogits(const LoadedModel& model, std::span<const TokenId> tokens,
                                    Position start_position) {
  const ModelConfig& c = model.config();
  const ModelWeights& weights = model.weights();
  Rows x;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= c.vocab_size) {
      Fail(ErrorKind::kInput, "token {} is not in the model's vocabulary of {}", tokens[i], c.vocab_size);
    }
    Row row = DecodedRow(weights.token_embedding, static_cast<size_t>(tokens[i]));
    for (double& value : row) value *= static_cast<double>(c.embedding_scale);
    if (c.position == PositionKind::kLearned) {
      const Row position = DecodedRow(weights.position_embedding, static_cast<size_t>(start_position) + i);
      for (size_t j = 0; j < row.size(); ++j) row[j] += position[j];
    }
    x.push_back(std::move(row));
  }
  for (size_t layer = 0; layer < c.num_layers; ++layer) {
    RunLayer(c, weights.layers[layer], layer, start_position, &x);
  }
  const Rows logits = Product(weights.output, Normed(c, weights.output_norm, std::move(x)));
  std::vector<double> result;
  for (const Row& row : logits) {
    for (const double value : row) {
      const double cap = static_cast<double>(c.final_soft_cap);
      result.push_back(cap > 0 ? cap * std::tanh(value / cap) : value);
    }
  }
  return result;
}

}  // namespace mneme
