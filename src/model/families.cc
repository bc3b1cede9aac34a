#include "model/families.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "model/rope_scaling.h"

namespace mneme {
namespace {

using Names = std::string_view;

constexpr TensorName kLlamaNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"output", "/language_model.lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_qkv", "layers.{}.self_attn.qkv_proj"},
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_up", "layers.{}.mlp.gate_up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
};
constexpr TensorName kGemma2Names[] = {
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
};
constexpr TensorName kGptNeoxNames[] = {
    {"token_embd", "embed_in"},
    {"output_norm", "final_layer_norm"},
    {"output", "/embed_out"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_qkv", "layers.{}.attention.query_key_value"},
    {"attn_output", "layers.{}.attention.dense"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_up", "layers.{}.mlp.dense_h_to_4h"},
    {"ffn_down", "layers.{}.mlp.dense_4h_to_h"},
};
constexpr TensorName kGptjNames[] = {
    {"token_embd", "wte"},          {"output_norm", "ln_f"},
    {"output", "/lm_head"},         {"attn_norm", "h.{}.ln_1"},
    {"attn_q", "h.{}.attn.q_proj"}, {"attn_k", "h.{}.attn.k_proj"},
    {"attn_v", "h.{}.attn.v_proj"}, {"attn_output", "h.{}.attn.out_proj"},
    {"ffn_up", "h.{}.mlp.fc_in"},   {"ffn_down", "h.{}.mlp.fc_out"},
};
constexpr TensorName kFalconNames[] = {
    {"token_embd", "word_embeddings"},
    {"output_norm", "ln_f"},
    {"output", "/lm_head"},
    {"attn_norm", "h.{}.input_layernorm"},
    {"attn_norm", "h.{}.ln_mlp"},
    {"attn_norm_2", "h.{}.ln_attn"},
    {"attn_qkv", "h.{}.self_attention.query_key_value"},
    {"attn_output", "h.{}.self_attention.dense"},
    {"ffn_up", "h.{}.mlp.dense_h_to_4h"},
    {"ffn_down", "h.{}.mlp.dense_4h_to_h"},
};
constexpr TensorName kMptNames[] = {
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
constexpr TensorName kGpt2Names[] = {
    {"token_embd", "wte"},
    {"position_embd", "wpe"},
    {"output_norm", "ln_f"},
    {"output", "/lm_head"},
    {"attn_norm", "h.{}.ln_1"},
    {"attn_qkv", "h.{}.attn.c_attn"},
    {"attn_output", "h.{}.attn.c_proj"},
    {"ffn_norm", "h.{}.ln_2"},
    {"ffn_up", "h.{}.mlp.c_fc"},
    {"ffn_down", "h.{}.mlp.c_proj"},
};
constexpr TensorName kStarcoder2Names[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_up", "layers.{}.mlp.c_fc"},
    {"ffn_down", "layers.{}.mlp.c_proj"},
};
constexpr TensorName kStablelmNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    // One vector per head, gathered under this name.
    {"attn_q_norm", "layers.{}.self_attn.q_layernorm.norms.*"},
    {"attn_k_norm", "layers.{}.self_attn.k_layernorm.norms.*"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
};
constexpr TensorName kOlmo2Names[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"post_attention_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"post_ffw_norm", "layers.{}.post_feedforward_layernorm"},
};

constexpr Names kModelPrefixes[] = {"model.", "", "language_model.model.", "model.language_model."};
constexpr Names kNeoxPrefixes[] = {"gpt_neox.", ""};
constexpr Names kGptPrefixes[] = {"transformer.", ""};

void UseLayerNorm(const FamilyInput&, ModelConfig* c) {
  c->norm = NormKind::kLayer;
  c->gated_ffn = false;
}

bool IsFolder(const FamilyInput& in) { return in.hyper.container == Container::kSafetensors; }

// Every pattern-th layer sees all, the others only the window, unless the file says it layer by layer.
void UseWindows(const FamilyInput& in, uint64_t window, uint64_t pattern, ModelConfig* c) {
  const auto& given = in.hyper.layer_is_local;
  if (!given.empty() && given.size() < c->num_layers) {
    Fail(ErrorKind::kFile, "{}: says for {} layers whether they have a window, but the model has {}",
         in.hyper.path, given.size(), c->num_layers);
  }
  if (pattern == 0) Fail(ErrorKind::kFile, "{}: the interval of global layers is 0", in.hyper.path);
  for (size_t layer = 0; layer < c->num_layers; ++layer) {
    const bool is_local = given.empty() ? pattern == 1 || layer % pattern < pattern - 1 : given[layer];
    c->layer_window[layer] = is_local ? static_cast<int64_t>(window) : 0;
  }
}

// For families whose window, if the file has one, holds in all layers.
void UseOptionalWindow(const FamilyInput& in, ModelConfig* c) {
  if (in.hyper.use_sliding_window && !*in.hyper.use_sliding_window) return;
  if (in.hyper.sliding_window.value_or(0) > 0) UseWindows(in, *in.hyper.sliding_window, 1, c);
}

void ConfigureLlama(const FamilyInput& in, ModelConfig* c) { UseOptionalWindow(in, c); }

void ConfigureQwen2(const FamilyInput& in, ModelConfig* c) {
  // Off unless said otherwise, and then only from a layer on.
  if (IsFolder(in) && !in.hyper.use_sliding_window.value_or(false)) return;
  UseOptionalWindow(in, c);
  if (!in.hyper.layer_is_local.empty()) return;
  const size_t first = static_cast<size_t>(in.hyper.max_window_layers.value_or(0));
  for (size_t layer = 0; layer < std::min(first, c->num_layers); ++layer) c->layer_window[layer] = 0;
}

void ConfigureQwen3(const FamilyInput& in, ModelConfig* c) {
  ConfigureQwen2(in, c);
  c->qk_norm_per_head = true;
}

void ConfigureGemma(const FamilyInput&, ModelConfig* c) {
  c->activation = Activation::kGeluTanh;
  c->embedding_scale = std::sqrt(static_cast<float>(c->model_dim));
}

// The largest models of gemma 2 and 3 scale queries by the width per head instead of the head's own size.
// GGUF files do not say so; readers know it by the number of layers.
void UseGemmaScale(const FamilyInput& in, size_t layers_of_largest, ModelConfig* c) {
  if (in.hyper.attention_scale) return;
  double size = static_cast<double>(c->key_dim);
  if (in.hyper.query_pre_attn_scalar) {
    size = *in.hyper.query_pre_attn_scalar;
    if (!(size > 0)) Fail(ErrorKind::kFile, "{}: query_pre_attn_scalar is {}", in.hyper.path, size);
  } else if (c->num_layers == layers_of_largest) {
    size = static_cast<double>(c->model_dim / c->num_heads);
  }
  c->attention_scale = static_cast<float>(1 / std::sqrt(size));
}

void ConfigureGemma2(const FamilyInput& in, ModelConfig* c) {
  ConfigureGemma(in, c);
  c->post_norms = true;
  UseGemmaScale(in, 46, c);
  UseWindows(in, in.hyper.sliding_window.value_or(4096), in.hyper.window_pattern.value_or(2), c);
}

void ConfigureGemma3(const FamilyInput& in, ModelConfig* c) {
  ConfigureGemma(in, c);
  c->post_norms = true;
  c->qk_norm_per_head = true;
  UseGemmaScale(in, 62, c);
  if (in.hyper.sliding_window.value_or(0) == 0) {
    Fail(ErrorKind::kFile, "{}: gemma3 without 'attention.sliding_window'", in.hyper.path);
  }
  UseWindows(in, *in.hyper.sliding_window, in.hyper.window_pattern.value_or(6), c);
}

void ConfigurePhi3(const FamilyInput& in, ModelConfig* c) { UseOptionalWindow(in, c); }

void ConfigureGptNeox(const FamilyInput& in, ModelConfig* c) {
  UseLayerNorm(in, c);
  c->activation = IsFolder(in) ? Activation::kGelu : Activation::kGeluTanh;
  if (in.hyper.parallel_residual.value_or(true)) c->block = BlockKind::kParallel;
}

void ConfigureGptj(const FamilyInput& in, ModelConfig* c) {
  UseLayerNorm(in, c);
  c->activation = Activation::kGeluTanh;
  c->block = BlockKind::kParallel;
}

void ConfigureFalcon(const FamilyInput& in, ModelConfig* c) {
  UseLayerNorm(in, c);
  c->activation = IsFolder(in) ? Activation::kGelu : Activation::kGeluTanh;
  c->block = BlockKind::kParallel;
  if (in.hyper.alibi.value_or(false)) {
    Fail(ErrorKind::kUnsupported, "{}: falcon with ALiBi is not supported", in.hyper.path);
  }
  if (!in.hyper.parallel_residual.value_or(true) && !in.hyper.new_decoder_architecture.value_or(false)) {
    Fail(ErrorKind::kUnsupported, "{}: falcon without parallel attention is not supported", in.hyper.path);
  }
}

void ConfigureMpt(const FamilyInput& in, ModelConfig* c) {
  UseLayerNorm(in, c);
  c->activation = IsFolder(in) ? Activation::kGelu : Activation::kGeluTanh;
  if (in.hyper.qk_layer_norm.value_or(false)) {
    Fail(ErrorKind::kUnsupported, "{}: mpt with norms on queries and keys is not supported", in.hyper.path);
  }
  const double max_bias = in.hyper.max_alibi_bias.value_or(8.0);
  if (!in.hyper.alibi.value_or(true) || max_bias == 0) {
    Fail(ErrorKind::kUnsupported, "{}: mpt with learned positions instead of ALiBi is not supported",
         in.hyper.path);
  }
  if (!(max_bias > 0) || !std::isfinite(max_bias)) {
    Fail(ErrorKind::kFile, "{}: the largest ALiBi bias is {}", in.hyper.path, max_bias);
  }
  c->position = PositionKind::kAlibi;
  // Press et al. 2021: a geometric series; between the powers of two the odd members of the next one follow.
  size_t power = 1;
  while (power * 2 <= c->num_heads) power *= 2;
  for (size_t head = 0; head < c->num_heads; ++head) {
    const double exponent =
        head < power
            ? static_cast<double>(head + 1) * max_bias / static_cast<double>(power)
            : static_cast<double>(2 * (head - power) + 1) * max_bias / static_cast<double>(2 * power);
    c->alibi_slopes.push_back(static_cast<float>(std::exp2(-exponent)));
  }
}

void ConfigureGpt2(const FamilyInput& in, ModelConfig* c) {
  UseLayerNorm(in, c);
  c->activation = Activation::kGeluTanh;
  c->position = PositionKind::kLearned;
}

void ConfigureStarcoder2(const FamilyInput& in, ModelConfig* c) {
  UseLayerNorm(in, c);
  c->activation = Activation::kGeluTanh;
  UseOptionalWindow(in, c);
}

void ConfigureStablelm(const FamilyInput& in, ModelConfig* c) {
  c->norm = NormKind::kLayer;
  if (!in.has_weight("ffn_norm")) c->block = BlockKind::kParallel;
  c->qk_norm_per_head = in.has_weight("attn_q_norm");
}

void ConfigureOlmo2(const FamilyInput& in, ModelConfig* c) {
  c->block = BlockKind::kPostNormOnly;
  c->qk_norm_whole = true;
  if (in.hyper.sliding_window.value_or(0) > 0) UseWindows(in, *in.hyper.sliding_window, 4, c);
}

constexpr Names kLlamaGguf[] = {"llama"};
constexpr Names kLlamaTypes[] = {"llama"};
constexpr Names kMistralGguf[] = {"llama", "mistral"};
constexpr Names kMistralTypes[] = {"mistral"};
constexpr Names kQwen2Gguf[] = {"qwen2"};
constexpr Names kQwen3Gguf[] = {"qwen3"};
constexpr Names kGemmaGguf[] = {"gemma"};
constexpr Names kGemma2Gguf[] = {"gemma2"};
constexpr Names kGemma3Gguf[] = {"gemma3"};
constexpr Names kGemma3Types[] = {"gemma3", "gemma3_text"};
constexpr Names kPhi3Gguf[] = {"phi3"};
constexpr Names kGptNeoxGguf[] = {"gptneox"};
constexpr Names kGptNeoxTypes[] = {"gpt_neox"};
constexpr Names kGptjGguf[] = {"gptj"};
constexpr Names kFalconGguf[] = {"falcon"};
constexpr Names kFalconTypes[] = {"falcon", "RefinedWeb", "RefinedWebModel"};
constexpr Names kMptGguf[] = {"mpt"};
constexpr Names kGpt2Gguf[] = {"gpt2"};
constexpr Names kStarcoder2Gguf[] = {"starcoder2"};
constexpr Names kStablelmGguf[] = {"stablelm"};
constexpr Names kStablelmTypes[] = {"stablelm", "stablelm_epoch"};
constexpr Names kOlmo2Gguf[] = {"olmo2"};

const Family kFamilies[] = {
    {.name = "llama",
     .gguf_names = kLlamaGguf,
     .folder_types = kLlamaTypes,
     .configure = ConfigureLlama,
     .folder_names = kLlamaNames,
     .folder_prefixes = kModelPrefixes,
     .gguf_interleaved_rope = true},
    {.name = "mistral",
     .gguf_names = kMistralGguf,
     .folder_types = kMistralTypes,
     .configure = ConfigureLlama,
     .folder_names = kLlamaNames,
     .folder_prefixes = kModelPrefixes,
     .gguf_interleaved_rope = true},
    {.name = "qwen2",
     .gguf_names = kQwen2Gguf,
     .folder_types = kQwen2Gguf,
     .configure = ConfigureQwen2,
     .folder_names = kLlamaNames,
     .folder_prefixes = kModelPrefixes},
    {.name = "qwen3",
     .gguf_names = kQwen3Gguf,
     .folder_types = kQwen3Gguf,
     .configure = ConfigureQwen3,
     .folder_names = kLlamaNames,
     .folder_prefixes = kModelPrefixes},
    {.name = "gemma",
     .gguf_names = kGemmaGguf,
     .folder_types = kGemmaGguf,
     .configure = ConfigureGemma,
     .folder_names = kLlamaNames,
     .folder_prefixes = kModelPrefixes,
     .folder_norms_minus_one = true},
    {.name = "gemma2",
     .gguf_names = kGemma2Gguf,
     .folder_types = kGemma2Gguf,
     .configure = ConfigureGemma2,
     .folder_names = kGemma2Names,
     .folder_prefixes = kModelPrefixes,
     .folder_norms_minus_one = true},
    {.name = "gemma3",
     .gguf_names = kGemma3Gguf,
     .folder_types = kGemma3Types,
     .configure = ConfigureGemma3,
     .folder_names = kGemma2Names,
     .folder_prefixes = kModelPrefixes,
     .folder_norms_minus_one = true,
     .local_rope_base = 10000.0},
    {.name = "phi3",
     .gguf_names = kPhi3Gguf,
     .folder_types = kPhi3Gguf,
     .configure = ConfigurePhi3,
     .folder_names = kLlamaNames,
     .folder_prefixes = kModelPrefixes,
     .gguf_fused_qkv = true,
     .gguf_fused_gate_up = true},
    {.name = "gptneox",
     .gguf_names = kGptNeoxGguf,
     .folder_types = kGptNeoxTypes,
     .configure = ConfigureGptNeox,
     .folder_names = kGptNeoxNames,
     .folder_prefixes = kNeoxPrefixes,
     .folder_qkv = FusedQkv::kPerKvHead,
     .gguf_fused_qkv = true},
    {.name = "gptj",
     .gguf_names = kGptjGguf,
     .folder_types = kGptjGguf,
     .configure = ConfigureGptj,
     .folder_names = kGptjNames,
     .folder_prefixes = kGptPrefixes,
     .gguf_interleaved_rope = true,
     .folder_interleaved_rope = true},
    {.name = "falcon",
     .gguf_names = kFalconGguf,
     .folder_types = kFalconTypes,
     .configure = ConfigureFalcon,
     .folder_names = kFalconNames,
     .folder_prefixes = kGptPrefixes,
     .folder_qkv = FusedQkv::kPerKvHead,  // for one KV head the same as kConcatenated
     .gguf_fused_qkv = true},
    {.name = "mpt",
     .gguf_names = kMptGguf,
     .folder_types = kMptGguf,
     .configure = ConfigureMpt,
     .folder_names = kMptNames,
     .folder_prefixes = kGptPrefixes,
     .gguf_fused_qkv = true},
    {.name = "gpt2",
     .gguf_names = kGpt2Gguf,
     .folder_types = kGpt2Gguf,
     .configure = ConfigureGpt2,
     .folder_names = kGpt2Names,
     .folder_prefixes = kGptPrefixes,
     .folder_transposed = true,
     .gguf_fused_qkv = true},
    {.name = "starcoder2",
     .gguf_names = kStarcoder2Gguf,
     .folder_types = kStarcoder2Gguf,
     .configure = ConfigureStarcoder2,
     .folder_names = kStarcoder2Names,
     .folder_prefixes = kModelPrefixes},
    {.name = "stablelm",
     .gguf_names = kStablelmGguf,
     .folder_types = kStablelmTypes,
     .configure = ConfigureStablelm,
     .folder_names = kStablelmNames,
     .folder_prefixes = kModelPrefixes},
    {.name = "olmo2",
     .gguf_names = kOlmo2Gguf,
     .folder_types = kOlmo2Gguf,
     .configure = ConfigureOlmo2,
     .folder_names = kOlmo2Names,
     .folder_prefixes = kModelPrefixes},
};

}  // namespace

std::span<const Family> FamilyTable() { return kFamilies; }

const Family& FindFamily(const Hyperparameters& hyper) {
  std::string known;
  for (const Family& family : kFamilies) {
    const auto names = hyper.container == Container::kSafetensors ? family.folder_types : family.gguf_names;
    for (const std::string_view name : names) {
      if (name == hyper.architecture) return family;
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", family.name);
  }
  Fail(ErrorKind::kUnsupported, "{}: models of the architecture '{}' are not supported (known: {})",
       hyper.path, hyper.architecture, known);
}

}  // namespace mneme
