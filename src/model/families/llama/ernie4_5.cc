// ERNIE 4.5, dense and with experts.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"ernie4_5"};
constexpr std::string_view kType[] = {"ernie4_5"};
constexpr std::string_view kMoeGguf[] = {"ernie4_5-moe"};
constexpr std::string_view kMoeType[] = {"ernie4_5_moe"};
constexpr TensorName kMoeNames[] = {
    {"exp_probs_b.bias", "layers.{}.mlp.moe_statics.e_score_correction_bias"},
    {"ffn_gate_shexp", "layers.{}.mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "layers.{}.mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "layers.{}.mlp.shared_experts.down_proj"},
};

void PlanErnie(const FamilyInput&, ModelPlan*) {}

void PlanErnieMoe(const FamilyInput& input, ModelPlan* plan) {
  UseExperts(input, /*renormalise=*/true, plan);
  UseSharedExperts(input, plan);
}

// What readers of these files look for beside the keys that were read.
void WriteErnieMoe(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteExperts(plan, hyper);
  hyper->settings.SetForGguf("interleave_moe_layer_step", uint32_t{1});
  for (const LayerPlan& layer : plan.layers) {
    if (layer.experts() == nullptr || layer.experts()->shared_dim == 0) continue;
    hyper->settings.SetForGguf("expert_shared_feed_forward_length",
                               static_cast<uint32_t>(layer.experts()->shared_dim));
  }
}

}  // namespace

extern constinit const Family kErnie = {
    .name = "ernie4_5",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanErnie,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
};

extern constinit const Family kErnieMoe = {
    .name = "ernie4_5-moe",
    .gguf_names = kMoeGguf,
    .folder_types = kMoeType,
    .plan = PlanErnieMoe,
    .folder_names = kMoeNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
    .for_gguf = WriteErnieMoe,
};

}  // namespace mneme
