// Jamba (arXiv 2403.19887): most layers are Mamba's selective scan with norms inside, one of eight is
// attention without positions; every other network is a mixture of experts.
#include <optional>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "final_layernorm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ssm_in", "layers.{}.mamba.in_proj"},
    {"ssm_conv1d", "layers.{}.mamba.conv1d"},
    {"ssm_x", "layers.{}.mamba.x_proj"},
    {"ssm_dt_norm", "layers.{}.mamba.dt_layernorm"},
    {"ssm_b_norm", "layers.{}.mamba.b_layernorm"},
    {"ssm_c_norm", "layers.{}.mamba.c_layernorm"},
    {"ssm_dt", "layers.{}.mamba.dt_proj"},
    {"ssm_a.", "layers.{}.mamba.A_log"},
    {"ssm_d.", "layers.{}.mamba.D"},
    {"ssm_out", "layers.{}.mamba.out_proj"},
    {"ffn_norm", "layers.{}.pre_ff_layernorm"},
    {"ffn_gate", "layers.{}.feed_forward.gate_proj"},
    {"ffn_up", "layers.{}.feed_forward.up_proj"},
    {"ffn_down", "layers.{}.feed_forward.down_proj"},
    {"ffn_gate_inp", "layers.{}.feed_forward.router"},
    {"ffn_gate_exps", "layers.{}.feed_forward.experts.*.gate_proj"},
    {"ffn_up_exps", "layers.{}.feed_forward.experts.*.up_proj"},
    {"ffn_down_exps", "layers.{}.feed_forward.experts.*.down_proj"},
};
constexpr std::string_view kName[] = {"jamba"};

void PlanJamba(const FamilyInput& input, ModelPlan* plan) {
  plan->position = PositionKind::kNone;
  std::optional<SelectivePlan> selective;
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    if (!input.has_weight("ssm_in", layer)) continue;
    if (!selective) {
      selective = ReadSelective(input, *plan);
      selective->has_norms = selective->norms_have_weights = true;
    }
    plan->layers[layer].mixer = *selective;
  }
  UseExperts(input, /*renormalise=*/false, plan);
}

void WriteJamba(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteSelective(plan, hyper);
  WriteKvHeadsByLayer(plan, hyper);
}

}  // namespace

extern constinit const Family kJamba = {
    .name = "jamba",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanJamba,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .for_gguf = WriteJamba,
};

}  // namespace mneme
