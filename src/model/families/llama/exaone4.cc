// EXAONE 4 (arXiv 2507.11407): norms only after each part; the large model has windows, and no positions in
// the layers that see everything.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"exaone4"};
constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"post_attention_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"post_ffw_norm", "layers.{}.post_feedforward_layernorm"},
};

void PlanExaone4(const FamilyInput& input, ModelPlan* plan) {
  SetWiring(Wiring::kPostNormOnly, plan);
  SetHeadNorm(HeadNorm::kPerHead, plan);
  if (input.hyper.sliding_window.value_or(0) == 0) return;
  UseWindows(input, *input.hyper.sliding_window, input.hyper.window_pattern.value_or(4), plan);
  ForEachAttention(*plan,
                   [](AttentionPlan& attention) { attention.rotation.is_none = attention.window == 0; });
}

}  // namespace

extern constinit const Family kExaone4 = {
    .name = "exaone4",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanExaone4,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
};

}  // namespace mneme
