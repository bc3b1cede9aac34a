#include "reference/model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/half.h"
#include "formats/quant.h"
#include "model/weights.h"
#include "reference/experts.h"

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
void NormPart(const ModelPlan& m, const NormWeights& norm, size_t weight_first, size_t first, size_t size,
              Row* x) {
  double mean = 0;
  double square = 0;
  const double count = static_cast<double>(size);
  if (m.norm == NormKind::kLayer) {
    for (size_t i = 0; i < size; ++i) mean += (*x)[first + i] / count;
  }
  for (size_t i = 0; i < size; ++i) square += std::pow((*x)[first + i] - mean, 2) / count;
  const double scale = 1 / std::sqrt(square + static_cast<double>(m.norm_epsilon));
  for (size_t i = 0; i < size; ++i) {
    double& value = (*x)[first + i];
    value = (value - mean) * scale * static_cast<double>(norm.weight[weight_first + i]);
    if (!norm.bias.empty()) value += static_cast<double>(norm.bias[weight_first + i]);
  }
}

Rows Normed(const ModelPlan& m, const NormWeights& norm, Rows x) {
  for (Row& row : x) NormPart(m, norm, 0, 0, row.size(), &row);
  return x;
}

void NormHeads(const ModelPlan& m, const AttentionPlan& plan, const NormWeights& norm, Rows* x) {
  if (plan.qk_norm == HeadNorm::kNone) return;
  for (Row& row : *x) {
    if (plan.qk_norm == HeadNorm::kWhole) {
      NormPart(m, norm, 0, 0, row.size(), &row);
      continue;
    }
    for (size_t first = 0; first < row.size(); first += plan.key_dim) {
      NormPart(m, norm, norm.weight.size() == plan.key_dim ? 0 : first, first, plan.key_dim, &row);
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

double Activated(Activation activation, double x) {
  switch (activation) {
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

double Activated(const DensePlan& plan, double x) {
  if (!plan.half_gelu) return Activated(plan.activation, x);
  if (x <= -10) return 0;
  if (x >= 10) return x;
  return InHalf(Activated(plan.activation, InHalf(x)));
}

// One head of one row over the keys it may see.
void AttendHead(const ModelPlan& m, const AttentionPlan& plan, size_t row, size_t head, const Rows& q,
                const Rows& k, const Rows& v, Row* out) {
  const size_t kv_head = head / (plan.num_heads / plan.num_kv_heads);
  const size_t window = static_cast<size_t>(plan.window);
  std::vector<double> scores(row + 1, -std::numeric_limits<double>::infinity());
  double largest = scores[0];
  for (size_t t = 0; t <= row; ++t) {
    if (window > 0 && row - t >= window) continue;
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
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (size_t i = 0; i < plan.value_dim; ++i) {
    double value = 0;
    for (size_t t = 0; t <= row; ++t) value += scores[t] * v[t][kv_head * plan.value_dim + i];
    (*out)[head * plan.value_dim + i] = value / sum;
  }
}

Rows Attention(const ModelPlan& m, const AttentionPlan& plan, const AttentionWeights& w, Position start,
               const Rows& input) {
  Rows q = Product(w.q, input);
  Rows k = Product(w.k, input);
  Rows v = Product(w.v, input);
  if (plan.clamp_qkv > 0) {
    const double limit = static_cast<double>(plan.clamp_qkv);
    for (Rows* rows : {&q, &k, &v}) {
      for (Row& row : *rows) {
        for (double& value : row) value = std::clamp(value, -limit, limit);
      }
    }
  }
  NormHeads(m, plan, w.q_norm, &q);
  NormHeads(m, plan, w.k_norm, &k);
  Rows attended(input.size(), Row(plan.num_heads * plan.value_dim));
  for (size_t row = 0; row < input.size(); ++row) {
    if (m.position == PositionKind::kRope) {
      const Rope& rope = m.ropes[plan.rope];
      RotateHeads(rope, plan.key_dim, start + static_cast<Position>(row), &q[row]);
      RotateHeads(rope, plan.key_dim, start + static_cast<Position>(row), &k[row]);
    }
    for (size_t head = 0; head < plan.num_heads; ++head) {
      AttendHead(m, plan, row, head, q, k, v, &attended[row]);
    }
  }
  return Product(w.o, attended);
}

Rows FeedForward(const DensePlan& plan, const DenseWeights& w, const Rows& input) {
  Rows hidden = Product(w.up, input);
  if (!plan.is_gated) {
    for (Row& row : hidden) {
      for (double& value : row) value = Activated(plan, value);
    }
  } else {
    const Rows gate = Product(w.gate, input);
    for (size_t r = 0; r < hidden.size(); ++r) {
      for (size_t i = 0; i < hidden[r].size(); ++i) hidden[r][i] *= Activated(plan, gate[r][i]);
    }
  }
  return Product(w.down, hidden);
}

Rows Experts(const ExpertsPlan& plan, const ExpertsWeights& w, const Rows& input) {
  const DensePlan network{.dim = plan.dim, .activation = plan.activation};
  const Rows logits = Product(w.router, input);
  Rows out(input.size(), Row(input[0].size()));
  for (size_t r = 0; r < input.size(); ++r) {
    const std::vector<double> weights = ReferenceRoute(plan.router, logits[r], w.correction);
    for (size_t e = 0; e < weights.size(); ++e) {
      if (weights[e] == 0) continue;
      const Rows one = FeedForward(network, w.experts[e], {input[r]});
      for (size_t i = 0; i < out[r].size(); ++i) out[r][i] += weights[e] * one[0][i];
    }
  }
  if (plan.shared_dim == 0) return out;
  const Rows shared = FeedForward(network, w.shared, input);
  const Rows gate = plan.has_shared_gate ? Product(w.shared_gate, input) : Rows();
  for (size_t r = 0; r < out.size(); ++r) {
    const double open = gate.empty() ? 1 : 1 / (1 + std::exp(-gate[r][0]));
    for (size_t i = 0; i < out[r].size(); ++i) out[r][i] += open * shared[r][i];
  }
  return out;
}

void Add(const Rows& y, Rows* x) {
  for (size_t r = 0; r < x->size(); ++r) {
    for (size_t i = 0; i < (*x)[r].size(); ++i) (*x)[r][i] += y[r][i];
  }
}

void RunLayer(const ModelPlan& m, const LayerPlan& plan, const LayerWeights& w, Position start, Rows* x) {
  const auto post = [&](const NormWeights& norm, Rows rows) {
    return norm.empty() ? rows : Normed(m, norm, std::move(rows));
  };
  const auto mix = [&](const Rows& input) {
    return Attention(m, *plan.attention(), *w.attention(), start, input);
  };
  const auto feed_forward = [&](const Rows& input) {
    return plan.dense() != nullptr ? FeedForward(*plan.dense(), *w.dense(), input)
                                   : Experts(*plan.experts(), *w.experts(), input);
  };
  const Rows mixer_input = w.attn_norm.empty() ? *x : Normed(m, w.attn_norm, *x);
  if (plan.wiring == Wiring::kParallel) {
    const Rows ffn_input = w.ffn_norm.empty() ? mixer_input : Normed(m, w.ffn_norm, *x);
    Add(mix(mixer_input), x);
    Add(feed_forward(ffn_input), x);
    return;
  }
  Add(post(w.post_attn_norm, mix(mixer_input)), x);
  const Rows ffn_input = w.ffn_norm.empty() ? *x : Normed(m, w.ffn_norm, *x);
  Add(post(w.post_ffn_norm, feed_forward(ffn_input)), x);
}

}  // namespace

std::vector<double> ReferenceLogits(const LoadedModel& model, std::span<const TokenId> tokens,
                                    Position start_position) {
  const ModelPlan& m = model.plan();
  const ModelWeights& weights = model.weights();
  Rows x;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= m.vocab_size) {
      Fail(ErrorKind::kInput, "token {} is not in the model's vocabulary of {}", tokens[i], m.vocab_size);
    }
    Row row = DecodedRow(weights.token_embedding, static_cast<size_t>(tokens[i]));
    for (double& value : row) value *= static_cast<double>(m.embedding_scale);
    if (m.position == PositionKind::kLearned) {
      const Row position = DecodedRow(weights.position_embedding, static_cast<size_t>(start_position) + i);
      for (size_t j = 0; j < row.size(); ++j) row[j] += position[j];
    }
    x.push_back(std::move(row));
  }
  for (size_t layer = 0; layer < m.num_layers(); ++layer) {
    RunLayer(m, m.layers[layer], weights.layers[layer], start_position, &x);
  }
  const Rows logits = Product(weights.output, Normed(m, weights.output_norm, std::move(x)));
  std::vector<double> result;
  for (const Row& row : logits) {
    for (const double value : row) {
      const double cap = static_cast<double>(m.final_soft_cap);
      result.push_back(cap > 0 ? cap * std::tanh(value / cap) : value);
    }
  }
  return result;
}

}  // namespace mneme
