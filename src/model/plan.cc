#include "model/plan.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text/utf8.h"
#include "context/infini.h"
#include "formats/gguf.h"
#include "model/families/family.h"
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

// One value for all layers, or one per layer, where 0 says that a layer has none.
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
    if (values.size() > 1 && *value == 0) continue;
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
  if (hyper.ffn_dim.empty()) {
    // A model of nothing but experts need not say it.
    const auto of_expert = hyper.settings.Uint("expert_feed_forward_length", "moe_intermediate_size");
    if (of_expert) return {*of_expert};
  }
  if (!hyper.ffn_dim.empty() || hyper.container != Container::kSafetensors) return hyper.ffn_dim;
  const double ratio = hyper.expansion_ratio.value_or(4);
  if (!(ratio > 0) || ratio > 1024) Fail(ErrorKind::kFile, "{}: expansion_ratio is {}", hyper.path, ratio);
  return {static_cast<uint64_t>(ratio * static_cast<double>(model_dim))};
}

float PositiveOrZero(const Hyperparameters& hyper, const std::optional<double>& value,
                     std::string_view what) {
  const double number = value.value_or(0);
  if (!(number >= 0) || !std::isfinite(number)) {
    Fail(ErrorKind::kFile, "{}: the {} is {}, which must not be negative", hyper.path, what, number);
  }
  return static_cast<float>(number);
}

// Sizes of the attention of every layer, before a family changes what is its own.
std::vector<AttentionPlan> ReadAttention(const Hyperparameters& hyper, size_t num_layers, size_t model_dim) {
  AttentionPlan base;
  base.num_heads = InRange(hyper, hyper.num_heads, "number of heads", kMaxHeads);
  const std::vector<size_t> num_kv_heads =
      PerLayer(hyper, KvHeads(hyper, base.num_heads), "number of KV heads", num_layers, kMaxHeads);
  std::vector<size_t> num_heads(num_layers, base.num_heads);
  if (hyper.layer_heads.size() > 1) {
    num_heads = PerLayer(hyper, hyper.layer_heads, "number of heads", num_layers, kMaxHeads);
  }
  for (size_t layer = 0; layer < num_layers; ++layer) {
    const size_t count = num_kv_heads[layer];
    if (count != 0 && num_heads[layer] % count != 0) {
      Fail(ErrorKind::kFile, "{}: {} heads cannot share {} KV heads evenly", hyper.path, num_heads[layer],
           count);
    }
  }
  // Where heads do not divide the row, the family must know their size (CheckSizes).
  const bool divides = model_dim % base.num_heads == 0;
  const uint64_t head_dim = model_dim / base.num_heads;
  if (hyper.key_dim || divides) {
    base.key_dim = InRange(hyper, hyper.key_dim.value_or(head_dim), "key dimension", kMaxHeads);
  }
  // config.json knows one head dimension for both.
  const bool is_folder = hyper.container == Container::kSafetensors;
  const uint64_t value_dim = is_folder ? base.key_dim : head_dim;
  if (base.key_dim > 0) {
    base.value_dim = InRange(hyper, hyper.value_dim.value_or(value_dim), "value dimension", kMaxHeads);
    base.scale = 1.0f / std::sqrt(static_cast<float>(base.key_dim));
  }
  base.soft_cap = PositiveOrZero(hyper, hyper.attention_soft_cap, "soft cap of attention");
  base.clamp_qkv = PositiveOrZero(hyper, hyper.clamp_qkv, "clamp of Q, K and V");
  std::vector<AttentionPlan> plans(num_layers, base);
  for (size_t layer = 0; layer < num_layers; ++layer) {
    plans[layer].num_heads = num_heads[layer];
    plans[layer].num_kv_heads = num_kv_heads[layer];
  }
  return plans;
}

// What a model without attention says nothing of.
constexpr uint64_t kLengthOfStates = uint64_t{1} << 20;

