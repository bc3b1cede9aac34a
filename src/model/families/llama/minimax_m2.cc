// MiniMax-M2.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"minimax-m2"};
constexpr std::string_view kType[] = {"minimax_m2"};
constexpr TensorName kTensorNames[] = {
    {"ffn_gate_inp", "layers.{}.block_sparse_moe.gate"},
    {"exp_probs_b.bias", "layers.{}.block_sparse_moe.e_score_correction_bias"},
    {"ffn_gate_exps", "layers.{}.block_sparse_moe.experts.*.w1"},
    {"ffn_up_exps", "layers.{}.block_sparse_moe.experts.*.w3"},
    {"ffn_down_exps", "layers.{}.block_sparse_moe.experts.*.w2"},
};

void PlanMinimaxM2(const FamilyInput& input, ModelPlan* plan) {
  SetHeadNorm(HeadNorm::kWhole, plan);
  UseExperts(input, /*renormalise=*/true, plan);
  SetRouterScore(RouterScore::kSigmoid, plan);
}

}  // namespace

extern constinit const Family kMinimaxM2 = {
    .name = "minimax-m2",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanMinimaxM2,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
    .for_gguf = WriteExperts,
};

}  // namespace mneme
