// Phi-3.5-MoE (arXiv 2404.14219): Llama with LayerNorm, biases and experts that SparseMixer routes to.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"phimoe"};
constexpr TensorName kTensorNames[] = {
    {"ffn_gate_inp", "layers.{}.block_sparse_moe.gate"},
    {"ffn_gate_exps", "layers.{}.block_sparse_moe.experts.*.w1"},
    {"ffn_up_exps", "layers.{}.block_sparse_moe.experts.*.w3"},
    {"ffn_down_exps", "layers.{}.block_sparse_moe.experts.*.w2"},
};

void PlanPhimoe(const FamilyInput& input, ModelPlan* plan) {
  plan->norm = NormKind::kLayer;
  UseOptionalWindow(input, plan);
  UseExperts(input, /*renormalise=*/false, plan);
  SetRouterScore(RouterScore::kSparseMixer, plan);
  // What training shook the logits by; files of others do not say it.
  const double noise =
      input.hyper.settings.Float("mneme.router_jitter_noise", "router_jitter_noise").value_or(0.01);
  for (LayerPlan& layer : plan->layers) {
    if (ExpertsPlan* experts = layer.experts()) experts->router.nearness = static_cast<float>(2 * noise);
  }
}

}  // namespace

extern constinit const Family kPhimoe = {
    .name = "phimoe",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanPhimoe,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
};

}  // namespace mneme
