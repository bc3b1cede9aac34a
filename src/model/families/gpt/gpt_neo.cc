// GPT-Neo: every other layer has a window, and scores are not scaled.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"gptneo"};
constexpr std::string_view kType[] = {"gpt_neo"};
constexpr std::string_view kPrefixes[] = {"transformer.", ""};
constexpr TensorName kTensorNames[] = {
    {"token_embd", "wte"},
    {"position_embd", "wpe"},
    {"output_norm", "ln_f"},
    {"output", "/lm_head"},
    {"attn_norm", "h.{}.ln_1"},
    {"attn_q", "h.{}.attn.attention.q_proj"},
    {"attn_k", "h.{}.attn.attention.k_proj"},
    {"attn_v", "h.{}.attn.attention.v_proj"},
    {"attn_output", "h.{}.attn.attention.out_proj"},
    {"ffn_norm", "h.{}.ln_2"},
    {"ffn_up", "h.{}.mlp.c_fc"},
    {"ffn_down", "h.{}.mlp.c_proj"},
};

void PlanGptNeo(const FamilyInput& input, ModelPlan* plan) {
  UseLayerNorm(plan);
  SetActivation(Activation::kGeluTanh, plan);
  plan->position = PositionKind::kLearned;
  const Hyperparameters& hyper = input.hyper;
  const std::vector<std::string> kinds = hyper.settings.Texts("attention_layers");
  const uint64_t window = hyper.settings.Uint("attention.sliding_window", "window_size").value_or(256);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    AttentionPlan& attention = *plan->layers[layer].attention();
    attention.scale = 1.0f;
    bool is_local = layer % 2 == 1;
    if (layer < kinds.size()) is_local = kinds[layer] == "local";
    if (layer < hyper.layer_is_local.size()) is_local = hyper.layer_is_local[layer];
    attention.window = is_local ? static_cast<int64_t>(window) : 0;
  }
}

}  // namespace

extern constinit const Family kGptNeo = {
    .name = "gptneo",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanGptNeo,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
};

}  // namespace mneme
