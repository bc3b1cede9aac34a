// Phi-1, 1.5 and 2 (arXiv 2309.05463).
#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"phi2"};
constexpr std::string_view kTypes[] = {"phi"};
constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "final_layernorm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.dense"},
    {"ffn_up", "layers.{}.mlp.fc1"},
    {"ffn_down", "layers.{}.mlp.fc2"},
};

void PlanPhi(const FamilyInput& input, ModelPlan* plan) {
  if (input.hyper.qk_layer_norm.value_or(false)) {
    Fail(ErrorKind::kUnsupported, "{}: phi with norms on queries and keys is not supported",
         input.hyper.path);
  }
  UseLayerNorm(plan);
  SetActivation(Activation::kGeluTanh, plan);
  SetWiring(Wiring::kParallel, plan);
}

}  // namespace

extern constinit const Family kPhi = {
    .name = "phi2",
    .gguf_names = kGgufName,
    .folder_types = kTypes,
    .plan = PlanPhi,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.5,
};

}  // namespace mneme
