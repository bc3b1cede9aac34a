#include "session/fields.h"

#include <algorithm>
#include <array>

#include "base/text/fields.h"
#include "context/registry.h"

namespace mneme {
namespace {

constexpr std::array kPackModes = {
    Choice<PackMode>{"auto", PackMode::kAuto},     Choice<PackMode>{"never", PackMode::kNever},
    Choice<PackMode>{"always", PackMode::kAlways}, Choice<PackMode>{"float32", PackMode::kFloat32},
    Choice<PackMode>{"int16", PackMode::kInt16},   Choice<PackMode>{"bf16", PackMode::kBFloat16},
    Choice<PackMode>{"exact", PackMode::kExact},
};
constexpr std::array kDiskFull = {
    Choice<DiskFull>{"stop", DiskFull::kStop},
    Choice<DiskFull>{"forget", DiskFull::kForget},
};
constexpr std::array kKvEncodings = {
    Choice<Encoding>{"f32", Encoding::kF32},   Choice<Encoding>{"f16", Encoding::kF16},
    Choice<Encoding>{"bf16", Encoding::kBF16}, Choice<Encoding>{"q8_0", Encoding::kQ8_0},
    Choice<Encoding>{"q4_0", Encoding::kQ4_0},
};

// A context, NAME[:key=value,...], whose name and keys are known.
struct ContextWords {};
std::string_view TypeText(const ContextWords&) { return "NAME[:key=value,...]"; }
void ParseField(std::string_view text, std::string_view, const ContextWords&, std::string* value) {
  CheckContextSpec(text);
  *value = text;
}

constexpr double kMostCount = 0x1p62;

// ---- the tables: v(names, field, rule, what a state does with it, help)

template <typename V>
void Visit(V& v, EngineOptions& s) {
  v("threads,t", s.num_threads, Range{1, 1024}, InState::kNo, "Threads (default: all cores)");
  v("memory", s.memory_bytes, Range{1, kMostCount, Unit::kBytes}, InState::kNo,
    "Cap for everything beside the weights: 256M, 4G (default: half of the free memory)");
  v("chunk,max_rows", s.max_rows, Range{1, 65536, Unit::kCount}, InState::kNo,
    "Most tokens in one pass through the model");
}

template <typename V>
void Visit(V& v, ModelOptions& s) {
  v("tokenizer", s.tokenizer, Words{"PATH"}, InState::kNo,
    "Tokenizer file, where the model carries none: tokenizer.json, .model, .bin, .gguf");
  v("pack", s.pack, Choices<PackMode>{kPackModes, "MODE"}, InState::kNo,
    "Repack weights for speed at load: auto, never (no start-up cost, no second copy), always; or, with "
    "float weights multiplied as named: float32, int16 (14-bit integers: prefill nearly twice as fast where "
    "the processor has an instruction for it; auto and always then take it for F16 and BF16), bf16; or "
    "exact: "
    "all weights decoded to float32 and no activation rounded, for comparing (4 bytes a weight, slow)");
  v("pack_cache", s.pack_cache, Words{"WHERE"}, InState::kNo,
    "Keep the repacked weights in a file, which later runs map in place of packing and share: auto "
    "(MODEL.packed, or the user's cache folder where the model's is read-only), a folder, or a file");
}

template <typename V>
void Visit(V& v, SamplerOptions& s) {
  v("temperature,temp", s.temperature, Range{0, 1e6}, InState::kFree, "0 always takes the likeliest token");
  v("top_k", s.top_k, Range{0, 1e9}, InState::kFree, "Keep the K likeliest (0: all)");
  v("top_p", s.top_p, Range{1e-6, 1}, InState::kFree,
    "Keep the likeliest until their sum reaches P (1: all)");
  v("min_p", s.min_p, Range{0, 1}, InState::kFree,
    "Drop what is less likely than P times the likeliest (0: none)");
  v("repetition_penalty,repeat_penalty", s.repetition_penalty, Range{0.01, 1e6}, InState::kFree,
    "Make recent tokens less likely (1: no)");
  v("repetition_window,repeat_last_n", s.repetition_window, Range{0, 1 << 20}, InState::kFree,
    "How many tokens are recent");
  v("seed,s", s.seed, Range{0, 0x1p64}, InState::kFree,
    "Same seed, same text; `run` and `chat` draw one (default elsewhere: 0)");
  v("ban", s.banned, Range{0, 0x1p31}, InState::kFree, "Token ids that are never chosen, with commas");
}

template <typename V>
void Visit(V& v, SessionOptions& s) {
  const Choices<Encoding> encodings{kKvEncodings, "ENC"};
  v("context", s.context, ContextWords{}, InState::kBound, "What of the past a token sees");
  v("pin,keep", s.num_pinned, Range{0, kMostTokens, Unit::kCount}, InState::kBound,
    "The first N tokens are never dropped");
  Pair<Encoding> both{&s.keys, &s.values};
  v("kv", both, encodings, InState::kNo,
    "Encoding of cached keys and values: f32, f16, bf16, q8_0, q4_0; two with a comma are for keys and for "
    "values");
  v("kv_k,cache_type_k", s.keys, encodings, InState::kBound, "The same for keys alone");
  v("kv_v,cache_type_v", s.values, encodings, InState::kBound, "The same for values alone");
  v("max_rewind", s.max_rewind, Range{0, 1 << 20, Unit::kCount}, InState::kBound,
    "How many tokens can be taken back");
  v("start_position", s.start_position, Range{0, static_cast<double>(kMostPosition), Unit::kCount},
    InState::kBound, "Position of the first token of the stream; K is 1024");
  v("rope_length", s.rope_length, Range{0, static_cast<double>(kMostPosition), Unit::kCount}, InState::kBound,
    "For models that rotate otherwise in long streams (longrope, dynamic): the length to rotate for; K is "
    "1024 "
    "(default 0: what the context shows)");
  v("expected_tokens", s.expected_tokens, Range{-1, kMostCount, Unit::kCount}, InState::kNo,
    "Length of the stream, for the choice of a context; -1: no end is known");
  v("session_memory", s.memory_bytes, Range{0, kMostCount, Unit::kBytes}, InState::kNo,
    "The most that one session may take of the cap (0: what is left)");
  v("store", s.store, Words{"DIR"}, InState::kFree,
    "With --context recall: a folder for what leaves the window, in place of memory; a state goes on with "
    "it");
  v("disk", s.disk_bytes, Range{0, kMostCount, Unit::kBytes}, InState::kFree,
    "The most that --store may take: 20G (default 0: what the disk has)");
  v("disk_full", s.disk_full, Choices<DiskFull>{kDiskFull, "WHAT"}, InState::kFree,
    "At the limit of --disk: stop, or forget the oldest");
  v("special", s.show_special, Switch{}, InState::kFree, "Show control tokens in the text");
  v("add_bos", s.add_bos, Switch{}, InState::kFree,
    "An empty stream of text begins with the BOS token, where the tokenizer says so");
  Visit(v, s.sampler);
}

template <typename V>
void Visit(V& v, GenerateOptions& s) {
  v("num_tokens,n,predict,n_predict", s.max_tokens, Range{-1, kMostCount, Unit::kCount}, InState::kNo,
    "Most tokens to write, -1 without end");
  v("stop", s.stop_strings, Words{"TEXT"}, InState::kNo, "End before this text; may be given more than once");
  v("ignore_end,ignore_eos", s.stop_at_eog, Switch{true}, InState::kNo, "Write on where the model would end");
  v("pause", s.num_pauses, Range{0, 1 << 30, Unit::kCount}, InState::kNo,
    "Pause tokens before the answer, for models that have them");
  v("backspace", s.backspace, Switch{}, InState::kNo,
    "Let the model take tokens back, if it was trained to; text comes 16 tokens late");
  v("num_top", s.num_top, Range{0, 1024}, InState::kNo,
    "So many of the likeliest tokens at each place, with log-probabilities");
}

// ---- visitors

template <typename T>
inline constexpr bool kIsTextList = false;
template <>
inline constexpr bool kIsTextList<std::vector<std::string>> = true;

class Describer {
 public:
  template <typename T, typename Rule>
  void operator()(std::string_view names, T& field, const Rule& rule, InState in_state,
                  std::string_view help) {
    rows.push_back({names, TypeText(rule), FieldText(field, rule), help, in_state, kIsTextList<T>});
  }
  std::vector<SettingInfo> rows;
};

class Setter {
 public:
  Setter(const Setting& setting, std::string_view what) : setting_(setting), what_(what) {}
  template <typename T, typename Rule>
  void operator()(std::string_view names, T& field, const Rule& rule, InState, std::string_view) {
    if (found || !HasName(names, setting_.name)) return;
    found = true;
    ParseField(setting_.value, what_, rule, &field);
  }
  bool found = false;

