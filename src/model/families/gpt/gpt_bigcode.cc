// SantaCoder and StarCoder (arXiv 2305.06161): GPT-2 with one head of keys.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"starcoder"};
constexpr std::string_view kType[] = {"gpt_bigcode"};
constexpr std::string_view kPrefixes[] = {"transformer.", ""};
constexpr TensorName kTensorNames[] = {
    {"token_embd", "wte"},
    {"position_embd", "wpe"},
    {"output_norm", "ln_f"},
    {"output", "/lm_head"},
    {"attn_norm", "h.{}.ln_1"},
    {"attn_qkv", "h.{}.attn.c_attn"},
    {"attn_output", "h.{}.attn.c_proj"},
    {"ffn_norm", "h.{}.ln_2"},
    {"ffn_up", "h.{}.mlp.c_fc"},
    {"ffn_down", "h.{}.mlp.c_proj"},
};

void PlanGptBigcode(const FamilyInput&, ModelPlan* plan) {
  UseLayerNorm(plan);
  SetActivation(Activation::kGeluTanh, plan);
  plan->position = PositionKind::kLearned;
}

}  // namespace

extern constinit const Family kGptBigcode = {
    .name = "starcoder",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanGptBigcode,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .gguf_fused_qkv = true,
};

}  // namespace mneme
