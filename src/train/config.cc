#include "train/config.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <type_traits>

#include "base/error.h"
#include "base/files/file.h"

namespace mneme::train {
namespace {

constexpr double kHuge = 1e18;

struct Limits {
  double low = -kHuge;
  double high = kHuge;
};
using Names = std::vector<std::string_view>;

// The table. A visitor is called as v(key, value, limits or allowed names, meaning) for every key.
template <typename V>
void Visit(V& v, ModelSettings& s) {
  v("layers", s.num_layers, Limits{1, 1000}, "decoder layers");
  v("dim", s.model_dim, Limits{2, 1 << 20}, "width of the residual stream");
  v("heads", s.num_heads, Limits{1, 65536}, "query heads per layer");
  v("kv_heads", s.num_kv_heads, Limits{1, 65536}, "key/value heads per layer; divides heads");
  v("head_dim", s.head_dim, Limits{2, 1024}, "width of a head, even");
  v("ffn_dim", s.ffn_dim, Limits{1, 1 << 24}, "width of the gated feed-forward network");
  v("rope_base", s.rope_base, Limits{1, kHuge}, "base of the rotary frequencies");
  v("norm_epsilon", s.norm_epsilon, Limits{0, 1}, "added to the mean square in the norms");
  v("tied_head", s.tied_head, Limits{}, "the output matrix is the embedding matrix");
  v("qkv_bias", s.qkv_bias, Limits{},
    "queries, keys and values have a bias: heads can attend by position alone");
  v("position_heads", s.position_heads, Limits{0, 64},
    "with qkv_bias: so many heads of the first layer begin by looking at the token 1, 2, ... places back");
  v("name", s.name, Names{}, "name written into the exported file");
  v("base", s.base, Names{},
    "adapt: GGUF file or safetensors folder to start from; shape and vocabulary come from it");
  v("sink", s.sink, Names{"none", "token", "logit"},
    "token: every document begins with vocabulary.sink_token, which the engine then puts first in every "
    "stream; logit: a learned logit per head in the softmax's denominator, which takes what attention is "
    "not needed");
}

template <typename V>
void Visit(V& v, MemorySettings& s) {
  v("attention", s.attention, Names{"infini", "dense", "xl", "memorizing"},
    "dense: the whole sequence; xl: segments that see cached hidden states; infini: compressive memory; "
    "memorizing: exact nearest-neighbour memory in one layer");
  v("segment", s.segment, Limits{1, 1 << 24}, "tokens of one segment");
  v("previous", s.previous, Limits{0, 64}, "whole segments before its own that local attention sees");
  v("update", s.update, Names{"linear", "delta", "gated-delta"}, "how a segment is written into the memory");
  v("first", s.first, Names{"bypass", "literal"},
    "while nothing is in the memory: output = local attention, or (1 - gate) of it as the paper has it");
  v("gate_init", s.gate_init, Limits{-30, 30}, "initial logit of the gates; 0 mixes both halves evenly");
  v("write_init", s.write_init, Limits{-30, 30}, "gated-delta: initial bias of the write gate's logit");
  v("key_shift", s.key_shift, Limits{},
    "store each value under the key of the token before it, so that one layer recalls what followed");
  v("write_floor", s.write_floor, Limits{0, 0.9},
    "gated-delta: write gates below this are exactly shut, and the rest is stretched to reach from 0 to 1");
  v("write_penalty", s.write_penalty, Limits{0, 1000},
    "gated-delta: this times the mean write gate is added to the loss, so that the memory is written seldom");
  v("knn_layer", s.knn_layer, Limits{-1, 1000},
    "memorizing: the layer with the memory; -1: three quarters up");
  v("knn_size", s.knn_size, Limits{1, 1 << 24}, "memorizing: tokens that the memory holds");
  v("knn_neighbours", s.knn_neighbours, Limits{1, 4096}, "memorizing: tokens that a query reads");
}

template <typename V>
void Visit(V& v, VocabularySettings& s) {
  v("path", s.path, Names{},
    "SentencePiece model file; trained from the sources and written there if it does not exist (default: "
    "vocabulary.model in the run's folder)");
  v("kind", s.kind, Names{"bpe", "unigram"}, "kind to train");
  v("size", s.size, Limits{300, 1 << 20}, "pieces, 259 of them special tokens and bytes; digits stay single");
  v("sample_bytes", s.sample_bytes, Limits{1000, 1e10}, "text sampled from the sources to train it on");
  v("pause_token", s.pause_token, Names{}, "piece that is the pause; a model to adapt may have a spare one");
  v("backspace_token", s.backspace_token, Names{}, "piece that takes the last token back");
  v("sink_token", s.sink_token, Names{}, "piece that stands first in every document (model.sink)");
}

template <typename V>
void Visit(V& v, SourceSettings& s) {
  v("kind", s.kind, Names{"text", "passkey", "named-keys", "pairs", "needle", "copy"},
    "text: files; passkey: the papers' task; named-keys: several keys, all asked at the end; pairs: "
    "key-value "
    "recall; needle: named keys in the text of `files`; copy: a line repeated at the end");
  v("weight", s.weight, Limits{0, kHuge}, "share of the sequences, relative to the other sources");
  v("files", s.files, Names{}, "text files of any size; each is a document of its own");
  v("order", s.order, Names{"random", "sequential"},
    "text: start at random lines, or read from front to end with a cursor that checkpoints keep");
  v("separator", s.separator, Names{}, "text between documents inside a file; empty: none");
  v("min_items", s.min_items, Limits{1, 4096}, "least number of keys or pairs in a sequence");
  v("max_items", s.max_items, Limits{1, 4096}, "largest number; fewer where the sequence is short");
  v("max_statements_share", s.max_statements_share, Limits{0.01, 1},
    "statements take at most this share of a sequence");
  v("filler_loss", s.filler_loss, Limits{0, 1},
    "weight of the loss on tokens that are not the answer; with 1, the loss of answers that a run prints is "
    "that of all tokens");
  v("digit_repeats", s.digit_repeats, Limits{0, 1},
    "passkey, named-keys, needle: chance that a digit of a key equals the one before it, beyond chance; "
    "doubled "
    "digits are what is learned last");
  v("pause_rate", s.pause_rate, Limits{0, 0.5},
    "share of pause tokens inserted at random places; targets that are pauses carry no loss");
  v("answer_pauses", s.answer_pauses, Limits{0, 4096},
    "tasks: pause tokens before each answer, without loss; the engine then needs as many (--pause)");
  v("backspace_rate", s.backspace_rate, Limits{0, 1},
    "share of places after which wrong tokens are tried that the model learns to take back; the engine "
    "does so with --backspace");
  v("backspace_length", s.backspace_length, Limits{1, 64}, "most wrong tokens in a row");
  v("backspace_near", s.backspace_near, Limits{0, 1},
    "share of the wrong tokens that come from the same sequence; the others are any piece of text");
}

template <typename V>
void Visit(V& v, StageSettings& s) {
  v("steps", s.steps, Limits{1, 1e12}, "optimizer steps of this stage");
  v("min_segments", s.min_segments, Limits{1, 1 << 20}, "shortest sequences, in segments");
  v("max_segments", s.max_segments, Limits{1, 1 << 20}, "longest sequences; a length is drawn for each step");
  v("batch", s.batch, Limits{1, 1 << 20}, "sequences per step");
  v("write_penalty", s.write_penalty, Limits{-1, 1000},
    "for this stage in place of memory.write_penalty; -1: that one");
  v("carry", s.carry, Limits{0, 1},
    "share of the sequences that begin with the memory which the sequence before them in the same row left, "
    "and not with an empty one: 0.98 makes memories about 50 sequences old, at no cost; attention infini "
    "only");
  v("weights", s.weights, Limits{0, 1e9}, "shares of the sources in this stage, one each; empty: their own");
}

template <typename V>
void Visit(V& v, OptimizerSettings& s) {
  v("learning_rate", s.learning_rate, Limits{0, 10}, "peak, after warm-up; then a cosine");
  v("final_share", s.final_share, Limits{0, 1}, "learning rate at the end, as a share of the peak");
  v("warmup", s.warmup, Limits{0, 1e9}, "steps of linear warm-up");
  v("gate_learning_rate", s.gate_learning_rate, Limits{0, 10},
    "of the memory gates; they have no weight decay");
  v("weight_decay", s.weight_decay, Limits{0, 10}, "of matrices only");
  v("beta1", s.beta1, Limits{0, 0.99999}, "AdamW");
  v("beta2", s.beta2, Limits{0, 0.999999}, "AdamW");
  v("clip", s.clip, Limits{0, kHuge}, "largest norm of the whole gradient; 0: none");
  v("micro_batch", s.micro_batch, Limits{0, 1 << 20},
    "sequences at once; the rest in turn; 0: the whole batch");
  v("recompute", s.recompute, Limits{},
    "compute activations again in the backward pass, so that memory grows with the segment and not with the "
    "sequence; costs a third more time");
  v("trainable", s.trainable, Names{"all", "gates", "lora"},
    "adapt: everything, the memory's gates only, or gates and low-rank adapters of the attention matrices");
  v("lora_rank", s.lora_rank, Limits{1, 4096}, "rank of the adapters");
  v("lora_alpha", s.lora_alpha, Limits{0, 1e6}, "the adapters are scaled by alpha / rank");
  v("device", s.device, Names{}, "cpu, cuda, cuda:1");
  v("precision", s.precision, Names{"f32", "bf16"}, "of matrix products; weights and memories stay f32");
  v("threads", s.num_threads, Limits{1, 1024}, "on the CPU");
  v("seed", s.seed, Limits{0, 1e18}, "of weights and data");
  v("checkpoint_every", s.checkpoint_every, Limits{1, 1e12}, "steps between checkpoints");
  v("evaluate_every", s.evaluate_every, Limits{0, 1e12},
    "steps between evaluations (passkeys, held-back text); 0: none, but the text once at the end");
  v("evaluate_segments", s.evaluate_segments, Limits{1, 1 << 24},
    "lengths of the passkey evaluation, in segments; []: none");
  v("evaluate_trials", s.evaluate_trials, Limits{1, 4096}, "trials per length");
  v("evaluate_files", s.evaluate_files, Names{},
    "held-back text files: each streams through consecutive segments, memory carried on; mean loss in nats "
    "per token with its standard error, and the bytes held from segment to segment; a finished run that is "
    "started again evaluates only");
  v("evaluate_tokens", s.evaluate_tokens, Limits{2, 1e12}, "tokens of each held-back file, from its front");
  v("evaluate_reset", s.evaluate_reset, Limits{-1, 1 << 24},
    "held-back text: empty the state after so many segments; 0: never; -1: dense after the longest training "
    "sequence, since it has no window of its own, the others never");
  v("z_limit", s.z_limit, Limits{1, 1e38}, "largest |z| or |M| before the run stops");
}

template <typename T>
std::string TypeName() {
  if constexpr (std::is_same_v<T, int64_t>) return "integer";
  if constexpr (std::is_same_v<T, double>) return "number";
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, std::string>) return "text";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "list of texts";
  if constexpr (std::is_same_v<T, std::vector<int64_t>>) return "list of integers";
}

std::string ValueText(int64_t value) { return fmt::format("{}", value); }
std::string ValueText(double value) { return fmt::format("{}", value); }
std::string ValueText(bool value) { return value ? "true" : "false"; }
std::string ValueText(const std::string& value) { return fmt::format("\"{}\"", value); }
template <typename T>
std::string ValueText(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& value : values) text += (text.size() > 1 ? ", " : "") + ValueText(value);
  return text + "]";
}

