// Apertus (arXiv 2509.14233): Llama with norms of queries and keys, whose networks have no gate and are
// activated by an xIELU with numbers of each layer's own.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"apertus"};
constexpr TensorName kTensorNames[] = {
    {"attn_norm", "layers.{}.attention_layernorm"},     {"ffn_norm", "layers.{}.feedforward_layernorm"},
    {"xielu.alpha_p.", "layers.{}.mlp.act_fn.alpha_p"}, {"xielu.alpha_n.", "layers.{}.mlp.act_fn.alpha_n"},
    {"xielu.beta.", "layers.{}.mlp.act_fn.beta"},       {"xielu.eps.", "layers.{}.mlp.act_fn.eps"},
};

void PlanApertus(const FamilyInput& input, ModelPlan* plan) {
  SetHeadNorm(HeadNorm::kPerHead, plan);
  const std::string& activation = input.hyper.activation;
  ForEachDense(*plan, [&](DensePlan& dense) {
    dense.is_gated = false;
    dense.is_xielu = activation.empty() || activation == "xielu";
  });
}

}  // namespace

extern constinit const Family kApertus = {
    .name = "apertus",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanApertus,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
};

}  // namespace mneme
