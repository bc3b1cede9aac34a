// OLMo Hybrid: three of four layers follow the gated delta rule, with norms before their parts; the others
// are OLMo 3's attention, with norms behind them, in the published models without positions.
#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.attention_layer_norm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"post_attention_norm", "layers.{}.post_attention_layernorm"},
    {"post_attention_norm", "layers.{}.feedforward_layer_norm"},  // as transformers saves it
    {"ssm_q", "layers.{}.linear_attn.q_proj"},
    {"ssm_k", "layers.{}.linear_attn.k_proj"},
    {"ssm_v", "layers.{}.linear_attn.v_proj"},
    {"attn_gate", "layers.{}.linear_attn.g_proj"},
    {"ssm_beta", "layers.{}.linear_attn.b_proj"},
    {"ssm_alpha", "layers.{}.linear_attn.a_proj"},
    {"ssm_conv1d", "layers.{}.linear_attn.conv1d"},
    {"ssm_conv1d_q", "layers.{}.linear_attn.q_conv1d"},
    {"ssm_conv1d_k", "layers.{}.linear_attn.k_conv1d"},
    {"ssm_conv1d_v", "layers.{}.linear_attn.v_conv1d"},
    {"ssm_dt.bias", "layers.{}.linear_attn.dt_bias"},
    {"ssm_a.", "layers.{}.linear_attn.A_log"},
    {"ssm_norm", "layers.{}.linear_attn.o_norm"},
    {"ssm_out", "layers.{}.linear_attn.o_proj"},
    {"ffn_norm", "layers.{}.feedforward_layer_norm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"post_ffw_norm", "layers.{}.post_feedforward_layernorm"},
};
constexpr std::string_view kGguf[] = {"olmo-hybrid"};
constexpr std::string_view kType[] = {"olmo_hybrid"};
constexpr std::string_view kHasPositions = "mneme.rope.is_used";

void PlanOlmoHybrid(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  const bool rotates =
      IsFolder(input) ? input.hyper.rope_base.has_value() : settings.Bool(kHasPositions, "").value_or(true);
  plan->position = rotates ? PositionKind::kRope : PositionKind::kNone;
  SetHeadNorm(HeadNorm::kWhole, plan);
  const bool turns_round =
      settings.Bool("mneme.ssm.negative_eigenvalues", "linear_allow_neg_eigval").value_or(true);
  std::optional<DeltaPlan> delta;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    if (!input.has_weight("ssm_out", layer)) {
      plan->layers[layer].wiring = Wiring::kPostNormOnly;
      continue;
    }
    // The norm of these layers has the usual epsilon of its implementation, whatever the model's is.
    if (!delta) {
      delta = DeltaPlan{
          .shape = ReadDelta(input), .most_strength = turns_round ? 2.0f : 1.0f, .norm_epsilon = 1e-5f};
    }
    plan->layers[layer].mixer = *delta;
  }
}

void WriteOlmoHybrid(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteDelta(plan, hyper);
  hyper->settings.SetForGguf(kHasPositions, plan.position == PositionKind::kRope);
}

}  // namespace

extern constinit const Family kOlmoHybrid = {
    .name = "olmo-hybrid",
    .gguf_names = kGguf,
    .folder_types = kType,
    .plan = PlanOlmoHybrid,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .for_gguf = WriteOlmoHybrid,
};

}  // namespace mneme