// Fills settings from one table of the file.
class Reader {
 public:
  Reader(const toml::table& table, std::string section, std::string path)
      : table_(table), section_(std::move(section)), path_(std::move(path)) {}

  template <typename T>
  void operator()(std::string_view key, T& value, const Limits& limits, std::string_view) {
    const toml::node* node = Take(key);
    if (node == nullptr) return;
    Read(*node, key, &value);
    if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
      for (const int64_t item : value) CheckLimits(*node, key, static_cast<double>(item), limits);
    } else if constexpr (!std::is_same_v<T, bool>) {
      CheckLimits(*node, key, static_cast<double>(value), limits);
    }
  }
  template <typename T>
  void operator()(std::string_view key, T& value, const Names& names, std::string_view) {
    const toml::node* node = Take(key);
    if (node == nullptr) return;
    Read(*node, key, &value);
    if constexpr (std::is_same_v<T, std::string>) {
      if (!names.empty() && std::find(names.begin(), names.end(), value) == names.end()) {
        FailAt(*node, fmt::format("'{}' is \"{}\"; there are: {}", key, value, fmt::join(names, ", ")));
      }
    }
  }
  void CheckAllKnown(const std::string& where) const {
    for (const auto& [key, node] : table_) {
      if (known_.contains(std::string(key.str()))) continue;
      FailAt(node,
             fmt::format("unknown key '{}' in {}; known are: {}", key.str(), where, fmt::join(known_, ", ")));
    }
  }
  void AllowKey(const std::string& key) { known_.insert(key); }
  bool Has(std::string_view key) const { return table_.contains(key); }

  [[noreturn]] void FailAt(const toml::node& node, const std::string& message) const {
    Fail(ErrorKind::kInput, "{}:{}: {}", path_, node.source().begin.line, message);
  }

 private:
  const toml::node* Take(std::string_view key) {
    known_.insert(std::string(key));
    return table_.get(key);
  }
  [[noreturn]] void FailType(const toml::node& node, std::string_view key, std::string_view expected) const {
    FailAt(node, fmt::format("'{}' must be: {}", key, expected));
  }
  template <typename T>
  void Read(const toml::node& node, std::string_view key, T* value) {
    if constexpr (std::is_same_v<T, double>) {
      if (!node.is_number()) FailType(node, key, TypeName<T>());
      *value = *node.value<double>();
      if (!(*value >= -kHuge && *value <= kHuge)) FailType(node, key, "a finite number");
    } else if constexpr (std::is_same_v<T, std::vector<std::string>> ||
                         std::is_same_v<T, std::vector<int64_t>>) {
      const toml::array* list = node.as_array();
      if (list == nullptr) FailType(node, key, TypeName<T>());
      value->clear();
      for (const toml::node& item : *list) {
        const auto one = item.value_exact<typename T::value_type>();
        if (!one) FailType(item, key, TypeName<T>());
        value->push_back(*one);
      }
    } else {
      const auto exact = node.value_exact<T>();
      if (!exact) FailType(node, key, TypeName<T>());
      *value = *exact;
    }
  }
  void CheckLimits(const toml::node& node, std::string_view key, double value, const Limits& limits) const {
    if (value >= limits.low && value <= limits.high) return;
    FailAt(node, fmt::format("'{}' is {}, outside {} to {}", key, value, limits.low, limits.high));
  }

  const toml::table& table_;
  std::string section_;
  std::string path_;
  std::set<std::string> known_;
};