void ReadSizes(const Family& family, const Hyperparameters& hyper, ModelPlan* plan) {
  // Layers that predict further tokens, for speculation, are counted with the others in GGUF; they are not
  // run.
  const bool is_folder = hyper.container == Container::kSafetensors;
  // A GGUF that is made of a folder has them no more.
  const uint64_t skipped =
      hyper.settings.Uint(is_folder ? "" : "nextn_predict_layers", "num_nextn_predict_layers").value_or(0);
  const uint64_t more = is_folder ? 0 : skipped;  // config.json counts them apart
  plan->num_skipped_layers = static_cast<size_t>(std::min(skipped, kMaxLayers));
  const uint64_t all = InRange(hyper, hyper.num_layers, "number of layers", kMaxLayers);
  if (more >= all)
    Fail(ErrorKind::kFile, "{}: {} of {} layers predict further tokens", hyper.path, more, all);
  const size_t num_layers = all - more;
  plan->model_dim = InRange(hyper, hyper.model_dim, "model dimension", kMaxDim);
  plan->vocab_size = InRange(hyper, hyper.vocab_size, "vocabulary size", kMaxVocab);
  const uint64_t usual_length = family.has_attention ? 2048 : kLengthOfStates;
  plan->trained_length = static_cast<int64_t>(
      InRange(hyper, hyper.trained_length.value_or(usual_length), "trained length", kMaxLength));
  plan->layers.resize(num_layers);
  if (!family.has_attention) {
    for (LayerPlan& layer : plan->layers)
      layer = {.mixer = std::monostate(), .feed_forward = std::monostate()};
    plan->position = PositionKind::kNone;
    return;
  }
  const std::vector<AttentionPlan> attention = ReadAttention(hyper, num_layers, plan->model_dim);
  const std::vector<size_t> ffn_dim =
      PerLayer(hyper, FfnDim(hyper, plan->model_dim), "feed-forward dimension", num_layers, 16 * kMaxDim);
  for (size_t layer = 0; layer < num_layers; ++layer) {
    plan->layers[layer].mixer = attention[layer];
    plan->layers[layer].feed_forward = DensePlan{.dim = ffn_dim[layer]};
  }
}

void ReadActivation(const Hyperparameters& hyper, bool is_gated, Activation* activation) {
  const std::string& name = hyper.activation;
  if (name.empty()) return;
  if (name == "silu" || name == "swish") {
    *activation = Activation::kSilu;
  } else if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    *activation = Activation::kGeluTanh;
  } else if (name == "gelu") {
    // gemma's first configs say gelu and mean its tanh form, which the family has set.
    if (!is_gated || *activation != Activation::kGeluTanh) *activation = Activation::kGelu;
  } else if (name == "relu") {
    *activation = Activation::kRelu;
  } else if (name == "relu2") {
    *activation = Activation::kRelu2;
  } else {
    Fail(ErrorKind::kUnsupported, "{}: the activation '{}' is not supported", hyper.path, name);
  }
}

void ReadActivations(const Hyperparameters& hyper, ModelPlan* plan) {
  for (LayerPlan& layer : plan->layers) {
    if (DensePlan* dense = layer.dense(); dense != nullptr && !dense->is_xielu) {
      ReadActivation(hyper, dense->is_gated, &dense->activation);
      dense->half_gelu = hyper.container == Container::kGguf && hyper.activation.empty() &&
                         dense->activation == Activation::kGeluTanh;
    }
    if (ExpertsPlan* experts = layer.experts()) ReadActivation(hyper, true, &experts->activation);
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
    case Activation::kRelu2:
      return "relu2";
  }
  return "";
}

// fraction: of a head, where neither the layer nor the file gives a number.
size_t RotaryDim(const Hyperparameters& hyper, size_t given, double fraction, size_t key_dim) {
  double dim = static_cast<double>(key_dim);
  if (given > 0) {
    dim = static_cast<double>(given);
  } else if (hyper.rotary_dim) {
    dim = static_cast<double>(*hyper.rotary_dim);
  } else {
    dim = std::floor(dim * hyper.rotary_fraction.value_or(fraction));
  }
  if (!(dim >= 2) || dim > static_cast<double>(key_dim) || std::fmod(dim, 2) != 0) {
    Fail(ErrorKind::kFile, "{}: {} rotated dimensions of a head of {}", hyper.path, dim, key_dim);
  }
  return static_cast<size_t>(dim);
}

size_t IndexOf(Rope rope, std::vector<Rope>* ropes) {
  const auto found = std::find(ropes->begin(), ropes->end(), rope);
  if (found != ropes->end()) return static_cast<size_t>(found - ropes->begin());
  ropes->push_back(std::move(rope));
  return ropes->size() - 1;
}

