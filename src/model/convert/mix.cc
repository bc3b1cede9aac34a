#include "model/convert/mix.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "mneme/convert.h"

namespace mneme {
namespace {

constexpr Mix kMixes[] = {
    {"q2_k", Encoding::kQ2_K, 10},   {"q2_k_s", Encoding::kQ2_K, 21},   {"q3_k_s", Encoding::kQ3_K, 11},
    {"q3_k_m", Encoding::kQ3_K, 12}, {"q3_k_l", Encoding::kQ3_K, 13},   {"q4_k_s", Encoding::kQ4_K, 14},
    {"q4_k_m", Encoding::kQ4_K, 15}, {"q5_k_s", Encoding::kQ5_K, 16},   {"q5_k_m", Encoding::kQ5_K, 17},
    {"q6_k", Encoding::kQ6_K, 18},   {"iq4_nl", Encoding::kIQ4_NL, 25}, {"mxfp4_moe", Encoding::kMXFP4, 38},
};

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

int64_t LayerOf(std::string_view name) {
  constexpr std::string_view kBefore = "blk.";
  int64_t layer = 0;
  if (name.starts_with(kBefore))
    std::from_chars(name.data() + kBefore.size(), name.data() + name.size(), layer);
  return layer;
}

// The outer eighths, and every third between.
bool HasMoreBits(int64_t index, int64_t count) {
  return index < count / 8 || index >= 7 * count / 8 || (index - count / 8) % 3 == 2;
}

// Of attn_v and attn_qkv: `index` of `count` such matrices.
Encoding OfValues(const Mix& mix, const MixModel& model, int64_t index, int64_t count) {
  Encoding encoding = mix.base;
  const bool is_shared = model.heads_per_kv_head >= 4;
  if (mix.name == "q2_k") encoding = is_shared ? Encoding::kQ4_K : Encoding::kQ3_K;
  if (mix.name == "q2_k_s" && is_shared) encoding = Encoding::kQ4_K;
  if (mix.name == "q3_k_m") encoding = index < 2 ? Encoding::kQ5_K : Encoding::kQ4_K;
  if (mix.name == "q3_k_l") encoding = Encoding::kQ5_K;
  if (mix.name == "q4_k_s" && index < 4) encoding = Encoding::kQ5_K;
  if ((mix.name == "q4_k_m" || mix.name == "q5_k_m") && HasMoreBits(index, count)) encoding = Encoding::kQ6_K;
  if (mix.name == "iq4_nl" && is_shared) encoding = Encoding::kQ5_K;
  // The 70B models, whose eight query heads share one of values.
  const bool is_70b = model.num_layers == 80 && (model.family == "llama" || model.family == "qwen2");
  if (is_70b && (encoding == Encoding::kQ3_K || encoding == Encoding::kQ4_K)) encoding = Encoding::kQ5_K;
  return model.num_experts == 8 ? Encoding::kQ8_0 : encoding;
}

Encoding OfFfnDown(const Mix& mix, const MixModel& model, int64_t layer) {
  const int64_t count = model.num_layers;
  const bool is_falcon = model.family == "falcon";
  const bool has_more = HasMoreBits(layer, count);
  if (mix.name == "q2_k") return Encoding::kQ3_K;
  if (mix.name == "q2_k_s" && layer < count / 8) return Encoding::kQ4_K;
  if (mix.name == "q3_k_m") {
    if (layer < count / 16) return Encoding::kQ5_K;
    return !is_falcon || has_more ? Encoding::kQ4_K : Encoding::kQ3_K;
  }
  if (mix.name == "q3_k_l") return is_falcon ? Encoding::kQ4_K : Encoding::kQ5_K;
  if (mix.name == "q4_k_m" && is_falcon) {
    return layer < count / 16 ? Encoding::kQ6_K : has_more ? Encoding::kQ5_K : Encoding::kQ4_K;
  }
  if ((mix.name == "q4_k_m" || mix.name == "q5_k_m") && has_more) return Encoding::kQ6_K;
  const bool is_early = layer < count / 8;
  if (is_early && (mix.name == "iq4_nl" || (mix.name == "q4_k_s" && !is_falcon))) return Encoding::kQ5_K;
  return mix.base;
}

Encoding OfAttentionOutput(const Mix& mix, const MixModel& model) {
  if (model.family == "falcon") return mix.name == "q3_k_l" ? Encoding::kQ4_K : mix.base;
  if (model.num_experts == 8) {
    const bool has_more = mix.name == "q2_k" || mix.name == "q3_k_s" || mix.name == "q3_k_m" ||
                          mix.name == "q4_k_s" || mix.name == "q4_k_m" || mix.name == "iq4_nl";
    return has_more ? Encoding::kQ5_K : mix.base;
  }
  if (mix.name == "q2_k") return Encoding::kQ3_K;
  if (mix.name == "q3_k_m") return Encoding::kQ4_K;
  if (mix.name == "q3_k_l") return Encoding::kQ5_K;
  return mix.base;
}

// The encoding of blocks of 32 that takes the place of one of 256.
Encoding InSmallBlocks(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ2_K:
    case Encoding::kQ3_K:
      return Encoding::kQ4_0;
    case Encoding::kQ4_K:
      return Encoding::kQ5_0;
    case Encoding::kQ5_K:
      return Encoding::kQ5_1;
    case Encoding::kQ6_K:
      return Encoding::kQ8_0;
    default:
      return encoding;
  }
}

Encoding Wanted(const Mix& mix, const MixModel& model, std::string_view name, size_t num_cols,
                size_t num_matrices) {
  const bool is_embedding = name == "token_embd.weight" || name == "per_layer_token_embd.weight";
  if (name == "output.weight" || (is_embedding && !model.has_output)) {
    if (mix.base == Encoding::kMXFP4 || model.family == "falcon") return Encoding::kQ8_0;
    return num_cols % EncodingBlockValues(mix.base) != 0 ? Encoding::kQ8_0 : Encoding::kQ6_K;
  }
  if (mix.base == Encoding::kMXFP4) return num_matrices > 1 ? Encoding::kMXFP4 : Encoding::kQ8_0;
  if (is_embedding) return mix.base;
  const int64_t layer = LayerOf(name);
  if (Contains(name, "attn_v.weight") || Contains(name, "attn_qkv.weight")) {
    const auto& layers = model.with_values;
    const auto place = std::lower_bound(layers.begin(), layers.end(), layer) - layers.begin();
    return OfValues(mix, model, place, static_cast<int64_t>(layers.size()));
  }
  if (Contains(name, "attn_k.weight")) return model.num_experts == 8 ? Encoding::kQ8_0 : mix.base;
  if (Contains(name, "attn_output.weight")) return OfAttentionOutput(mix, model);
  if (Contains(name, "ffn_down")) return OfFfnDown(mix, model, layer);
  return mix.base;
}

}  // namespace

const Mix* FindMix(std::string_view name) {
  for (const Mix& mix : kMixes) {
    const bool is_same =
        std::equal(mix.name.begin(), mix.name.end(), name.begin(), name.end(),
                   [](char a, char b) { return a == std::tolower(static_cast<unsigned char>(b)); });
    if (is_same) return &mix;
  }
  return nullptr;
}

std::vector<std::string_view> MixNames() {
  std::vector<std::string_view> names;
  for (const Mix& mix : kMixes) names.push_back(mix.name);
  return names;
}

Encoding EncodingInMix(const Mix& mix, const MixModel& model, std::string_view name, size_t num_cols,
                       size_t num_matrices) {
  // A small matrix of Gemma that is not worth rounding.
  if (Contains(name, "per_layer_model_proj")) return Encoding::kF16;
  Encoding encoding = Wanted(mix, model, name, num_cols, num_matrices);
  if (num_cols % EncodingBlockValues(encoding) != 0) encoding = InSmallBlocks(encoding);
  return num_cols % EncodingBlockValues(encoding) == 0 ? encoding : Encoding::kF16;
}

}  // namespace mneme