template <typename Settings>
void ReadTable(const toml::table& table, const std::string& section, const std::string& path,
               Settings* settings) {
  Reader reader(table, section, path);
  Visit(reader, *settings);
  reader.CheckAllKnown(section);
}

template <typename Settings>
void ReadSection(const toml::table& root, const std::string& key, const std::string& path,
                 Settings* settings) {
  const toml::node* node = root.get(key);
  if (node == nullptr) return;
  if (!node->is_table()) {
    Fail(ErrorKind::kInput, "{}:{}: '{}' must be a section [{}]", path, node->source().begin.line, key, key);
  }
  ReadTable(*node->as_table(), "[" + key + "]", path, settings);
}

template <typename Settings>
void ReadList(const toml::table& root, const std::string& key, const std::string& path,
              std::vector<Settings>* list) {
  const toml::node* node = root.get(key);
  if (node == nullptr) return;
  const toml::array* items = node->as_array();
  const auto line = node->source().begin.line;
  if (items == nullptr) Fail(ErrorKind::kInput, "{}:{}: '{}' must be sections [[{}]]", path, line, key, key);
  for (const toml::node& item : *items) {
    if (!item.is_table())
      Fail(ErrorKind::kInput, "{}:{}: '{}' must be sections [[{}]]", path, line, key, key);
    ReadTable(*item.as_table(), "[[" + key + "]]", path, &list->emplace_back());
  }
}

