#include "model/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "formats/tensor_source.h"
#include "mneme/chat.h"
#include "model/auto_products.h"
#include "model/convert/tokenizer_metadata.h"
#include "model/families/family.h"
#include "model/hyperparameters.h"
#include "model/suggested_sampler.h"
#include "model/tensors/tensor_map.h"
#include "model/weights.h"
#include "tokenizer/load/load_gguf.h"

namespace mneme {
namespace {

void HashExperts(const ExpertsPlan& plan, Hasher* hash) {
  const RouterShape& r = plan.router;
  for (const size_t value :
       {r.num_experts, r.num_used, static_cast<size_t>(r.score), static_cast<size_t>(r.renormalise),
        r.num_groups, r.num_used_groups, plan.dim, plan.shared_dim, static_cast<size_t>(plan.has_shared_gate),
        static_cast<size_t>(plan.has_correction), static_cast<size_t>(plan.has_expert_scale),
        static_cast<size_t>(plan.activation)}) {
    hash->Put(value);
  }
  if (!plan.is_gated) hash->Put(static_cast<uint64_t>(plan.is_gated));
  hash->Put(r.scale);
  if (r.nearness != 0) hash->Put(r.nearness);
  if (plan.weighs_inputs) hash->Put(uint64_t{1});
  hash->Put(plan.clamp);
}

void HashLayer(const LayerPlan& layer, Hasher* hash) {
  hash->Put(static_cast<uint64_t>(layer.wiring));
  hash->Put(static_cast<uint64_t>(layer.has_post_norms));
  if (const AttentionPlan* a = layer.attention()) {
    for (const size_t value :
         {a->num_heads, a->num_kv_heads, a->key_dim, a->value_dim, a->rope, static_cast<size_t>(a->window),
          static_cast<size_t>(a->qk_norm), static_cast<size_t>(a->value_norm),
          static_cast<size_t>(a->value_is_key), static_cast<size_t>(a->kv_source)}) {
      hash->Put(value);
    }
    if (a->has_head_gate) hash->Put(static_cast<uint64_t>(a->has_head_gate));
    if (a->softplus_gates) hash->Put(static_cast<uint64_t>(a->has_value_gate ? 2 : 3));
    if (a->value_scale != 1.0f) hash->Put(a->value_scale);
    if (a->has_sub_norm) hash->Put(uint64_t{4});
    if (a->is_chunked) hash->Put(uint64_t{5});
    if (a->query_growth_offset != 0) hash->Put(static_cast<uint64_t>(a->query_growth_offset));
    if (const LatentPlan* latent = layer.latent()) {
      for (const size_t value : {latent->query_rank, latent->plain_dim, latent->head_value_dim}) {
        hash->Put(value);
      }
    }
    for (const float value : {a->scale, a->soft_cap, a->clamp_qkv, a->query_growth}) hash->Put(value);
  }
  layer.ForEachState([hash](const RecurShape& r) {
    for (const size_t value : {static_cast<size_t>(r.rule), r.num_key_heads, r.num_value_heads, r.key_dim,
                               r.value_dim, static_cast<size_t>(r.is_tiled), r.conv_width}) {
      hash->Put(value);
    }
  });
  if (const ChannelDeltaPlan* delta = layer.channel_delta()) hash->Put(delta->gate_rank);
  if (const DeltaPlan* delta = layer.delta(); delta != nullptr && delta->most_strength != 1.0f) {
    hash->Put(delta->most_strength);
  }
  if (const ScanPlan* scan = layer.scan()) {
    hash->Put(static_cast<uint64_t>(scan->has_norm));
    hash->Put(static_cast<uint64_t>(scan->gates_normed));
    hash->Put(scan->min_step);
    hash->Put(scan->max_step);
  }
  if (const SelectivePlan* selective = layer.selective()) {
    hash->Put(selective->step_rank);
    hash->Put(static_cast<uint64_t>(selective->has_norms));
    hash->Put(selective->norm_epsilon);
  }
  if (const LruPlan* lru = layer.lru()) hash->Put(lru->num_heads);
  if (const SharedPlan* shared = layer.shared()) {
    for (const size_t value : {shared->ffn_dim, shared->source, shared->adapter_rank,
                               static_cast<size_t>(shared->has_attention_adapters)}) {
      hash->Put(value);
    }
  }
  if (const ChannelMixPlan* channel_mix = layer.channel_mix()) hash->Put(channel_mix->dim);
  if (const DensePlan* d = layer.dense()) {
    for (const size_t value : {d->dim, static_cast<size_t>(d->activation), static_cast<size_t>(d->is_gated),
                               static_cast<size_t>(d->half_gelu)}) {
      hash->Put(value);
    }
  }
  if (layer.dense() != nullptr && layer.dense()->is_xielu) hash->Put(uint64_t{1});
  if (const ExpertsPlan* experts = layer.experts()) HashExperts(*experts, hash);
}

void HashPlan(const ModelPlan& plan, Hasher* hash) {
  hash->PutString(plan.family);
  for (const size_t value : {plan.num_layers(), plan.model_dim, plan.vocab_size,
                             static_cast<size_t>(plan.norm), static_cast<size_t>(plan.position)}) {
    hash->Put(value);
  }
  for (const float value : {plan.norm_epsilon, plan.embedding_scale, plan.final_soft_cap, plan.residual_scale,
                            plan.logit_scale}) {
    hash->Put(value);
  }
  hash->Put(plan.per_layer_dim);
  for (const LayerPlan& layer : plan.layers) HashLayer(layer, hash);
  for (const Rope& rope : plan.ropes) {
    hash->Put(static_cast<uint64_t>(rope.layout));
    hash->Put(rope.magnitude);
    hash->PutVector(rope.frequencies);
  }
  hash->PutVector(plan.alibi_slopes);
  for (const FolderFactors& factors : plan.folder_factors) {
    hash->PutString(factors.canonical);
    for (const auto& [num_rows, factor] : factors.rows) hash->Put(factor);
  }
  for (const int64_t value :
       {plan.memory.segment, plan.memory.previous, static_cast<int64_t>(plan.memory.update),
        static_cast<int64_t>(plan.memory.literal_first), static_cast<int64_t>(plan.memory.key_shift)}) {
    hash->Put(static_cast<uint64_t>(value));
  }
  hash->Put(plan.memory.write_floor);
}

// The weights of norms that follow the rotation.
std::vector<float> QueryFactors(const AttentionPlan& plan, const AttentionWeights& weights) {
  std::vector<float> factors;
  if (plan.qk_norm != HeadNorm::kRotated) return factors;
  for (size_t i = 0; i < plan.key_dim; ++i) {
    factors.push_back(weights.q_norm.weight[i] * weights.k_norm.weight[i]);
  }
  return factors;
}

// The layers with attention, in order: contexts know of no others.
ContextShape MakeContextShape(const ModelPlan& plan, const ModelWeights& weights) {
  ContextShape shape;
  shape.trained_length = plan.trained_length;
  shape.memory = plan.memory;
  if (plan.actions.sink >= 0) shape.num_sinks = 1;
  shape.learned_positions = plan.position == PositionKind::kLearned;
  std::vector<int64_t> with_attention;
  for (size_t layer = 0; layer < plan.num_layers(); ++layer) {
    plan.layers[layer].ForEachState(
        [&shape](const RecurShape& state) { shape.recurrent.layers.push_back(state); });
    const AttentionPlan* const a = plan.layers[layer].attention();
    if (a == nullptr) continue;
    const AttentionWeights* const w = weights.layers[layer].attention();  // null where it is latent
    // Contexts count the layers that have attention.
    const auto source = std::find(with_attention.begin(), with_attention.end(), a->kv_source);
    const int64_t kv_source = a->kv_source < 0 ? -1 : source - with_attention.begin();
    with_attention.push_back(static_cast<int64_t>(layer));
    shape.layers.push_back({.num_heads = a->num_heads,
                            .num_kv_heads = a->num_kv_heads,
                            .key_dim = a->key_dim,
                            .value_dim = a->value_dim,
                            .scale = a->scale,
                            .soft_cap = a->soft_cap,
                            .rope = plan.ropes.empty() ? Rope() : plan.ropes[a->rope],
                            .alibi_slopes = plan.alibi_slopes,
                            .sink_logits = w != nullptr ? w->sink_logits : std::vector<float>(),
                            .query_factors = w != nullptr ? QueryFactors(*a, *w) : std::vector<float>(),
                            .layer_window = a->window,
                            .is_chunked = a->is_chunked,
                            .kv_source = kv_source,
                            .values_in_keys = plan.layers[layer].latent() != nullptr,
                            .memory_gate = w != nullptr ? w->memory_gate : std::vector<float>()});
  }
  return shape;
}

std::unique_ptr<Tokenizer> FindTokenizer(const TensorSource& source, const ModelOptions& options) {
  if (!options.tokenizer.empty()) {
    return std::make_unique<Tokenizer>(LoadTokenizerFile(options.tokenizer));
  }
  if (const GgufFile* gguf = source.gguf()) {
    const auto kind = gguf->GetString("tokenizer.ggml.model");
    if (!kind || *kind == "none" || *kind == "no_vocab") return nullptr;
    return std::make_unique<Tokenizer>(LoadTokenizer(*gguf));
  }
  if (source.safetensors() != nullptr) {
    for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json"}) {
      if (FileExists(source.path() + "/" + name)) {
        return std::make_unique<Tokenizer>(LoadTokenizerFolder(source.path()));
      }
    }
  }
  return nullptr;
}

}  // namespace