 private:
  const Setting& setting_;
  std::string_view what_;
};

class Lister {
 public:
  explicit Lister(bool only_of_state) : only_of_state_(only_of_state) {}
  template <typename T, typename Rule>
  void operator()(std::string_view names, T& field, const Rule& rule, InState in_state, std::string_view) {
    if (only_of_state_ && in_state == InState::kNo) return;
    values.push_back({std::string(FirstName(names)), FieldText(field, rule)});
  }
  std::vector<Setting> values;

 private:
  bool only_of_state_;
};

// A value is in its range if its own text is taken.
class Checker {
 public:
  template <typename T, typename Rule>
  void operator()(std::string_view names, T& field, const Rule& rule, InState, std::string_view) {
    if constexpr (!kIsTextList<T>) ParseField(FieldText(field, rule), FirstName(names), rule, &field);
  }
};

template <typename Options>
std::vector<Setting> List(Options options, bool only_of_state) {
  Lister lister(only_of_state);
  Visit(lister, options);
  return std::move(lister.values);
}

template <typename Options>
void AppendRows(std::vector<SettingInfo>* table) {
  for (SettingInfo& row : SettingsOf(Options())) table->push_back(std::move(row));
}

}  // namespace

template <typename Options>
std::vector<SettingInfo> SettingsOf(const Options& options) {
  Options copy = options;
  Describer describer;
  Visit(describer, copy);
  return std::move(describer.rows);
}

std::span<const ContextInfo> ContextTable() {
  static const std::vector<ContextInfo> table = [] {
    std::vector<ContextInfo> rows;
    for (const PolicyRow& row : PolicyTable()) {
      ContextInfo info{row.name, row.help, row.paper, {}};
      for (const PolicyKey& key : row.keys)
        info.keys.push_back({std::string(key.name), key.DefaultText(), key.help});
      rows.push_back(std::move(info));
    }
    return rows;
  }();
  return table;
}

std::string OptionName(std::string_view name) {
  std::string text = (name.size() == 1 ? "-" : "--") + std::string(name);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

std::span<const SettingInfo> SettingTable() {
  static const std::vector<SettingInfo> table = [] {
    std::vector<SettingInfo> rows;
    AppendRows<EngineOptions>(&rows);
    AppendRows<ModelOptions>(&rows);
    AppendRows<SessionOptions>(&rows);
    AppendRows<GenerateOptions>(&rows);
    return rows;
  }();
  return table;
}

template <typename Options>
bool ApplyOne(const Setting& setting, std::string_view what, Options* options) {
  Setter setter(setting, what);
  Visit(setter, *options);
  return setter.found;
}

template <typename Options>
void Apply(std::span<const Setting> settings, Options* options) {
  Options changed = *options;
  for (const Setting& setting : settings) {
    if (ApplyOne(setting, setting.name, &changed)) continue;
    std::string known;
    for (const SettingInfo& row : SettingsOf(changed))
      known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name());
    Fail(ErrorKind::kInput, "there is no option '{}'; there are: {}", setting.name, known);
  }
  *options = std::move(changed);
}

template <typename Options>
std::vector<Setting> ValuesOf(const Options& options) {
  return List(options, false);
}

template <typename Options>
void CheckOptions(const Options& options) {
  Options copy = options;
  Checker checker;
  Visit(checker, copy);
}

#define MNEME_OPTIONS(Options)                                        \
  template std::vector<SettingInfo> SettingsOf(const Options&);       \
  template void Apply(std::span<const Setting>, Options*);            \
  template bool ApplyOne(const Setting&, std::string_view, Options*); \
  template std::vector<Setting> ValuesOf(const Options&);             \
  template void CheckOptions(const Options&);
MNEME_OPTIONS(EngineOptions)
MNEME_OPTIONS(ModelOptions)
MNEME_OPTIONS(SamplerOptions)
MNEME_OPTIONS(SessionOptions)
MNEME_OPTIONS(GenerateOptions)
#undef MNEME_OPTIONS

std::vector<Setting> StateValuesOf(const SessionOptions& options) { return List(options, true); }

void CompareOptions(const SessionOptions& saved, const SessionOptions& here, const std::string& name) {
  const std::vector<Setting> old_values = ValuesOf(saved), new_values = ValuesOf(here);
  const std::vector<SettingInfo> rows = SettingsOf(here);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].in_state != InState::kBound || old_values[i].value == new_values[i].value) continue;
    Fail(ErrorKind::kMismatch,
         "{}: the state is bound to another {}: it was saved with {}, and here is {}; leave the option out, "
         "or give it the saved value",
         name, OptionName(rows[i].name()), old_values[i].value, new_values[i].value);
  }
}

SessionOptions ChangedOptions(const SessionOptions& saved, std::span<const Setting> changes,
                              const std::string& name) {
  SessionOptions changed = saved;
  Apply(changes, &changed);
  if (ContextAgrees(changed.context, saved.context, saved.num_pinned)) {
    changed.context = saved.context;
  }
  CompareOptions(saved, changed, name);
  return changed;
}

}  // namespace mneme
