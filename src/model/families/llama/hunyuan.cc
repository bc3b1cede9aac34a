// Hunyuan, dense and with experts (arXiv 2411.02265): Llama that norms queries and keys after their rotation,
// by a base that has grown by a constant.
#include <cmath>

#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kDenseGguf[] = {"hunyuan-dense"};
constexpr std::string_view kDenseType[] = {"hunyuan_v1_dense"};
constexpr std::string_view kMoeGguf[] = {"hunyuan-moe"};
constexpr std::string_view kMoeType[] = {"hunyuan_v1_moe"};
constexpr TensorName kTensorNames[] = {
    {"attn_q_norm", "layers.{}.self_attn.query_layernorm"},
    {"attn_k_norm", "layers.{}.self_attn.key_layernorm"},
    {"ffn_gate_inp", "layers.{}.mlp.gate.wg"},
    {"ffn_gate_shexp", "layers.{}.mlp.shared_mlp.gate_proj"},
    {"ffn_up_shexp", "layers.{}.mlp.shared_mlp.up_proj"},
    {"ffn_down_shexp", "layers.{}.mlp.shared_mlp.down_proj"},
};

void PlanHunyuan(const FamilyInput& input, ModelPlan* plan) {
  // The first models had a choice.
  if (input.hyper.settings.Bool("", "use_qk_norm").value_or(true)) SetHeadNorm(HeadNorm::kRotated, plan);
}

void PlanHunyuanMoe(const FamilyInput& input, ModelPlan* plan) {
  PlanHunyuan(input, plan);
  UseExperts(input, /*renormalise=*/true, plan);
  UseSharedExpert(input, input.hyper.settings.Uint("expert_shared_feed_forward_length", "intermediate_size"),
                  /*has_gate=*/false, plan);
}

// GGUF has the base as it has grown.
void WriteHunyuan(const ModelPlan& plan, Hyperparameters* hyper) {
  const auto growth = hyper->settings.Float("", "rope_parameters.alpha|rope_scaling.alpha");
  if (hyper->scaling_type != "dynamic" || !growth) return;
  const double dim = static_cast<double>(plan.ropes[0].rotary_dim);
  hyper->rope_base = *hyper->rope_base * std::pow(*growth, dim / (dim - 2));
  hyper->scaling_type = "none";
  hyper->scaling_factor.reset();
  hyper->original_length.reset();
}

}  // namespace

extern constinit const Family kHunyuan = {
    .name = "hunyuan-dense",
    .gguf_names = kDenseGguf,
    .folder_types = kDenseType,
    .plan = PlanHunyuan,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
    .for_gguf = WriteHunyuan,
};

extern constinit const Family kHunyuanMoe = {
    .name = "hunyuan-moe",
    .gguf_names = kMoeGguf,
    .folder_types = kMoeType,
    .plan = PlanHunyuanMoe,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
    .for_gguf = WriteHunyuan,
};

}  // namespace mneme
