// Mamba (arXiv 2312.00752): every layer is a selective scan, and there is no attention at all. Falcon Mamba
// has norms, without weights, of what the scan is made of.
#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embeddings"},
    {"output_norm", "norm_f"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.norm"},
    {"ssm_in", "layers.{}.mixer.in_proj"},
    {"ssm_conv1d", "layers.{}.mixer.conv1d"},
    {"ssm_x", "layers.{}.mixer.x_proj"},
    {"ssm_dt", "layers.{}.mixer.dt_proj"},
    {"ssm_a.", "layers.{}.mixer.A_log"},
    {"ssm_d.", "layers.{}.mixer.D"},
    {"ssm_out", "layers.{}.mixer.out_proj"},
};
constexpr std::string_view kPrefixes[] = {"backbone.", "model.backbone."};
constexpr std::string_view kName[] = {"mamba"};
constexpr std::string_view kTypes[] = {"mamba", "falcon_mamba"};

void PlanMamba(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  if (const auto activation = settings.Text("", "hidden_act"); activation && *activation != "silu") {
    Fail(ErrorKind::kUnsupported, "{}: the activation '{}' is not supported", input.hyper.path, *activation);
  }
  SelectivePlan selective = ReadSelective(input, *plan);
  if (IsFolder(input) && input.hyper.architecture == "falcon_mamba") {
    selective.has_norms = true;
    if (selective.norm_epsilon == 0) selective.norm_epsilon = 1e-6f;
  }
  for (LayerPlan& layer : plan->layers) layer.mixer = selective;
}

// Readers want sizes of what there is not.
void WriteMamba(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteSelective(plan, hyper);
  hyper->num_heads = 0;
  hyper->key_dim.reset();
  hyper->num_kv_heads.clear();
  hyper->ffn_dim = {0};
}

}  // namespace

extern constinit const Family kMamba = {
    .name = "mamba",
    .gguf_names = kName,
    .folder_types = kTypes,
    .plan = PlanMamba,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .has_attention = false,
    .for_gguf = WriteMamba,
};

}  // namespace mneme
