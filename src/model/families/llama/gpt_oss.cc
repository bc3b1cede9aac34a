// gpt-oss (arXiv 2508.10925): experts with biases and a clamped SwiGLU, every other layer with a window, a
// learned sink logit in every head, YaRN whose bounds are not rounded.
#include "base/error.h"
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
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"attn_sinks.weight", "layers.{}.self_attn.sinks"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate_inp", "layers.{}.mlp.router"},
    {"ffn_gate_up_exps.weight", "layers.{}.mlp.experts.gate_up_proj"},
    {"ffn_gate_up_exps.bias", "layers.{}.mlp.experts.gate_up_proj_bias"},
    {"ffn_down_exps.weight", "layers.{}.mlp.experts.down_proj"},
    {"ffn_down_exps.bias", "layers.{}.mlp.experts.down_proj_bias"},
};
constexpr TensorName kGgufNames[] = {{"ffn_norm", "post_attention_norm"}};
constexpr std::string_view kGgufName[] = {"gpt-oss"};
constexpr std::string_view kType[] = {"gpt_oss"};

// What is added to the limit and the slope in the file has never been anything else.
constexpr float kClamp = 7.0f;

void PlanGptOss(const FamilyInput& input, ModelPlan* plan) {
  const Hyperparameters& hyper = input.hyper;
  UseWindows(input, hyper.sliding_window.value_or(128), 2, plan);
  UseExperts(input, /*renormalise=*/false, plan);
  const double limit = hyper.settings.Float("", "swiglu_limit").value_or(kClamp);
  const double alpha = hyper.settings.Float("", "swiglu_alpha").value_or(1.702);
  if (!(limit > 0) || alpha != 1.702) {
    Fail(ErrorKind::kUnsupported, "{}: a SwiGLU with limit {} and slope {} is not supported", hyper.path,
         limit, alpha);
  }
  for (LayerPlan& layer : plan->layers) {
    if (ExpertsPlan* experts = layer.experts()) {
      experts->router.score = RouterScore::kSoftmaxChosen;
      experts->has_biases = true;
      experts->clamp = static_cast<float>(limit);
    }
  }
}

// Readers know that the bounds are not rounded.
void WriteGptOss(const ModelPlan& plan, Hyperparameters* hyper) {
  hyper->settings.SetForGguf("expert_feed_forward_length",
                             static_cast<uint32_t>(plan.layers[0].experts()->dim));
}

}  // namespace

extern constinit const Family kGptOss = {
    .name = "gpt-oss",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanGptOss,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_transposed_experts = true,
    .folder_gates_in_turns = true,
    .gguf_tensors = kGgufNames,
    .rounds_yarn = false,
    .for_gguf = WriteGptOss,
};

}  // namespace mneme
