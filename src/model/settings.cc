#include "model/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

[[noreturn]] void FailType(const std::string& path, std::string_view key, std::string_view expected) {
  Fail(ErrorKind::kFile, "{}: '{}' must be {}", path, key, expected);
}

uint64_t ToUint(const Json& value, const std::string& path, std::string_view key) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number >= 0 && number < 9e15 && number == static_cast<double>(static_cast<uint64_t>(number))) {
      return static_cast<uint64_t>(number);
    }
  }
  FailType(path, key, "a whole number that is not negative");
}

// Some folders say for each layer what is the same for all.
const Json& OneOf(const Json& value) {
  const bool is_same = value.is_array() && !value.empty() &&
                       std::all_of(value.begin(), value.end(), [&](const Json& v) { return v == value[0]; });
  return is_same ? value[0] : value;
}

// A setting that changes what a model computes, and the values with which it does not.
struct KnownSetting {
  std::string_view path;
  std::string_view neutral;  // JSON, several with '|' between them
};

constexpr KnownSetting kComputing[] = {
    {"scale_attn_by_inverse_layer_idx", "false"},
    {"scale_attn_weights", "true"},
    {"attn_config.softmax_scale", ""},
    {"attn_config.prefix_lm", "false"},
    {"rope_pct", "1|1.0"},
    {"embedding_multiplier", "1|1.0"},
    {"attention_multiplier", ""},
    {"residual_multiplier", "1|1.0"},
    {"logits_scaling", "1|1.0"},
    {"logit_scale", "1|1.0"},
    {"lm_head_multiplier", "1|1.0"},
    {"scale_emb", "1|1.0"},
    {"scale_depth", ""},
    {"dim_model_base", ""},
    {"use_qk_norm", "false"},
    {"qk_norm", "false"},
    {"num_experts", "0|1"},
    {"num_local_experts", "0|1"},
    {"n_routed_experts", "0|1"},
    {"no_rope_layers", "[]"},
    {"no_rope_layer_interval", ""},
    {"attention_chunk_size", ""},
    {"attn_temperature_tuning", "false|0"},
    {"attn_output_gate", "false"},
    {"rope_parameters.llama_4_scaling_beta", ""},
    {"rope_scaling.llama_4_scaling_beta", ""},
    {"use_alibi", "false"},
    {"mup_multiplier", ""},
    {"block_auto_adjust_ff_dim", "false"},
    {"time_step_limit", R"([0.0,{"__float__":"Infinity"}])"},
    {"mamba_dt_limit", R"([0.0,{"__float__":"Infinity"}])"},
    {"mamba_norm_before_gate", "false"},
    {"moe_latent_size", ""},
    {"n_group", "1|0|false"},
    {"num_expert_group", "1"},
    {"rope_interleave", "true"},
    {"use_cla", "false"},
    {"quantization_config.quantization_mode", R"("offline")"},
    {"attention_value_scale", "1|1.0"},
    {"moe_router_logit_softcapping", "0|0.0"},
    {"moe_apply_router_weight_on_input", "false"},
    {"attention_in_multiplier", "1|1.0"},
    {"attention_out_multiplier", "1|1.0"},
    {"key_multiplier", "1|1.0"},
    {"ssm_in_multiplier", "1|1.0"},
    {"ssm_out_multiplier", "1|1.0"},
    {"ssm_multipliers", "[1.0,1.0,1.0,1.0,1.0]"},
    {"mlp_multipliers", "[1.0,1.0]"},
};

bool IsNeutral(const Json& value, std::string_view neutral) {
  while (!neutral.empty()) {
    const size_t bar = neutral.find('|');
    if (value == Json::parse(neutral.substr(0, bar))) return true;
    neutral = bar == std::string_view::npos ? std::string_view() : neutral.substr(bar + 1);
  }
  return false;
}

// Follows "a.b.c"; null where anything on the way is absent or null.
const Json* Follow(const Json& root, std::string_view path) {
  const Json* node = &root;
  while (!path.empty()) {
    const size_t dot = path.find('.');
    const std::string_view step = path.substr(0, dot);
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
    if (!node->is_object()) return nullptr;
    const auto found = node->find(step);
    if (found == node->end() || found->is_null()) return nullptr;
    node = &*found;
  }
  return node;
}

}  // namespace

Settings::Settings(const GgufFile& file, std::string architecture)
    : file_(&file), architecture_(std::move(architecture)), path_(file.path()) {}

Settings::Settings(Json config, std::string path)
    : json_(std::make_shared<const Json>(std::move(config))), path_(std::move(path)) {}

const Json* Settings::Find(std::string_view path) const {
  if (json_ == nullptr) return nullptr;
  const Json* const value = Follow(*json_, path);
  if (value != nullptr) read_.emplace(path);
  return value;
}

