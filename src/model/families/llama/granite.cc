// Granite 3, dense and with experts: Llama with four multipliers.
#include <cmath>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"granite"};
constexpr std::string_view kMoeGguf[] = {"granitemoe"};
constexpr std::string_view kMoeType[] = {"granitemoe"};
constexpr TensorName kMoeNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate_inp", "layers.{}.block_sparse_moe.router.layer"},
    {"ffn_gate_up_exps", "layers.{}.block_sparse_moe.input_linear"},
    {"ffn_down_exps", "layers.{}.block_sparse_moe.output_linear"},
};

float Multiplier(const FamilyInput& input, std::string_view gguf, std::string_view json) {
  const double value = input.hyper.settings.Float(gguf, json).value_or(1);
  if (!(value > 0) || !std::isfinite(value)) {
    Fail(ErrorKind::kFile, "{}: {} is {}, which must be positive", input.hyper.path, json, value);
  }
  return static_cast<float>(value);
}

void PlanGranite(const FamilyInput& input, ModelPlan* plan) {
  plan->embedding_scale = Multiplier(input, "embedding_scale", "embedding_multiplier");
  plan->residual_scale = Multiplier(input, "residual_scale", "residual_multiplier");
  plan->logit_scale = 1.0f / Multiplier(input, "logit_scale", "logits_scaling");
  const auto scale = input.hyper.settings.Float("attention.scale", "attention_multiplier");
  if (scale) {
    ForEachAttention(*plan, [&](AttentionPlan& attention) { attention.scale = static_cast<float>(*scale); });
  }
}

void PlanGraniteMoe(const FamilyInput& input, ModelPlan* plan) {
  PlanGranite(input, plan);
  UseExperts(input, /*renormalise=*/false, plan);
  SetRouterScore(RouterScore::kSoftmaxChosen, plan);
}

}  // namespace

extern constinit const Family kGranite = {
    .name = "granite",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanGranite,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

extern constinit const Family kGraniteMoe = {
    .name = "granitemoe",
    .gguf_names = kMoeGguf,
    .folder_types = kMoeType,
    .plan = PlanGraniteMoe,
    .folder_names = kMoeNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

}  // namespace mneme
