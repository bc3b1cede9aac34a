// BLOOM (arXiv 2211.05100).
#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"bloom"};
constexpr std::string_view kPrefixes[] = {"transformer.", ""};
constexpr TensorName kTensorNames[] = {
    {"token_embd", "word_embeddings"},
    {"token_embd_norm", "word_embeddings_layernorm"},
    {"output_norm", "ln_f"},
    {"output", "/lm_head"},
    {"attn_norm", "h.{}.input_layernorm"},
    {"attn_qkv", "h.{}.self_attention.query_key_value"},
    {"attn_output", "h.{}.self_attention.dense"},
    {"ffn_norm", "h.{}.post_attention_layernorm"},
    {"ffn_up", "h.{}.mlp.dense_h_to_4h"},
    {"ffn_down", "h.{}.mlp.dense_4h_to_h"},
};

void PlanBloom(const FamilyInput& input, ModelPlan* plan) {
  if (input.hyper.settings.Bool("", "apply_residual_connection_post_layernorm").value_or(false)) {
    Fail(ErrorKind::kUnsupported, "{}: bloom that adds to what its norms gave is not supported",
         input.hyper.path);
  }
  UseLayerNorm(plan);
  SetActivation(Activation::kGeluTanh, plan);
  UseAlibi(8.0, plan);
  plan->has_embedding_norm = true;
}

}  // namespace

extern constinit const Family kBloom = {
    .name = "bloom",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanBloom,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .folder_qkv = FusedQkv::kPerKvHead,
    .gguf_fused_qkv = true,
};

}  // namespace mneme