const Json* Settings::FindFirst(std::string_view paths, std::string* found) const {
  while (!paths.empty()) {
    const size_t bar = paths.find('|');
    *found = paths.substr(0, bar);
    if (const Json* value = Find(*found)) return value;
    paths = bar == std::string_view::npos ? std::string_view() : paths.substr(bar + 1);
  }
  return nullptr;
}

std::string Settings::Key(std::string_view gguf) const { return fmt::format("{}.{}", architecture_, gguf); }

void Settings::Keep(std::string_view gguf, GgufScalar value) const {
  const bool is_known =
      std::any_of(for_gguf_.begin(), for_gguf_.end(), [&](const auto& entry) { return entry.first == gguf; });
  if (!gguf.empty() && !is_known) for_gguf_.emplace_back(gguf, std::move(value));
}

void Settings::SetForGguf(std::string_view gguf, GgufScalar value) {
  std::erase_if(for_gguf_, [&](const auto& entry) { return entry.first == gguf; });
  Keep(gguf, std::move(value));
}

std::optional<uint64_t> Settings::Uint(std::string_view gguf, std::string_view json) const {
  if (file_ != nullptr) return gguf.empty() ? std::nullopt : file_->GetUint(Key(gguf));
  std::string key;
  const Json* const value = FindFirst(json, &key);
  if (value == nullptr) return std::nullopt;
  const uint64_t number = ToUint(OneOf(*value), path_, key);
  if (number > UINT32_MAX) FailType(path_, key, "a number below 2^32");
  Keep(gguf, static_cast<uint32_t>(number));
  return number;
}

std::optional<double> Settings::Float(std::string_view gguf, std::string_view json) const {
  if (file_ != nullptr) return gguf.empty() ? std::nullopt : file_->GetFloat(Key(gguf));
  std::string key;
  const Json* const value = FindFirst(json, &key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) FailType(path_, key, "a number");
  Keep(gguf, value->get<float>());
  return value->get<double>();
}

std::optional<bool> Settings::Bool(std::string_view gguf, std::string_view json) const {
  if (file_ != nullptr) return gguf.empty() ? std::nullopt : file_->GetBool(Key(gguf));
  std::string key;
  const Json* const value = FindFirst(json, &key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) FailType(path_, key, "true or false");
  Keep(gguf, value->get<bool>());
  return value->get<bool>();
}

std::optional<std::string> Settings::Text(std::string_view gguf, std::string_view json) const {
  if (file_ != nullptr) {
    if (gguf.empty()) return std::nullopt;
    const auto text = file_->GetString(Key(gguf));
    return text ? std::optional<std::string>(*text) : std::nullopt;
  }
  std::string key;
  const Json* const value = FindFirst(json, &key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) FailType(path_, key, "a string");
  return value->get<std::string>();
}

std::vector<uint64_t> Settings::Uints(std::string_view gguf, std::string_view json) const {
  std::vector<uint64_t> values;
  if (file_ != nullptr) {
    if (gguf.empty()) return values;
    const std::string key = Key(gguf);
    const GgufValue* const value = file_->FindValue(key);
    if (value == nullptr) return values;
    if (value->type != GgufType::kArray) return {file_->GetUint(key).value()};
    const std::vector<int64_t> items = *file_->GetIntArray(key);
    for (const int64_t item : items) {
      if (item < 0) Fail(ErrorKind::kFile, "{}: '{}' holds a negative number", path_, key);
      values.push_back(static_cast<uint64_t>(item));
    }
    return values;
  }
  std::string key;
  const Json* const value = FindFirst(json, &key);
  if (value == nullptr) return values;
  if (!value->is_array()) return {ToUint(*value, path_, key)};
  for (const Json& item : *value) values.push_back(ToUint(item, path_, key));
  return values;
}

std::vector<std::string> Settings::Texts(std::string_view json) const {
  std::string key;
  const Json* const value = FindFirst(json, &key);
  std::vector<std::string> texts;
  if (value == nullptr) return texts;
  if (!value->is_array()) FailType(path_, key, "a list of strings");
  for (const Json& item : *value) {
    if (!item.is_string()) FailType(path_, key, "a list of strings");
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

void Settings::RefuseUnread() const {
  if (json_ == nullptr) return;
  for (const KnownSetting& setting : kComputing) {
    const Json* const value = Follow(*json_, setting.path);
    if (value == nullptr || read_.contains(setting.path) || IsNeutral(*value, setting.neutral)) continue;
    Fail(ErrorKind::kUnsupported,
         "{}: '{}' is {}, which changes what the model computes and is not known here", path_, setting.path,
         value->dump().substr(0, 60));
  }
}

}  // namespace mneme
