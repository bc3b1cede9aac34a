#include "model/hyperparameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <variant>

#include "base/error.h"
#include "formats/quant.h"

namespace mneme {
namespace {

using Json = nlohmann::json;
using H = Hyperparameters;
using Member = std::variant<std::optional<uint64_t> H::*, std::optional<double> H::*,
                            std::optional<bool> H::*, std::string H::*, std::vector<uint64_t> H::*>;

// A field: its GGUF key after "ARCHITECTURE.", and the paths in config.json that mean the same, the first
// that is present and not null.
struct Field {
  Member member;
  std::string_view gguf;  // empty: not in GGUF
  std::array<std::string_view, 6> json;
};

// Keys that begin with "mneme." are ours: properties that GGUF has no word for.
const Field kFields[] = {
    {&H::num_layers, "block_count", {"num_hidden_layers", "n_layer", "n_layers", "num_layers"}},
    {&H::model_dim, "embedding_length", {"hidden_size", "n_embd", "d_model"}},
    {&H::vocab_size, "vocab_size", {"vocab_size"}},
    {&H::trained_length,
     "context_length",
     {"max_position_embeddings", "n_positions", "max_seq_len", "model_max_length"}},
    {&H::num_heads, "attention.head_count", {"num_attention_heads", "n_head", "n_heads", "num_heads"}},
    {&H::layer_heads, "attention.head_count", {"num_attention_heads_per_layer"}},
    {&H::num_kv_heads,
     "attention.head_count_kv",
     {"num_key_value_heads", "num_kv_heads", "n_head_kv", "attn_config.kv_n_heads"}},
    {&H::ffn_dim, "feed_forward_length", {"intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim"}},
    {&H::key_dim, "attention.key_length", {"head_dim"}},
    {&H::value_dim, "attention.value_length", {}},
    {&H::layer_norm_epsilon,
     "attention.layer_norm_epsilon",
     {"layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon", "norm_eps"}},
    {&H::rms_norm_epsilon, "attention.layer_norm_rms_epsilon", {"rms_norm_eps"}},
    {&H::activation,
     "mneme.activation",
     {"hidden_activation", "hidden_act", "activation_function", "activation"}},
    {&H::rotary_dim, "rope.dimension_count", {"rotary_dim"}},
    {&H::rotary_fraction,
     "",
     {"rotary_pct", "partial_rotary_factor", "rope_parameters.partial_rotary_factor"}},
    {&H::rope_base,
     "rope.freq_base",
     {"rope_theta", "rotary_emb_base", "rope_parameters.rope_theta",
      "rope_parameters.full_attention.rope_theta"}},
    {&H::rope_base_local,
     "rope.freq_base_swa",
     {"rope_local_base_freq", "swa_rope_theta", "rope_parameters.sliding_attention.rope_theta"}},
    {&H::scaling_type,
     "rope.scaling.type",
     {"rope_scaling.rope_type", "rope_scaling.type", "rope_parameters.rope_type",
      "rope_parameters.full_attention.rope_type"}},
    {&H::dynamic_factor, "mneme.rope.dynamic_factor", {}},
    {&H::rope_sections,
     "rope.dimension_sections",
     {"rope_scaling.mrope_section", "rope_parameters.mrope_section"}},
    {&H::yarn_truncates,
     "mneme.rope.yarn_truncates",
     {"rope_scaling.truncate", "rope_parameters.truncate", "rope_parameters.full_attention.truncate"}},
    {&H::rotary_proportion, "", {"rope_parameters.full_attention.partial_rotary_factor"}},
    {&H::scaling_factor,
     "rope.scaling.factor",
     {"rope_scaling.factor", "rope_parameters.factor", "rope_parameters.full_attention.factor"}},
    {&H::original_length,
     "rope.scaling.original_context_length",
     {"rope_scaling.original_max_position_embeddings", "rope_parameters.original_max_position_embeddings",
      "rope_parameters.full_attention.original_max_position_embeddings", "original_max_position_embeddings"}},
    {&H::attention_factor,
     "rope.scaling.attn_factor",
     {"rope_scaling.attention_factor", "rope_parameters.attention_factor",
      "rope_parameters.full_attention.attention_factor"}},
    {&H::beta_fast,
     "rope.scaling.yarn_beta_fast",
     {"rope_scaling.beta_fast", "rope_parameters.beta_fast", "rope_parameters.full_attention.beta_fast"}},
    {&H::beta_slow,
     "rope.scaling.yarn_beta_slow",
     {"rope_scaling.beta_slow", "rope_parameters.beta_slow", "rope_parameters.full_attention.beta_slow"}},
    {&H::mscale,
     "",
     {"rope_scaling.mscale", "rope_parameters.mscale", "rope_parameters.full_attention.mscale"}},
    {&H::mscale_all_dim,
     "",
     {"rope_scaling.mscale_all_dim", "rope_parameters.mscale_all_dim",
      "rope_parameters.full_attention.mscale_all_dim"}},
    {&H::low_freq_factor,
     "",
     {"rope_scaling.low_freq_factor", "rope_parameters.low_freq_factor",
      "rope_parameters.full_attention.low_freq_factor"}},
    {&H::high_freq_factor,
     "",
     {"rope_scaling.high_freq_factor", "rope_parameters.high_freq_factor",
      "rope_parameters.full_attention.high_freq_factor"}},
    {&H::sliding_window, "attention.sliding_window", {"sliding_window"}},
    {&H::use_sliding_window, "", {"use_sliding_window"}},
    {&H::max_window_layers, "", {"max_window_layers"}},
    {&H::attention_scale, "attention.scale", {}},
    {&H::query_pre_attn_scalar, "", {"query_pre_attn_scalar"}},
    {&H::attention_soft_cap, "attn_logit_softcapping", {"attn_logit_softcapping"}},
    {&H::final_soft_cap, "final_logit_softcapping", {"final_logit_softcapping"}},
    {&H::max_alibi_bias, "attention.max_alibi_bias", {"attn_config.alibi_bias_max"}},
    {&H::clamp_qkv, "attention.clamp_kqv", {"attn_config.clip_qkv", "clip_qkv"}},
    {&H::parallel_residual, "use_parallel_residual", {"use_parallel_residual", "parallel_attn"}},
    {&H::alibi, "", {"alibi", "attn_config.alibi"}},
    {&H::tied_head, "", {"tie_word_embeddings"}},
    {&H::multi_query, "", {"multi_query"}},
    {&H::new_decoder_architecture, "", {"new_decoder_architecture"}},
    {&H::qk_layer_norm, "", {"qk_layernorm", "attn_config.qk_ln"}},
    {&H::expansion_ratio, "", {"expansion_ratio"}},
};

void ReadGgufField(const GgufFile& file, const std::string& key, const Field& field, H* hyper) {
  std::visit(
      [&](auto member) {
        using T = std::remove_reference_t<decltype(hyper->*member)>;
        T& out = hyper->*member;
        if constexpr (std::is_same_v<T, std::optional<uint64_t>>) {
          const GgufValue* value = file.FindValue(key);
          // What may differ is read besides.
          const bool is_heads = &out == &hyper->num_heads;
          if (value != nullptr && value->type == GgufType::kArray) {
            // The same for all layers, or not expressible here.
            const auto list = file.GetIntArray(key).value();
            for (const int64_t item : list) {
              if (item < 0 || (item != list[0] && !is_heads)) {
                Fail(ErrorKind::kUnsupported, "{}: '{}' differs between layers, which is not supported",
                     file.path(), key);
              }
            }
            const auto first = std::find_if(list.begin(), list.end(), [](int64_t item) { return item != 0; });
            if (!list.empty()) out = static_cast<uint64_t>(first == list.end() ? 0 : *first);
          } else {
            out = file.GetUint(key);
          }
        } else if constexpr (std::is_same_v<T, std::optional<double>>) {
          out = file.GetFloat(key);
        } else if constexpr (std::is_same_v<T, std::optional<bool>>) {
          out = file.GetBool(key);
        } else if constexpr (std::is_same_v<T, std::string>) {
          if (const auto text = file.GetString(key)) out = std::string(*text);
        } else {
          const GgufValue* value = file.FindValue(key);
          if (value == nullptr) return;
          if (value->type != GgufType::kArray) {
            out = {file.GetUint(key).value()};
            return;
          }
          const std::vector<int64_t> list = *file.GetIntArray(key);
          for (const int64_t item : list) {
            if (item < 0) Fail(ErrorKind::kFile, "{}: '{}' holds a negative number", file.path(), key);
            out.push_back(static_cast<uint64_t>(item));
          }
        }
      },
      field.member);
}

// A one-dimensional tensor of rope divisors, if the file has it.
std::vector<float> ReadDivisors(const TensorSource& source, std::string_view name) {
  const TensorInfo* tensor = source.Find(name);
  if (tensor == nullptr) return {};
  if (tensor->shape.size() != 1 || tensor->encoding != Encoding::kF32) {
    Fail(ErrorKind::kFile, "{}: tensor '{}' must be a vector of f32", source.path(), name);
  }
  std::vector<float> values(tensor->num_values());
  DecodeBlocks(tensor->encoding, tensor->data, values.size(), values.data());
  return values;
}

void ReadGguf(const TensorSource& source, H* hyper) {
  const GgufFile& file = *source.gguf();
  const auto architecture = file.GetString("general.architecture");
  if (!architecture) Fail(ErrorKind::kFile, "{}: has no 'general.architecture'", file.path());
  hyper->architecture = *architecture;
  if (const auto name = file.GetString("general.name")) hyper->name = *name;
  hyper->settings = Settings(file, std::string(*architecture));
  for (const Field& field : kFields) {
    if (field.gguf.empty()) continue;
    ReadGgufField(file, fmt::format("{}.{}", *architecture, field.gguf), field, hyper);
  }
  if (!hyper->scaling_factor) {
    hyper->scaling_factor = file.GetFloat(fmt::format("{}.rope.scale_linear", *architecture));
  }
  if (hyper->dynamic_factor) {
    hyper->scaling_type = "dynamic";
    hyper->scaling_factor = hyper->dynamic_factor;
  }
  // An interval, or one truth value per layer.
  const std::string pattern_key = fmt::format("{}.attention.sliding_window_pattern", *architecture);
  if (const GgufValue* pattern = file.FindValue(pattern_key)) {
    if (pattern->type == GgufType::kArray) {
      const std::vector<int64_t> list = *file.GetIntArray(pattern_key);
      for (const int64_t item : list) {
        hyper->layer_is_local.push_back(item != 0);
      }
    } else {
      hyper->window_pattern = file.GetUint(pattern_key);
    }
  }
  hyper->frequency_divisors = ReadDivisors(source, "rope_freqs.weight");
  hyper->short_divisors = ReadDivisors(source, "rope_factors_short.weight");
  hyper->long_divisors = ReadDivisors(source, "rope_factors_long.weight");
}

[[noreturn]] void FailJson(const std::string& path, std::string_view key, std::string_view expected) {
  Fail(ErrorKind::kFile, "{}: '{}' must be {}", path, key, expected);
}

uint64_t JsonUint(const Json& value, const std::string& path, std::string_view key) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number >= 0 && number < 9e15 && number == static_cast<double>(static_cast<uint64_t>(number))) {
      return static_cast<uint64_t>(number);
    }
  }
  FailJson(path, key, "a whole number that is not negative");
}

