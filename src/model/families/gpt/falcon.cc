// Falcon (arXiv 2311.16867), and Falcon-RW (arXiv 2306.01116), which has ALiBi.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "word_embeddings"},
    {"output_norm", "ln_f"},
    {"output", "/lm_head"},
    {"attn_norm", "h.{}.input_layernorm"},
    {"attn_norm", "h.{}.ln_mlp"},
    {"attn_norm_2", "h.{}.ln_attn"},
    {"attn_qkv", "h.{}.self_attention.query_key_value"},
    {"attn_output", "h.{}.self_attention.dense"},
    {"ffn_norm", "h.{}.post_attention_layernorm"},
    {"ffn_up", "h.{}.mlp.dense_h_to_4h"},
    {"ffn_down", "h.{}.mlp.dense_4h_to_h"},
};

constexpr std::string_view kPrefixes[] = {"transformer.", ""};
constexpr std::string_view kName[] = {"falcon"};
constexpr std::string_view kTypes[] = {"falcon", "RefinedWeb", "RefinedWebModel"};

void PlanFalcon(const FamilyInput& input, ModelPlan* plan) {
  const Hyperparameters& hyper = input.hyper;
  UseLayerNorm(plan);
  SetActivation(IsFolder(input) ? Activation::kGelu : Activation::kGeluTanh, plan);
  // Falcon-RW has a norm before each part.
  if (!input.has_weight("ffn_norm", 0)) SetWiring(Wiring::kParallel, plan);
  if (!hyper.alibi.value_or(false) && !hyper.max_alibi_bias) return;
  // What the bias is added to is scaled after that.
  UseAlibi(hyper.max_alibi_bias.value_or(8), plan);
  for (float& slope : plan->alibi_slopes) slope *= plan->layers[0].attention()->scale;
}

}  // namespace

// For one KV head the order per KV head is the same as the concatenated one.
extern constinit const Family kFalcon = {
    .name = "falcon",
    .gguf_names = kName,
    .folder_types = kTypes,
    .plan = PlanFalcon,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .folder_qkv = FusedQkv::kPerKvHead,
    .gguf_fused_qkv = true,
};

}  // namespace mneme
