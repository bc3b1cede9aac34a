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
  plan->position = PositionKind::kAlibi;
  // Press et al. 2021: a geometric series; between the powers of two the odd members of the next one follow.
  const size_t num_heads = plan->layers[0].attention()->num_heads;
  size_t power = 1;
  while (power * 2 <= num_heads) power *= 2;
  for (size_t head = 0; head < num_heads; ++head) {
    const double exponent =
        head < power
            ? static_cast<double>(head + 1) * max_bias / static_cast<double>(power)
            : static_cast<double>(2 * (head - power) + 1) * max_bias / static_cast<double>(2 * power);
    plan->alibi_slopes.push_back(static_cast<float>(std::exp2(-exponent)));
  }
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