void ReadJsonField(const Json& value, const std::string& path, std::string_view key, const Field& field,
                   H* hyper) {
  std::visit(
      [&](auto member) {
        using T = std::remove_reference_t<decltype(hyper->*member)>;
        T& out = hyper->*member;
        if constexpr (std::is_same_v<T, std::optional<uint64_t>>) {
          out = JsonUint(value, path, key);
        } else if constexpr (std::is_same_v<T, std::optional<double>>) {
          if (!value.is_number()) FailJson(path, key, "a number");
          out = value.get<double>();
        } else if constexpr (std::is_same_v<T, std::optional<bool>>) {
          if (!value.is_boolean()) FailJson(path, key, "true or false");
          out = value.get<bool>();
        } else if constexpr (std::is_same_v<T, std::string>) {
          if (!value.is_string()) FailJson(path, key, "a string");
          out = value.get<std::string>();
        } else {
          out.clear();
          if (value.is_array()) {
            for (const Json& item : value) out.push_back(JsonUint(item, path, key));
          } else {
            out.push_back(JsonUint(value, path, key));
          }
        }
      },
      field.member);
}

std::vector<float> JsonFloats(const Settings& settings, std::string_view key, const std::string& path) {
  std::vector<float> values;
  const Json* node = settings.Find(key);
  if (node == nullptr) return values;
  if (!node->is_array()) FailJson(path, key, "a list of numbers");
  for (const Json& item : *node) {
    if (!item.is_number()) FailJson(path, key, "a list of numbers");
    values.push_back(item.get<float>());
  }
  return values;
}

