// Nemotron-H (arXiv 2504.03624) and Nemotron 3: each layer is one thing alone, a scan, attention or a
// feed-forward network, which is dense or a mixture of experts.
#include <algorithm>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embeddings"},
    {"output_norm", "norm_f"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.norm"},
    {"attn_q", "layers.{}.mixer.q_proj"},
    {"attn_k", "layers.{}.mixer.k_proj"},
    {"attn_v", "layers.{}.mixer.v_proj"},
    {"attn_output", "layers.{}.mixer.o_proj"},
    {"ssm_in", "layers.{}.mixer.in_proj"},
    {"ssm_conv1d", "layers.{}.mixer.conv1d"},
    {"ssm_dt.bias", "layers.{}.mixer.dt_bias"},
    {"ssm_a.", "layers.{}.mixer.A_log"},
    {"ssm_d.", "layers.{}.mixer.D"},
    {"ssm_norm", "layers.{}.mixer.norm"},
    {"ssm_out", "layers.{}.mixer.out_proj"},
    {"ffn_up", "layers.{}.mixer.up_proj"},
    {"ffn_down", "layers.{}.mixer.down_proj"},
    {"ffn_gate_inp", "layers.{}.mixer.gate"},
    {"exp_probs_b.bias", "layers.{}.mixer.gate.e_score_correction_bias"},
    {"ffn_up_exps", "layers.{}.mixer.experts.*.up_proj"},
    {"ffn_down_exps", "layers.{}.mixer.experts.*.down_proj"},
    {"ffn_up_exps.weight", "layers.{}.mixer.experts.up_proj"},
    {"ffn_down_exps.weight", "layers.{}.mixer.experts.down_proj"},
    {"ffn_up_shexp", "layers.{}.mixer.shared_experts.up_proj"},
    {"ffn_down_shexp", "layers.{}.mixer.shared_experts.down_proj"},
};
constexpr std::string_view kPrefixes[] = {"backbone.", "model."};
constexpr std::string_view kGguf[] = {"nemotron_h"};
constexpr std::string_view kMoeGguf[] = {"nemotron_h_moe"};
constexpr std::string_view kTypes[] = {"nemotron_h"};

bool HasExperts(const Hyperparameters& hyper) {
  return std::find(hyper.layer_types.begin(), hyper.layer_types.end(), "moe") != hyper.layer_types.end();
}
bool HasNoExperts(const Hyperparameters& hyper) { return !HasExperts(hyper); }

// One part of each layer remains, which its weights tell.
void KeepOnePart(const FamilyInput& input, ModelPlan* plan) {
  std::optional<ScanPlan> scan;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    LayerPlan& part = plan->layers[layer];
    const bool is_scan = input.has_weight("ssm_in", layer);
    if (!is_scan && !input.has_weight("attn_q", layer)) {
      part.mixer = std::monostate();
      continue;
    }
    part.feed_forward = std::monostate();
    if (!is_scan) continue;
    if (!scan) scan = ReadScan(input, *plan);
    part.mixer = *scan;
  }
}

void PlanNemotronH(const FamilyInput& input, ModelPlan* plan) {
  plan->position = PositionKind::kNone;
  ForEachDense(*plan, [](DensePlan& dense) { dense.is_gated = false; });
  KeepOnePart(input, plan);
  SetActivation(Activation::kRelu2, plan);
  const auto activation = input.hyper.settings.Text("", "mlp_hidden_act");
  if (activation && *activation != "relu2") {
    Fail(ErrorKind::kUnsupported, "{}: the activation '{}' is not supported", input.hyper.path, *activation);
  }
}

void PlanNemotronHMoe(const FamilyInput& input, ModelPlan* plan) {
  UseExperts(input, /*renormalise=*/true, plan);
  SetRouterScore(RouterScore::kSigmoid, plan);
  UseSharedExpert(
      input,
      input.hyper.settings.Uint("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size"),
      /*has_gate=*/false, plan);
  for (LayerPlan& layer : plan->layers) {
    if (ExpertsPlan* experts = layer.experts()) experts->is_gated = false;
  }
  PlanNemotronH(input, plan);
}

// KV heads and widths of each layer tell which part it has.
void WriteParts(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteScan(plan, hyper);
  WriteKvHeadsByLayer(plan, hyper);
  hyper->ffn_dim.clear();
  for (const LayerPlan& layer : plan.layers) {
    const DensePlan* const dense = layer.dense();
    const ExpertsPlan* const experts = layer.experts();
    hyper->ffn_dim.push_back(dense != nullptr ? dense->dim : experts != nullptr ? experts->dim : 0);
  }
}

}  // namespace

extern constinit const Family kNemotronH = {
    .name = "nemotron_h",
    .gguf_names = kGguf,
    .folder_types = kTypes,
    .plan = PlanNemotronH,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .is_of = HasNoExperts,
    .for_gguf = WriteParts,
};

extern constinit const Family kNemotronHMoe = {
    .name = "nemotron_h_moe",
    .gguf_names = kMoeGguf,
    .folder_types = kTypes,
    .plan = PlanNemotronHMoe,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .is_of = HasExperts,
    .for_gguf = WriteParts,
};

}  // namespace mneme
