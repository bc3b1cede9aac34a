// Mamba 2 (arXiv 2405.21060): every layer is a scan, and there is no attention at all.
#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embeddings"},
    {"output_norm", "norm_f"},
    {"output", "/lm_head"},
    {"output", "/model.lm_head"},
    {"attn_norm", "layers.{}.norm"},
    {"ssm_in", "layers.{}.mixer.in_proj"},
    {"ssm_conv1d", "layers.{}.mixer.conv1d"},
    {"ssm_dt.bias", "layers.{}.mixer.dt_bias"},
    {"ssm_a.", "layers.{}.mixer.A_log"},
    {"ssm_d.", "layers.{}.mixer.D"},
    {"ssm_norm", "layers.{}.mixer.norm"},
    {"ssm_out", "layers.{}.mixer.out_proj"},
};
constexpr std::string_view kPrefixes[] = {"backbone.", "model.backbone."};
constexpr std::string_view kName[] = {"mamba2"};

void PlanMamba2(const FamilyInput& input, ModelPlan* plan) {
  if (const auto activation = input.hyper.settings.Text("", "hidden_act");
      activation && *activation != "silu") {
    Fail(ErrorKind::kUnsupported, "{}: the activation '{}' is not supported", input.hyper.path, *activation);
  }
  const ScanPlan scan = ReadScan(input, *plan);
  for (LayerPlan& layer : plan->layers) layer.mixer = scan;
}

// Readers want sizes of what there is not.
void WriteMamba2(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteScan(plan, hyper);
  hyper->num_heads = 0;
  hyper->key_dim.reset();
  hyper->num_kv_heads.clear();
  hyper->ffn_dim = {0};
}

}  // namespace

extern constinit const Family kMamba2 = {
    .name = "mamba2",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanMamba2,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .has_attention = false,
    .for_gguf = WriteMamba2,
};

}  // namespace mneme