struct LoadedModel::Impl {
  std::string path;
  PackMode pack = PackMode::kAuto;
  std::string saved_products;  // ModelOptions::products
  std::unique_ptr<TensorSource> source;
  ModelPlan plan;
  Hyperparameters hyper;
  const Family* family = nullptr;
  mutable std::shared_ptr<const ContextShape> shape;
  mutable std::vector<std::shared_ptr<const ContextShape>> old_shapes;  // with other heads
  // For longer streams, by length. They live as long as the model: clones of a session share them.
  mutable std::mutex shapes_mutex;
  mutable std::map<int64_t, std::shared_ptr<const ContextShape>> longer_shapes;
  ModelWeights weights;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<SamplerOptions> sampler;
  size_t weight_bytes = 0;
  mutable std::once_flag fingerprint_once;
  mutable uint64_t fingerprint = 0;
};

LoadedModel::LoadedModel() : impl_(std::make_unique<Impl>()) {}
LoadedModel::~LoadedModel() = default;

std::shared_ptr<const LoadedModel> LoadedModel::Load(const std::string& path, const ModelOptions& options,
                                                     Device& device) {
  const std::shared_ptr<LoadedModel> model(new LoadedModel());
  Impl& impl = *model->impl_;
  impl.path = path;
  impl.pack = options.pack;
  impl.saved_products = options.products;
  impl.source = OpenTensorSource(path);
  Hyperparameters& hyper = impl.hyper;
  hyper = ReadHyperparameters(*impl.source);
  const Family& family = FindFamily(hyper);
  impl.family = &family;
  if (!hyper.vocab_size) hyper.vocab_size = TensorMap::EmbeddingRows(*impl.source, family);
  impl.plan = MakePlan(family, InputOf(hyper, *impl.source, family));
  impl.plan.is_exact = options.pack == PackMode::kExact;
  if (const GgufFile* gguf = impl.source->gguf()) ReadMemoryMetadata(*gguf, &impl.plan);
  // Neither the tokenizer nor the packing of weights waits for the other.
  std::exception_ptr tokenizer_failure;
  const auto load_tokenizer = [&]() noexcept {
    try {
      if (options.load_tokenizer) impl.tokenizer = FindTokenizer(*impl.source, options);
    } catch (...) {
      tokenizer_failure = std::current_exception();
    }
  };
  impl.weights = LoadWeights(*impl.source, family, impl.plan, hyper.tied_head.value_or(false), options,
                             device, load_tokenizer);
  if (tokenizer_failure) std::rethrow_exception(tokenizer_failure);
  impl.shape = std::make_shared<const ContextShape>(MakeContextShape(impl.plan, impl.weights));
  for (const TensorInfo& tensor : impl.source->tensors()) impl.weight_bytes += tensor.bytes;
  if (impl.tokenizer != nullptr) {
    CheckTokenizerFits(*impl.tokenizer, impl.plan.vocab_size,
                       options.tokenizer.empty() ? path : options.tokenizer);
    *impl.tokenizer = WithTurnEnd(impl.tokenizer->PaddedTo(static_cast<int32_t>(impl.plan.vocab_size)));
  }
  impl.sampler = SuggestedSampler(*impl.source);
  model->CheckUnchanged();
  return model;
}

