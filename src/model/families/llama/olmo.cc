// OLMo (arXiv 2402.00838): LayerNorm without weights.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"olmo"};

void PlanOlmo(const FamilyInput&, ModelPlan* plan) {
  plan->norm = NormKind::kLayer;
  plan->norms_have_weights = false;
}

}  // namespace

extern constinit const Family kOlmo = {
    .name = "olmo",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanOlmo,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

}  // namespace mneme
