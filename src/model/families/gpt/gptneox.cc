// GPT-NeoX (arXiv 2204.06745) and Pythia.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_in"},
    {"output_norm", "final_layer_norm"},
    {"output", "/embed_out"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_qkv", "layers.{}.attention.query_key_value"},
    {"attn_output", "layers.{}.attention.dense"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_up", "layers.{}.mlp.dense_h_to_4h"},
    {"ffn_down", "layers.{}.mlp.dense_4h_to_h"},
};

constexpr std::string_view kPrefixes[] = {"gpt_neox.", ""};
constexpr std::string_view kGgufName[] = {"gptneox"};
constexpr std::string_view kType[] = {"gpt_neox"};

void PlanGptNeox(const FamilyInput& input, ModelPlan* plan) {
  UseLayerNorm(plan);
  SetActivation(IsFolder(input) ? Activation::kGelu : Activation::kGeluTanh, plan);
  if (input.hyper.parallel_residual.value_or(true)) SetWiring(Wiring::kParallel, plan);
}

}  // namespace

extern constinit const Family kGptNeox = {
    .name = "gptneox",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanGptNeox,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .folder_qkv = FusedQkv::kPerKvHead,
    .folder_rotary_fraction = 0.25,
    .gguf_fused_qkv = true,
};

}  // namespace mneme