const std::string& LoadedModel::path() const { return impl_->path; }
const ModelPlan& LoadedModel::plan() const { return impl_->plan; }
const ContextShape& LoadedModel::context_shape() const { return *impl_->shape; }

std::shared_ptr<const ContextShape> LoadedModel::ShapeFor(int64_t length) const {
  const ModelPlan& plan = impl_->plan;
  if (plan.rope_length == 0 || length <= plan.rope_length) return impl_->shape;
  // longrope has one other set; others are made for each length.
  const int64_t key = impl_->hyper.scaling_type == "dynamic" ? length : plan.rope_length + 1;
  const std::lock_guard lock(impl_->shapes_mutex);
  std::shared_ptr<const ContextShape>& known = impl_->longer_shapes[key];
  if (known != nullptr) return known;
  // Only the rotations differ, and what a stream of them was trained for.
  const ModelPlan longer =
      MakePlan(*impl_->family, InputOf(impl_->hyper, *impl_->source, *impl_->family), length);
  auto shape = std::make_shared<ContextShape>(*impl_->shape);
  shape->trained_length = longer.trained_length;
  size_t index = 0;
  ForEachAttention(longer, [&](const AttentionPlan& attention) {
    shape->layers[index++].rope = longer.ropes[attention.rope];
  });
  known = std::move(shape);
  return known;
}