void AddRopes(const Family& family, const Hyperparameters& hyper, int64_t length, ModelPlan* plan) {
  const bool is_folder = hyper.container == Container::kSafetensors;
  const bool is_interleaved = is_folder ? family.folder_interleaved_rope : family.gguf_interleaved_rope;
  const double fraction = is_folder ? family.folder_rotary_fraction : 1;
  const RopeLayout layout = is_interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalves;
  const double base = hyper.rope_base.value_or(10000.0);
  const double local_base = hyper.rope_base_local.value_or(family.local_rope_base);
  ForEachAttention(*plan, [&](AttentionPlan& attention) {
    Rotation rotation = attention.rotation;
    if (local_base != 0 && attention.window > 0) {
      rotation.is_plain = true;
      rotation.base = local_base;
    }
    Rope rope;
    if (!rotation.is_none) {
      rope =
          MakeRope(hyper, layout, RotaryDim(hyper, rotation.dim, fraction, attention.key_dim),
                   rotation.base != 0 ? rotation.base : base, !rotation.is_plain, length, family.rounds_yarn);
      if (rotation.magnitude != 0) rope.magnitude = rotation.magnitude;
    }
    // A norm takes the magnitude out again.
    if (attention.qk_norm == HeadNorm::kRotated) rope.magnitude = 1;
    attention.rope = IndexOf(std::move(rope), &plan->ropes);
  });
}

// The rotation of the layers that see everything, which is the one that files tell of.
const Rope& GlobalRope(const ModelPlan& plan) {
  const AttentionPlan* best = nullptr;
  ForEachAttention(plan, [&](const AttentionPlan& attention) {
    if (attention.rotation.is_none) return;
    if (best == nullptr || (best->window > 0 && attention.window == 0)) best = &attention;
  });
  MNEME_CHECK(best != nullptr);
  return plan.ropes[best->rope];
}

}  // namespace

namespace {

// What the file said of layers that have an attention or a network after all.
void CheckSizes(const Hyperparameters& hyper, const ModelPlan& plan) {
  for (size_t layer = 0; layer < plan.num_layers(); ++layer) {
    const AttentionPlan* const attention = plan.layers[layer].attention();
    if (attention != nullptr && attention->key_dim == 0) {
      Fail(ErrorKind::kFile, "{}: {} heads do not divide the model dimension {}", hyper.path,
           attention->num_heads, plan.model_dim);
    }
    if (attention != nullptr && attention->num_kv_heads == 0) {
      Fail(ErrorKind::kFile, "{}: layer {} has attention but no KV heads", hyper.path, layer);
    }
    const DensePlan* const dense = plan.layers[layer].dense();
    if (dense != nullptr && dense->dim == 0) {
      Fail(ErrorKind::kFile, "{}: layer {} has a feed-forward network of width 0", hyper.path, layer);
    }
  }
}

// Some files call that of RMS norms as others call that of the plain ones, and the other way round.
std::optional<double> Epsilon(const Hyperparameters& hyper, NormKind norm) {
  const auto& own = norm == NormKind::kRms ? hyper.rms_norm_epsilon : hyper.layer_norm_epsilon;
  const auto& other = norm == NormKind::kRms ? hyper.layer_norm_epsilon : hyper.rms_norm_epsilon;
  return own ? own : other;
}

}  // namespace

ModelPlan MakePlan(const Family& family, const FamilyInput& input, int64_t length) {
  const Hyperparameters& hyper = input.hyper;
  ModelPlan plan;
  plan.family = family.name;
  plan.name = Printable(hyper.name, 200);  // only ever shown
  ReadSizes(family, hyper, &plan);
  plan.ternary_divides =
      hyper.settings.Text("", "quantization_config.linear_class").value_or("bitlinear") == "bitlinear";
  plan.final_soft_cap = PositiveOrZero(hyper, hyper.final_soft_cap, "soft cap of the logits");
  family.plan(input, &plan);
  CheckSizes(hyper, plan);
  if (hyper.attention_scale && *hyper.attention_scale != 0) {
    const float scale = PositiveOrZero(hyper, hyper.attention_scale, "attention scale");
    ForEachAttention(plan, [&](AttentionPlan& attention) { attention.scale = scale; });
  }
  ReadActivations(hyper, &plan);
  const std::optional<double> epsilon = Epsilon(hyper, plan.norm);
  if (!epsilon && hyper.container == Container::kGguf) {
    Fail(ErrorKind::kFile, "{}: has no '{}.attention.layer_norm_{}epsilon'", hyper.path, hyper.architecture,
         plan.norm == NormKind::kRms ? "rms_" : "");
  }
  plan.norm_epsilon =
      PositiveOrZero(hyper, epsilon.value_or(plan.norm == NormKind::kRms ? 1e-6 : 1e-5), "epsilon");
  if (plan.position == PositionKind::kRope) AddRopes(family, hyper, length, &plan);
  plan.rope_length = RopeLength(hyper);
  if (plan.rope_length > 0 && length <= plan.rope_length) {
    plan.trained_length = std::min(plan.trained_length, plan.rope_length);
  }
  hyper.settings.RefuseUnread();
  return plan;
}

