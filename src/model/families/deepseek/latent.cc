#include "model/families/deepseek/latent.h"

#include <cmath>

#include "base/error.h"

namespace mneme {
namespace {

// GGUF has a tenth of mscale_all_dim.
constexpr std::string_view kLogMultiplier = "rope.scaling.yarn_log_multiplier";
constexpr double kTenth = 0.1;

double MscaleAllDim(const FamilyInput& input) {
  if (IsFolder(input)) return input.hyper.mscale_all_dim.value_or(0);
  return input.hyper.settings.Float(kLogMultiplier, "").value_or(0) / kTenth;
}

// YaRN's factor on the logits.
double LogitFactor(const FamilyInput& input) {
  const double factor = input.hyper.scaling_factor.value_or(1);
  const double all_dim = MscaleAllDim(input);
  if (!std::isfinite(all_dim) || !std::isfinite(factor)) {
    Fail(ErrorKind::kFile, "{}: a rope scaling by {} with mscale_all_dim {}", input.hyper.path, factor,
         all_dim);
  }
  if (input.hyper.scaling_type.empty() || factor <= 1) return 1;
  return std::pow(kTenth * all_dim * std::log(factor) + 1, 2);
}

uint64_t CheckedSize(const FamilyInput& input, uint64_t value, std::string_view what) {
  if (value == 0 || value > kMostLatentDim) {
    Fail(ErrorKind::kFile, "{}: the {} is {}, which must be between 1 and {}", input.hyper.path, what, value,
         kMostLatentDim);
  }
  return value;
}

// Sizes of a head; GGUF files say them of the whole head, and older ones in the place of what is kept.
void ReadHeads(const FamilyInput& input, size_t model_dim, size_t* rotated, LatentPlan* latent) {
  const Hyperparameters& hyper = input.hyper;
  const Settings& settings = hyper.settings;
  const uint64_t usual = model_dim / latent->attention.num_heads;
  uint64_t plain = 0, value = 0;
  if (IsFolder(input)) {
    *rotated = NeededSize(input, "", "qk_rope_head_dim", kMostLatentDim);
    plain = NeededSize(input, "", "qk_nope_head_dim", kMostLatentDim);
    value = settings.Uint("", "v_head_dim").value_or(usual);
  } else {
    *rotated = CheckedSize(input, hyper.rotary_dim.value_or(0), "number of rotated dimensions");
    const uint64_t query = settings.Uint("attention.key_length_mla", "").value_or(hyper.key_dim.value_or(0));
    plain = query > *rotated ? query - *rotated : 0;
    value = settings.Uint("attention.value_length_mla", "").value_or(hyper.value_dim.value_or(usual));
  }
  latent->plain_dim = CheckedSize(input, plain, "size of a query that is not rotated");
  latent->head_value_dim = CheckedSize(input, value, "size of a value");
}

LatentPlan ReadLatent(const FamilyInput& input, const ModelPlan& plan, const AttentionPlan& base,
                      bool has_query_rank) {
  LatentPlan latent{.attention = base};
  size_t rotated = 0;
  ReadHeads(input, plan.model_dim, &rotated, &latent);
  if (has_query_rank) {
    latent.query_rank = NeededSize(input, "attention.q_lora_rank", "q_lora_rank", kMostLatentDim);
  }
  AttentionPlan& attention = latent.attention;
  attention.num_kv_heads = 1;
  attention.value_dim = NeededSize(input, "attention.kv_lora_rank", "kv_lora_rank", kMostLatentDim);
  attention.key_dim = rotated + attention.value_dim;
  attention.rotation.dim = rotated;
  attention.scale =
      static_cast<float>(LogitFactor(input) / std::sqrt(static_cast<double>(latent.query_dim())));
  // With it GGUF says that nothing more is done to what is rotated.
  if (!IsFolder(input) && MscaleAllDim(input) != 0) {
    attention.rotation.magnitude = static_cast<float>(input.hyper.attention_factor.value_or(1));
  }
  return latent;
}

}  // namespace

void UseLatents(const FamilyInput& input, ModelPlan* plan) {
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    const AttentionPlan* const attention = plan->layers[layer].attention();
    if (attention == nullptr) continue;
    const bool has_query_rank = input.has_weight("attn_q_a", layer);
    plan->layers[layer].mixer = ReadLatent(input, *plan, AttentionPlan(*attention), has_query_rank);
  }
}

void WriteLatents(const ModelPlan& plan, Hyperparameters* hyper) {
  for (const LayerPlan& layer : plan.layers) {
    const LatentPlan* const latent = layer.latent();
    if (latent == nullptr) continue;
    Settings& settings = hyper->settings;
    settings.SetForGguf("attention.key_length_mla", static_cast<uint32_t>(latent->query_dim()));
    settings.SetForGguf("attention.value_length_mla", static_cast<uint32_t>(latent->head_value_dim));
    hyper->rotary_dim = latent->rotated_dim();
    hyper->attention_scale.reset();  // follows from the rest
    if (latent->attention.query_growth != 0) {
      settings.SetForGguf("attention.temperature_length",
                          static_cast<uint32_t>(latent->attention.query_growth_length));
    }
    if (hyper->mscale_all_dim.value_or(0) == 0) return;
    settings.SetForGguf(kLogMultiplier, static_cast<float>(kTenth * *hyper->mscale_all_dim));
    hyper->attention_factor.reset();
    if (plan.ropes.empty()) return;
    const double magnitude = static_cast<double>(plan.ropes[latent->attention.rope].magnitude);
    if (std::abs(magnitude - 1) > 1e-6) hyper->attention_factor = magnitude;
    return;
  }
}

}  // namespace mneme
