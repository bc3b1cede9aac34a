// StableLM (arXiv 2402.17834).
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
    // One vector per head, gathered under this name.
    {"attn_q_norm", "layers.{}.self_attn.q_layernorm.norms.*"},
    {"attn_k_norm", "layers.{}.self_attn.k_layernorm.norms.*"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
};

constexpr std::string_view kName[] = {"stablelm"};
constexpr std::string_view kTypes[] = {"stablelm", "stablelm_epoch"};

void PlanStablelm(const FamilyInput& input, ModelPlan* plan) {
  plan->norm = NormKind::kLayer;
  if (!input.has_weight("ffn_norm", 0)) SetWiring(Wiring::kParallel, plan);
  if (input.has_weight("attn_q_norm", 0)) SetHeadNorm(HeadNorm::kPerHead, plan);
}

}  // namespace

extern constinit const Family kStablelm = {
    .name = "stablelm",
    .gguf_names = kName,
    .folder_types = kTypes,
    .plan = PlanStablelm,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.25,
};

}  // namespace mneme