std::string Resolve(const std::string& path, const std::string& config_path) {
  if (path.empty() || path.front() == '/') return path;
  const std::filesystem::path folder = std::filesystem::path(config_path).parent_path();
  return (folder / path).lexically_normal().string();
}

void CheckTogether(const TrainConfig& c) {
  const auto fail = [&](const std::string& message) { Fail(ErrorKind::kInput, "{}: {}", c.path, message); };
  if (c.out.empty()) fail("'out', the folder of the run, is missing");
  if (c.sources.empty()) fail("there is no [[source]]; at least one is needed");
  if (c.stages.empty()) fail("there is no [[stage]]; at least one is needed");
  if (c.model.num_heads % c.model.num_kv_heads != 0) fail("model.kv_heads must divide model.heads");
  if (c.model.head_dim % 2 != 0) fail("model.head_dim must be even, since pairs are rotated");
  if (c.model.position_heads > c.model.num_heads) fail("model.position_heads is larger than model.heads");
  if (c.model.position_heads > 0 && !c.model.qkv_bias)
    fail("model.position_heads needs model.qkv_bias = true");
  double weight = 0;
  for (const SourceSettings& source : c.sources) {
    weight += source.weight;
    if (source.kind.empty()) fail("a [[source]] has no 'kind'");
    const bool needs_files = source.kind == "text" || source.kind == "needle";
    if (needs_files && source.files.empty()) fail(fmt::format("a {} source needs 'files'", source.kind));
    if (source.min_items > source.max_items) fail("min_items is larger than max_items");
  }
  if (!(weight > 0)) fail("all sources have weight 0");
  for (const StageSettings& stage : c.stages) {
    if (stage.min_segments > stage.max_segments) fail("min_segments is larger than max_segments");
    if (stage.carry > 0 && c.memory.attention != "infini") {
      fail(fmt::format("carry needs a memory to carry: memory.attention is \"{}\", not \"infini\"",
                       c.memory.attention));
    }
    if (stage.weights.empty()) continue;
    if (stage.weights.size() != c.sources.size()) {
      fail(fmt::format("a [[stage]] has {} weights for {} sources", stage.weights.size(), c.sources.size()));
    }
    if (std::all_of(stage.weights.begin(), stage.weights.end(), [](int64_t w) { return w == 0; })) {
      fail("all weights of a [[stage]] are 0");
    }
  }
  if (c.memory.attention == "memorizing" && c.memory.knn_layer >= c.model.num_layers &&
      c.model.base.empty()) {
    fail("memory.knn_layer is not a layer of the model");
  }
  if (c.model.sink == "logit" && !c.model.base.empty()) {
    fail("model.sink = \"logit\" needs a model from scratch: an existing one would change at once");
  }
  if (c.model.sink == "token" && c.memory.segment < 2)
    fail("model.sink = \"token\" needs memory.segment >= 2");
  if (c.train.trainable != "all" && c.model.base.empty()) {
    fail("train.trainable other than \"all\" needs model.base: there is nothing to adapt");
  }
}

