// SmolLM3: every so-many-th layer has no positions (NoPE, arXiv 2501.18795).
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"smollm3"};

void PlanSmolLm3(const FamilyInput& input, ModelPlan* plan) {
  UseOptionalWindow(input, plan);
  const Settings& settings = input.hyper.settings;
  // 1 where a layer rotates; readers of GGUF know that every fourth does not.
  const std::vector<uint64_t> rotates = settings.Uints("", "no_rope_layers");
  const uint64_t interval = settings.Uint("", "no_rope_layer_interval").value_or(4);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    const bool is_listed = layer < rotates.size();
    plan->layers[layer].attention()->rotation.is_none =
        is_listed ? rotates[layer] == 0 : interval > 0 && (layer + 1) % interval == 0;
  }
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