namespace {

// One value where all are the same.
std::vector<uint64_t> Collapsed(std::vector<uint64_t> values) {
  if (!values.empty() &&
      std::all_of(values.begin(), values.end(), [&](uint64_t v) { return v == values[0]; }))
    values.resize(1);
  return values;
}

// Null where the model has none.
const AttentionPlan* FirstAttention(const ModelPlan& plan) {
  const auto found = std::find_if(plan.layers.begin(), plan.layers.end(),
                                  [](const LayerPlan& layer) { return layer.attention() != nullptr; });
  return found == plan.layers.end() ? nullptr : found->attention();
}

void WriteAttention(const ModelPlan& plan, Hyperparameters* out) {
  const AttentionPlan* const attention = FirstAttention(plan);
  if (attention == nullptr) return;
  out->key_dim = attention->key_dim;
  out->value_dim = attention->value_dim;
  bool is_same = true;  // in all layers: where it is not, the family has words of its own
  ForEachAttention(plan, [&](const AttentionPlan& a) { is_same = is_same && a.scale == attention->scale; });
  if (is_same && attention->scale != 1.0f / std::sqrt(static_cast<float>(attention->key_dim))) {
    out->attention_scale = attention->scale;
  }
}

// Without a name, readers take the family's usual function in the half-precision form.
std::string_view ActivationForGguf(const ModelPlan& plan) {
  for (size_t layer = plan.num_layers(); layer-- > 0;) {
    if (const DensePlan* dense = plan.layers[layer].dense()) {
      return dense->half_gelu || dense->is_xielu ? "" : ActivationName(dense->activation);
    }
    if (const ExpertsPlan* experts = plan.layers[layer].experts()) return ActivationName(experts->activation);
  }
  return "";
}

void WriteWindows(const ModelPlan& plan, Hyperparameters* out) {
  out->layer_is_local.clear();
  out->window_pattern.reset();
  size_t num_local = 0, num_attention = 0;
  for (const LayerPlan& layer : plan.layers) {
    const AttentionPlan* const attention = layer.attention();
    const bool is_local = attention != nullptr && attention->window > 0;
    out->layer_is_local.push_back(is_local);
    num_local += is_local ? 1 : 0;
    num_attention += attention != nullptr ? 1 : 0;
  }
  if (num_local == 0) out->sliding_window.reset();
  if (num_local == 0 || num_local == num_attention) out->layer_is_local.clear();
}

// What config.json says of scaling in its own words, in GGUF's.
void WriteScaling(const Hyperparameters& hyper, const Rope& rope, Hyperparameters* out) {
  const double factor = hyper.scaling_factor.value_or(1);
  const double magnitude = rope.magnitude;
  out->attention_factor.reset();
  if (hyper.scaling_type == "yarn") {
    const double usual = factor <= 1 ? 1 : 1 + 0.1 * std::log(factor);
    if (std::abs(magnitude / usual - 1) > 1e-6) out->attention_factor = magnitude / usual;
  } else if (magnitude != 1) {
    out->attention_factor = magnitude;
  }
  if (hyper.scaling_type != "llama3") return;
  out->scaling_type.clear();
  out->scaling_factor.reset();
  out->original_length.reset();
  for (size_t i = 0; i < rope.frequencies.size(); ++i) {
    const double plain =
        std::pow(*out->rope_base, -2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim));
    out->frequency_divisors.push_back(static_cast<float>(plain / rope.frequencies[i]));
  }
}

}  // namespace

