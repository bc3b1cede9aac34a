// GPT-2.
#include "model/families/family.h"

namespace mneme {
namespace {

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

constexpr std::string_view kPrefixes[] = {"transformer.", ""};
constexpr std::string_view kName[] = {"gpt2"};

void PlanGpt2(const FamilyInput& input, ModelPlan* plan) {
  UseLayerNorm(plan);
  SetActivation(Activation::kGeluTanh, plan);
  plan->position = PositionKind::kLearned;
  const Settings& settings = input.hyper.settings;
  const bool is_scaled = settings.Bool("mneme.attention.scaled", "scale_attn_weights").value_or(true);
  const bool by_layer =
      settings.Bool("mneme.attention.scaled_by_layer", "scale_attn_by_inverse_layer_idx").value_or(false);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    AttentionPlan& attention = *plan->layers[layer].attention();
    if (!is_scaled) attention.scale = 1.0f;
    if (by_layer) attention.scale /= static_cast<float>(layer + 1);
  }
}

}  // namespace

extern constinit const Family kGpt2 = {
    .name = "gpt2",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanGpt2,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .folder_transposed = true,
    .gguf_fused_qkv = true,
};

}  // namespace mneme
