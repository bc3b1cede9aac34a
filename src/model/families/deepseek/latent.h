// What families with latent attention (blocks/latent.h) share.
#pragma once

#include "model/families/family.h"

namespace mneme {

// Names of folders.
inline constexpr TensorName kLatentTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"output", "/language_model.lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_q_a", "layers.{}.self_attn.q_a_proj"},
    {"attn_q_a_norm", "layers.{}.self_attn.q_a_layernorm"},
    {"attn_q_b", "layers.{}.self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "layers.{}.self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "layers.{}.self_attn.kv_a_layernorm"},
    {"attn_kv_b", "layers.{}.self_attn.kv_b_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"ffn_gate_inp", "layers.{}.mlp.gate"},
    {"exp_probs_b.bias", "layers.{}.mlp.gate.e_score_correction_bias"},
    {"ffn_gate_exps", "layers.{}.mlp.experts.*.gate_proj"},
    {"ffn_up_exps", "layers.{}.mlp.experts.*.up_proj"},
    {"ffn_down_exps", "layers.{}.mlp.experts.*.down_proj"},
    {"ffn_gate_up_exps.weight", "layers.{}.mlp.experts.gate_up_proj"},
    {"ffn_down_exps.weight", "layers.{}.mlp.experts.down_proj"},
    {"ffn_gate_shexp", "layers.{}.mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "layers.{}.mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "layers.{}.mlp.shared_experts.down_proj"},
};

inline constexpr uint64_t kMostLatentDim = uint64_t{1} << 16;

// In every layer that has a latent: its sizes, and the scale of its logits with what YaRN multiplies them by.
// Error(kFile) for sizes that make no sense.
void UseLatents(const FamilyInput& input, ModelPlan* plan);
// What GGUF files say of them.
void WriteLatents(const ModelPlan& plan, Hyperparameters* hyper);

}  // namespace mneme
