#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text/utf8.h"
#include "context/infini.h"
#include "formats/gguf.h"
#include "model/families.h"
#include "model/rope_scaling.h"

namespace mneme {
namespace {

constexpr uint64_t kMaxLayers = 10000;
constexpr uint64_t kMaxDim = uint64_t{1} << 20;
constexpr uint64_t kMaxHeads = uint64_t{1} << 16;
constexpr uint64_t kMaxVocab = uint64_t{1} << 26;
constexpr uint64_t kMaxLength = uint64_t{1} << 40;

size_t InRange(const Hyperparameters& hyper, const std::optional<uint64_t>& value, std::string_view what,
               uint64_t max) {
  if (!value) Fail(ErrorKind::kFile, "{}: does not say the {}", hyper.path, what);
  if (*value == 0 || *value > max) {
    Fail(ErrorKind::kFile, "{}: the {} is {}, which must be between 1 and {}", hyper.path, what, *value, max);
  }
  return static_cast<size_t>(*value);
}

// One value for all layers, or one per layer.
std::vector<size_t> PerLayer(const Hyperparameters& hyper, const std::vector<uint64_t>& values,
                             std::string_view what, size_t num_layers, uint64_t max) {
  if (values.size() > 1 && values.size() < num_layers) {
    Fail(ErrorKind::kFile, "{}: has {} values for the {}, one for each of {} layers is needed", hyper.path,
         values.size(), what, num_layers);
  }
  std::vector<size_t> result(num_layers);
  for (size_t layer = 0; layer < num_layers; ++layer) {
    std::optional<uint64_t> value;
    if (!values.empty()) value = values.size() == 1 ? values[0] : values[layer];
    result[layer] = InRange(hyper, value, what, max);
  }
  return result;
}

std::vector<uint64_t> KvHeads(const Hyperparameters& hyper, size_t num_heads) {
  if (hyper.container == Container::kSafetensors && hyper.multi_query.value_or(false) &&
      !hyper.new_decoder_architecture.value_or(false)) {
    return {1};  // falcon-7b: the config's number of KV heads, where it has one, is not used
  }
  if (hyper.container == Container::kSafetensors && hyper.multi_query && !*hyper.multi_query &&
      !hyper.new_decoder_architecture.value_or(false)) {
    return {num_heads};
  }
  return hyper.num_kv_heads.empty() ? std::vector<uint64_t>{num_heads} : hyper.num_kv_heads;
}

std::vector<uint64_t> FfnDim(const Hyperparameters& hyper, size_t model_dim) {
  if (!hyper.ffn_dim.empty() || hyper.container != Container::kSafetensors) return hyper.ffn_dim;
  const double ratio = hyper.expansion_ratio.value_or(4);
  if (!(ratio > 0) || ratio > 1024) Fail(ErrorKind::kFile, "{}: expansion_ratio is {}", hyper.path, ratio);
  return {static_cast<uint64_t>(ratio * static_cast<double>(model_dim))};
}

void ReadSizes(const Hyperparameters& hyper, ModelConfig* c) {
  c->num_layers = InRange(hyper, hyper.num_layers, "number of layers", kMaxLayers);
  c->model_dim = InRange(hyper, hyper.model_dim, "model dimension", kMaxDim);
  c->vocab_size = InRange(hyper, hyper.vocab_size, "vocabulary size", kMaxVocab);
  c->num_heads = InRange(hyper, hyper.num_heads, "number of heads", kMaxHeads);
  c->trained_length = static_cast<int64_t>(
      InRange(hyper, hyper.trained_length ? hyper.trained_length : 2048, "trained length", kMaxLength));
  c->num_kv_heads =
      PerLayer(hyper, KvHeads(hyper, c->num_heads), "number of KV heads", c->num_layers, kMaxHeads);
  for (const size_t num_kv_heads : c->num_kv_heads) {
    if (c->num_heads % num_kv_heads != 0) {
      Fail(ErrorKind::kFile, "{}: {} heads cannot share {} KV heads evenly", hyper.path, c->num_heads,
           num_kv_heads);
    }
  }
  if (!hyper.key_dim && c->model_dim % c->num_heads != 0) {
    Fail(ErrorKind::kFile, "{}: {} heads do not divide the model dimension {}", hyper.path, c->num_heads,
         c->model_dim);
  }
  const uint64_t head_dim = c->model_dim / c->num_heads;
  c->key_dim = InRange(hyper, hyper.key_dim ? *hyper.key_dim : head_dim, "key dimension", kMaxHeads);
  // config.json knows one head dimension for both.
  const bool is_folder = hyper.container == Container::kSafetensors;
  const uint64_t value_dim = is_folder ? c->key_dim : head_dim;
  c->value_dim = InRange(hyper, hyper.value_dim ? *hyper.value_dim : value_dim, "value dimension", kMaxHeads);
  c->ffn_dim =
      PerLayer(hyper, FfnDim(hyper, c->model_dim), "feed-forward dimension", c->num_layers, 16 * kMaxDim);
  c->layer_window.assign(c->num_layers, 0);
}

float PositiveOrZero(const Hyperparameters& hyper, const std::optional<double>& value,
                     std::string_view what) {
  const double number = value.value_or(0);
  if (!(number >= 0) || !std::isfinite(number)) {
    Fail(ErrorKind::kFile, "{}: the {} is {}, which must not be negative", hyper.path, what, number);
  }
  return static_cast<float>(number);
}

void ReadActivation(const Hyperparameters& hyper, ModelConfig* c) {
  const std::string& name = hyper.activation;
  if (name.empty()) return;
  if (name == "silu" || name == "swish") {
    c->activation = Activation::kSilu;
  } else if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    c->activation = Activation::kGeluTanh;
  } else if (name == "gelu") {
    // gemma's first configs say gelu and mean its tanh form, which the family has set.
    if (!c->gated_ffn) c->activation = Activation::kGelu;
  } else if (name == "relu") {
    c->activation = Activation::kRelu;
  } else {
    Fail(ErrorKind::kUnsupported, "{}: the activation '{}' is not supported", hyper.path, name);
  }
}

std::string_view ActivationName(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGeluTanh:
      return "gelu_pytorch_tanh";
    case Activation::kGelu:
      return "gelu";
    case Activation::kRelu:
      return "relu";
  }
  return "";
}

