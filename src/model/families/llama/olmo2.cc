// OLMo 2 (arXiv 2501.00656) and 3.
#include "model/families/family.h"

namespace mneme {
namespace {

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

constexpr std::string_view kName[] = {"olmo2"};
constexpr std::string_view kTypes[] = {"olmo2", "olmo3"};

void PlanOlmo2(const FamilyInput& input, ModelPlan* plan) {
  SetWiring(Wiring::kPostNormOnly, plan);
  SetHeadNorm(HeadNorm::kWhole, plan);
  if (input.hyper.sliding_window.value_or(0) > 0) UseWindows(input, *input.hyper.sliding_window, 4, plan);
  // What stretches positions is for the layers that see far.
  ForEachAttention(*plan,
                   [](AttentionPlan& attention) { attention.rotation.is_plain = attention.window > 0; });
}

}  // namespace

extern constinit const Family kOlmo2 = {
    .name = "olmo2",
    .gguf_names = kName,
    .folder_types = kTypes,
    .plan = PlanOlmo2,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
};

}  // namespace mneme
