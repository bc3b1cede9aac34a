// Gemma 4: layers with a window and layers that see everything have heads of different sizes; values are
// normed, and in the large models the layers that see everything use their keys as values.
#include <cmath>

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
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"post_attention_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_norm", "layers.{}.pre_feedforward_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"post_ffw_norm", "layers.{}.post_feedforward_layernorm"},
    {"layer_output_scale.weight", "layers.{}.layer_scalar"},
    {"post_ffw_norm_1", "layers.{}.post_feedforward_layernorm_1"},
    {"pre_ffw_norm_2", "layers.{}.pre_feedforward_layernorm_2"},
    {"post_ffw_norm_2", "layers.{}.post_feedforward_layernorm_2"},
    {"ffn_gate_inp", "layers.{}.router.proj"},
    {"ffn_gate_inp.scale", "layers.{}.router.scale"},
    {"ffn_gate_up_exps.weight", "layers.{}.experts.gate_up_proj"},
    {"ffn_down_exps.weight", "layers.{}.experts.down_proj"},
    {"ffn_down_exps.scale", "layers.{}.router.per_expert_scale"},
    {"per_layer_token_embd", "embed_tokens_per_layer"},
    {"per_layer_model_proj", "per_layer_model_projection"},
    {"per_layer_proj_norm", "per_layer_projection_norm"},
    {"inp_gate", "layers.{}.per_layer_input_gate"},
    {"proj", "layers.{}.per_layer_projection"},
    {"post_norm", "layers.{}.post_per_layer_input_norm"},
};
constexpr std::string_view kName[] = {"gemma4"};
constexpr std::string_view kTypes[] = {"gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"};

constexpr uint64_t kMostHeadDim = 1 << 16;

// A size of the layers of one kind: config.json tells of the others layer by layer or by a name of its own.
size_t SizeOf(const FamilyInput& input, size_t layer, std::string_view per_layer, std::string_view other,
              size_t usual) {
  const Settings& settings = input.hyper.settings;
  std::optional<uint64_t> value = settings.Uint("", fmt::format("per_layer_config.{}.{}", layer, per_layer));
  if (!value) value = settings.Uint("", other);
  if (!value) return usual;
  if (*value == 0 || *value > kMostHeadDim) {
    Fail(ErrorKind::kFile, "{}: {} is {}", input.hyper.path, other, *value);
  }
  return *value;
}

void SetHeads(const FamilyInput& input, size_t layer, AttentionPlan* attention) {
  const bool is_local = attention->window > 0;
  if (!IsFolder(input)) {
    // The usual sizes are those of the layers that see everything.
    if (!is_local) return;
    const Settings& settings = input.hyper.settings;
    attention->key_dim = settings.Uint("attention.key_length_swa", "").value_or(attention->key_dim);
    attention->value_dim = settings.Uint("attention.value_length_swa", "").value_or(attention->value_dim);
    attention->rotation.dim = settings.Uint("rope.dimension_count_swa", "").value_or(attention->key_dim);
  } else if (!is_local) {
    attention->key_dim = attention->value_dim =
        SizeOf(input, layer, "head_dim", "global_head_dim", attention->key_dim);
    attention->num_kv_heads =
        SizeOf(input, layer, "num_key_value_heads", "num_global_key_value_heads", attention->num_kv_heads);
  }
  if (attention->key_dim == 0 || attention->key_dim > kMostHeadDim || attention->value_dim == 0 ||
      attention->value_dim > kMostHeadDim || attention->num_heads % attention->num_kv_heads != 0) {
    Fail(ErrorKind::kFile, "{}: layer {} has heads of {} and {} values, {} that share {} of keys",
         input.hyper.path, layer, attention->key_dim, attention->value_dim, attention->num_heads,
         attention->num_kv_heads);
  }
}

