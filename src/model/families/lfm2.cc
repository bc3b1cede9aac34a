// LFM2 (arXiv 2511.23404), dense and with experts, and LFM3: most layers are short gated convolutions, the
// others attention.
#include <cmath>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "embedding_norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.operator_norm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_q_norm", "layers.{}.self_attn.q_layernorm"},
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_layernorm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.out_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"shortconv.in_proj", "layers.{}.conv.in_proj"},
    {"shortconv.conv", "layers.{}.conv.conv"},
    {"shortconv.out_proj", "layers.{}.conv.out_proj"},
    {"post_attention_norm", "layers.{}.post_operator_norm"},
    {"attn_gate", "layers.{}.self_attn.gate_proj"},
    {"attn_gate", "layers.{}.self_attn.g_proj"},
    {"ffn_norm", "layers.{}.ffn_norm"},
    {"post_ffw_norm", "layers.{}.post_ffn_norm"},
    {"ffn_gate", "layers.{}.feed_forward.w1"},
    {"ffn_up", "layers.{}.feed_forward.w3"},
    {"ffn_down", "layers.{}.feed_forward.w2"},
    {"ffn_gate_inp", "layers.{}.feed_forward.gate"},
    {"exp_probs_b.bias", "layers.{}.feed_forward.expert_bias"},
    {"ffn_gate_exps", "layers.{}.feed_forward.experts.*.w1"},
    {"ffn_up_exps", "layers.{}.feed_forward.experts.*.w3"},
    {"ffn_down_exps", "layers.{}.feed_forward.experts.*.w2"},
    {"ffn_gate_up_exps.weight", "layers.{}.feed_forward.experts.gate_up_proj"},
    {"ffn_down_exps.weight", "layers.{}.feed_forward.experts.down_proj"},
};
// As the files on model hubs have it, though it is not the embedding's.
constexpr TensorName kGgufTensors[] = {{"output_norm", "token_embd_norm"}};
constexpr std::string_view kName[] = {"lfm2"};
constexpr std::string_view kMoeGguf[] = {"lfm2moe"};
constexpr std::string_view kMoeType[] = {"lfm2_moe"};
constexpr std::string_view kLfm3Name[] = {"lfm3"};

void PlanLayers(const FamilyInput& input, ModelPlan* plan) {
  if (input.hyper.sliding_window.value_or(0) > 0) UseWindows(input, *input.hyper.sliding_window, 1, plan);
  SetHeadNorm(HeadNorm::kPerHead, plan);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    if (!input.has_weight("shortconv.in_proj", layer)) continue;
    ShortConvPlan conv;
    conv.shape.rule = RecurRule::kConvolution;
    ShareChannels(plan->model_dim, &conv.shape);
    conv.shape.conv_width = NeededSize(input, "shortconv.l_cache", "conv_L_cache", kMaxConvWidth);
    conv.shape.conv_activates = false;
    plan->layers[layer].mixer = conv;
  }
}

// Two thirds of what the folder says, rounded up, as it demands.
void AdjustWidth(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  if (!IsFolder(input)) return;
  const uint64_t given = NeededSize(input, "", "block_ff_dim|intermediate_size", uint64_t{1} << 24);
  const bool adjusts = settings.Bool("", "block_auto_adjust_ff_dim").value_or(true);
  const uint64_t multiple =
      settings.Find("block_multiple_of") ? NeededSize(input, "", "block_multiple_of", 1 << 20) : 256;
  const double factor = settings.Float("", "block_ffn_dim_multiplier").value_or(1);
  if (!(factor > 0) || factor > 1024) {
    Fail(ErrorKind::kFile, "{}: block_ffn_dim_multiplier is {}", input.hyper.path, factor);
  }
  const auto part = static_cast<uint64_t>(factor * static_cast<double>(2 * given / 3));
  const uint64_t dim = adjusts ? (part + multiple - 1) / multiple * multiple : given;
  if (dim == 0) Fail(ErrorKind::kFile, "{}: a feed-forward network of width 0", input.hyper.path);
  ForEachDense(*plan, [&](DensePlan& dense) { dense.dim = dim; });
}

void PlanLfm2(const FamilyInput& input, ModelPlan* plan) {
  PlanLayers(input, plan);
  AdjustWidth(input, plan);
}

void PlanLfm2Moe(const FamilyInput& input, ModelPlan* plan) {
  PlanLayers(input, plan);
  UseExperts(input, /*renormalise=*/true, plan);
  SetRouterScore(RouterScore::kSigmoid, plan);
  input.hyper.settings.Uint("leading_dense_block_count", "num_dense_layers");  // routers tell it
}

// Attention is gated head by head and in some layers has a window; those that see everything rotate a part
// of a head, at a base of their own.
void PlanLfm3(const FamilyInput& input, ModelPlan* plan) {
  PlanLayers(input, plan);
  input.hyper.settings.Bool("", "use_attention_gate");  // the weights tell
  input.hyper.settings.Bool("", "use_sandwich_norm");
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    plan->layers[layer].has_post_norms = input.has_weight("post_attention_norm", layer);
    AttentionPlan* const attention = plan->layers[layer].attention();
    if (attention != nullptr) attention->has_head_gate = input.has_weight("attn_gate", layer);
  }
}

void WriteLfm3(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteKvHeadsByLayer(plan, hyper);
  WriteProportion(plan, hyper);
}

void WriteMoe(const ModelPlan& plan, Hyperparameters* hyper) {
  constexpr uint32_t kSigmoid = 2;
  WriteKvHeadsByLayer(plan, hyper);
  hyper->settings.SetForGguf("expert_gating_func", kSigmoid);
}

}  // namespace

extern constinit const Family kLfm2 = {
    .name = "lfm2",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanLfm2,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_tensors = kGgufTensors,
    .for_gguf = WriteKvHeadsByLayer,
};

extern constinit const Family kLfm3 = {
    .name = "lfm3",
    .gguf_names = kLfm3Name,
    .folder_types = kLfm3Name,
    .plan = PlanLfm3,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_tensors = kGgufTensors,
    .for_gguf = WriteLfm3,
};

extern constinit const Family kLfm2Moe = {
    .name = "lfm2moe",
    .gguf_names = kMoeGguf,
    .folder_types = kMoeType,
    .plan = PlanLfm2Moe,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_tensors = kGgufTensors,
    .for_gguf = WriteMoe,
};

}  // namespace mneme
