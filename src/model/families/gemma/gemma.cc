// Gemma (arXiv 2403.08295), 2 (arXiv 2408.00118) and 3 (arXiv 2503.19786).
#include <cmath>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kGemma2Names[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"post_attention_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_norm", "layers.{}.pre_feedforward_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"post_ffw_norm", "layers.{}.post_feedforward_layernorm"},
};

constexpr std::string_view kGemmaName[] = {"gemma"};
constexpr std::string_view kGemma2Name[] = {"gemma2"};
constexpr std::string_view kGemma3Name[] = {"gemma3"};
constexpr std::string_view kGemma3Types[] = {"gemma3", "gemma3_text"};

void PlanGemma(const FamilyInput&, ModelPlan* plan) {
  SetActivation(Activation::kGeluTanh, plan);
  plan->embedding_scale = std::sqrt(static_cast<float>(plan->model_dim));
}

// The largest models of gemma 2 and 3 scale queries by the width per head instead of the head's own size.
// GGUF files do not say so; readers know it by the number of layers.
void UseGemmaScale(const FamilyInput& input, size_t layers_of_largest, ModelPlan* plan) {
  if (input.hyper.attention_scale) return;
  ForEachAttention(*plan, [&](AttentionPlan& attention) {
    double size = static_cast<double>(attention.key_dim);
    if (input.hyper.query_pre_attn_scalar) {
      size = *input.hyper.query_pre_attn_scalar;
      if (!(size > 0)) Fail(ErrorKind::kFile, "{}: query_pre_attn_scalar is {}", input.hyper.path, size);
    } else if (plan->num_layers() == layers_of_largest) {
      size = static_cast<double>(plan->model_dim / attention.num_heads);
    }
    attention.scale = static_cast<float>(1 / std::sqrt(size));
  });
}

void UsePostNorms(ModelPlan* plan) {
  for (LayerPlan& layer : plan->layers) layer.has_post_norms = true;
}

void PlanGemma2(const FamilyInput& input, ModelPlan* plan) {
  PlanGemma(input, plan);
  UsePostNorms(plan);
  UseGemmaScale(input, 46, plan);
  UseWindows(input, input.hyper.sliding_window.value_or(4096), input.hyper.window_pattern.value_or(2), plan);
}

void PlanGemma3(const FamilyInput& input, ModelPlan* plan) {
  PlanGemma(input, plan);
  UsePostNorms(plan);
  SetHeadNorm(HeadNorm::kPerHead, plan);
  UseGemmaScale(input, 62, plan);
  if (input.hyper.sliding_window.value_or(0) == 0) {
    Fail(ErrorKind::kFile, "{}: gemma3 without 'attention.sliding_window'", input.hyper.path);
  }
  UseWindows(input, *input.hyper.sliding_window, input.hyper.window_pattern.value_or(6), plan);
}

}  // namespace

extern constinit const Family kGemma = {
    .name = "gemma",
    .gguf_names = kGemmaName,
    .folder_types = kGemmaName,
    .plan = PlanGemma,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_norms_minus_one = true,
};

extern constinit const Family kGemma2 = {
    .name = "gemma2",
    .gguf_names = kGemma2Name,
    .folder_types = kGemma2Name,
    .plan = PlanGemma2,
    .folder_names = kGemma2Names,
    .folder_prefixes = kModelPrefixes,
    .folder_norms_minus_one = true,
};

extern constinit const Family kGemma3 = {
    .name = "gemma3",
    .gguf_names = kGemma3Name,
    .folder_types = kGemma3Types,
    .plan = PlanGemma3,
    .folder_names = kGemma2Names,
    .folder_prefixes = kModelPrefixes,
    .folder_norms_minus_one = true,
    .local_rope_base = 10000.0,
};

}  // namespace mneme