// Python writes Infinity, which is no JSON, into settings; new versions of transformers write this instead.
std::string WithoutInfinity(std::string_view json) {
  constexpr std::string_view kInfinity = "Infinity";
  std::string text;
  bool is_inside = false;  // a string
  for (size_t i = 0; i < json.size(); ++i) {
    if (!is_inside && json.substr(i, kInfinity.size()) == kInfinity) {
      text += R"({"__float__":"Infinity"})";
      i += kInfinity.size() - 1;
      continue;
    }
    if (json[i] == '"') is_inside = !is_inside;
    text += json[i];
    if (is_inside && json[i] == '\\' && i + 1 < json.size()) text += json[++i];
  }
  return text;
}

// What each layer is, under the names that there are for it.
std::vector<std::string> LayerTypes(const Settings& settings, const std::string& path) {
  std::vector<std::string> types = settings.Texts("layer_types|layers_block_type");
  const auto pattern = settings.Text("", "hybrid_override_pattern");
  if (!types.empty() || !pattern) return types;
  for (const char letter : *pattern) {  // Nemotron-H
    switch (letter) {
      case 'M':
        types.emplace_back("mamba");
        break;
      case '*':
        types.emplace_back("attention");
        break;
      case '-':
        types.emplace_back("mlp");
        break;
      case 'E':
        types.emplace_back("moe");
        break;
      default:
        Fail(ErrorKind::kUnsupported, "{}: a layer '{}' in hybrid_override_pattern is not known", path,
             letter);
    }
  }
  return types;
}