void LoadedModel::SetRecall(const RecallRules& rules) const {
  if (impl_->shape->recall.heads == rules.heads) return;
  const std::lock_guard lock(impl_->shapes_mutex);
  auto shape = std::make_shared<ContextShape>(*impl_->shape);
  shape->recall = rules;
  impl_->old_shapes.push_back(std::exchange(impl_->shape, std::move(shape)));
  impl_->longer_shapes.clear();
}

const ModelWeights& LoadedModel::weights() const { return impl_->weights; }
const std::optional<SamplerOptions>& LoadedModel::suggested_sampler() const { return impl_->sampler; }
bool LoadedModel::has_tokenizer() const { return impl_->tokenizer != nullptr; }

const Tokenizer& LoadedModel::tokenizer() const {
  if (impl_->tokenizer == nullptr) {
    Fail(ErrorKind::kUnsupported, "{}: comes without a tokenizer; name one with --tokenizer", impl_->path);
  }
  return *impl_->tokenizer;
}

uint64_t LoadedModel::fingerprint() const {
  std::call_once(impl_->fingerprint_once, [this] {
    Hasher hash;
    HashPlan(impl_->plan, &hash);
    const ModelWeights& weights = impl_->weights;
    HashSamples(weights.token_embedding, &hash);
    HashSamples(weights.position_embedding, &hash);
    HashSamples(weights.per_layer.embedding, &hash);
    hash.PutVector(weights.per_layer.norm.weight);
    ForEachLinear(weights, [&](const LinearLayer& linear) {
      HashSamples(linear.file, &hash);
      hash.PutVector(linear.bias);
    });
    for (const LayerWeights& layer : weights.layers) {
      std::vector<const NormWeights*> norms = {&layer.attn_norm, &layer.post_attn_norm, &layer.ffn_norm,
                                               &layer.post_ffn_norm};
      if (const AttentionWeights* attention = layer.attention()) {
        hash.PutVector(attention->sink_logits);
        hash.PutVector(attention->memory_gate);
        norms.insert(norms.end(), {&attention->q_norm, &attention->k_norm});
        if (!attention->sub_norm.empty()) norms.push_back(&attention->sub_norm);
      }
      if (const LatentWeights* latent = layer.latent()) {
        norms.insert(norms.end(), {&latent->query_norm, &latent->latent_norm});
      }
      if (const DeltaWeights* delta = layer.delta()) {
        for (const auto* values : {&delta->convolution, &delta->step_bias, &delta->rate, &delta->norm}) {
          hash.PutVector(*values);
        }
      }
      if (const ChannelDeltaWeights* delta = layer.channel_delta()) {
        for (const auto* values : {&delta->convolution, &delta->step_bias, &delta->rate, &delta->norm}) {
          hash.PutVector(*values);
        }
      }
      if (const ShortConvWeights* short_conv = layer.short_conv()) {
        hash.PutVector(short_conv->convolution);
        hash.PutVector(short_conv->convolution_bias);
      }
      if (const ScanWeights* scan = layer.scan()) {
        for (const auto* values :
             {&scan->convolution, &scan->convolution_bias, &scan->step_bias, &scan->rate, &scan->skip}) {
          hash.PutVector(*values);
        }
        norms.push_back(&scan->norm);
      }
      if (const SelectiveWeights* selective = layer.selective()) {
        for (const auto* values :
             {&selective->convolution, &selective->convolution_bias, &selective->rate, &selective->skip}) {
          hash.PutVector(*values);
        }
        norms.insert(norms.end(), {&selective->step_norm, &selective->key_norm, &selective->query_norm});
      }
      if (const LruWeights* lru = layer.lru()) {
        for (const auto* values : {&lru->convolution, &lru->convolution_bias, &lru->rate}) {
          hash.PutVector(*values);
        }
      }
      if (const SharedWeights* shared = layer.shared()) {
        norms.insert(norms.end(), {&shared->norm, &shared->ffn_norm});
      }
      if (const TimeMixWeights* mix = layer.time_mix()) {
        for (const auto* values :
             {&mix->key.taps, &mix->value.taps, &mix->gate.taps, &mix->rate, &mix->boost}) {
          hash.PutVector(*values);
        }
      }
      if (const ChannelMixWeights* mix = layer.channel_mix()) {
        hash.PutVector(mix->up.taps);
        hash.PutVector(mix->gate.taps);
      }
      if (const DenseWeights* dense = layer.dense(); dense != nullptr && !dense->sub_norm.empty()) {
        norms.push_back(&dense->sub_norm);
      }
      if (const DenseWeights* dense = layer.dense(); dense != nullptr && dense->xielu.square != 0) {
        for (const float number :
             {dense->xielu.square, dense->xielu.bend, dense->xielu.line, dense->xielu.below}) {
          hash.Put(number);
        }
      }
      if (const ExpertsWeights* experts = layer.experts()) {
        hash.PutVector(experts->correction);
        hash.PutVector(experts->expert_scale);
      }
      if (const MixedWeights* mixed = layer.mixed()) {
        norms.insert(norms.end(), {&mixed->dense_post_norm, &mixed->experts_norm, &mixed->experts_post_norm,
                                   &mixed->router_norm});
      }
      hash.PutVector(layer.output_scale);
      norms.push_back(&layer.per_layer.norm);
      for (const NormWeights* norm : norms) {
        hash.PutVector(norm->weight);
        hash.PutVector(norm->bias);
      }
    }
    hash.PutVector(weights.output_norm.weight);
    hash.PutVector(weights.output_norm.bias);
    hash.PutVector(weights.embedding_norm.weight);
    hash.PutVector(weights.embedding_norm.bias);
    CheckUnchanged();
    impl_->fingerprint = hash.value();
  });
  return impl_->fingerprint;
}

