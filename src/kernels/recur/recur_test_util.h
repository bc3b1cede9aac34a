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
    normal(skip, shape.num_value_heads, 1);
    normal(x, num_tokens * shape.num_channels(), 1);
    if (!shape.has_state()) return;
    for (size_t i = 0; i < num_tokens * shape.num_value_heads; ++i) {
      // Most tokens forget little, some nearly all.
      const double forgets = random.Uniform() < 0.05 ? 20 : 0.2;
      log_decay.push_back(static_cast<float>(-forgets * random.Uniform()));
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
    if (shape.rule == RecurRule::kScan) call.skip = skip.data();
    call.log_decay = log_decay.data() + first * shape.num_value_heads;
    call.beta = beta.data() + first * shape.num_value_heads;
    return call;
  }

  const RecurShape shape;
  size_t num_tokens;
  std::vector<float> conv_weight, conv_bias, skip, x, log_decay, beta;
};

}  // namespace mneme::testing
