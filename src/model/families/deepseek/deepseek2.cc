// DeepSeek-V2 (arXiv 2405.04434), V3 and R1 (arXiv 2412.19437), and what is built like them: Kimi K2,
// Moonlight, GLM-4.7-Flash, Mistral Large 3 (as GGUF), and Youtu-LLM, which has no experts.
#include <algorithm>

#include "base/error.h"
#include "model/families/deepseek/latent.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"deepseek2"};
constexpr std::string_view kTypes[] = {"deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite", "youtu"};

// Files of V2, and of GLM-4.7-Flash, may not say it; a correction is made for sigmoids.
RouterScore ScoreOf(const FamilyInput& input, bool has_correction) {
  const Settings& settings = input.hyper.settings;
  const RouterScore usual = has_correction ? RouterScore::kSigmoid : RouterScore::kSoftmax;
  if (!IsFolder(input)) {
    const uint64_t given = settings.Uint("expert_gating_func", "").value_or(0);
    if (given == 0) return usual;
    if (given == 1) return RouterScore::kSoftmax;
    if (given == 2) return RouterScore::kSigmoid;
    Fail(ErrorKind::kUnsupported, "{}: a router's score of kind {} is not known here (1 and 2 are)",
         input.hyper.path, given);
  }
  const std::string given = settings.Text("", "scoring_func").value_or("");
  if (given.empty()) {
    return input.hyper.architecture == "deepseek_v2" ? RouterScore::kSoftmax : RouterScore::kSigmoid;
  }
  if (given == "softmax") return RouterScore::kSoftmax;
  if (given == "sigmoid") return RouterScore::kSigmoid;
  Fail(ErrorKind::kUnsupported, "{}: scoring_func '{}' is not known here (softmax and sigmoid are)",
       input.hyper.path, given);
}

void PlanDeepseek2(const FamilyInput& input, ModelPlan* plan) {
  UseLatents(input, plan);
  UseQueryGrowth(input, plan);
  const bool is_v2 = input.hyper.architecture == "deepseek_v2";
  size_t layer = 0;
  while (layer < plan->num_layers() && !input.has_weight("ffn_gate_inp", layer)) ++layer;
  if (layer == plan->num_layers()) return;  // a model of this kind without experts
  UseExperts(input, /*renormalise=*/IsFolder(input) && !is_v2, plan);
  SetRouterScore(ScoreOf(input, input.has_bias("exp_probs_b", layer)), plan);
  UseSharedExperts(input, plan);
  const std::string method = input.hyper.settings.Text("", "topk_method").value_or("");
  if (is_v2 && (method.empty() || method == "greedy")) {
    input.hyper.settings.Uint("", "n_group");  // not looked at
  } else {
    UseExpertGroups(input, plan);
  }
}

void WriteDeepseek2(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteLatents(plan, hyper);
  WriteExperts(plan, hyper);
}

}  // namespace

extern constinit const Family kDeepseek2 = {
    .name = "deepseek2",
    .gguf_names = kGgufName,
    .folder_types = kTypes,
    .plan = PlanDeepseek2,
    .folder_names = kLatentTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
    .for_gguf = WriteDeepseek2,
};

}  // namespace mneme
