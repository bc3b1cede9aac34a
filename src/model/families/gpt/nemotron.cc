// Nemotron 3 and Minitron (arXiv 2402.16819): squared ReLU, LayerNorm whose weights are stored minus one.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"nemotron"};

void PlanNemotron(const FamilyInput&, ModelPlan* plan) {
  UseLayerNorm(plan);
  SetActivation(Activation::kRelu2, plan);
}

}  // namespace

extern constinit const Family kNemotron = {
    .name = "nemotron",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanNemotron,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.5,
    .folder_norms_minus_one = true,
};

}  // namespace mneme
