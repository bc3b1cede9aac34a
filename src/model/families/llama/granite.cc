// Granite 3, dense and with experts: Llama with four multipliers. Granite 4, where most layers are scans, and
// Granite with windows.
#include <cmath>
#include <optional>
#include <vector>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"granite"};
constexpr std::string_view kMoeGguf[] = {"granitemoe"};
constexpr std::string_view kMoeType[] = {"granitemoe"};
constexpr TensorName kMoeNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate_inp", "layers.{}.block_sparse_moe.router.layer"},
    {"ffn_gate_up_exps", "layers.{}.block_sparse_moe.input_linear"},
    {"ffn_down_exps", "layers.{}.block_sparse_moe.output_linear"},
};

constexpr std::string_view kSwaName[] = {"granite_swa"};
constexpr TensorName kSwaNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"attn_sinks.weight", "layers.{}.self_attn.sinks"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
};

constexpr std::string_view kHybridGguf[] = {"granitehybrid"};
constexpr std::string_view kHybridType[] = {"granitemoehybrid"};
constexpr TensorName kHybridNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ssm_in", "layers.{}.mamba.in_proj"},
    {"ssm_conv1d", "layers.{}.mamba.conv1d"},
    {"ssm_dt.bias", "layers.{}.mamba.dt_bias"},
    {"ssm_a.", "layers.{}.mamba.A_log"},
    {"ssm_d.", "layers.{}.mamba.D"},
    {"ssm_norm", "layers.{}.mamba.norm"},
    {"ssm_out", "layers.{}.mamba.out_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_up", "layers.{}.shared_mlp.input_linear"},
    {"ffn_down", "layers.{}.shared_mlp.output_linear"},
    {"ffn_gate_inp", "layers.{}.block_sparse_moe.router.layer"},
    {"ffn_gate_up_exps", "layers.{}.block_sparse_moe.input_linear"},
    {"ffn_down_exps", "layers.{}.block_sparse_moe.output_linear"},
    {"ffn_gate_up_shexp", "layers.{}.shared_mlp.input_linear"},
    {"ffn_down_shexp", "layers.{}.shared_mlp.output_linear"},
};

float Multiplier(const FamilyInput& input, std::string_view gguf, std::string_view json) {
  const double value = input.hyper.settings.Float(gguf, json).value_or(1);
  if (!(value > 0) || !std::isfinite(value)) {
    Fail(ErrorKind::kFile, "{}: {} is {}, which must be positive", input.hyper.path, json, value);
  }
  return static_cast<float>(value);
}

void PlanGranite(const FamilyInput& input, ModelPlan* plan) {
  plan->embedding_scale = Multiplier(input, "embedding_scale", "embedding_multiplier");
  plan->residual_scale = Multiplier(input, "residual_scale", "residual_multiplier");
  plan->logit_scale = 1.0f / Multiplier(input, "logit_scale", "logits_scaling");
  const auto scale = input.hyper.settings.Float("attention.scale", "attention_multiplier");
  if (scale) {
    ForEachAttention(*plan, [&](AttentionPlan& attention) { attention.scale = static_cast<float>(*scale); });
  }
}

void PlanGraniteMoe(const FamilyInput& input, ModelPlan* plan) {
  PlanGranite(input, plan);
  UseExperts(input, /*renormalise=*/false, plan);
  SetRouterScore(RouterScore::kSoftmaxChosen, plan);
}

// Granite with windows: a learned sink logit in every head, and in every layer a base of its own.
void PlanGraniteSwa(const FamilyInput& input, ModelPlan* plan) {
  PlanGranite(input, plan);
  const Hyperparameters& hyper = input.hyper;
  const uint64_t window = hyper.sliding_window.value_or(128);
  const std::vector<uint64_t> bases = hyper.settings.Uints("", "layer_rope_theta");
  const std::vector<uint64_t> rotates = hyper.settings.Uints("attention.rope_pattern", "");
  UseWindows(input, window, 4, plan);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    AttentionPlan& attention = *plan->layers[layer].attention();
    // Where the file does not say it, the first of four layers sees everything.
    if (hyper.layer_is_local.empty()) attention.window = layer % 4 == 0 ? 0 : static_cast<int64_t>(window);
    if (layer < bases.size()) attention.rotation.base = static_cast<double>(bases[layer]);
    attention.rotation.is_none =
        (layer < bases.size() && bases[layer] == 0) || (layer < rotates.size() && rotates[layer] == 0);
  }
}