void ReadFolder(const TensorSource& source, H* hyper) {
  const std::string path = source.path() + "/config.json";
  Json root = Json::parse(WithoutInfinity(source.safetensors()->config_text()), nullptr, false);
  if (root.is_discarded() || !root.is_object()) Fail(ErrorKind::kFile, "{}: is not a JSON object", path);
  const auto name = root.find("_name_or_path");
  if (name != root.end() && name->is_string()) hyper->name = name->get<std::string>();
  // Models with eyes keep the language model's settings in an object of their own.
  if (const auto text = root.find("text_config"); text != root.end() && text->is_object()) {
    const Json inner = *text;
    root.update(inner);
  }
  hyper->settings = Settings(std::move(root), path);
  const Settings& settings = hyper->settings;
  const Json* type = settings.Find("model_type");
  if (type == nullptr || !type->is_string()) Fail(ErrorKind::kFile, "{}: has no 'model_type'", path);
  hyper->architecture = type->get<std::string>();
  for (const Field& field : kFields) {
    for (const std::string_view key : field.json) {
      if (key.empty()) break;
      if (const Json* value = settings.Find(key)) {
        // gptneox says hidden_act where others say an object; sliding_window may be false in old files.
        if (value->is_boolean() && !std::holds_alternative<std::optional<bool> H::*>(field.member)) {
          if (key == "sliding_window" && value->get<bool>()) FailJson(path, key, "a number");
          continue;
        }
        ReadJsonField(*value, path, key, field, hyper);
        break;
      }
    }
  }
  for (const char* parent : {"rope_scaling", "rope_parameters"}) {
    const Json scaling = settings.json() == nullptr ? Json() : settings.json()->value(parent, Json());
    if (!scaling.is_null() && !scaling.is_object()) FailJson(path, parent, "an object");
    if (hyper->short_divisors.empty()) {
      hyper->short_divisors = JsonFloats(settings, fmt::format("{}.short_factor", parent), path);
      hyper->long_divisors = JsonFloats(settings, fmt::format("{}.long_factor", parent), path);
    }
  }
  // Old configs of Phi-3 and of fine-tunes name the types otherwise.
  if (hyper->scaling_type == "su") hyper->scaling_type = "longrope";
  if (hyper->scaling_type == "default") hyper->scaling_type.clear();
  if (const Json* pattern = settings.Find("sliding_window_pattern"); pattern && pattern->is_number()) {
    hyper->window_pattern = JsonUint(*pattern, path, "sliding_window_pattern");
  }
  hyper->layer_types = LayerTypes(settings, path);
  if (!hyper->num_layers && !hyper->layer_types.empty()) hyper->num_layers = hyper->layer_types.size();
  for (const std::string& layer : hyper->layer_types)
    hyper->layer_is_local.push_back(layer == "sliding_attention");
}

