#include "reference/model.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/half.h"
#include "model/weights.h"
#include "reference/experts.h"
#include "reference/heads.h"
#include "reference/rows.h"
#include "reference/states.h"

namespace mneme {
namespace {

using namespace reference;  // NOLINT: the parts that this file puts together

// rotated: the heads are.
void NormHeads(const ModelPlan& m, const AttentionPlan& plan, const NormWeights& norm, bool rotated,
               Rows* x) {
  if (plan.qk_norm == HeadNorm::kNone || rotated != (plan.qk_norm == HeadNorm::kRotated)) return;
  for (Row& row : *x) {
    if (plan.qk_norm == HeadNorm::kWhole) {
      NormPart(m, norm, 0, 0, row.size(), &row);
      continue;
    }
    for (size_t first = 0; first < row.size(); first += plan.key_dim) {
      NormPart(m, norm, norm.weight.size() <= plan.key_dim ? 0 : first, first, plan.key_dim, &row);
    }
  }
}

double InHalf(double x) { return static_cast<double>(F16ToF32(F32ToF16(static_cast<float>(x)))); }

double ActivatedIn(const ModelPlan& m, const DensePlan& plan, const Xielu& xielu, double x) {
  if (plan.is_xielu) {
    const double line = static_cast<double>(xielu.line) * x;
    if (x > 0) return static_cast<double>(xielu.square) * x * x + line;
    const double below = static_cast<double>(xielu.below);
    return static_cast<double>(xielu.bend) * (std::expm1(std::min(x, below)) - x) + line;
  }
  if (!plan.half_gelu || m.is_exact) return Activated(plan.activation, x);
  if (x <= -10) return 0;
  if (x >= 10) return x;
  return InHalf(Activated(plan.activation, InHalf(x)));
}

void Clamp(double limit, Rows* rows) {
  for (Row& row : *rows) {
    for (double& value : row) value = std::clamp(value, -limit, limit);
  }
}

// Keys, rotated, and values of a layer; others may share them.
struct KeysAndValues {
  Rows k, v;
};

// With what is added to the matrix; null: nothing.
Rows ProductWith(const LowRank* added, const LinearLayer& linear, const Rows& input) {
  Rows out = Product(linear, input);
  if (added != nullptr) Add(Product(added->up[0], Product(added->down, input)), &out);
  return out;
}

// adapters: of queries, keys and values, or null.
KeysAndValues MakeKeys(const ModelPlan& m, const AttentionPlan& plan, const AttentionWeights& w,
                       const LowRank* adapters, Position start, const Rows& input) {
  KeysAndValues made{.k = ProductWith(adapters == nullptr ? nullptr : adapters + 1, w.k, input), .v = {}};
  made.v = plan.value_is_key ? made.k : ProductWith(adapters == nullptr ? nullptr : adapters + 2, w.v, input);
  Scale(static_cast<double>(plan.value_scale), &made.v);
  const auto clamp = [&] {
    if (plan.clamp_qkv == 0) return;
    Clamp(static_cast<double>(plan.clamp_qkv), &made.k);
    Clamp(static_cast<double>(plan.clamp_qkv), &made.v);
  };
  if (!plan.clamps_normed) clamp();
  NormHeads(m, plan, w.k_norm, false, &made.k);
  if (plan.clamps_normed) clamp();
  for (Row& row : made.v) {
    for (size_t first = 0; plan.value_norm && first < row.size(); first += plan.value_dim) {
      NormPart(m, {}, 0, first, plan.value_dim, &row);
    }
  }
  RotateRows(m, plan, plan.key_dim, start, &made.k);
  NormHeads(m, plan, w.k_norm, true, &made.k);
  return made;
}

Rows Attention(const ModelPlan& m, const AttentionPlan& plan, const AttentionWeights& w,
               const LowRank* adapters, Position start, const Rows& input, const KeysAndValues& kv) {
  Rows q = ProductWith(adapters, w.q, input);
  if (plan.clamp_qkv > 0 && !plan.clamps_normed) Clamp(static_cast<double>(plan.clamp_qkv), &q);
  NormHeads(m, plan, w.q_norm, false, &q);
  if (plan.clamp_qkv > 0 && plan.clamps_normed) Clamp(static_cast<double>(plan.clamp_qkv), &q);
  Grow(plan, start, &q);
  RotateRows(m, plan, plan.key_dim, start, &q);
  NormHeads(m, plan, w.q_norm, true, &q);
  Rows attended(input.size(), Row(plan.num_heads * plan.value_dim));
  for (size_t row = 0; row < input.size(); ++row) {
    for (size_t head = 0; head < plan.num_heads; ++head) {
      AttendHead(m, plan, w.sink_logits, static_cast<size_t>(start), row, head, q, kv.k, kv.v,
                 &attended[row]);
    }
  }
  if (plan.has_head_gate || plan.has_value_gate || plan.has_output_gate) {
    const Rows gate = Product(w.gate, input);
    for (size_t r = 0; r < gate.size(); ++r) {
      for (size_t i = 0; i < attended[r].size(); ++i) {
        const double x = gate[r][plan.has_head_gate ? i / plan.value_dim : i];
        attended[r][i] *= plan.softplus_gates ? std::log1p(std::exp(x)) : 1 / (1 + std::exp(-x));
      }
    }
  }
  if (plan.has_sub_norm) attended = Normed(m, w.sub_norm, std::move(attended));
  return Product(w.o, attended);
}

Rows FeedForward(const ModelPlan& m, const DensePlan& plan, const DenseWeights& w, const Rows& input) {
  Rows hidden = Product(w.up, input);
  if (!plan.is_gated) {
    for (Row& row : hidden) {
      for (double& value : row) value = ActivatedIn(m, plan, w.xielu, value);
    }
  } else {
    const Rows gate = Product(w.gate, input);
    for (size_t r = 0; r < hidden.size(); ++r) {
      for (size_t i = 0; i < hidden[r].size(); ++i) hidden[r][i] *= ActivatedIn(m, plan, w.xielu, gate[r][i]);
    }
  }
  if (plan.has_sub_norm) hidden = Normed(m, w.sub_norm, std::move(hidden));
  return Product(w.down, hidden);
}

// (up + 1) gate sigmoid(1.702 gate), both clamped (gpt-oss).
Rows ClampedExpert(double limit, const DenseWeights& w, const Rows& input) {
  Rows hidden = Product(w.up, input);
  const Rows gate = Product(w.gate, input);
  for (size_t r = 0; r < hidden.size(); ++r) {
    for (size_t i = 0; i < hidden[r].size(); ++i) {
      const double g = std::min(gate[r][i], limit);
      const double u = std::clamp(hidden[r][i], -limit, limit);
      hidden[r][i] = (u + 1) * g / (1 + std::exp(-1.702 * g));
    }
  }
  return Product(w.down, hidden);
}

Rows Experts(const ModelPlan& m, const ExpertsPlan& plan, const ExpertsWeights& w, const Rows& router_input,
             const Rows& input) {
  const DensePlan network{.dim = plan.dim, .activation = plan.activation, .is_gated = plan.is_gated};
  const Rows logits = Product(w.router, router_input);
  Rows out(input.size(), Row(input[0].size()));
  for (size_t r = 0; r < input.size(); ++r) {
    const std::vector<double> weights = ReferenceRoute(plan.router, logits[r], w.correction);
    for (size_t e = 0; e < weights.size(); ++e) {
      if (weights[e] == 0) continue;
      Rows read = {input[r]};
      if (plan.weighs_inputs) Scale(weights[e], &read);
      const Rows one = plan.clamp > 0 ? ClampedExpert(static_cast<double>(plan.clamp), w.experts[e], read)
                                      : FeedForward(m, network, w.experts[e], read);
      const double scale = w.expert_scale.empty() ? 1 : static_cast<double>(w.expert_scale[e]);
      const double weight = plan.weighs_inputs ? 1 : weights[e] * scale;
      for (size_t i = 0; i < out[r].size(); ++i) out[r][i] += weight * one[0][i];
    }
  }
  if (plan.shared_dim == 0) return out;
  const Rows shared = FeedForward(m, network, w.shared, input);
  const Rows gate = plan.has_shared_gate ? Product(w.shared_gate, input) : Rows();
  for (size_t r = 0; r < out.size(); ++r) {
    const double open = gate.empty() ? 1 : 1 / (1 + std::exp(-gate[r][0]));
    for (size_t i = 0; i < out[r].size(); ++i) out[r][i] += open * shared[r][i];
  }
  return out;
}

// The dense network and the experts, side by side between norms (gemma4).
Rows Mixed(const ModelPlan& m, const MixedPlan& plan, const MixedWeights& w, const Rows& x,
           const Rows& input) {
  Rows out = Normed(m, w.dense_post_norm, FeedForward(m, plan.dense, w.dense, input));
  Add(Normed(m, w.experts_post_norm,
             Experts(m, plan.experts, w.experts, Normed(m, w.router_norm, x), Normed(m, w.experts_norm, x))),
      &out);
  return out;
}

Rows FeedForward(const ModelPlan& m, const LayerPlan& plan, const LayerWeights& w, const Rows& x,
                 const Rows& input) {
  if (const auto* mixed = std::get_if<MixedPlan>(&plan.feed_forward)) {
    return Mixed(m, *mixed, *w.mixed(), x, input);
  }
  if (plan.channel_mix() != nullptr) return ChannelMix(*plan.channel_mix(), *w.channel_mix(), input);
  return plan.experts() != nullptr ? Experts(m, *plan.experts(), *w.experts(), input, input)
                                   : FeedForward(m, *plan.dense(), *w.dense(), input);
}

// What each layer reads of the token besides: [row][layer * dim + i].
Rows PerLayerInputs(const ModelPlan& m, const PerLayerTables& tables, std::span<const TokenId> tokens,
                    const Rows& x) {
  const double dim = static_cast<double>(m.per_layer_dim);
  Rows inputs = Product(tables.projection, x);
  Scale(1 / std::sqrt(static_cast<double>(m.model_dim)), &inputs);
  for (size_t r = 0; r < inputs.size(); ++r) {
    for (size_t first = 0; first < inputs[r].size(); first += m.per_layer_dim) {
      NormPart(m, tables.norm, 0, first, m.per_layer_dim, &inputs[r]);
    }
    const Row embedding = DecodedRow(tables.embedding, static_cast<size_t>(tokens[r]));
    for (size_t i = 0; i < embedding.size(); ++i) {
      inputs[r][i] = (inputs[r][i] + embedding[i] * std::sqrt(dim)) / std::sqrt(2.0);
    }
  }
  return inputs;
}

void AddPerLayer(const ModelPlan& m, const PerLayerWeights& w, size_t layer, const Rows& inputs, Rows* x) {
  Rows hidden = Product(w.gate, *x);
  for (size_t r = 0; r < hidden.size(); ++r) {
    for (size_t i = 0; i < m.per_layer_dim; ++i) {
      hidden[r][i] = Activated(Activation::kGeluTanh, hidden[r][i]) * inputs[r][layer * m.per_layer_dim + i];
    }
  }
  Add(Normed(m, w.norm, Product(w.projection, hidden)), x);
}

// keys: of the layers before, for those that share them.
Rows Mix(const ModelPlan& m, const LayerPlan& plan, const LayerWeights& w, Position start,
         std::vector<KeysAndValues>* keys, const Rows& input) {
  keys->emplace_back();
  if (plan.latent() != nullptr) return LatentAttention(m, *plan.latent(), *w.latent(), start, input);
  if (plan.delta() != nullptr) return Delta(m, *plan.delta(), *w.delta(), input);
  if (plan.channel_delta() != nullptr) {
    return ChannelDelta(m, *plan.channel_delta(), *w.channel_delta(), input);
  }
  if (plan.short_conv() != nullptr) return ShortConv(*plan.short_conv(), *w.short_conv(), input);
  if (plan.selective() != nullptr) return Selective(m, *plan.selective(), *w.selective(), input);
  if (plan.lru() != nullptr) return Lru(*plan.lru(), *w.lru(), input);
  if (plan.time_mix() != nullptr) return TimeMix(*plan.time_mix(), *w.time_mix(), input);
  Rows scanned;
  if (plan.scan() != nullptr) scanned = Scan(m, *plan.scan(), *w.scan(), input);
  const AttentionPlan* const attention = plan.attention();
  if (attention == nullptr) return scanned;
  keys->back() = attention->kv_source >= 0 ? (*keys)[static_cast<size_t>(attention->kv_source)]
                                           : MakeKeys(m, *attention, *w.attention(), nullptr, start, input);
  Rows mixed = Attention(m, *attention, *w.attention(), nullptr, start, input, keys->back());
  if (!scanned.empty()) Add(scanned, &mixed);
  return mixed;
}

void RunLayer(const ModelPlan& m, const LayerPlan& plan, const LayerWeights& w, Position start,
              std::vector<KeysAndValues>* keys, Rows* x) {
  const auto added = [&](const NormWeights& norm, Rows rows) {
    if (!norm.empty()) rows = Normed(m, norm, std::move(rows));
    Scale(static_cast<double>(m.residual_scale), &rows);
    return rows;
  };
  const bool has_pre_norm = plan.wiring != Wiring::kPostNormOnly;
  if (!plan.has_mixer()) {
    keys->emplace_back();
    Add(added(w.post_ffn_norm, FeedForward(m, plan, w, *x, Normed(m, w.attn_norm, *x))), x);
    return;
  }
  const Rows mixer_input = has_pre_norm ? Normed(m, w.attn_norm, *x) : *x;
  const Rows mixed = added(w.post_attn_norm, Mix(m, plan, w, start, keys, mixer_input));
  if (plan.wiring == Wiring::kParallel) {
    const Rows ffn_input = w.ffn_norm.empty() ? mixer_input : Normed(m, w.ffn_norm, *x);
    const Rows fed = added(w.post_ffn_norm, FeedForward(m, plan, w, *x, ffn_input));
    Add(mixed, x);
    Add(fed, x);
    return;
  }
  Add(mixed, x);
  if (!plan.has_feed_forward()) return;
  const Rows ffn_input = has_pre_norm ? Normed(m, w.ffn_norm, *x) : *x;
  Add(added(w.post_ffn_norm, FeedForward(m, plan, w, *x, ffn_input)), x);
}

// A scan that reads what the shared transformer makes of the row besides (zamba2).
void RunShared(const ModelPlan& m, const SharedPlan& plan, const LayerWeights& layer,
               const SharedWeights& source, Position start, const Rows& embedding, Rows* x) {
  const SharedWeights& w = *layer.shared();
  Rows both = *x;
  for (size_t r = 0; r < both.size(); ++r) {
    both[r].insert(both[r].end(), embedding[r].begin(), embedding[r].end());
    NormPart(m, source.norm, 0, 0, both[r].size(), &both[r]);
  }
  const LowRank* const adapters = plan.has_attention_adapters ? w.qkv.data() : nullptr;
  const KeysAndValues kv = MakeKeys(m, plan.attention, source.attention, adapters, start, both);
  const Rows read =
      Normed(m, source.ffn_norm, Attention(m, plan.attention, source.attention, adapters, start, both, kv));
  const Rows low = Product(w.gate_up.down, read);
  Rows hidden = Product(source.gate, read), up = Product(source.up, read);
  Add(Product(w.gate_up.up[0], low), &hidden);
  Add(Product(w.gate_up.up[1], low), &up);
  for (Row& row : hidden) {
    for (double& value : row) value = Activated(Activation::kGelu, value);
  }
  Multiply(up, &hidden);
  Rows scanned = Product(w.out, Product(source.down, hidden));
  Add(*x, &scanned);
  Add(Scan(m, plan.scan, w.scan, Normed(m, layer.attn_norm, scanned)), x);
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
      const Row position =
          DecodedRow(weights.position_embedding, static_cast<size_t>(start_position) + i + m.position_offset);
      for (size_t j = 0; j < row.size(); ++j) row[j] += position[j];
    }
    x.push_back(std::move(row));
  }
  if (m.has_embedding_norm) x = Normed(m, weights.embedding_norm, std::move(x));
  const Rows per_layer = m.per_layer_dim > 0 ? PerLayerInputs(m, weights.per_layer, tokens, x) : Rows();
  const Rows embedding = x;
  std::vector<KeysAndValues> keys;
  for (size_t layer = 0; layer < m.num_layers(); ++layer) {
    const LayerWeights& w = weights.layers[layer];
    if (const SharedPlan* shared = m.layers[layer].shared()) {
      keys.emplace_back();
      RunShared(m, *shared, w, *weights.layers[shared->source].shared(), start_position, embedding, &x);
    } else {
      RunLayer(m, m.layers[layer], w, start_position, &keys, &x);
    }
    if (m.per_layer_dim > 0) AddPerLayer(m, w.per_layer, layer, per_layer, &x);
    if (!w.output_scale.empty()) Scale(static_cast<double>(w.output_scale[0]), &x);
  }
  const Rows logits = Product(weights.output, Normed(m, weights.output_norm, std::move(x)));
  std::vector<double> result;
  for (const Row& row : logits) {
    for (const double unscaled : row) {
      const double value = unscaled * static_cast<double>(m.logit_scale);
      const double cap = static_cast<double>(m.final_soft_cap);
      result.push_back(cap > 0 ? cap * std::tanh(value / cap) : value);
    }
  }
  return result;
}

}  // namespace mneme