PackMode LoadedModel::pack() const { return impl_->pack; }

std::string LoadedModel::products() const {
  std::set<std::string> kinds;
  ForEachLinear(impl_->weights, [&](const LinearLayer& linear) {
    const LinearWeights& weights = linear.weights;
    const std::string_view how = !weights.is_packed()                             ? "file"
                                 : weights.products() == FloatProducts::kInt16    ? "int16"
                                 : weights.products() == FloatProducts::kBFloat16 ? "bf16"
                                                                                  : "packed";
    kinds.insert(fmt::format("{}:{}", EncodingName(weights.encoding()), how));
  });
  return fmt::format("{}", fmt::join(kinds, ","));
}

std::vector<std::string> LoadedModel::notes() const {
  std::vector<std::string> notes;
  const std::vector<std::string> parts = PassedOverParts(*impl_->source, impl_->plan);
  if (!parts.empty()) {
    notes.push_back(fmt::format("the file also has {}: passed over, the language model is run without",
                                fmt::join(parts, ", ")));
  }
  const std::vector<std::string>& of_packing = impl_->weights.pack_notes;
  notes.insert(notes.end(), of_packing.begin(), of_packing.end());
  for (const Encoding encoding : {Encoding::kF16, Encoding::kBF16}) {
    const std::string kind = fmt::format("{}:", EncodingName(encoding));
    const FloatProducts products = AutoProducts(encoding, impl_->saved_products);
    const FloatProducts here = AutoProducts(encoding, "");
    const bool is_chosen = impl_->pack == PackMode::kAuto || impl_->pack == PackMode::kAlways;
    if (!is_chosen || products == here || ("," + this->products()).find("," + kind) == std::string::npos)
      continue;
    notes.push_back(fmt::format(
        "{} weights are multiplied as {}, as in the saved state; without it {} would be taken here",
        EncodingName(encoding), FloatProductsName(products), FloatProductsName(here)));
  }
  if (impl_->tokenizer != nullptr) {
    const auto warnings = impl_->tokenizer->warnings();
    notes.insert(notes.end(), warnings.begin(), warnings.end());
  }
  return notes;
}

