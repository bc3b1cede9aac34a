// MPT (Hugging Face mosaicml/mpt-7b).
#include <cmath>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "wte"},
    {"output_norm", "norm_f"},
    {"output", "/lm_head"},
    {"attn_norm", "blocks.{}.norm_1"},
    {"attn_qkv", "blocks.{}.attn.Wqkv"},
    {"attn_output", "blocks.{}.attn.out_proj"},
    {"ffn_norm", "blocks.{}.norm_2"},
    {"ffn_up", "blocks.{}.ffn.up_proj"},
    {"ffn_down", "blocks.{}.ffn.down_proj"},
};

constexpr std::string_view kPrefixes[] = {"transformer.", ""};
constexpr std::string_view kName[] = {"mpt"};

void PlanMpt(const FamilyInput& input, ModelPlan* plan) {
  UseLayerNorm(plan);
  SetActivation(IsFolder(input) ? Activation::kGelu : Activation::kGeluTanh, plan);
  if (input.hyper.qk_layer_norm.value_or(false)) {
    Fail(ErrorKind::kUnsupported, "{}: mpt with norms on queries and keys is not supported",
         input.hyper.path);
  }
  const double max_bias = input.hyper.max_alibi_bias.value_or(8.0);
  if (!input.hyper.alibi.value_or(true) || max_bias == 0) {
    Fail(ErrorKind::kUnsupported, "{}: mpt with learned positions instead of ALiBi is not supported",
         input.hyper.path);
  }
  if (!(max_bias > 0) || !std::isfinite(max_bias)) {
    Fail(ErrorKind::kFile, "{}: the largest ALiBi bias is {}", input.hyper.path, max_bias);
  }
  // Scores are scaled by it in place of the usual number.
  if (const auto scale = input.hyper.settings.Float("", "attn_config.softmax_scale")) {
    ForEachAttention(*plan, [&](AttentionPlan& attention) { attention.scale = static_cast<float>(*scale); });
  }
  UseAlibi(max_bias, plan);
}

}  // namespace

extern constinit const Family kMpt = {
    .name = "mpt",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanMpt,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .gguf_fused_qkv = true,
};

}  // namespace mneme
