// Ministral 3 and Mistral Small 3: Llama whose queries grow with their position.
#include <cmath>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"mistral3"};
constexpr std::string_view kTypes[] = {"ministral3"};

void PlanMistral3(const FamilyInput& input, ModelPlan* plan) {
  UseOptionalWindow(input, plan);
  const double growth = input.hyper.settings
                            .Float("attention.temperature_scale",
                                   "rope_parameters.llama_4_scaling_beta|rope_scaling.llama_4_scaling_beta")
                            .value_or(0);
  const uint64_t length = input.hyper.original_length.value_or(0);
  if (growth == 0) return;
  if (!std::isfinite(growth) || length == 0 || length > (uint64_t{1} << 40)) {
    Fail(ErrorKind::kFile, "{}: queries that grow by {} every {} tokens", input.hyper.path, growth, length);
  }
  ForEachAttention(*plan, [&](AttentionPlan& attention) {
    attention.query_growth = static_cast<float>(growth);
    attention.query_growth_length = static_cast<int64_t>(length);
  });
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