void AddRopes(const Family& family, const Hyperparameters& hyper, bool long_rope, ModelConfig* c) {
  double dim = static_cast<double>(c->key_dim);
  if (hyper.rotary_dim) {
    dim = static_cast<double>(*hyper.rotary_dim);
  } else if (hyper.rotary_fraction) {
    dim = std::floor(dim * *hyper.rotary_fraction);
  }
  if (!(dim >= 2) || dim > static_cast<double>(c->key_dim) || std::fmod(dim, 2) != 0) {
    Fail(ErrorKind::kFile, "{}: {} rotated dimensions of a head of {}", hyper.path, dim, c->key_dim);
  }
  const bool is_interleaved = hyper.container == Container::kSafetensors ? family.folder_interleaved_rope
                                                                         : family.gguf_interleaved_rope;
  const RopeLayout layout = is_interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalves;
  const double base = hyper.rope_base.value_or(10000.0);
  const size_t rotary_dim = static_cast<size_t>(dim);
  c->ropes.push_back(MakeRope(hyper, layout, rotary_dim, base, true, long_rope));
  c->layer_rope.assign(c->num_layers, 0);
  const double local_base = hyper.rope_base_local.value_or(family.local_rope_base);
  if (local_base == 0) return;
  Rope local = MakeRope(hyper, layout, rotary_dim, local_base, false, long_rope);
  if (local == c->ropes[0]) return;
  c->ropes.push_back(std::move(local));
  for (size_t layer = 0; layer < c->num_layers; ++layer) c->layer_rope[layer] = c->layer_window[layer] > 0;
}

}  // namespace