Hyperparameters HyperparametersForGguf(const Family& family, const Hyperparameters& hyper,
                                       const ModelPlan& plan) {
  Hyperparameters out = hyper;
  out.trained_length = hyper.trained_length.value_or(static_cast<uint64_t>(plan.trained_length));
  out.vocab_size = plan.vocab_size;
  std::vector<uint64_t> num_heads, num_kv_heads, ffn_dim;
  ForEachAttention(plan, [&](const AttentionPlan& a) {
    num_heads.push_back(a.num_heads);
    num_kv_heads.push_back(a.num_kv_heads);
  });
  out.layer_heads = Collapsed(std::move(num_heads));
  if (out.layer_heads.size() == 1) out.layer_heads.clear();
  ForEachDense(plan, [&](const DensePlan& d) { ffn_dim.push_back(d.dim); });
  out.num_kv_heads = Collapsed(std::move(num_kv_heads));
  const size_t ffn_dim_count = ffn_dim.size();
  out.ffn_dim = Collapsed(std::move(ffn_dim));
  if (out.ffn_dim.empty() || ffn_dim_count != plan.num_layers()) out.ffn_dim = Collapsed(hyper.ffn_dim);
  WriteAttention(plan, &out);
  (plan.norm == NormKind::kRms ? out.rms_norm_epsilon : out.layer_norm_epsilon) = plan.norm_epsilon;
  out.activation = ActivationForGguf(plan);
  if (plan.position == PositionKind::kRope) {
    out.rotary_dim = GlobalRope(plan).rotary_dim;
    out.rope_base = hyper.rope_base.value_or(10000.0);
  }
  if (plan.position == PositionKind::kAlibi) out.max_alibi_bias = hyper.max_alibi_bias.value_or(8.0);
  if (family.name != "gptneox") out.parallel_residual.reset();
  WriteWindows(plan, &out);
  if (hyper.container == Container::kSafetensors) {
    if (plan.position == PositionKind::kRope) WriteScaling(hyper, GlobalRope(plan), &out);
    if (family.for_gguf != nullptr) family.for_gguf(plan, &out);
  }
  // Other readers of a GGUF end at a type that they do not know. Up to the trained length none is right.
  if (out.scaling_type == "dynamic") {
    out.dynamic_factor = out.scaling_factor.value_or(1);
    out.scaling_type = "none";
    out.scaling_factor.reset();
  }
  return out;
}

namespace {

void ReadActionTokens(const GgufFile& file, ModelPlan* plan) {
  const auto read = [&](const char* key, TokenId* token) {
    const std::optional<uint64_t> id = file.GetUint(key);
    if (!id) return;
    if (*id >= plan->vocab_size) {
      Fail(ErrorKind::kFile, "{} is {}, outside the vocabulary of {}", key, *id, plan->vocab_size);
    }
    *token = static_cast<TokenId>(*id);
  };
  read("mneme.pause_token_id", &plan->actions.pause);
  read("mneme.backspace_token_id", &plan->actions.backspace);
  read("mneme.sink_token_id", &plan->actions.sink);
}

}  // namespace

void ReadMemoryMetadata(const GgufFile& file, ModelPlan* plan) {
  ReadActionTokens(file, plan);
  plan->softmax_off_by_one = file.GetBool("mneme.attention.softmax_off_by_one").value_or(false);
  const bool has_latents = std::any_of(plan->layers.begin(), plan->layers.end(),
                                       [](const LayerPlan& layer) { return layer.latent() != nullptr; });
  if (plan->softmax_off_by_one && has_latents) {
    Fail(ErrorKind::kUnsupported,
         "mneme.attention.softmax_off_by_one is not supported with latent attention");
  }
  const std::optional<uint64_t> segment = file.GetUint("mneme.infini.segment");
  if (!segment) return;
  const uint64_t previous = file.GetUint("mneme.infini.previous").value_or(0);
  if (*segment == 0 || *segment > kMaxLength || previous > kMaxLength / *segment) {
    Fail(ErrorKind::kFile,
         "mneme.infini.segment is {} and mneme.infini.previous {}: no memory works like that", *segment,
         previous);
  }
  plan->memory.segment = static_cast<int64_t>(*segment);
  plan->memory.previous = static_cast<int64_t>(previous);
  plan->memory.update = ParseMemoryUpdate(file.GetString("mneme.infini.update").value_or("linear"));
  const std::string_view first = file.GetString("mneme.infini.first").value_or("bypass");
  if (first != "bypass" && first != "literal") {
    Fail(ErrorKind::kFile, "mneme.infini.first is '{}', neither bypass nor literal", first);
  }
  plan->memory.literal_first = first == "literal";
  plan->memory.key_shift = file.GetBool("mneme.infini.key_shift").value_or(false);
  plan->memory.write_floor = static_cast<float>(file.GetFloat("mneme.infini.write_floor").value_or(0));
  if (!(plan->memory.write_floor >= 0 && plan->memory.write_floor < 1)) {
    Fail(ErrorKind::kFile, "mneme.infini.write_floor is {}; it must be at least 0 and below 1",
         plan->memory.write_floor);
  }
  if (plan->memory.key_shift && *segment < 2) {
    Fail(ErrorKind::kFile, "mneme.infini.key_shift needs segments of at least 2 tokens; they have {}",
         *segment);
  }
}

}  // namespace mneme
