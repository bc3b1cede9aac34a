// TensorMap: what blocks of one kind find, of latent attention, xIELU and the delta rule.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"
#include "model/tensors/tensor_map.h"

namespace mneme {

LatentRows TensorMap::FindLatent(const LatentPlan& plan, int layer) {
  const size_t num_heads = plan.attention.num_heads, rank = plan.rank();
  LatentRows rows;
  if (Raw("attn_k_b", "weight", layer) != nullptr) {
    for (size_t head = 0; head < num_heads; ++head) {
      rows.keys.push_back(FindExpert("attn_k_b", layer, head, num_heads, rank, plan.plain_dim));
      rows.values.push_back(FindExpert("attn_v_b", layer, head, num_heads, plan.head_value_dim, rank));
    }
    return rows;
  }
  const size_t of_head = plan.plain_dim + plan.head_value_dim;
  const MatrixRows both = *Find("attn_kv_b", layer, num_heads * of_head, rank, true);
  for (size_t head = 0; head < num_heads; ++head) {
    rows.keys.push_back(Transposed(Select(both, {{head * of_head, plan.plain_dim}})));
    rows.values.push_back(Select(both, {{head * of_head + plan.plain_dim, plan.head_value_dim}}));
  }
  return rows;
}

std::array<float, 4> TensorMap::FindXielu(int layer) {
  std::array<float, 4> numbers = {};
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (source_.gguf() == nullptr) {
      numbers[i] = FindVector(kXieluNames[i], "", layer, 1, true)[0];
      continue;
    }
    const std::string key(kXieluNames[i]);
    const GgufValue* const value = source_.gguf()->FindValue(key);
    std::vector<float> all;
    if (value != nullptr && value->type == GgufType::kArray) {
      all = *source_.gguf()->GetFloatArray(key);
    } else if (const auto one = source_.gguf()->GetFloat(key)) {
      all.assign(plan_.num_layers(), static_cast<float>(*one));
    }
    if (static_cast<size_t>(layer) >= all.size()) {
      Fail(ErrorKind::kFile, "{}: '{}' has {} numbers for {} layers", source_.path(), key, all.size(),
           plan_.num_layers());
    }
    numbers[i] = all[static_cast<size_t>(layer)];
  }
  return numbers;
}

MatrixRows TensorMap::FindDeltaParts(const RecurShape& shape, int layer) {
  const bool is_cut = Raw("ssm_q", "weight", layer) != nullptr;
  if (!is_cut) return *Find("attn_qkv", layer, shape.num_channels(), plan_.model_dim, true);
  MatrixRows all = *Find("ssm_q", layer, shape.key_channels(), plan_.model_dim, true);
  for (const char* name : {"ssm_k", "ssm_v"}) {
    const bool is_key = name == std::string_view("ssm_k");
    const size_t num_rows = is_key ? shape.key_channels() : shape.value_channels();
    const MatrixRows part = *Find(name, layer, num_rows, plan_.model_dim, true);
    if (part.encoding != all.encoding) {
      Fail(ErrorKind::kUnsupported, "{}: '{}' and '{}' are stored differently and cannot be joined",
           source_.path(), all.name, part.name);
    }
    all.num_rows += part.num_rows;
    all.runs.insert(all.runs.end(), part.runs.begin(), part.runs.end());
  }
  return all;
}

std::vector<float> TensorMap::FindDeltaConvolution(const RecurShape& shape, int layer) {
  const size_t count = shape.num_channels() * shape.conv_width;
  if (Raw("ssm_conv1d_q", "weight", layer) == nullptr) {
    return FindVector("ssm_conv1d", "weight", layer, count, true);
  }
  std::vector<float> taps;
  for (const char* name : {"ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v"}) {
    const TensorInfo* const tensor = Raw(name, "weight", layer);
    const size_t part = tensor == nullptr ? 0 : static_cast<size_t>(tensor->num_values());
    const std::vector<float> values = FindVector(name, "weight", layer, part, true);
    taps.insert(taps.end(), values.begin(), values.end());
  }
  if (taps.size() != count) {
    Fail(ErrorKind::kFile,
         "{}: the convolutions of layer {} have {} values, but the model's settings demand {}",
         source_.path(), layer, taps.size(), count);
  }
  return taps;
}

DeltaRows TensorMap::FindDelta(const DeltaPlan& plan, int layer) {
  const RecurShape& shape = plan.shape;
  const size_t model_dim = plan_.model_dim;
  const size_t heads = shape.num_value_heads, values = shape.value_channels(), keys = shape.key_channels();
  DeltaRows rows;
  if (const auto fused = Find("ssm_in", layer, 2 * keys + 2 * values, model_dim, false)) {
    // For each key head its query, its key, the values and the gates of its value heads (Qwen3-Next).
    const size_t group = values / shape.num_key_heads;
    std::vector<Part> parts[4];
    for (size_t head = 0; head < shape.num_key_heads; ++head) {
      const size_t first = head * 2 * (shape.key_dim + group);
      parts[0].push_back({first, shape.key_dim});
      parts[1].push_back({first + shape.key_dim, shape.key_dim});
      parts[2].push_back({first + 2 * shape.key_dim, group});
      parts[3].push_back({first + 2 * shape.key_dim + group, group});
    }
    std::vector<Part> qkv;
    for (int i = 0; i < 3; ++i) qkv.insert(qkv.end(), parts[i].begin(), parts[i].end());
    rows.qkv = Select(*fused, qkv);
    rows.gate = Select(*fused, parts[3]);
  } else {
    rows.qkv = FindDeltaParts(shape, layer);
    rows.gate = *Find("attn_gate", layer, values, model_dim, true);
  }
  if (const auto both = Find("ssm_ba", layer, 2 * heads, model_dim, false)) {
    const size_t group = heads / shape.num_key_heads;
    std::vector<Part> beta, alpha;
    for (size_t head = 0; head < shape.num_key_heads; ++head) {
      beta.push_back({2 * head * group, group});
      alpha.push_back({(2 * head + 1) * group, group});
    }
    rows.beta = Select(*both, beta);
    rows.alpha = Select(*both, alpha);
  } else {
    rows.beta = *Find("ssm_beta", layer, heads, model_dim, true);
    rows.alpha = *Find("ssm_alpha", layer, heads, model_dim, true);
  }
  rows.out = *Find("ssm_out", layer, model_dim, values, true);
  rows.convolution = FindDeltaConvolution(shape, layer);
  rows.step_bias = FindVector("ssm_dt", "bias", layer, heads, true);
  rows.rate = FindPerHead("ssm_a", layer, heads, /*is_rate=*/true);
  rows.norm = FindVector("ssm_norm", "weight", layer, shape.value_dim, true);
  return rows;
}

}  // namespace mneme
