#include "model/loaded_model.h"

#include <fmt/format.h>

#include <mutex>
#include <set>
#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "formats/tensor_source.h"
#include "mneme/chat.h"
#include "model/convert/tokenizer_metadata.h"
#include "model/families.h"
#include "model/hyperparameters.h"
#include "model/suggested_sampler.h"
#include "model/tensor_map.h"
#include "model/weights.h"
#include "tokenizer/load/load_gguf.h"

namespace mneme {
namespace {

void HashConfig(const ModelConfig& c, Hasher* hash) {
  hash->PutString(c.family);
  for (const size_t value : {c.num_layers, c.model_dim, c.vocab_size, c.num_heads, c.key_dim, c.value_dim}) {
    hash->Put(value);
  }
  for (size_t layer = 0; layer < c.num_layers; ++layer) {
    hash->Put(c.num_kv_heads[layer]);
    hash->Put(c.ffn_dim[layer]);
    hash->Put(static_cast<uint64_t>(c.layer_window[layer]));
    hash->Put(c.layer_rope.empty() ? 0 : c.layer_rope[layer]);
  }
  for (const uint64_t value :
       {static_cast<uint64_t>(c.norm), static_cast<uint64_t>(c.block), static_cast<uint64_t>(c.activation),
        static_cast<uint64_t>(c.position), static_cast<uint64_t>(c.post_norms),
        static_cast<uint64_t>(c.gated_ffn), static_cast<uint64_t>(c.qk_norm_per_head),
        static_cast<uint64_t>(c.qk_norm_whole), static_cast<uint64_t>(c.half_gelu)}) {
    hash->Put(value);
  }
  for (const float value : {c.norm_epsilon, c.embedding_scale, c.attention_scale, c.attention_soft_cap,
                            c.final_soft_cap, c.clamp_qkv}) {
    hash->Put(value);
  }
  for (const Rope& rope : c.ropes) {
    hash->Put(static_cast<uint64_t>(rope.layout));
    hash->Put(rope.magnitude);
    hash->PutVector(rope.frequencies);
  }
  hash->PutVector(c.alibi_slopes);
  for (const int64_t value :
       {c.memory.segment, c.memory.previous, static_cast<int64_t>(c.memory.update),
        static_cast<int64_t>(c.memory.literal_first), static_cast<int64_t>(c.memory.key_shift)}) {
    hash->Put(static_cast<uint64_t>(value));
  }
  hash->Put(c.memory.write_floor);
}

// Samples of the bytes: the ends and places between, a page each at most.
void HashView(const WeightView& view, Hasher* hash) {
  constexpr size_t kSampleBytes = 64;
  constexpr size_t kNumSamples = 8;
  const size_t bytes = view.num_rows * (view.num_rows == 0 ? 0 : view.row_bytes());
  hash->Put(static_cast<uint64_t>(view.encoding));
  hash->Put(bytes);
  if (bytes <= kSampleBytes * kNumSamples) {
    if (bytes > 0) hash->Write(view.data, bytes);
    return;
  }
  for (size_t i = 0; i < kNumSamples; ++i) {
    hash->Write(view.data + (bytes - kSampleBytes) / (kNumSamples - 1) * i, kSampleBytes);
  }
}

ContextShape MakeContextShape(const ModelConfig& c, const ModelWeights& weights) {
  ContextShape shape;
  shape.trained_length = c.trained_length;
  shape.memory = c.memory;
  if (c.actions.sink >= 0) shape.num_sinks = 1;
  shape.learned_positions = c.position == PositionKind::kLearned;
  for (size_t layer = 0; layer < c.num_layers; ++layer) {
    LayerAttention attention;
    attention.num_heads = c.num_heads;
    attention.num_kv_heads = c.num_kv_heads[layer];
    attention.key_dim = c.key_dim;
    attention.value_dim = c.value_dim;
    attention.scale = c.attention_scale;
    attention.soft_cap = c.attention_soft_cap;
    if (!c.ropes.empty()) attention.rope = c.ropes[c.layer_rope[layer]];
    attention.alibi_slopes = c.alibi_slopes;
    attention.layer_window = c.layer_window[layer];
    attention.sink_logits = weights.layers[layer].sink_logits;
    attention.memory_gate = weights.layers[layer].memory_gate;
    shape.layers.push_back(std::move(attention));
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
    for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
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
  std::unique_ptr<TensorSource> source;
  ModelConfig config;
  ContextShape shape;
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
  impl.source = OpenTensorSource(path);
  Hyperparameters hyper = ReadHyperparameters(*impl.source);
  const Family& family = FindFamily(hyper);
  if (!hyper.vocab_size) hyper.vocab_size = TensorMap::EmbeddingRows(*impl.source, family);
  const FamilyInput input{hyper, [&](std::string_view canonical) {
                            return TensorMap::HasWeight(*impl.source, family, canonical, 0);
                          }};
  impl.config = Configure(family, input, options.long_rope);
  if (const GgufFile* gguf = impl.source->gguf()) ReadMemoryMetadata(*gguf, &impl.config);
  impl.weights =
      LoadWeights(*impl.source, family, impl.config, hyper.tied_head.value_or(false), options.pack, device);
  impl.shape = MakeContextShape(impl.config, impl.weights);
  for (const TensorInfo& tensor : impl.source->tensors()) impl.weight_bytes += tensor.bytes;
  if (options.load_tokenizer) impl.tokenizer = FindTokenizer(*impl.source, options);
  if (impl.tokenizer != nullptr) {
    CheckTokenizerFits(*impl.tokenizer, impl.config.vocab_size,
                       options.tokenizer.empty() ? path : options.tokenizer);
    *impl.tokenizer = WithTurnEnd(impl.tokenizer->PaddedTo(static_cast<int32_t>(impl.config.vocab_size)));
  }
  impl.sampler = SuggestedSampler(*impl.source);
  model->CheckUnchanged();
  return model;
}

const std::string& LoadedModel::path() const { return impl_->path; }
const ModelConfig& LoadedModel::config() const { return impl_->config; }
const ContextShape& LoadedModel::context_shape() const { return impl_->shape; }
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
    HashConfig(impl_->config, &hash);
    const ModelWeights& weights = impl_->weights;
    HashView(weights.token_embedding, &hash);
    HashView(weights.position_embedding, &hash);
    ForEachLinear(weights, [&](const LinearLayer& linear) {
      HashView(linear.file, &hash);
      hash.PutVector(linear.bias);
    });
    for (const LayerWeights& layer : weights.layers) {
      hash.PutVector(layer.sink_logits);
      hash.PutVector(layer.memory_gate);
      for (const NormWeights* norm : {&layer.attn_norm, &layer.q_norm, &layer.k_norm, &layer.post_attn_norm,
                                      &layer.ffn_norm, &layer.post_ffn_norm}) {
        hash.PutVector(norm->weight);
        hash.PutVector(norm->bias);
      }
    }
    hash.PutVector(weights.output_norm.weight);
    hash.PutVector(weights.output_norm.bias);
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

void LoadedModel::CheckUnchanged() const { impl_->source->CheckUnchanged(); }
size_t LoadedModel::weight_bytes() const { return impl_->weight_bytes; }
size_t LoadedModel::mapped_bytes() const { return impl_->source->mapped_bytes(); }
size_t LoadedModel::packed_bytes() const { return impl_->weights.packed_bytes + impl_->weights.owned_bytes; }

size_t LoadedModel::read_bytes_per_token() const {
  size_t bytes = impl_->weights.token_embedding.row_bytes();
  ForEachLinear(impl_->weights, [&](const LinearLayer& linear) { bytes += linear.weights.read_bytes(); });
  return bytes;
}

}  // namespace mneme
