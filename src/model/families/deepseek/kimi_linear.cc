// Kimi Linear (arXiv 2510.26692): three of four layers have a state of fixed size, whose decays are by
// channel, the others latent attention without positions; experts as DeepSeek-V3 has them.
#include <cmath>

#include "base/error.h"
#include "model/families/deepseek/latent.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"kimi-linear"};
constexpr std::string_view kType[] = {"kimi_linear"};
constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_q_a", "layers.{}.self_attn.q_a_proj"},
    {"attn_q_a_norm", "layers.{}.self_attn.q_a_layernorm"},
    {"attn_q_b", "layers.{}.self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "layers.{}.self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "layers.{}.self_attn.kv_a_layernorm"},
    {"attn_kv_b", "layers.{}.self_attn.kv_b_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ssm_q", "layers.{}.self_attn.q_proj"},
    {"ssm_k", "layers.{}.self_attn.k_proj"},
    {"ssm_v", "layers.{}.self_attn.v_proj"},
    {"ssm_conv1d_q", "layers.{}.self_attn.q_conv1d"},
    {"ssm_conv1d_k", "layers.{}.self_attn.k_conv1d"},
    {"ssm_conv1d_v", "layers.{}.self_attn.v_conv1d"},
    {"ssm_f_a", "layers.{}.self_attn.f_a_proj"},
    {"ssm_f_b", "layers.{}.self_attn.f_b_proj"},
    {"ssm_beta", "layers.{}.self_attn.b_proj"},
    {"ssm_g_a", "layers.{}.self_attn.g_a_proj"},
    {"ssm_g_b", "layers.{}.self_attn.g_b_proj"},
    {"ssm_dt.bias", "layers.{}.self_attn.dt_bias"},
    {"ssm_a.", "layers.{}.self_attn.A_log"},
    {"ssm_norm", "layers.{}.self_attn.o_norm"},
    {"ssm_out", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_gate", "layers.{}.block_sparse_moe.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_up", "layers.{}.block_sparse_moe.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"ffn_down", "layers.{}.block_sparse_moe.down_proj"},
    {"ffn_gate_inp", "layers.{}.block_sparse_moe.gate"},
    {"exp_probs_b.bias", "layers.{}.block_sparse_moe.gate.e_score_correction_bias"},
    {"ffn_gate_exps", "layers.{}.block_sparse_moe.experts.*.w1"},
    {"ffn_up_exps", "layers.{}.block_sparse_moe.experts.*.w3"},
    {"ffn_down_exps", "layers.{}.block_sparse_moe.experts.*.w2"},
    {"ffn_gate_shexp", "layers.{}.block_sparse_moe.shared_experts.gate_proj"},
    {"ffn_up_shexp", "layers.{}.block_sparse_moe.shared_experts.up_proj"},
    {"ffn_down_shexp", "layers.{}.block_sparse_moe.shared_experts.down_proj"},
};
constexpr TensorName kGgufTensors[] = {
    {"ssm_q", "attn_q"}, {"ssm_k", "attn_k"}, {"ssm_v", "attn_v"}, {"ssm_out", "attn_output"}};

ChannelDeltaPlan ReadChannelDelta(const FamilyInput& input, size_t num_heads) {
  ChannelDeltaPlan plan;
  RecurShape& shape = plan.shape;
  const size_t dim =
      NeededSize(input, "kda.head_dim", "linear_attn_config.head_dim|linear_head_dim", kMostStateDim);
  shape.num_key_heads = shape.num_value_heads =
      IsFolder(input)
          ? NeededSize(input, "", "linear_attn_config.num_heads|linear_num_heads", kMostStateHeads)
          : num_heads;
  shape.key_dim = shape.value_dim = plan.gate_rank = dim;
  shape.conv_width =
      NeededSize(input, "ssm.conv_kernel", "linear_attn_config.short_conv_kernel_size|linear_conv_kernel_dim",
                 kMaxConvWidth);
  shape.decays_by_channel = true;
  shape.query_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  return plan;
}

// Other scores than sigmoids are not known of this family.
void CheckRouter(const FamilyInput& input) {
  const auto score = input.hyper.settings.Text("", "moe_router_activation_func");
  if (!score || *score == "sigmoid") return;
  Fail(ErrorKind::kUnsupported, "{}: moe_router_activation_func '{}' is not known here (sigmoid is)",
       input.hyper.path, *score);
}

void PlanKimiLinear(const FamilyInput& input, ModelPlan* plan) {
  plan->position = PositionKind::kNone;
  const size_t num_heads = plan->layers[0].attention()->num_heads;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    if (input.has_weight("ssm_f_a", layer)) plan->layers[layer].mixer = ReadChannelDelta(input, num_heads);
  }
  UseLatents(input, plan);
  UseExperts(input, /*renormalise=*/true, plan);
  CheckRouter(input);
  SetRouterScore(RouterScore::kSigmoid, plan);
  UseExpertGroups(input, plan);
  UseSharedExperts(input, plan);
}

void WriteKimiLinear(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteLatents(plan, hyper);
  WriteExperts(plan, hyper);
  WriteKvHeadsByLayer(plan, hyper);
}

}  // namespace

extern constinit const Family kKimiLinear = {
    .name = "kimi-linear",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanKimiLinear,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_tensors = kGgufTensors,
    .for_gguf = WriteKimiLinear,
};

}  // namespace mneme
