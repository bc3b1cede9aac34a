// What the tests of recurrences share: random rows of a stream in one layer, and shapes that differ in every
// respect.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/random.h"
#include "kernels/recur/recur.h"

namespace mneme::testing {

inline RecurShape DeltaShape() {  // Qwen3-Next, small
  return {.rule = RecurRule::kDelta,
          .num_key_heads = 2,
          .num_value_heads = 4,
          .key_dim = 16,
          .value_dim = 16,
          .query_scale = 0.25f};
}

inline RecurShape ChannelShape() {  // Kimi Linear, small
  return {.rule = RecurRule::kDelta,
          .num_key_heads = 3,
          .num_value_heads = 3,
          .key_dim = 16,
          .value_dim = 16,
          .decays_by_channel = true,
          .query_scale = 0.25f};
}

inline RecurShape ScanShape() {  // Mamba 2, small
  return {.rule = RecurRule::kScan,
          .num_key_heads = 1,
          .num_value_heads = 3,
          .key_dim = 12,
          .value_dim = 8,
          .has_values_first = true,
          .normalises = false};
}

inline RecurShape ConvolutionShape() {  // LFM2, small
  return {.rule = RecurRule::kConvolution,
          .num_value_heads = 2,
          .value_dim = 21,
          .conv_width = 3,
          .conv_activates = false};
}

inline RecurShape SelectiveShape() {  // Mamba, small: a panel that is not full
  return {.rule = RecurRule::kDiagonal,
          .num_key_heads = 1,
          .num_value_heads = 2,
          .key_dim = 5,
          .value_dim = 21,
          .conv_width = 1};
}

inline RecurShape LruShape() {  // RecurrentGemma, small
  return {.rule = RecurRule::kDiagonal, .num_value_heads = 1, .key_dim = 1, .value_dim = 70, .conv_width = 1};
}

inline RecurShape WkvShape() {  // RWKV-4, small
  return {.rule = RecurRule::kWkv, .num_value_heads = 3, .value_dim = 7, .conv_width = 1};
}

// The weights of a layer, and the rows of a stream of `num_tokens` tokens.
struct RecurData {
  RecurData(const RecurShape& shape, size_t num_tokens, uint64_t seed)
      : shape(shape), num_tokens(num_tokens) {
    Random random(seed);
    const auto normal = [&random](std::vector<float>& values, size_t count, double size) {
      values.resize(count);
      for (float& value : values) value = static_cast<float>(size * random.Normal());
    };
    normal(conv_weight, shape.conv_width * shape.num_channels(), 0.5);
    normal(conv_bias, shape.num_channels(), 0.2);
    normal(skip, shape.is_stepped() ? shape.value_channels() : shape.num_value_heads, 1);
    normal(x, num_tokens * shape.num_channels(), 1);
    if (!shape.has_state()) return;
    if (shape.is_stepped()) {
      const bool is_wkv = shape.rule == RecurRule::kWkv;
      std::vector<float> values;
      normal(values, shape.value_channels() * (is_wkv ? 1 : shape.key_dim), 1);
      for (float& value : values) value = std::abs(value) * (is_wkv ? 0.1f : 1.0f);
      rate = ByPanels(shape, is_wkv ? 1 : shape.key_dim, values);
      normal(values, shape.value_channels(), 1);
      boost = ByPanels(shape, 1, values);
      normal(keys, num_tokens * shape.key_channels(), 1);
      normal(queries, num_tokens * shape.key_channels(), 1);
      if (is_wkv) {
        normal(beta, num_tokens * shape.num_gates(), 3);
        return;
      }
    }
    const size_t per_gate = shape.num_decays() / shape.num_gates();
    for (size_t i = 0; i < num_tokens * shape.num_gates(); ++i) {
      for (size_t decay = 0; decay < per_gate; ++decay) {
        // Most tokens forget little, some nearly all.
        const double forgets = random.Uniform() < 0.05 ? 20 : 0.2;
        log_decay.push_back(static_cast<float>(-forgets * random.Uniform()));
      }
      beta.push_back(static_cast<float>(random.Uniform()));
    }
  }

  // Rows [first, first + count), without a stream.
  RecurCall Rows(size_t first, size_t count, float* out) const {
    RecurCall call{.shape = &shape, .conv_weight = conv_weight.data(), .conv_bias = conv_bias.data()};
    call.num_rows = count;
    call.x = x.data() + first * shape.num_channels();
    call.out = out;
    call.stream.first_index = static_cast<int64_t>(first);
    if (!shape.has_state()) return call;
    if (shape.rule != RecurRule::kDelta && shape.num_key_heads > 0) call.skip = skip.data();
    call.beta = beta.data() + first * shape.num_gates();
    if (!log_decay.empty()) call.log_decay = log_decay.data() + first * shape.num_decays();
    if (!shape.is_stepped()) return call;
    const bool has_keys = shape.num_key_heads > 0;
    if (has_keys) call.keys = keys.data() + first * shape.key_dim;
    if (has_keys) call.queries = queries.data() + first * shape.key_dim;
    if (has_keys || shape.rule == RecurRule::kWkv) call.rate = rate.data();
    call.boost = boost.data();
    return call;
  }

  const RecurShape shape;
  size_t num_tokens;
  std::vector<float> conv_weight, conv_bias, skip, x, log_decay, beta, keys, queries, rate, boost;
};

}  // namespace mneme::testing
