// Ministral 3 and Mistral Small 3: Llama whose queries grow with their position.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"mistral3"};
constexpr std::string_view kTypes[] = {"ministral3"};

void PlanMistral3(const FamilyInput& input, ModelPlan* plan) {
  UseOptionalWindow(input, plan);
  UseQueryGrowth(input, plan);
}

}  // namespace

extern constinit const Family kMistral3 = {
    .name = "mistral3",
    .gguf_names = kGgufName,
    .folder_types = kTypes,
    .plan = PlanMistral3,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

}  // namespace mneme