ModelConfig Configure(const Family& family, const FamilyInput& input, bool long_rope) {
  const Hyperparameters& hyper = input.hyper;
  ModelConfig c;
  c.family = family.name;
  c.name = Printable(hyper.name, 200);  // only ever shown
  ReadSizes(hyper, &c);
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.key_dim));
  c.attention_soft_cap = PositiveOrZero(hyper, hyper.attention_soft_cap, "soft cap of attention");
  c.final_soft_cap = PositiveOrZero(hyper, hyper.final_soft_cap, "soft cap of the logits");
  c.clamp_qkv = PositiveOrZero(hyper, hyper.clamp_qkv, "clamp of Q, K and V");
  family.configure(input, &c);
  if (hyper.attention_scale && *hyper.attention_scale != 0) {
    c.attention_scale = PositiveOrZero(hyper, hyper.attention_scale, "attention scale");
  }
  ReadActivation(hyper, &c);
  c.half_gelu = hyper.container == Container::kGguf && hyper.activation.empty() &&
                c.activation == Activation::kGeluTanh;
  const auto& epsilon = c.norm == NormKind::kRms ? hyper.rms_norm_epsilon : hyper.layer_norm_epsilon;
  if (!epsilon && hyper.container == Container::kGguf) {
    Fail(ErrorKind::kFile, "{}: has no '{}.attention.layer_norm_{}epsilon'", hyper.path, hyper.architecture,
         c.norm == NormKind::kRms ? "rms_" : "");
  }
  c.norm_epsilon = PositiveOrZero(hyper, epsilon.value_or(c.norm == NormKind::kRms ? 1e-6 : 1e-5), "epsilon");
  if (c.position == PositionKind::kRope) AddRopes(family, hyper, long_rope, &c);
  if (!hyper.short_divisors.empty() && !long_rope && hyper.original_length) {
    c.trained_length = std::min<int64_t>(c.trained_length, static_cast<int64_t>(*hyper.original_length));
  }
  return c;
}

Hyperparameters HyperparametersForGguf(const Family& family, const Hyperparameters& hyper,
                                       const ModelConfig& c) {
  Hyperparameters out = hyper;
  out.trained_length = hyper.trained_length.value_or(static_cast<uint64_t>(c.trained_length));
  out.vocab_size = c.vocab_size;
  const auto collapse = [](const std::vector<size_t>& values) {
    const bool is_constant =
        std::all_of(values.begin(), values.end(), [&](size_t v) { return v == values[0]; });
    return is_constant ? std::vector<uint64_t>{values[0]}
                       : std::vector<uint64_t>(values.begin(), values.end());
  };
  out.num_kv_heads = collapse(c.num_kv_heads);
  out.ffn_dim = collapse(c.ffn_dim);
  out.key_dim = c.key_dim;
  out.value_dim = c.value_dim;
  (c.norm == NormKind::kRms ? out.rms_norm_epsilon : out.layer_norm_epsilon) = c.norm_epsilon;
  // Without a name, readers take the family's usual function in the half-precision form.
  out.activation = c.half_gelu ? "" : ActivationName(c.activation);
  if (c.attention_scale != 1.0f / std::sqrt(static_cast<float>(c.key_dim))) {
    out.attention_scale = c.attention_scale;
  }
  if (c.position == PositionKind::kRope) {
    out.rotary_dim = c.ropes[0].rotary_dim;
    out.rope_base = hyper.rope_base.value_or(10000.0);
  }
  if (c.position == PositionKind::kAlibi) out.max_alibi_bias = hyper.max_alibi_bias.value_or(8.0);
  if (family.name != "gptneox") out.parallel_residual.reset();
  const bool has_window =
      std::any_of(c.layer_window.begin(), c.layer_window.end(), [](int64_t w) { return w > 0; });
  if (!has_window) out.sliding_window.reset();
  out.layer_is_local.clear();
  out.window_pattern.reset();
  const bool all_windows =
      std::all_of(c.layer_window.begin(), c.layer_window.end(), [](int64_t w) { return w > 0; });
  if (has_window && !all_windows) {
    for (const int64_t window : c.layer_window) out.layer_is_local.push_back(window > 0);
  }
  if (hyper.container == Container::kSafetensors && c.position == PositionKind::kRope) {
    const double factor = hyper.scaling_factor.value_or(1);
    const double magnitude = c.ropes[0].magnitude;
    out.attention_factor.reset();
    if (hyper.scaling_type == "yarn") {
      const double usual = factor <= 1 ? 1 : 1 + 0.1 * std::log(factor);
      if (std::abs(magnitude / usual - 1) > 1e-6) out.attention_factor = magnitude / usual;
    } else if (magnitude != 1) {
      out.attention_factor = magnitude;
    }
    if (hyper.scaling_type == "llama3") {
      out.scaling_type.clear();
      out.scaling_factor.reset();
      out.original_length.reset();
      const double base = *out.rope_base;
      for (size_t i = 0; i < c.ropes[0].frequencies.size(); ++i) {
        const double plain =
            std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(c.ropes[0].rotary_dim));
        out.frequency_divisors.push_back(static_cast<float>(plain / c.ropes[0].frequencies[i]));
      }
    }
  }
  return out;
}