// Prints the reference.
class Documenter {
 public:
  template <typename T, typename Rule>
  void operator()(std::string_view key, T& value, const Rule& rule, std::string_view meaning) {
    std::string allowed;
    if constexpr (std::is_same_v<Rule, Names>) {
      if (!rule.empty()) allowed = fmt::format("; one of {}", fmt::join(rule, ", "));
    }
    text += fmt::format("{} = {}\n    # {}{}: {}\n", key, ValueText(value), TypeName<T>(), allowed, meaning);
  }
  std::string text;
};

class Lister {
 public:
  explicit Lister(std::string prefix) : prefix_(std::move(prefix)) {}
  template <typename T, typename Rule>
  void operator()(std::string_view key, T& value, const Rule&, std::string_view) {
    text += fmt::format("{}.{} = {}\n", prefix_, key, ValueText(value));
  }
  std::string text;

 private:
  std::string prefix_;
};

// The section that --set names: "memory", "source.1" or "" for the file itself. Null if there is none.
toml::table* FindSection(const std::string& name, toml::table* root) {
  if (name.empty()) return root;
  const size_t dot = name.find('.');
  if (dot != std::string::npos) {
    const std::string list = name.substr(0, dot), number = name.substr(dot + 1);
    const bool is_number = !number.empty() && number.size() < 6 &&
                           number.find_first_not_of("0123456789") == std::string::npos && number != "0";
    toml::array* sections = root->get_as<toml::array>(list);
    if (!is_number || sections == nullptr) return nullptr;
    toml::node* node = sections->get(std::stoul(number) - 1);
    return node == nullptr ? nullptr : node->as_table();
  }
  if (name == "source" || name == "stage") return nullptr;
  root->insert(name, toml::table{});  // unless it is there
  return root->get_as<toml::table>(name);
}

