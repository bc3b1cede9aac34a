// ERNIE 4.5, dense and with experts.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"ernie4_5"};
constexpr std::string_view kType[] = {"ernie4_5"};
constexpr std::string_view kMoeGguf[] = {"ernie4_5-moe"};
constexpr std::string_view kMoeType[] = {"ernie4_5_moe"};
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
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"ffn_gate_inp", "layers.{}.mlp.gate"},
    {"exp_probs_b.bias", "layers.{}.mlp.moe_statics.e_score_correction_bias"},
    {"ffn_gate_exps", "layers.{}.mlp.experts.*.gate_proj"},
    {"ffn_up_exps", "layers.{}.mlp.experts.*.up_proj"},
    {"ffn_down_exps", "layers.{}.mlp.experts.*.down_proj"},
    {"ffn_gate_shexp", "layers.{}.mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "layers.{}.mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "layers.{}.mlp.shared_experts.down_proj"},
};

void PlanErnie(const FamilyInput&, ModelPlan*) {}

void PlanErnieMoe(const FamilyInput& input, ModelPlan* plan) {
  UseExperts(input, /*renormalise=*/true, plan);
  UseSharedExperts(input, plan);
}

}  // namespace

extern constinit const Family kErnie = {
    .name = "ernie4_5",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanErnie,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
};

extern constinit const Family kErnieMoe = {
    .name = "ernie4_5-moe",
    .gguf_names = kMoeGguf,
    .folder_types = kMoeType,
    .plan = PlanErnieMoe,
    .folder_names = kMoeNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
};

}  // namespace mneme
