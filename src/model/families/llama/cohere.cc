// Command R and R7B (Cohere): parallel layers, LayerNorm without biases; R7B sees everything in every fourth
// layer, and has no positions there.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"command-r"};
constexpr std::string_view kType[] = {"cohere"};
constexpr std::string_view kName2[] = {"cohere2"};

void PlanCohere(const FamilyInput& input, ModelPlan* plan) {
  plan->norm = NormKind::kLayer;
  SetWiring(Wiring::kParallel, plan);
  const bool says_norms = input.hyper.settings.Bool("", "use_qk_norm").value_or(false);
  if (says_norms || input.has_weight("attn_q_norm", 0)) SetHeadNorm(HeadNorm::kPerHead, plan);
  // Not said: as many as the reference implementation takes.
  plan->logit_scale =
      static_cast<float>(input.hyper.settings.Float("logit_scale", "logit_scale").value_or(0.0625));
}

void PlanCohere2(const FamilyInput& input, ModelPlan* plan) {
  PlanCohere(input, plan);
  UseWindows(input, input.hyper.sliding_window.value_or(4096), input.hyper.window_pattern.value_or(4), plan);
  ForEachAttention(*plan,
                   [](AttentionPlan& attention) { attention.rotation.is_none = attention.window == 0; });
}

}  // namespace

extern constinit const Family kCohere = {
    .name = "command-r",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanCohere,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
};

extern constinit const Family kCohere2 = {
    .name = "cohere2",
    .gguf_names = kName2,
    .folder_types = kName2,
    .plan = PlanCohere2,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
};

}  // namespace mneme
