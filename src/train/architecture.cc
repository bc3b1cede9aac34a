#include "train/architecture.h"

#include <fmt/format.h>

#include <algorithm>
#include <variant>

#include "base/error.h"
#include "base/files/file.h"
#include "formats/gguf.h"
#include "model/tensors/tensor_map.h"
#include "tokenizer/load/load_gguf.h"
#include "train/data/vocabulary.h"

namespace mneme::train {
namespace {

// Rows of each head from halves (f, f + r/2) to pairs (2f, 2f + 1).
void InterleaveRows(size_t num_heads, size_t head_dim, size_t rotary_dim, size_t row_size,
                    std::vector<float>* values) {
  const std::vector<float> old = *values;
  const size_t half = rotary_dim / 2;
  for (size_t head = 0; head < num_heads; ++head) {
    for (size_t to = 0; to < rotary_dim; ++to) {
      const size_t from = to % 2 * half + to / 2;
      std::copy_n(old.begin() + static_cast<ptrdiff_t>((head * head_dim + from) * row_size), row_size,
                  values->begin() + static_cast<ptrdiff_t>((head * head_dim + to) * row_size));
    }
  }
}

void WriteActions(const ActionTokens& actions, GgufWriter* writer) {
  const auto write = [&](const char* key, TokenId id) {
    if (id >= 0) writer->Set(key, static_cast<uint32_t>(id));
  };
  write("mneme.pause_token_id", actions.pause);
  write("mneme.backspace_token_id", actions.backspace);
  write("mneme.sink_token_id", actions.sink);
}

}  // namespace

void CheckTrainable(const ModelPlan& plan) {
  const auto refuse = [&](std::string_view what) {
    Fail(ErrorKind::kUnsupported,
         "training has no {} ('{}' needs it); llama, mistral, qwen2 and qwen3 models train", what,
         plan.family);
  };
  if (plan.norm != NormKind::kRms) refuse("LayerNorm");
  if (plan.position != PositionKind::kRope || plan.ropes.size() != 1) refuse("positions other than one RoPE");
  if (plan.final_soft_cap != 0) refuse("soft caps or clamps");
  if (plan.embedding_scale != 1.0f) refuse("scaled embeddings");
  for (const LayerPlan& layer : plan.layers) {
    if (layer.wiring != Wiring::kSequential || layer.has_post_norms) {
      refuse("parallel blocks or norms after a sub-layer");
    }
    // Neither latent attention nor a hybrid.
    const auto* const attention = std::get_if<AttentionPlan>(&layer.mixer);
    if (attention == nullptr) refuse("layers other than attention");
    if (attention->qk_norm != HeadNorm::kNone && attention->qk_norm != HeadNorm::kPerHead) {
      refuse("norms of queries and keys other than of each head before its rotation");
    }
    if (attention->soft_cap != 0 || attention->clamp_qkv != 0) refuse("soft caps or clamps");
    if (attention->window > 0) refuse("sliding windows");
    if (attention->rotation.is_none) refuse("layers without positions");
    const DensePlan* const dense = layer.dense();
    if (dense == nullptr || !dense->is_gated || dense->activation != Activation::kSilu) {
      refuse("feed-forward network other than gated SiLU");
    }
    if (attention->has_sub_norm || dense->has_sub_norm) refuse("norms inside a sub-layer");
  }
}

Architecture MakeArchitecture(const ModelSettings& s, int64_t vocab_size) {
  Architecture result;
  Hyperparameters& h = result.hyper;
  h.container = Container::kGguf;
  h.path = "the configuration's [model]";
  h.architecture = "llama";
  h.name = s.name;
  h.num_layers = static_cast<uint64_t>(s.num_layers);
  h.model_dim = static_cast<uint64_t>(s.model_dim);
  h.vocab_size = static_cast<uint64_t>(vocab_size);
  h.trained_length = 2048;
  h.num_heads = static_cast<uint64_t>(s.num_heads);
  h.num_kv_heads = {static_cast<uint64_t>(s.num_kv_heads)};
  h.ffn_dim = {static_cast<uint64_t>(s.ffn_dim)};
  h.key_dim = h.value_dim = h.rotary_dim = static_cast<uint64_t>(s.head_dim);
  h.rms_norm_epsilon = s.norm_epsilon;
  h.rope_base = s.rope_base;
  result.family = &FindFamily(h);
  result.plan = MakePlan(*result.family, {h, [](std::string_view, size_t) { return true; },
                                          [](std::string_view, size_t) { return false; },
                                          [](std::string_view, size_t) { return 0; }});
  result.tied_head = s.tied_head;
  result.sink_logits = s.sink == "logit";
  result.qkv_bias = s.qkv_bias;
  result.position_heads = s.position_heads;
  return result;
}

BaseModel::BaseModel(const std::string& path) : source_(OpenTensorSource(path)) {
  hyper_ = ReadHyperparameters(*source_);
  const Family& family = FindFamily(hyper_);
  if (!hyper_.vocab_size) hyper_.vocab_size = TensorMap::EmbeddingRows(*source_, family);
  file_plan_ = MakePlan(family, InputOf(hyper_, *source_, family));
  for (const LayerPlan& layer : file_plan_.layers) {
    if (std::holds_alternative<AttentionPlan>(layer.mixer)) continue;
    Fail(ErrorKind::kUnsupported,
         "{}: training has no layers other than attention ('{}' needs it); llama, mistral, qwen2 and qwen3 "
         "models train",
         path, family.name);
  }
  if (const GgufFile* gguf = source_->gguf()) ReadMemoryMetadata(*gguf, &file_plan_);
  CheckTrainable(file_plan_);
  architecture_.family = &family;
  architecture_.plan = file_plan_;
  architecture_.hyper = HyperparametersForGguf(family, hyper_, file_plan_);
  if (family.gguf_interleaved_rope) {
    for (Rope& rope : architecture_.plan.ropes) rope.layout = RopeLayout::kInterleaved;
  }
  TensorMap map(*source_, family, file_plan_);
  architecture_.tied_head =
      !TensorMap::HasWeight(*source_, family, "output", -1) || hyper_.tied_head.value_or(false);
  architecture_.qkv_bias = !map.FindQkvBias(*file_plan_.layers[0].attention(), 0, 0).empty();
}

Tokenizer BaseModel::LoadTokenizer() const {
  if (source_->gguf() != nullptr) return mneme::LoadTokenizer(*source_->gguf());
  if (source_->safetensors() != nullptr) return LoadTokenizerFolder(source_->path());
  Fail(ErrorKind::kUnsupported, "{}: comes without a tokenizer; convert it to GGUF with one first",
       source_->path());
}

void BaseModel::ForEachTensor(const std::function<void(const NamedTensor&)>& use) const {
  const ModelPlan& plan = file_plan_;
  TensorMap map(*source_, *architecture_.family, plan);
  const bool interleave = !plan.ropes.empty() && plan.ropes[0].layout == RopeLayout::kHalves &&
                          architecture_.plan.ropes[0].layout == RopeLayout::kInterleaved;
  const size_t head_dim = plan.layers[0].attention()->key_dim;
  const auto matrix = [&](const std::string& name, const MatrixRows& rows, size_t turned_heads = 0) {
    NamedTensor tensor{
        name, {static_cast<int64_t>(rows.num_rows), static_cast<int64_t>(rows.num_cols)}, DecodeRows(rows)};
    if (interleave && turned_heads > 0) {
      InterleaveRows(turned_heads, head_dim, plan.ropes[0].rotary_dim, rows.num_cols, &tensor.values);
    }
    use(tensor);
  };
  const auto vector = [&](const std::string& name, std::vector<float> values, size_t turned_heads = 0) {
    if (values.empty()) return;
    if (interleave && turned_heads > 0)
      InterleaveRows(turned_heads, head_dim, plan.ropes[0].rotary_dim, 1, &values);
    use({name, {static_cast<int64_t>(values.size())}, std::move(values)});
  };
  const size_t dim = plan.model_dim;
  matrix("token_embd.weight", *map.Find("token_embd", -1, plan.vocab_size, dim, true));
  vector("output_norm.weight", map.FindNorm("output_norm", "weight", -1, true, {&dim, 1}));
  const auto head = map.Find("output", -1, plan.vocab_size, dim, false);
  if (head && !architecture_.tied_head) matrix("output.weight", *head);
  for (size_t index = 0; index < plan.num_layers(); ++index) {
    const int layer = static_cast<int>(index);
    const AttentionPlan& attention = *plan.layers[index].attention();
    const auto name = [&](std::string_view what) { return fmt::format("blk.{}.{}", layer, what); };
    vector(name("attn_norm.weight"), map.FindNorm("attn_norm", "weight", layer, true, {&dim, 1}));
    vector(name("ffn_norm.weight"), map.FindNorm("ffn_norm", "weight", layer, true, {&dim, 1}));
    if (attention.qk_norm == HeadNorm::kPerHead) {
      vector(name("attn_q_norm.weight"),
             map.FindNorm("attn_q_norm", "weight", layer, true, {&attention.key_dim, 1}));
      vector(name("attn_k_norm.weight"),
             map.FindNorm("attn_k_norm", "weight", layer, true, {&attention.key_dim, 1}));
    }
    const size_t ffn_dim = plan.layers[index].dense()->dim;
    const size_t turned[3] = {attention.num_heads, attention.num_kv_heads, 0};
    const char* const parts[3] = {"attn_q", "attn_k", "attn_v"};
    for (int part = 0; part < 3; ++part) {
      matrix(name(fmt::format("{}.weight", parts[part])), *map.FindQkv(attention, part, layer), turned[part]);
      vector(name(fmt::format("{}.bias", parts[part])), map.FindQkvBias(attention, part, layer),
             turned[part]);
    }
    matrix(name("attn_output.weight"),
           *map.Find("attn_output", layer, dim, attention.num_heads * attention.value_dim, true));
    matrix(name("ffn_gate.weight"), *map.FindGateUp(ffn_dim, 0, layer));
    matrix(name("ffn_up.weight"), *map.FindGateUp(ffn_dim, 1, layer));
    matrix(name("ffn_down.weight"), *map.Find("ffn_down", layer, dim, ffn_dim, true));
    if (plan.memory.segment == 0) continue;
    vector(name("infini_gate.weight"),
           map.FindVector("infini_gate", "weight", layer, attention.num_heads, true));
    if (plan.memory.update != MemoryUpdate::kGatedDelta) continue;
    const size_t kv_heads = attention.num_kv_heads;
    matrix(name("infini_write.weight"), *map.Find("infini_write", layer, kv_heads, dim, true));
    vector(name("infini_write.bias"), map.FindVector("infini_write", "bias", layer, kv_heads, true));
  }
  // A tied file may hold the head all the same; anything else left over is a part that would be lost.
  map.CheckAllUsed();
}

void ExportGguf(const std::string& path, const Architecture& architecture, const MemorySettings& memory,
                const Tokenizer& tokenizer, const BaseModel* base, const std::vector<NamedTensor>& tensors) {
  if (memory.attention == "memorizing") {
    Fail(ErrorKind::kUnsupported,
         "{}: the engine has no context for attention \"memorizing\"; it trains and "
         "evaluates, for comparison, and is not exported",
         path);
  }
  GgufWriter writer;
  WriteActions(architecture.plan.actions, &writer);
  const bool has_sink = architecture.plan.actions.sink >= 0;
  WriteHyperparameters(architecture.hyper, architecture.family->gguf_names[0], &writer);
  if (base != nullptr && base->source().gguf() != nullptr) {
    writer.CopyAllMetadata(*base->source().gguf());
  } else {
    WriteVocabulary(tokenizer, &writer);
    // Sequences of a run from scratch begin with their text.
    if (base == nullptr) {
      writer.Set("tokenizer.ggml.add_bos_token", has_sink);
      writer.Set("tokenizer.ggml.add_eos_token", false);
    }
  }
  if (has_sink) {
    writer.Set("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(architecture.plan.actions.sink));
    writer.Set("tokenizer.ggml.add_bos_token", true);
  }
  if (memory.attention == "infini") {
    writer.Set("mneme.infini.segment", static_cast<uint32_t>(memory.segment));
    writer.Set("mneme.infini.previous", static_cast<uint32_t>(memory.previous));
    writer.Set("mneme.infini.update", memory.update);
    writer.Set("mneme.infini.first", memory.first);
    // Set in any case: the base of an adapted model may have said otherwise.
    writer.Set("mneme.infini.key_shift", memory.key_shift);
    writer.Set("mneme.infini.write_floor", static_cast<float>(memory.write_floor));
  }
  for (const NamedTensor& tensor : tensors) {
    std::vector<uint64_t> shape(tensor.shape.rbegin(), tensor.shape.rend());
    writer.AddTensor(tensor.name, Encoding::kF32, std::move(shape), tensor.values.data());
  }
  writer.Write(path);
}

}  // namespace mneme::train
