// OLMoE (arXiv 2409.02060).
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"olmoe"};

void PlanOlmoe(const FamilyInput& input, ModelPlan* plan) {
  SetHeadNorm(HeadNorm::kWhole, plan);
  ForEachAttention(*plan, [](AttentionPlan& attention) { attention.clamps_normed = true; });
  UseExperts(input, /*renormalise=*/false, plan);
}

}  // namespace

extern constinit const Family kOlmoe = {
    .name = "olmoe",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanOlmoe,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
};

}  // namespace mneme
