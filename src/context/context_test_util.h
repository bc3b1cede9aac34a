// What the tests of contexts share: a random stream of one layer, and attention from the definition: for
// every query a list of (token, distance) pairs made the way the papers describe it, and one softmax in
// double precision. Knows neither policies nor blocks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/testing.h"
#include "context/context.h"

namespace mneme::testing {

struct Seen {
  int64_t token;
  int64_t distance;
};
using Rule = std::function<std::vector<Seen>(int64_t index)>;

inline Rope MakeRope(size_t rotary_dim, double base, RopeLayout layout) {
  Rope rope{.layout = layout, .rotary_dim = rotary_dim, .frequencies = {}, .magnitude = 1.0f};
  for (size_t f = 0; f < rotary_dim / 2; ++f) {
    rope.frequencies.push_back(
        std::pow(base, -2.0 * static_cast<double>(f) / static_cast<double>(rotary_dim)));
  }
  return rope;
}

enum class Positions { kRopeHalves, kRopeInterleavedPartial, kAlibi };

inline ContextShape MakeShape(Positions positions, size_t num_layers = 1) {
  LayerAttention layer;
  layer.num_heads = 6;
  layer.num_kv_heads = 2;
  layer.key_dim = 16;
  layer.value_dim = 16;
  layer.scale = 0.25f;
  switch (positions) {
    case Positions::kRopeHalves:
      layer.rope = MakeRope(16, 1000, RopeLayout::kHalves);
      break;
    case Positions::kRopeInterleavedPartial:
      layer.rope = MakeRope(8, 10000, RopeLayout::kInterleaved);
      break;
    case Positions::kAlibi:
      for (size_t h = 0; h < layer.num_heads; ++h)
        layer.alibi_slopes.push_back(0.3f / static_cast<float>(h + 1));
      break;
  }
  ContextShape shape;
  shape.trained_length = 256;
  shape.layers.assign(num_layers, layer);
  return shape;
}

// A random stream of q, k and v for one layer.
struct Stream {
  Stream(const LayerAttention& layer, int64_t num_tokens, uint64_t seed) : layer(layer) {
    Random random(seed);
    const auto fill = [&](std::vector<float>& values, size_t per_token) {
      values.resize(per_token * static_cast<size_t>(num_tokens));
      for (float& value : values) value = static_cast<float>(random.Normal());
    };
    fill(q, layer.num_heads * layer.key_dim);
    fill(k, layer.num_kv_heads * layer.key_dim);
    fill(v, layer.num_kv_heads * layer.value_dim);
  }
  const float* Q(int64_t token) const {
    return q.data() + static_cast<size_t>(token) * layer.num_heads * layer.key_dim;
  }
  const float* K(int64_t token) const {
    return k.data() + static_cast<size_t>(token) * layer.num_kv_heads * layer.key_dim;
  }
  const float* V(int64_t token) const {
    return v.data() + static_cast<size_t>(token) * layer.num_kv_heads * layer.value_dim;
  }
  const LayerAttention& layer;
  std::vector<float> q, k, v;
};

// <R(distance) q, k> from the definition of rotary embedding.
inline double RotatedDot(const Rope& rope, const float* q, const float* k, size_t dim, int64_t distance) {
  double sum = 0;
  const size_t half = rope.rotary_dim / 2;
  for (size_t f = 0; f < half; ++f) {
    const size_t a = rope.layout == RopeLayout::kHalves ? f : 2 * f;
    const size_t b = rope.layout == RopeLayout::kHalves ? f + half : 2 * f + 1;
    const double angle = static_cast<double>(distance) * rope.frequencies[f];
    const double c = std::cos(angle), s = std::sin(angle);
    sum += (q[a] * c - q[b] * s) * k[a] + (q[a] * s + q[b] * c) * k[b];
  }
  for (size_t d = rope.rotary_dim; d < dim; ++d) sum += static_cast<double>(q[d]) * k[d];
  return sum;
}

inline double Logit(const Stream& stream, int64_t index, size_t head, Seen seen) {
  const LayerAttention& layer = stream.layer;
  const size_t kv_head = head / (layer.num_heads / layer.num_kv_heads);
  double logit =
      layer.scale * RotatedDot(layer.rope, stream.Q(index) + head * layer.key_dim,
                               stream.K(seen.token) + kv_head * layer.key_dim, layer.key_dim, seen.distance);
  if (layer.soft_cap > 0) logit = layer.soft_cap * std::tanh(logit / layer.soft_cap);
  if (!layer.alibi_slopes.empty()) logit -= layer.alibi_slopes[head] * static_cast<double>(seen.distance);
  return logit;
}

inline std::vector<double> BruteForce(const Stream& stream, int64_t index, const Rule& rule,
                                      int64_t top_k = 0, const Rule& middle = nullptr) {
  const LayerAttention& layer = stream.layer;
  std::vector<double> out(layer.num_heads * layer.value_dim);
  for (size_t head = 0; head < layer.num_heads; ++head) {
    std::vector<Seen> keys = rule(index);
    if (layer.layer_window > 0 && !layer.is_chunked)
      std::erase_if(keys, [&](Seen seen) { return seen.distance >= layer.layer_window; });
    if (top_k > 0) {
      std::vector<Seen> candidates = middle(index);
      std::stable_sort(candidates.begin(), candidates.end(), [&](Seen a, Seen b) {
        return Logit(stream, index, head, a) > Logit(stream, index, head, b);
      });
      candidates.resize(std::min<size_t>(candidates.size(), static_cast<size_t>(top_k)));
      keys.insert(keys.end(), candidates.begin(), candidates.end());
    }
    std::vector<double> logits;
    double peak = -INFINITY;
    for (const Seen& seen : keys) {
      logits.push_back(Logit(stream, index, head, seen));
      peak = std::max(peak, logits.back());
    }
    double sum = 0;
    if (!layer.sink_logits.empty()) {
      peak = std::max(peak, static_cast<double>(layer.sink_logits[head]));
      sum = std::exp(layer.sink_logits[head] - peak);
    }
    const size_t kv_head = head / (layer.num_heads / layer.num_kv_heads);
    for (size_t i = 0; i < keys.size(); ++i) {
      const double weight = std::exp(logits[i] - peak);
      sum += weight;
      const float* value = stream.V(keys[i].token) + kv_head * layer.value_dim;
      for (size_t d = 0; d < layer.value_dim; ++d) out[head * layer.value_dim + d] += weight * value[d];
    }
    for (size_t d = 0; d < layer.value_dim; ++d) out[head * layer.value_dim + d] /= sum;
  }
  return out;
}

// Ids of tokens [begin, begin + count) of a stream.
inline std::vector<TokenId> TestIds(int64_t begin, int64_t count) {
  std::vector<TokenId> ids;
  for (int64_t index = begin; index < begin + count; ++index) {
    ids.push_back(static_cast<TokenId>(index * 7 % 1000));
  }
  return ids;
}

// One layer of a chunk that has begun, as the runner does it.
inline void AttendLayer(Context& context, size_t layer, const float* q, const float* k, const float* v,
                        float* out, Device& device) {
  const AttendCall call = context.Plan(layer, q, k, v, out);
  const KvLayout& layout = call.shape.layout;
  const DeviceMemory scratch =
      device.Allocate(AttendScratchBytes(call.shape.num_rows, call.shape.num_heads, layout.key_dim,
                                         layout.value_dim, device.num_threads()),
                      DeviceMemoryUse::kWork);
  device.Attend({&call, 1}, static_cast<uint8_t*>(scratch.get()));
  context.Finish(layer, device);
}

// Feeds tokens [from, to) in chunks and returns the outputs, row after row.
inline std::vector<float> FeedTokens(Context& context, const Stream& stream, int64_t from, int64_t to,
                                     int64_t chunk, Device& device, size_t num_layers = 1) {
  const size_t row_values = stream.layer.num_heads * stream.layer.value_dim;
  std::vector<float> out(static_cast<size_t>(to - from) * row_values);
  for (int64_t begin = from; begin < to; begin += chunk) {
    const int64_t count = std::min(chunk, to - begin);
    context.Begin(TestIds(begin, count));
    for (size_t layer = 0; layer < num_layers; ++layer) {
      AttendLayer(context, layer, stream.Q(begin), stream.K(begin), stream.V(begin),
                  out.data() + static_cast<size_t>(begin - from) * row_values, device);
    }
    context.Commit();
  }
  return out;
}

inline Rule XlRule(int64_t segment, int64_t previous) {
  return [=](int64_t index) {
    std::vector<Seen> seen;
    for (int64_t j = 0; j <= index; ++j) {
      if (index / segment - j / segment <= previous) seen.push_back({j, index - j});
    }
    return seen;
  };
}

inline std::string StateOf(const Context& context) {
  BufferWriter writer;
  context.Save(writer);
  return writer.buffer();
}

// Small: chunks of 64, 20 tokens to take back.
inline ContextSettings Settings(const char* spec, Encoding encoding = Encoding::kF32) {
  ContextSettings settings;
  settings.spec = spec;
  settings.key_encoding = settings.value_encoding = encoding;
  settings.max_chunk = 64;
  settings.max_rewind = 20;
  return settings;
}

}  // namespace mneme::testing
