// GLM-4 (arXiv 2406.12793): norms before and after each part; and GLM-4.5, with experts (arXiv 2508.06471).
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kGlm4Names[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"post_attention_norm", "layers.{}.post_self_attn_layernorm"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_up", "layers.{}.mlp.gate_up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"post_ffw_norm", "layers.{}.post_mlp_layernorm"},
};
constexpr TensorName kMoeNames[] = {
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
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"ffn_gate_inp", "layers.{}.mlp.gate"},
    {"exp_probs_b.bias", "layers.{}.mlp.gate.e_score_correction_bias"},
    {"ffn_gate_exps", "layers.{}.mlp.experts.*.gate_proj"},
    {"ffn_up_exps", "layers.{}.mlp.experts.*.up_proj"},
    {"ffn_down_exps", "layers.{}.mlp.experts.*.down_proj"},
    {"ffn_gate_shexp", "layers.{}.mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "layers.{}.mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "layers.{}.mlp.shared_experts.down_proj"},
};
constexpr TensorName kMoeGgufTensors[] = {{"ffn_norm", "post_attention_norm"}};
constexpr std::string_view kGlm4Name[] = {"glm4"};
constexpr std::string_view kMoeGguf[] = {"glm4moe"};
constexpr std::string_view kMoeType[] = {"glm4_moe"};

void PlanGlm4(const FamilyInput&, ModelPlan* plan) {
  for (LayerPlan& layer : plan->layers) layer.has_post_norms = true;
}

void PlanGlm4Moe(const FamilyInput& input, ModelPlan* plan) {
  const bool says_norms = input.hyper.settings.Bool("", "use_qk_norm").value_or(false);
  if (says_norms || input.has_weight("attn_q_norm", 0)) SetHeadNorm(HeadNorm::kPerHead, plan);
  UseExperts(input, /*renormalise=*/true, plan);
  SetRouterScore(RouterScore::kSigmoid, plan);
  UseSharedExperts(input, plan);
}

}  // namespace

extern constinit const Family kGlm4 = {
    .name = "glm4",
    .gguf_names = kGlm4Name,
    .folder_types = kGlm4Name,
    .plan = PlanGlm4,
    .folder_names = kGlm4Names,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.5,
    .gguf_fused_gate_up = true,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
};

extern constinit const Family kGlm4Moe = {
    .name = "glm4moe",
    .gguf_names = kMoeGguf,
    .folder_types = kMoeType,
    .plan = PlanGlm4Moe,
    .folder_names = kMoeNames,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.5,
    .gguf_tensors = kMoeGgufTensors,
    .for_gguf = WriteExperts,
};

}  // namespace mneme
