// Mistral Small 4: latents and experts as DeepSeek-V3 has them, queries that grow as Ministral's.
#include "base/error.h"
#include "model/families/deepseek/latent.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"mistral4"};

void PlanMistral4(const FamilyInput& input, ModelPlan* plan) {
  UseLatents(input, plan);
  UseQueryGrowth(input, plan);
  // Its groups would be as good as their best two without a correction, which no router here has.
  if (input.hyper.settings.Uint("expert_group_count", "n_group").value_or(1) > 1) {
    Fail(ErrorKind::kUnsupported, "{}: groups of experts are not supported in 'mistral4'", input.hyper.path);
  }
  UseExperts(input, /*renormalise=*/IsFolder(input), plan);
  UseSharedExperts(input, plan);
}

void WriteMistral4(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteLatents(plan, hyper);
  WriteExperts(plan, hyper);
}

}  // namespace

extern constinit const Family kMistral4 = {
    .name = "mistral4",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanMistral4,
    .folder_names = kLatentTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
    .for_gguf = WriteMistral4,
};

}  // namespace mneme