void ReadLlama2c(const TensorSource& source, H* hyper) {
  const Llama2cConfig& config = source.llama2c()->config();
  hyper->architecture = "llama";
  hyper->num_layers = static_cast<uint64_t>(config.num_layers);
  hyper->model_dim = static_cast<uint64_t>(config.model_dim);
  hyper->vocab_size = static_cast<uint64_t>(config.vocab_size);
  hyper->trained_length = static_cast<uint64_t>(config.max_positions);
  hyper->num_heads = static_cast<uint64_t>(config.num_heads);
  hyper->num_kv_heads = {static_cast<uint64_t>(config.num_kv_heads)};
  hyper->ffn_dim = {static_cast<uint64_t>(config.ffn_dim)};
  hyper->rms_norm_epsilon = 1e-5;  // the value in llama2.c's code; its files do not hold it
  hyper->rope_base = 10000.0;
}

}  // namespace

Hyperparameters ReadHyperparameters(const TensorSource& source) {
  Hyperparameters hyper;
  hyper.container = source.container();
  hyper.path = source.path();
  switch (source.container()) {
    case Container::kGguf:
      ReadGguf(source, &hyper);
      break;
    case Container::kSafetensors:
      ReadFolder(source, &hyper);
      break;
    case Container::kLlama2c:
      ReadLlama2c(source, &hyper);
      break;
  }
  return hyper;
}

void WriteHyperparameters(const Hyperparameters& hyper, std::string_view architecture, GgufWriter* writer) {
  writer->Set("general.architecture", std::string(architecture));
  if (!hyper.name.empty()) writer->Set("general.name", hyper.name);
  for (const Field& field : kFields) {
    if (field.gguf.empty()) continue;
    const std::string key = fmt::format("{}.{}", architecture, field.gguf);
    std::visit(
        [&](auto member) {
          using T = std::remove_cvref_t<decltype(hyper.*member)>;
          const T& value = hyper.*member;
          if constexpr (std::is_same_v<T, std::optional<uint64_t>>) {
            if (value) writer->Set(key, static_cast<uint32_t>(*value));
          } else if constexpr (std::is_same_v<T, std::optional<double>>) {
            if (value) writer->Set(key, static_cast<float>(*value));
          } else if constexpr (std::is_same_v<T, std::optional<bool>>) {
            if (value) writer->Set(key, *value);
          } else if constexpr (std::is_same_v<T, std::string>) {
            if (!value.empty()) writer->Set(key, value);
          } else {
            if (value.size() == 1) writer->Set(key, static_cast<uint32_t>(value[0]));
            if (value.size() > 1) {
              std::vector<uint32_t> list(value.begin(), value.end());
              writer->SetArray(key, list);
            }
          }
        },
        field.member);
  }
  const std::string pattern_key = fmt::format("{}.attention.sliding_window_pattern", architecture);
  if (!hyper.layer_is_local.empty()) {
    writer->SetBoolArray(pattern_key, hyper.layer_is_local);
  } else if (hyper.window_pattern) {
    writer->Set(pattern_key, static_cast<uint32_t>(*hyper.window_pattern));
  }
  if (!hyper.layer_rotates.empty()) {
    writer->SetBoolArray(fmt::format("{}.attention.rope_pattern", architecture), hyper.layer_rotates);
  }
  for (const auto& [key, value] : hyper.settings.for_gguf()) {
    writer->Set(fmt::format("{}.{}", architecture, key), value);
  }
}

}  // namespace mneme