// The last layers read the keys and values of the last layer of their kind before them.
void ShareKeys(const FamilyInput& input, ModelPlan* plan) {
  const uint64_t shared =
      input.hyper.settings.Uint("attention.shared_kv_layers", "num_kv_shared_layers").value_or(0);
  const size_t num_layers = plan->num_layers();
  if (shared >= num_layers) {
    Fail(ErrorKind::kFile, "{}: {} of {} layers share their keys", input.hyper.path, shared, num_layers);
  }
  for (size_t layer = num_layers - shared; layer < num_layers; ++layer) {
    AttentionPlan& attention = *plan->layers[layer].attention();
    size_t source = num_layers - shared;
    while (source > 0) {
      const AttentionPlan& other = *plan->layers[--source].attention();
      if ((other.window > 0) != (attention.window > 0)) continue;
      attention.kv_source = static_cast<int64_t>(source);
      attention.num_kv_heads = other.num_kv_heads;
      break;
    }
    if (attention.kv_source < 0) {
      Fail(ErrorKind::kFile, "{}: layer {} shares the keys of no layer", input.hyper.path, layer);
    }
    if (IsFolder(input) && input.hyper.settings.Bool("", "use_double_wide_mlp").value_or(false)) {
      plan->layers[layer].dense()->dim *= 2;
    }
  }
}

void UseMixture(const FamilyInput& input, ModelPlan* plan) {
  if (IsFolder(input) && !input.hyper.settings.Bool("", "enable_moe_block").value_or(false)) return;
  if (!IsFolder(input) && input.hyper.settings.Uint("expert_count", "").value_or(0) == 0) return;
  ModelPlan mixture = *plan;
  UseExperts(input, /*renormalise=*/true, &mixture);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    if (mixture.layers[layer].experts() == nullptr) continue;
    MixedPlan mixed{.dense = *plan->layers[layer].dense(), .experts = *mixture.layers[layer].experts()};
    mixed.experts.has_expert_scale = true;
    plan->layers[layer].feed_forward = mixed;
  }
}

void PlanGemma4(const FamilyInput& input, ModelPlan* plan) {
  const Hyperparameters& hyper = input.hyper;
  if (hyper.sliding_window.value_or(0) == 0) {
    Fail(ErrorKind::kFile, "{}: gemma4 without 'attention.sliding_window'", hyper.path);
  }
  UseWindows(input, *hyper.sliding_window, 6, plan);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    AttentionPlan& attention = *plan->layers[layer].attention();
    SetHeads(input, layer, &attention);
    attention.scale = 1.0f;
    attention.value_norm = true;
    attention.value_is_key = !input.has_weight("attn_v", layer);
    plan->layers[layer].has_post_norms = true;
    plan->layers[layer].has_output_scale = input.has_weight("layer_output_scale", layer);
  }
  UseMixture(input, plan);
  ShareKeys(input, plan);
  SetHeadNorm(HeadNorm::kPerHead, plan);
  SetActivation(Activation::kGeluTanh, plan);
  plan->embedding_scale = std::sqrt(static_cast<float>(plan->model_dim));
  UsePerLayerInputs(
      input,
      hyper.settings.Uint("embedding_length_per_layer_input", "hidden_size_per_layer_input").value_or(0),
      plan);
}

// GGUF tells the sizes of the layers that see everything, those of the others apart, and which frequencies
// rotate as divisors.
void WriteSizes(const ModelPlan& plan, Hyperparameters* hyper) {
  const AttentionPlan* local = nullptr;
  ForEachAttention(plan, [&](const AttentionPlan& attention) {
    if (attention.window > 0) {
      local = &attention;
    } else {
      hyper->key_dim = attention.key_dim;
      hyper->value_dim = attention.value_dim;
    }
  });
  const auto set = [&](std::string_view key, size_t value) {
    hyper->settings.SetForGguf(key, static_cast<uint32_t>(value));
  };
  if (local != nullptr) {
    set("attention.key_length_swa", local->key_dim);
    set("attention.value_length_swa", local->value_dim);
    set("rope.dimension_count_swa", plan.ropes[local->rope].rotary_dim);
  }
  set("embedding_length_per_layer_input", plan.per_layer_dim);
  hyper->attention_scale.reset();
  WriteProportion(plan, hyper);
}

}  // namespace

extern constinit const Family kGemma4 = {
    .name = "gemma4",
    .gguf_names = kName,
    .folder_types = kTypes,
    .plan = PlanGemma4,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .local_rope_base = 10000.0,
    .for_gguf = WriteSizes,
};

}  // namespace mneme
