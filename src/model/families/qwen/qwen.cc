// Qwen 2 (arXiv 2407.10671) and 3 (arXiv 2505.09388).
#include <algorithm>

#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kQwen2Name[] = {"qwen2"};
constexpr std::string_view kQwen3Name[] = {"qwen3"};
constexpr std::string_view kQwen2MoeGguf[] = {"qwen2moe"};
constexpr std::string_view kQwen2MoeType[] = {"qwen2_moe"};
constexpr std::string_view kQwen3MoeGguf[] = {"qwen3moe"};
constexpr std::string_view kQwen3MoeType[] = {"qwen3_moe"};

void PlanQwen2(const FamilyInput& input, ModelPlan* plan) {
  const Hyperparameters& hyper = input.hyper;
  // Off unless said otherwise, and then only from a layer on.
  if (IsFolder(input) && !hyper.use_sliding_window.value_or(false)) return;
  UseOptionalWindow(input, plan);
  if (!hyper.layer_is_local.empty()) return;
  const size_t first = static_cast<size_t>(hyper.max_window_layers.value_or(0));
  for (size_t layer = 0; layer < std::min(first, plan->num_layers()); ++layer) {
    plan->layers[layer].attention()->window = 0;
  }
}

void PlanQwen3(const FamilyInput& input, ModelPlan* plan) {
  PlanQwen2(input, plan);
  SetHeadNorm(HeadNorm::kPerHead, plan);
}

// A shared expert besides, scaled by a gate of its own (Qwen1.5-MoE).
void PlanQwen2Moe(const FamilyInput& input, ModelPlan* plan) {
  PlanQwen2(input, plan);
  UseExperts(input, false, plan);
  const auto shared =
      input.hyper.settings.Uint("expert_shared_feed_forward_length", "shared_expert_intermediate_size");
  UseSharedExpert(input, shared, /*has_gate=*/true, plan);
}

void PlanQwen3Moe(const FamilyInput& input, ModelPlan* plan) {
  PlanQwen3(input, plan);
  UseExperts(input, /*renormalise=*/!IsFolder(input), plan);
}

}  // namespace

extern constinit const Family kQwen2 = {
    .name = "qwen2",
    .gguf_names = kQwen2Name,
    .folder_types = kQwen2Name,
    .plan = PlanQwen2,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
};

extern constinit const Family kQwen3 = {
    .name = "qwen3",
    .gguf_names = kQwen3Name,
    .folder_types = kQwen3Name,
    .plan = PlanQwen3,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
};

extern constinit const Family kQwen2Moe = {
    .name = "qwen2moe",
    .gguf_names = kQwen2MoeGguf,
    .folder_types = kQwen2MoeType,
    .plan = PlanQwen2Moe,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
};

extern constinit const Family kQwen3Moe = {
    .name = "qwen3moe",
    .gguf_names = kQwen3MoeGguf,
    .folder_types = kQwen3MoeType,
    .plan = PlanQwen3Moe,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
};

}  // namespace mneme
