// GPT-J.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "wte"},          {"output_norm", "ln_f"},
    {"output", "/lm_head"},         {"attn_norm", "h.{}.ln_1"},
    {"attn_q", "h.{}.attn.q_proj"}, {"attn_k", "h.{}.attn.k_proj"},
    {"attn_v", "h.{}.attn.v_proj"}, {"attn_output", "h.{}.attn.out_proj"},
    {"ffn_up", "h.{}.mlp.fc_in"},   {"ffn_down", "h.{}.mlp.fc_out"},
};

constexpr std::string_view kPrefixes[] = {"transformer.", ""};
constexpr std::string_view kName[] = {"gptj"};

void PlanGptj(const FamilyInput&, ModelPlan* plan) {
  UseLayerNorm(plan);
  SetActivation(Activation::kGeluTanh, plan);
  SetWiring(Wiring::kParallel, plan);
}

}  // namespace

extern constinit const Family kGptj = {
    .name = "gptj",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanGptj,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
};

}  // namespace mneme
