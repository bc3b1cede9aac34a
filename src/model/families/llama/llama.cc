// Llama (arXiv 2302.13971), Mistral (arXiv 2310.06825), which is the same with windows, and Mixtral (arXiv
// 2401.04088), the same with experts, whose GGUF files call themselves llama.
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kLlamaName[] = {"llama"};
constexpr std::string_view kMistralGguf[] = {"llama", "mistral"};
constexpr std::string_view kMistralType[] = {"mistral"};
constexpr std::string_view kMixtralType[] = {"mixtral"};

constexpr TensorName kMixtralNames[] = {
    {"ffn_gate_inp", "layers.{}.block_sparse_moe.gate"},
    {"ffn_gate_exps", "layers.{}.block_sparse_moe.experts.*.w1"},
    {"ffn_up_exps", "layers.{}.block_sparse_moe.experts.*.w3"},
    {"ffn_down_exps", "layers.{}.block_sparse_moe.experts.*.w2"},
};

void PlanLlama(const FamilyInput& input, ModelPlan* plan) {
  UseOptionalWindow(input, plan);
  if (input.hyper.settings.Uint("expert_count", "").value_or(0) > 0) {
    UseExperts(input, /*renormalise=*/true, plan);
  }
}

void PlanMixtral(const FamilyInput& input, ModelPlan* plan) {
  UseOptionalWindow(input, plan);
  UseExperts(input, /*renormalise=*/true, plan);
}

}  // namespace

extern constinit const Family kLlama = {
    .name = "llama",
    .gguf_names = kLlamaName,
    .folder_types = kLlamaName,
    .plan = PlanLlama,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

extern constinit const Family kMistral = {
    .name = "mistral",
    .gguf_names = kMistralGguf,
    .folder_types = kMistralType,
    .plan = UseOptionalWindow,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

extern constinit const Family kMixtral = {
    .name = "mixtral",
    .gguf_names = kLlamaName,
    .folder_types = kMixtralType,
    .plan = PlanMixtral,
    .folder_names = kMixtralNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
    .gguf_interleaved_rope = true,
};

}  // namespace mneme