// One "section.key=value" put into the file's table. Keys are checked later, with the file's own.
void Change(const std::string& change, toml::table* root) {
  const size_t equals = change.find('=');
  const std::string name = change.substr(0, equals),
                    value = equals == std::string::npos ? "" : change.substr(equals + 1);
  const size_t dot = name.rfind('.');
  const std::string section = dot == std::string::npos ? "" : name.substr(0, dot), key = name.substr(dot + 1);
  toml::table* table = value.empty() || key.empty() ? nullptr : FindSection(section, root);
  if (table == nullptr) {
    Fail(ErrorKind::kInput,
         "--set {}: it takes section.key=value, of [model], [memory], [vocabulary] or [train], or "
         "source.N.key "
         "and stage.N.key, counted from 1",
         change);
  }
  try {
    table->insert_or_assign(key, *toml::parse("value = " + value).get("value"));
  } catch (const toml::parse_error&) {
    table->insert_or_assign(key, value);
  }
}

}  // namespace

int64_t TrainConfig::num_steps() const {
  int64_t total = 0;
  for (const StageSettings& stage : stages) total += stage.steps;
  return total;
}

TrainConfig ParseTrainConfig(std::string_view text, const std::string& path,
                             const std::vector<std::string>& changes) {
  toml::table root;
  try {
    root = toml::parse(text, path);
  } catch (const toml::parse_error& error) {
    Fail(ErrorKind::kInput, "{}:{}: {}", path, error.source().begin.line, error.description());
  }
  for (const std::string& change : changes) Change(change, &root);
  TrainConfig config;
  config.path = path;
  Reader reader(root, "", path);
  reader("out", config.out, Names{}, "");
  for (const char* key : {"model", "memory", "vocabulary", "train", "source", "stage"}) reader.AllowKey(key);
  reader.CheckAllKnown("the file");
  ReadSection(root, "model", path, &config.model);
  ReadSection(root, "memory", path, &config.memory);
  ReadSection(root, "vocabulary", path, &config.vocabulary);
  ReadSection(root, "train", path, &config.train);
  ReadList(root, "source", path, &config.sources);
  ReadList(root, "stage", path, &config.stages);
  CheckTogether(config);
  config.out = Resolve(config.out, path);
  config.model.base = Resolve(config.model.base, path);
  config.vocabulary.path = config.vocabulary.path.empty() ? config.out + "/vocabulary.model"
                                                          : Resolve(config.vocabulary.path, path);
  for (SourceSettings& source : config.sources) {
    for (std::string& file : source.files) file = Resolve(file, path);
  }
  for (std::string& file : config.train.evaluate_files) file = Resolve(file, path);
  return config;
}

TrainConfig LoadTrainConfig(const std::string& path, const std::vector<std::string>& changes) {
  return ParseTrainConfig(ReadWholeFile(path, size_t{1} << 24), path, changes);
}

std::string TrainConfigReference() {
  TrainConfig config;
  std::string text = "out = \"runs/NAME\"\n    # text: folder of the run: log, checkpoints, exported model\n";
  const auto section = [&](std::string_view title, auto settings) {
    Documenter documenter;
    Visit(documenter, settings);
    text += fmt::format("\n{}\n{}", title, documenter.text);
  };
  section("[model]", ModelSettings{});
  section("[memory]", MemorySettings{});
  section("[vocabulary]", VocabularySettings{});
  section("[[source]]", SourceSettings{});
  section("[[stage]]", StageSettings{});
  section("[train]", OptimizerSettings{});
  return text;
}

std::string ShapeText(const TrainConfig& config) {
  ModelSettings model = config.model;
  MemorySettings memory = config.memory;
  Lister models("model"), memories("memory");
  Visit(models, model);
  // What may change between sittings without making the weights meaningless.
  memory.write_penalty = memory.gate_init = memory.write_init = 0;
  memory.previous = 0;
  Visit(memories, memory);
  // Listed only where it is used.
  if (model.sink == "none") models.text.erase(models.text.find("model.sink"));
  return models.text + memories.text +
         fmt::format("train.trainable = {}\ntrain.lora_rank = {}\n", config.train.trainable,
                     config.train.lora_rank);
}

}  // namespace mneme::train
