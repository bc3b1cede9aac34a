// Qwen3-Next and Qwen3.5 and 3.6, dense and with experts: three of four layers have a state of fixed size
// (the gated delta rule, arXiv 2412.06464), the others attention whose outputs are gated.
#include <algorithm>

#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ssm_in", "layers.{}.linear_attn.in_proj_qkvz"},
    {"ssm_ba", "layers.{}.linear_attn.in_proj_ba"},
    {"attn_qkv", "layers.{}.linear_attn.in_proj_qkv"},
    {"attn_gate", "layers.{}.linear_attn.in_proj_z"},
    {"ssm_beta", "layers.{}.linear_attn.in_proj_b"},
    {"ssm_alpha", "layers.{}.linear_attn.in_proj_a"},
    {"ssm_conv1d", "layers.{}.linear_attn.conv1d"},
    {"ssm_dt.bias", "layers.{}.linear_attn.dt_bias"},
    {"ssm_a.", "layers.{}.linear_attn.A_log"},
    {"ssm_norm", "layers.{}.linear_attn.norm"},
    {"ssm_out", "layers.{}.linear_attn.out_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"ffn_gate_inp", "layers.{}.mlp.gate"},
    {"ffn_gate_exps", "layers.{}.mlp.experts.*.gate_proj"},
    {"ffn_up_exps", "layers.{}.mlp.experts.*.up_proj"},
    {"ffn_down_exps", "layers.{}.mlp.experts.*.down_proj"},
    {"ffn_gate_up_exps.weight", "layers.{}.mlp.experts.gate_up_proj"},
    {"ffn_down_exps.weight", "layers.{}.mlp.experts.down_proj"},
    {"ffn_gate_inp_shexp", "layers.{}.mlp.shared_expert_gate"},
    {"ffn_gate_shexp", "layers.{}.mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "layers.{}.mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "layers.{}.mlp.shared_expert.down_proj"},
};
constexpr TensorName kGgufTensors[] = {{"ffn_norm", "post_attention_norm"}};
constexpr std::string_view kNextGguf[] = {"qwen3next"};
constexpr std::string_view kNextType[] = {"qwen3_next"};
constexpr std::string_view kGguf[] = {"qwen35"};
constexpr std::string_view kTypes[] = {"qwen3_5", "qwen3_5_text"};
constexpr std::string_view kMoeGguf[] = {"qwen35moe"};
constexpr std::string_view kMoeTypes[] = {"qwen3_5_moe", "qwen3_5_moe_text"};

void PlanLayers(const FamilyInput& input, bool is_tiled, ModelPlan* plan) {
  input.hyper.settings.Bool("", "attn_output_gate");  // it always has one
  std::optional<RecurShape> shape;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    if (AttentionPlan* attention = plan->layers[layer].attention()) {
      attention->qk_norm = HeadNorm::kPerHead;
      attention->has_output_gate = true;
    }
    if (!input.has_weight("ssm_out", layer)) continue;
    if (!shape) shape = ReadDelta(input);
    shape->is_tiled = is_tiled;
    plan->layers[layer].mixer = DeltaPlan{*shape};
  }
}

void UseMixture(const FamilyInput& input, ModelPlan* plan) {
  UseExperts(input, /*renormalise=*/true, plan);
  UseSharedExpert(
      input,
      input.hyper.settings.Uint("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
      /*has_gate=*/true, plan);
}

void PlanNext(const FamilyInput& input, ModelPlan* plan) {
  PlanLayers(input, /*is_tiled=*/false, plan);
  UseMixture(input, plan);
}

void PlanDense(const FamilyInput& input, ModelPlan* plan) {
  PlanLayers(input, /*is_tiled=*/!IsFolder(input), plan);
}

void PlanMoe(const FamilyInput& input, ModelPlan* plan) {
  PlanLayers(input, /*is_tiled=*/!IsFolder(input), plan);
  UseMixture(input, plan);
}

// What readers of these files look for beside the keys that were read.
void WriteShape(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteDelta(plan, hyper);
  // The first layer with attention tells how often there is one.
  const auto found = std::find_if(plan.layers.begin(), plan.layers.end(),
                                  [](const LayerPlan& layer) { return layer.attention() != nullptr; });
  if (found == plan.layers.end()) return;
  const auto interval = static_cast<uint32_t>(found - plan.layers.begin() + 1);
  hyper->settings.SetForGguf("full_attention_interval", interval);
}

// Sections of the rotated pairs for time, height and width of what is seen; of text any will do.
void WriteShapeOf35(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteShape(plan, hyper);
  if (hyper->rope_sections.empty() && !plan.ropes.empty()) {
    hyper->rope_sections.push_back(plan.ropes[0].rotary_dim / 2);
  }
  hyper->rope_sections.resize(4);
}

}  // namespace

extern constinit const Family kQwen3Next = {
    .name = "qwen3next",
    .gguf_names = kNextGguf,
    .folder_types = kNextType,
    .plan = PlanNext,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.25,
    .folder_norms_minus_one = true,
    .gguf_tensors = kGgufTensors,
    .for_gguf = WriteShape,
};

extern constinit const Family kQwen35 = {
    .name = "qwen3.5",
    .gguf_names = kGguf,
    .folder_types = kTypes,
    .plan = PlanDense,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.25,
    .folder_norms_minus_one = true,
    .gguf_tensors = kGgufTensors,
    .gguf_tiled_value_heads = true,
    .for_gguf = WriteShapeOf35,
};

extern constinit const Family kQwen35Moe = {
    .name = "qwen3.5moe",
    .gguf_names = kMoeGguf,
    .folder_types = kMoeTypes,
    .plan = PlanMoe,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_rotary_fraction = 0.25,
    .folder_norms_minus_one = true,
    .gguf_tensors = kGgufTensors,
    .gguf_tiled_value_heads = true,
    .for_gguf = WriteShapeOf35,
};

}  // namespace mneme
