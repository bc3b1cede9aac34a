// SmolLM3: every so-many-th layer has no positions.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"smollm3"};

void PlanSmolLm3(const FamilyInput& input, ModelPlan* plan) {
  UseOptionalWindow(input, plan);
  UseUnrotatedLayers(input, plan);
}

}  // namespace

extern constinit const Family kSmolLm3 = {
    .name = "smollm3",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanSmolLm3,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

}  // namespace mneme
