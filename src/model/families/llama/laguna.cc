// Laguna (poolside): experts and a shared one, heads whose outputs a softplus gates, layers with a window
// that rotate whole heads by a base of their own, and perhaps have more of them.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"laguna"};
constexpr TensorName kTensorNames[] = {
    {"attn_gate", "layers.{}.self_attn.g_proj"},
    {"exp_probs_b.bias", "layers.{}.mlp.experts.e_score_correction_bias"},
};

void PlanLaguna(const FamilyInput& input, ModelPlan* plan) {
  const Hyperparameters& hyper = input.hyper;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    AttentionPlan& attention = *plan->layers[layer].attention();
    // Unless the file says it, the first of every four layers sees everything.
    const std::vector<bool>& given = hyper.layer_is_local;
    const bool is_local = layer < given.size() ? given[layer] : layer % 4 != 0;
    if (is_local) attention.window = static_cast<int64_t>(hyper.sliding_window.value_or(0));
    attention.has_head_gate = input.num_rows("attn_gate", layer) == attention.num_heads;
    attention.has_value_gate = !attention.has_head_gate;
    attention.softplus_gates = true;
  }
  SetHeadNorm(HeadNorm::kPerHead, plan);
  UsePartialRotations(input, 1.0, plan);
  UseExperts(input, /*renormalise=*/true, plan);
  SetRouterScore(RouterScore::kSigmoid, plan);
  UseSharedExpert(
      input,
      input.hyper.settings.Uint("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
      /*has_gate=*/false, plan);
}

}  // namespace

extern constinit const Family kLaguna = {
    .name = "laguna",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanLaguna,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
    .local_rope_base = 10000.0,
    .for_gguf = WriteLocalLayers,
};

}  // namespace mneme