// GGUF has one base for layers with a window and one for the others.
void WriteGraniteSwa(const ModelPlan& plan, Hyperparameters* hyper) {
  std::optional<double> bases[2];
  hyper->layer_is_local.clear();
  for (const LayerPlan& layer : plan.layers) {
    const AttentionPlan& attention = *layer.attention();
    const bool is_local = attention.window > 0;
    hyper->layer_is_local.push_back(is_local);
    hyper->layer_rotates.push_back(!attention.rotation.is_none);
    if (is_local) hyper->sliding_window = static_cast<uint64_t>(attention.window);
    if (attention.rotation.is_none) continue;
    const double usual = hyper->rope_base.value_or(10000.0);
    const double own = attention.rotation.base != 0 ? attention.rotation.base : usual;
    std::optional<double>& base = bases[is_local ? 1 : 0];
    if (base.value_or(own) != own || (own != usual && !hyper->scaling_type.empty())) {
      Fail(ErrorKind::kUnsupported, "{}: GGUF has no words for 'layer_rope_theta' as it is here",
           hyper->path);
    }
    base = own;
  }
  if (bases[0]) hyper->rope_base = bases[0];
  if (bases[1] && bases[1] != hyper->rope_base) hyper->rope_base_local = bases[1];
}

// Attention layers have no positions but those that the scans give them, unless the file says so.
void PlanGraniteHybrid(const FamilyInput& input, ModelPlan* plan) {
  PlanGranite(input, plan);
  const Settings& settings = input.hyper.settings;
  const bool rotates = IsFolder(input) ? settings.Text("", "position_embedding_type") == "rope"
                                       : settings.Bool("rope.scaling.finetuned", "").value_or(true);
  plan->position = rotates ? PositionKind::kRope : PositionKind::kNone;
  std::optional<ScanPlan> scan;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    if (!input.has_weight("ssm_in", layer)) continue;
    if (!scan) scan = ReadScan(input, *plan);
    plan->layers[layer].mixer = *scan;
  }
  const auto shared_dim = settings.Uint("expert_shared_feed_forward_length", "shared_intermediate_size");
  if (input.has_weight("ffn_gate_inp", 0)) {
    UseExperts(input, /*renormalise=*/false, plan);
    SetRouterScore(RouterScore::kSoftmaxChosen, plan);
    if (shared_dim.value_or(0) > 0) UseSharedExpert(input, shared_dim, /*has_gate=*/false, plan);
  } else if (IsFolder(input) && shared_dim) {
    ForEachDense(*plan, [&](DensePlan& dense) { dense.dim = *shared_dim; });
  }
}

void WriteHybrid(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteScan(plan, hyper);
  WriteKvHeadsByLayer(plan, hyper);
  hyper->settings.SetForGguf("rope.scaling.finetuned", plan.position == PositionKind::kRope);
}

}  // namespace

extern constinit const Family kGraniteHybrid = {
    .name = "granitehybrid",
    .gguf_names = kHybridGguf,
    .folder_types = kHybridType,
    .plan = PlanGraniteHybrid,
    .folder_names = kHybridNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .for_gguf = WriteHybrid,
};

extern constinit const Family kGranite = {
    .name = "granite",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanGranite,
    .folder_names = kLlamaTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

extern constinit const Family kGraniteSwa = {
    .name = "granite_swa",
    .gguf_names = kSwaName,
    .folder_types = kSwaName,
    .plan = PlanGraniteSwa,
    .folder_names = kSwaNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
    .for_gguf = WriteGraniteSwa,
};

extern constinit const Family kGraniteMoe = {
    .name = "granitemoe",
    .gguf_names = kMoeGguf,
    .folder_types = kMoeType,
    .plan = PlanGraniteMoe,
    .folder_names = kMoeNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_interleaved_rope = true,
};

}  // namespace mneme
