// RecurrentGemma (arXiv 2404.07839): two of three layers are Griffin's recurrent block, the third is
// attention with a window. No other reader has a name for it in GGUF; ours is config.json's.
#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "final_norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.temporal_pre_norm"},
    {"attn_q", "layers.{}.temporal_block.q_proj"},
    {"attn_k", "layers.{}.temporal_block.k_proj"},
    {"attn_v", "layers.{}.temporal_block.v_proj"},
    {"attn_output", "layers.{}.temporal_block.o_proj"},
    {"rec_y", "layers.{}.temporal_block.linear_y"},
    {"rec_x", "layers.{}.temporal_block.linear_x"},
    {"ssm_conv1d", "layers.{}.temporal_block.conv_1d"},
    {"rec_input_gate.weight", "layers.{}.temporal_block.rg_lru.input_gate_weight"},
    {"rec_input_gate.bias", "layers.{}.temporal_block.rg_lru.input_gate_bias"},
    {"rec_decay_gate.weight", "layers.{}.temporal_block.rg_lru.recurrent_gate_weight"},
    {"rec_decay_gate.bias", "layers.{}.temporal_block.rg_lru.recurrent_gate_bias"},
    {"rec_decay.weight", "layers.{}.temporal_block.rg_lru.recurrent_param"},
    {"ssm_out", "layers.{}.temporal_block.linear_out"},
    {"ffn_norm", "layers.{}.channel_pre_norm"},
    {"ffn_gate", "layers.{}.mlp_block.gate_proj"},
    {"ffn_up", "layers.{}.mlp_block.up_proj"},
    {"ffn_down", "layers.{}.mlp_block.down_proj"},
};
constexpr std::string_view kName[] = {"recurrent_gemma"};

constexpr uint64_t kMostWindow = uint64_t{1} << 31;
constexpr std::string_view kSoftCap = "final_logit_softcapping", kWindow = "attention.sliding_window";

LruPlan ReadLru(const FamilyInput& input, const ModelPlan& plan) {
  const uint64_t most = kMostStateHeads * kMostStateDim;
  const auto given = input.hyper.settings.Uint("ssm.inner_size", "lru_width");
  const size_t channels = given ? NeededSize(input, "ssm.inner_size", "lru_width", most) : plan.model_dim;
  LruPlan lru;
  lru.num_heads = input.hyper.num_heads.value_or(0);
  if (lru.num_heads == 0 || channels % lru.num_heads != 0) {
    Fail(ErrorKind::kFile, "{}: {} heads do not divide the {} channels of recurrent layers", input.hyper.path,
         lru.num_heads, channels);
  }
  lru.convolution.rule = RecurRule::kConvolution;
  lru.convolution.conv_activates = false;
  lru.convolution.conv_width = NeededSize(input, "ssm.conv_kernel", "conv1d_width", kMaxConvWidth);
  ShareChannels(channels, &lru.convolution);
  lru.scan.rule = RecurRule::kDiagonal;
  lru.scan.key_dim = 1;
  lru.scan.conv_width = 1;
  ShareChannels(channels, &lru.scan);
  return lru;
}

// The models were trained with a factor of eight bits.
float EmbeddingScale(size_t model_dim) {
  const auto bits = std::bit_cast<uint32_t>(std::sqrt(static_cast<float>(model_dim)));
  return std::bit_cast<float>((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u);
}

void PlanRecurrentGemma(const FamilyInput& input, ModelPlan* plan) {
  const Hyperparameters& hyper = input.hyper;
  SetActivation(Activation::kGeluTanh, plan);
  if (!hyper.activation.empty() && hyper.activation != "gelu_pytorch_tanh") {
    Fail(ErrorKind::kUnsupported, "{}: the activation '{}' is not supported", hyper.path, hyper.activation);
  }
  plan->embedding_scale = EmbeddingScale(plan->model_dim);
  plan->final_soft_cap = static_cast<float>(hyper.settings.Float(kSoftCap, "logits_soft_cap").value_or(30));
  if (!(plan->final_soft_cap > 0)) Fail(ErrorKind::kFile, "{}: logits_soft_cap is not positive", hyper.path);
  const bool says_window = hyper.settings.Uint(kWindow, "attention_window_size").has_value();
  UseWindows(input, says_window ? NeededSize(input, kWindow, "attention_window_size", kMostWindow) : 2048, 1,
             plan);
  std::optional<LruPlan> lru;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    // The file counts gate and up matrix together.
    if (IsFolder(input)) plan->layers[layer].dense()->dim /= 2;
    if (!input.has_weight("ssm_conv1d", layer)) continue;
    if (!lru) lru = ReadLru(input, *plan);
    plan->layers[layer].mixer = *lru;
  }
}

void WriteRecurrentGemma(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteKvHeadsByLayer(plan, hyper);
  hyper->final_soft_cap = static_cast<double>(plan.final_soft_cap);
  for (const LayerPlan& layer : plan.layers) {
    if (const LruPlan* lru = layer.lru()) {
      hyper->settings.SetForGguf("ssm.inner_size", static_cast<uint32_t>(lru->scan.value_channels()));
    } else {
      hyper->settings.SetForGguf(kWindow, static_cast<uint32_t>(layer.attention()->window));
    }
  }
}

}  // namespace

extern constinit const Family kGriffin = {
    .name = "recurrent_gemma",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanRecurrentGemma,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.5,
    .folder_norms_minus_one = true,
    .folder_transposed_experts = true,
    .for_gguf = WriteRecurrentGemma,
};

}  // namespace mneme
