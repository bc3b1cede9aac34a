// Zamba 2 (arXiv 2411.15242): layers are scans of Mamba 2, and between some of them stands a transformer, one
// of few that the others share in turns. No other reader has a name for it in GGUF; ours is config.json's.
#include <cmath>
#include <optional>
#include <vector>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "final_layernorm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_norm", "layers.{}.mamba_decoder.input_layernorm"},
    {"ssm_in", "layers.{}.mamba.in_proj"},
    {"ssm_in", "layers.{}.mamba_decoder.mamba.in_proj"},
    {"ssm_conv1d", "layers.{}.mamba.conv1d"},
    {"ssm_conv1d", "layers.{}.mamba_decoder.mamba.conv1d"},
    {"ssm_dt.bias", "layers.{}.mamba.dt_bias"},
    {"ssm_dt.bias", "layers.{}.mamba_decoder.mamba.dt_bias"},
    {"ssm_a.", "layers.{}.mamba.A_log"},
    {"ssm_a.", "layers.{}.mamba_decoder.mamba.A_log"},
    {"ssm_d.", "layers.{}.mamba.D"},
    {"ssm_d.", "layers.{}.mamba_decoder.mamba.D"},
    {"ssm_norm", "layers.{}.mamba.norm"},
    {"ssm_norm", "layers.{}.mamba_decoder.mamba.norm"},
    {"ssm_out", "layers.{}.mamba.out_proj"},
    {"ssm_out", "layers.{}.mamba_decoder.mamba.out_proj"},
    {"shared_out", "layers.{}.linear"},
    {"shared_norm", "layers.{}.shared_transformer.input_layernorm"},
    {"attn_q", "layers.{}.shared_transformer.self_attn.q_proj"},
    {"attn_k", "layers.{}.shared_transformer.self_attn.k_proj"},
    {"attn_v", "layers.{}.shared_transformer.self_attn.v_proj"},
    {"attn_output", "layers.{}.shared_transformer.self_attn.o_proj"},
    {"shared_q_down", "layers.{}.shared_transformer.self_attn.linear_q_adapter_list.*.0"},
    {"shared_q_up", "layers.{}.shared_transformer.self_attn.linear_q_adapter_list.*.1"},
    {"shared_k_down", "layers.{}.shared_transformer.self_attn.linear_k_adapter_list.*.0"},
    {"shared_k_up", "layers.{}.shared_transformer.self_attn.linear_k_adapter_list.*.1"},
    {"shared_v_down", "layers.{}.shared_transformer.self_attn.linear_v_adapter_list.*.0"},
    {"shared_v_up", "layers.{}.shared_transformer.self_attn.linear_v_adapter_list.*.1"},
    {"ffn_norm", "layers.{}.shared_transformer.pre_ff_layernorm"},
    {"ffn_up", "layers.{}.shared_transformer.feed_forward.gate_up_proj"},
    {"ffn_down", "layers.{}.shared_transformer.feed_forward.down_proj"},
    {"shared_ffn_down", "layers.{}.shared_transformer.feed_forward.gate_up_proj_adapter_list.*.0"},
    {"shared_ffn_up", "layers.{}.shared_transformer.feed_forward.gate_up_proj_adapter_list.*.1"},
};
constexpr std::string_view kName[] = {"zamba2"};

constexpr std::string_view kNumShared = "shared.block_count", kRank = "shared.adapter_rank",
                           kInAttention = "shared.attention_adapters", kRotates = "shared.rotates";
constexpr uint64_t kMostRank = 1 << 16;

// The epsilon of the norms of scans is not in the file.
constexpr double kScanEpsilon = 1e-5;

void CheckSettings(const FamilyInput& input) {
  const Hyperparameters& hyper = input.hyper;
  if (!hyper.activation.empty() && hyper.activation != "gelu") {
    Fail(ErrorKind::kUnsupported, "{}: the activation '{}' is not supported", hyper.path, hyper.activation);
  }
  if (hyper.settings.Bool("", "use_long_context").value_or(false)) {
    Fail(ErrorKind::kUnsupported, "{}: 'use_long_context' is not supported", hyper.path);
  }
  if (hyper.rms_norm_epsilon.value_or(kScanEpsilon) != kScanEpsilon && IsFolder(input)) {
    Fail(ErrorKind::kUnsupported, "{}: an epsilon of {} is not supported", hyper.path,
         *hyper.rms_norm_epsilon);
  }
}

// What all layers with a transformer have alike.
SharedPlan ReadShared(const FamilyInput& input, const AttentionPlan& attention, const ModelPlan& plan) {
  const Settings& settings = input.hyper.settings;
  SharedPlan shared;
  shared.attention = attention;
  shared.attention.input_dim = 2 * plan.model_dim;
  if (IsFolder(input)) {
    shared.attention.key_dim = shared.attention.value_dim = 2 * plan.model_dim / attention.num_heads;
  }
  shared.attention.scale = 1.0f / std::sqrt(static_cast<float>(shared.attention.key_dim) / 2);
  shared.adapter_rank =
      settings.Uint(kRank, "adapter_rank") ? NeededSize(input, kRank, "adapter_rank", kMostRank) : 128;
  shared.has_attention_adapters = settings.Bool(kInAttention, "use_shared_attention_adapter").value_or(false);
  return shared;
}

void PlanZamba2(const FamilyInput& input, ModelPlan* plan) {
  CheckSettings(input);
  const Settings& settings = input.hyper.settings;
  const bool rotates = settings.Bool(kRotates, "use_mem_rope").value_or(false);
  plan->position = rotates ? PositionKind::kRope : PositionKind::kNone;
  const size_t num_shared = settings.Uint(kNumShared, "num_mem_blocks").value_or(1);
  if (num_shared == 0) Fail(ErrorKind::kFile, "{}: 'num_mem_blocks' is 0", input.hyper.path);
  const ScanPlan scan = ReadScan(input, *plan);
  std::vector<size_t> with_transformer;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    LayerPlan& at = plan->layers[layer];
    const AttentionPlan attention = *at.attention();
    const size_t ffn_dim = at.dense()->dim;
    at.feed_forward = std::monostate();
    at.mixer = scan;
    if (!input.has_weight("shared_out", layer)) continue;
    SharedPlan shared = ReadShared(input, attention, *plan);
    shared.scan = scan;
    shared.ffn_dim = ffn_dim;
    shared.number = with_transformer.size();
    with_transformer.push_back(layer);
    shared.is_source = shared.number < num_shared;
    shared.source = with_transformer[shared.number % num_shared];
    at.mixer = shared;
  }
}

void WriteZamba2(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteScan(plan, hyper);
  WriteKvHeadsByLayer(plan, hyper);
  hyper->activation = "gelu";
}

}  // namespace

extern constinit const Family kZamba2 = {
    .name = "zamba2",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanZamba2,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .for_gguf = WriteZamba2,
};

}  // namespace mneme