void LoadedModel::CheckUnchanged() const {
  impl_->source->CheckUnchanged();
  if (impl_->weights.packed_copy) impl_->weights.packed_copy->file.CheckUnchanged();
}
size_t LoadedModel::weight_bytes() const { return impl_->weight_bytes; }
size_t LoadedModel::mapped_bytes() const { return impl_->source->mapped_bytes(); }
size_t LoadedModel::packed_bytes() const { return impl_->weights.packed_bytes + impl_->weights.owned_bytes; }
size_t LoadedModel::packed_heap_bytes() const {
  return impl_->weights.packed_copy ? impl_->weights.owned_bytes : packed_bytes();
}
std::string LoadedModel::packed_copy() const {
  return impl_->weights.packed_copy ? impl_->weights.packed_copy->file.path() : "";
}

size_t LoadedModel::read_bytes_per_token() const {
  const ModelWeights& weights = impl_->weights;
  size_t bytes = weights.token_embedding.row_bytes();
  bytes += weights.output.weights.read_bytes();
  if (weights.per_layer.embedding.num_rows > 0) {
    bytes += weights.per_layer.embedding.row_bytes() + weights.per_layer.projection.weights.read_bytes();
  }
  for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
    size_t of_experts = 0;
    ForEachLinearOfLayer(weights.layers[layer], [&](const LinearLayer& linear, bool is_expert) {
      (is_expert ? of_experts : bytes) += linear.weights.read_bytes();
    });
    if (const SharedPlan* shared = impl_->plan.layers[layer].shared();
        shared != nullptr && !shared->is_source) {
      ForEachLinearOfTransformer(*weights.layers[shared->source].shared(),
                                 [&](const LinearLayer& linear) { bytes += linear.weights.read_bytes(); });
    }
    // Of a mixture only the experts that a token is sent to.
    if (const ExpertsPlan* experts = impl_->plan.layers[layer].experts()) {
      bytes += of_experts / experts->router.num_experts * experts->router.num_used;
    }
  }
  return bytes;
}

}  // namespace mneme