namespace {

void ReadActionTokens(const GgufFile& file, ModelConfig* config) {
  const auto read = [&](const char* key, TokenId* token) {
    const std::optional<uint64_t> id = file.GetUint(key);
    if (!id) return;
    if (*id >= config->vocab_size) {
      Fail(ErrorKind::kFile, "{} is {}, outside the vocabulary of {}", key, *id, config->vocab_size);
    }
    *token = static_cast<TokenId>(*id);
  };
  read("mneme.pause_token_id", &config->actions.pause);
  read("mneme.backspace_token_id", &config->actions.backspace);
  read("mneme.sink_token_id", &config->actions.sink);
}

}  // namespace

void ReadMemoryMetadata(const GgufFile& file, ModelConfig* config) {
  ReadActionTokens(file, config);
  config->softmax_off_by_one = file.GetBool("mneme.attention.softmax_off_by_one").value_or(false);
  const std::optional<uint64_t> segment = file.GetUint("mneme.infini.segment");
  if (!segment) return;
  const uint64_t previous = file.GetUint("mneme.infini.previous").value_or(0);
  if (*segment == 0 || *segment > kMaxLength || previous > kMaxLength / *segment) {
    Fail(ErrorKind::kFile,
         "mneme.infini.segment is {} and mneme.infini.previous {}: no memory works like that", *segment,
         previous);
  }
  config->memory.segment = static_cast<int64_t>(*segment);
  config->memory.previous = static_cast<int64_t>(previous);
  config->memory.update = ParseMemoryUpdate(file.GetString("mneme.infini.update").value_or("linear"));
  const std::string_view first = file.GetString("mneme.infini.first").value_or("bypass");
  if (first != "bypass" && first != "literal") {
    Fail(ErrorKind::kFile, "mneme.infini.first is '{}', neither bypass nor literal", first);
  }
  config->memory.literal_first = first == "literal";
  config->memory.key_shift = file.GetBool("mneme.infini.key_shift").value_or(false);
  config->memory.write_floor = static_cast<float>(file.GetFloat("mneme.infini.write_floor").value_or(0));
  if (!(config->memory.write_floor >= 0 && config->memory.write_floor < 1)) {
    Fail(ErrorKind::kFile, "mneme.infini.write_floor is {}; it must be at least 0 and below 1",
         config->memory.write_floor);
  }
  if (config->memory.key_shift && *segment < 2) {
    Fail(ErrorKind::kFile, "mneme.infini.key_shift needs segments of at least 2 tokens; they have {}",
         *segment);
  }
}

}  // namespace mneme
