// StarCoder2 (arXiv 2402.19173).
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_up", "layers.{}.mlp.c_fc"},
    {"ffn_down", "layers.{}.mlp.c_proj"},
};

constexpr std::string_view kName[] = {"starcoder2"};

void PlanStarcoder2(const FamilyInput& input, ModelPlan* plan) {
  UseLayerNorm(plan);
  SetActivation(Activation::kGeluTanh, plan);
  UseOptionalWindow(input, plan);
}

}  // namespace

extern constinit const Family kStarcoder2 = {
    .name = "starcoder2",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanStarcoder2,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
};

}  // namespace mneme
