#include "context/registry.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "base/units.h"
#include "context/infini.h"
#include "context/policy.h"
#include "context/span_context.h"

namespace mneme {
namespace {

constexpr std::array kWindowKeys = {
    ContextKey{"window", "auto",
               "how many recent tokens a query sees, itself included (auto: the trained length)"},
};
constexpr std::array kSinksKeys = {
    ContextKey{"sinks", "4",
               "how many first tokens are always kept (1 for a model with a learned sink token)"},
    ContextKey{"window", "auto",
               "how many recent tokens are kept (auto: the trained length less sinks and one, or what the "
               "cap holds)"},
};
constexpr std::array kLambdaKeys = {
    ContextKey{"starts", "10", "how many first tokens are always kept"},
    ContextKey{"window", "auto",
               "keys nearer than this are seen at their true distance (auto: the trained length)"},
    ContextKey{"distance", "auto",
               "the ceiling: distance of the first tokens once they are out of the window (auto: window)"},
    ContextKey{"top_k", "0", "middle tokens per query and head, chosen by their logits; the paper takes 5"},
    ContextKey{"from_layer", "4", "first layer (0-based) with middle tokens"},
    ContextKey{"middle_distance", "auto", "distance of the middle tokens (auto: half of distance)"},
    ContextKey{"middle_tokens", "auto",
               "how many tokens before the window stay candidates (auto: 4 windows)"},
};
constexpr std::array kXlKeys = {
    ContextKey{"segment", "auto", "tokens of a segment (auto: half of the trained length)"},
    ContextKey{"previous", "1", "whole previous segments that a query sees"},
};

constexpr std::array kInfiniKeys = {
    ContextKey{"segment", "auto", "tokens of a segment (auto: as the model was trained)"},
    ContextKey{"previous", "auto",
               "whole previous segments that local attention sees before a token enters the memory"},
    ContextKey{"update", "auto", "linear, delta or gated-delta (auto: as the model was trained)"},
    ContextKey{"first", "auto",
               "while the memory is empty: bypass (local attention alone) or literal ((1 - gate) of it)"},
};

constexpr std::array kTable = {
    ContextRow{"auto", "picks one of the others by model, cap and length, and says which and why", "-", {}},
    ContextRow{"dense",
               "exact attention over everything; stops politely at the cap",
               "Vaswani et al. 2017, arXiv 1706.03762",
               {}},
    ContextRow{"window", "recent tokens only: the baseline that fails once the first tokens are gone",
               "Beltagy et al. 2020, arXiv 2004.05150", kWindowKeys},
    ContextRow{"sinks", "first tokens and recent ones, positions inside the cache",
               "StreamingLLM, arXiv 2309.17453", kSinksKeys},
    ContextRow{"lambda",
               "first tokens and recent ones under a ceiling on distance; optional top-k middle tokens",
               "LM-Infinite, arXiv 2308.16137", kLambdaKeys},
    ContextRow{"xl", "whole previous segments at true distances", "Transformer-XL, arXiv 1901.02860",
               kXlKeys},
    ContextRow{"infini",
               "local segments and a compressive memory of all before them, for models trained with one",
               "Infini-attention, arXiv 2404.07143", kInfiniKeys},
};

// Where the trained length is not known.
constexpr int64_t kDefaultTrainedLength = 2048;
constexpr int64_t kSmallestWindow = 16;

const ContextRow& FindRow(std::string_view name) {
  for (const ContextRow& row : kTable) {
    if (row.name == name) return row;
  }
  std::string known;
  for (const ContextRow& row : kTable) known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  Fail(ErrorKind::kInput, "context '{}' is not known; there are: {}", name, known);
}

int64_t TrainedLength(const ContextShape& shape) {
  return shape.trained_length > 0 ? shape.trained_length : kDefaultTrainedLength;
}

// Typed reads of a spec's options; `automatic` stands for "auto" and for a missing key whose default is auto.
class Options {
 public:
  explicit Options(const ContextSpec& spec) : spec_(spec), row_(FindRow(spec.name)) {}

  bool IsAuto(std::string_view key) const { return Text(key) == "auto"; }
  int64_t Get(std::string_view key, int64_t automatic, int64_t least) const {
    const std::string text = Text(key);
    const int64_t value =
        text == "auto" ? automatic : ParseCount(text, fmt::format("--context {}: {}", spec_.name, key), true);
    if (value < least || value > (int64_t{1} << 40)) {
      Fail(ErrorKind::kInput, "--context {}: {}={} is out of range; the least is {}", spec_.name, key, value,
           least);
    }
    return value;
  }

 private:
  std::string Text(std::string_view key) const {
    const auto found = spec_.options.find(std::string(key));
    if (found != spec_.options.end()) return found->second;
    for (const ContextKey& row_key : row_.keys) {
      if (row_key.name == key) return std::string(row_key.default_value);
    }
    return "auto";
  }
  const ContextSpec& spec_;
  const ContextRow& row_;
};

LambdaOptions MakeLambdaOptions(const Options& options, int64_t trained, int64_t num_pinned) {
  LambdaOptions lambda;
  lambda.starts = std::max(options.Get("starts", 10, 0), num_pinned);
  lambda.window = options.Get("window", trained, 1);
  lambda.distance = options.Get("distance", lambda.window, 1);
  lambda.top_k = options.Get("top_k", 0, 0);
  lambda.from_layer = options.Get("from_layer", 4, 0);
  lambda.middle_distance = options.Get("middle_distance", std::max<int64_t>(1, lambda.distance / 2), 1);
  lambda.middle_tokens = options.Get("middle_tokens", 4 * lambda.window, 1);
  return lambda;
}

std::string OptionText(const ContextSpec& spec, const char* key, std::string_view automatic) {
  const auto found = spec.options.find(key);
  return found == spec.options.end() || found->second == "auto" ? std::string(automatic) : found->second;
}

InfiniOptions MakeInfiniOptions(const ContextShape& shape, const ContextSettings& settings,
                                const ContextSpec& spec) {
  const MemoryRules& rules = shape.memory;
  const bool gated = std::all_of(shape.layers.begin(), shape.layers.end(), [](const LayerAttention& layer) {
    return layer.memory_gate.size() == layer.num_heads;
  });
  if (rules.segment <= 0 || !gated) {
    Fail(ErrorKind::kUnsupported,
         "this model has no compressive memory: --context infini needs the metadata mneme.infini.* and one "
         "gate tensor per "
         "layer, which come from training the model with a memory; sinks and lambda need no training");
  }
  if (settings.num_pinned > 0) {
    Fail(ErrorKind::kInput, "context infini keeps no first tokens and so cannot pin {}", settings.num_pinned);
  }
  const Options options(spec);
  InfiniOptions infini;
  infini.segment = options.Get("segment", rules.segment, rules.key_shift ? 2 : 1);
  infini.previous = options.Get("previous", rules.previous, 0);
  infini.update = ParseMemoryUpdate(OptionText(spec, "update", MemoryUpdateName(rules.update)));
  if ((infini.update == MemoryUpdate::kGatedDelta) != (rules.update == MemoryUpdate::kGatedDelta)) {
    Fail(ErrorKind::kInput, "context infini: this model's memory was trained as {} and has no use as {}",
         MemoryUpdateName(rules.update), MemoryUpdateName(infini.update));
  }
  const std::string first = OptionText(spec, "first", rules.literal_first ? "literal" : "bypass");
  if (first != "literal" && first != "bypass") {
    Fail(ErrorKind::kInput, "context infini: first={} is neither bypass nor literal", first);
  }
  infini.literal_first = first == "literal";
  infini.key_shift = rules.key_shift;
  return infini;
}

void RefusePins(const ContextSettings& settings, std::string_view name) {
  if (settings.num_pinned > 0) {
    Fail(ErrorKind::kInput,
         "context {} keeps no first tokens and so cannot pin {}: use sinks, lambda or dense", name,
         settings.num_pinned);
  }
}

// The policy of a spec; automatic windows are `auto_window` (what ResolveContext chose).
std::unique_ptr<Policy> MakePolicy(const ContextShape& shape, const ContextSettings& settings,
                                   const ContextSpec& spec, int64_t auto_window) {
  const Options options(spec);
  const int64_t trained = TrainedLength(shape);
  if (shape.learned_positions && spec.name != "dense") {
    Fail(ErrorKind::kUnsupported,
         "this model has learned absolute positions: nothing can slide, so only --context dense is possible, "
         "up to {} tokens",
         shape.trained_length);
  }
  if (spec.name == "dense") return MakeDensePolicy();
  if (spec.name == "window") {
    RefusePins(settings, spec.name);
    return MakeWindowPolicy(options.Get("window", std::min(trained, auto_window), 1));
  }
  if (spec.name == "sinks") {
    const int64_t sinks = std::max(options.Get("sinks", shape.num_sinks, 0), settings.num_pinned);
    const int64_t automatic = std::min(std::max<int64_t>(trained - sinks - 1, kSmallestWindow), auto_window);
    return MakeSinksPolicy(sinks, options.Get("window", automatic, 0));
  }
  if (spec.name == "lambda") {
    return MakeLambdaPolicy(MakeLambdaOptions(options, std::min(trained, auto_window), settings.num_pinned));
  }
  if (spec.name == "xl") {
    RefusePins(settings, spec.name);
    const int64_t previous = options.Get("previous", 1, 0);
    const int64_t automatic = std::max<int64_t>(1, std::min(trained, auto_window) / (previous + 1));
    return MakeXlPolicy(options.Get("segment", automatic, 1), previous);
  }
  Fail(ErrorKind::kInput, "context '{}' must be resolved first", spec.name);
}

bool HasAutomaticWindow(const ContextSpec& spec) {
  const Options options(spec);
  if (spec.name == "xl") return options.IsAuto("segment");
  return spec.name != "dense" && spec.name != "infini" && options.IsAuto("window");
}

size_t BytesWith(const ContextShape& shape, const ContextSettings& settings, const ContextSpec& spec,
                 int64_t auto_window, int64_t num_tokens, size_t num_threads) {
  if (spec.name == "infini") {
    return InfiniContext::PeakBytes(shape, settings, MakeInfiniOptions(shape, settings, spec), num_threads)
        .total();
  }
  const std::unique_ptr<Policy> policy = MakePolicy(shape, settings, spec, auto_window);
  const ContextBytes bytes = SpanContext::PeakBytes(shape, settings, *policy, num_tokens, num_threads);
  return bytes.kv_bytes == SIZE_MAX ? SIZE_MAX : bytes.total();
}

// The largest automatic window, at most the trained length, whose context fits; 0 if none does.
int64_t LargestWindow(const ContextShape& shape, const ContextSettings& settings, const ContextSpec& spec,
                      size_t cap_bytes, size_t num_threads) {
  int64_t low = 0, high = TrainedLength(shape);
  if (BytesWith(shape, settings, spec, high, -1, num_threads) <= cap_bytes) return high;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (BytesWith(shape, settings, spec, middle, -1, num_threads) <= cap_bytes) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low < kSmallestWindow ? 0 : low;
}

// The chosen window written into the spec, so that it no longer depends on the cap.
ContextSettings Fixed(const ContextShape& shape, ContextSettings settings, const ContextSpec& spec,
                      int64_t window) {
  settings.spec = spec.name == "infini" ? InfiniContext::Describe(MakeInfiniOptions(shape, settings, spec))
                                        : MakePolicy(shape, settings, spec, window)->Describe();
  return settings;
}

ResolvedContext ResolveNamed(const ContextShape& shape, const ContextSettings& settings,
                             const ContextSpec& spec, size_t cap_bytes, size_t num_threads) {
  if (spec.name == "infini") {
    const size_t bytes = BytesWith(shape, settings, spec, kUnbounded, -1, num_threads);
    if (bytes > cap_bytes) {
      Fail(ErrorKind::kBudget, "context infini takes {} and does not fit into {}; give --memory more",
           FormatBytes(bytes), FormatBytes(cap_bytes));
    }
  }
  if (!HasAutomaticWindow(spec)) return {Fixed(shape, settings, spec, kUnbounded), ""};
  const int64_t window = LargestWindow(shape, settings, spec, cap_bytes, num_threads);
  if (window == 0) {
    Fail(ErrorKind::kBudget,
         "context {} does not fit into {}: the smallest useful window takes {}; give --memory more",
         spec.name, FormatBytes(cap_bytes),
         FormatBytes(BytesWith(shape, settings, spec, kSmallestWindow, -1, num_threads)));
  }
  return {Fixed(shape, settings, spec, window), ""};
}

ResolvedContext ResolveAuto(const ContextShape& shape, const ContextSettings& settings, size_t cap_bytes,
                            int64_t num_tokens, size_t num_threads) {
  const ContextSpec dense{"dense", {}};
  if (shape.memory.segment > 0 && settings.num_pinned == 0) {
    ResolvedContext resolved{Fixed(shape, settings, ParseContextSpec("infini"), kUnbounded), ""};
    resolved.reason = resolved.settings.spec + ", because this model was trained with that memory";
    return resolved;
  }
  if (shape.learned_positions) {
    return {Fixed(shape, settings, dense, kUnbounded),
            fmt::format("dense, because this model has learned positions and reads at most {} tokens",
                        FormatCount(shape.trained_length))};
  }
  const int64_t trained = TrainedLength(shape);
  if (num_tokens >= 0 && num_tokens <= trained &&
      BytesWith(shape, settings, dense, kUnbounded, num_tokens, num_threads) <= cap_bytes) {
    return {Fixed(shape, settings, dense, kUnbounded),
            fmt::format("dense, because all {} tokens fit into the cap and into the trained length of {}",
                        FormatCount(num_tokens), FormatCount(trained))};
  }
  const ContextSpec sinks{"sinks", {}};
  ResolvedContext resolved = ResolveNamed(shape, settings, sinks, cap_bytes, num_threads);
  const std::string why = num_tokens < 0 ? "the length of the input is not known"
                          : num_tokens > trained
                              ? fmt::format("{} tokens are more than the trained length of {}",
                                            FormatCount(num_tokens), FormatCount(trained))
                              : "dense would not fit into the cap";
  resolved.reason = fmt::format("{}, because {}", resolved.settings.spec, why);
  return resolved;
}

}  // namespace

std::span<const ContextRow> ContextTable() { return kTable; }

std::string ContextSpec::ToString() const {
  std::string text = name;
  char separator = ':';
  for (const auto& [key, value] : options) {
    text += fmt::format("{}{}={}", separator, key, value);
    separator = ',';
  }
  return text;
}

ContextSpec ParseContextSpec(std::string_view text) {
  ContextSpec spec;
  const size_t colon = text.find(':');
  spec.name = std::string(text.substr(0, colon));
  const ContextRow& row = FindRow(spec.name);
  if (colon == std::string_view::npos) return spec;
  std::string_view rest = text.substr(colon + 1);
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    const size_t equals = item.find('=');
    if (equals == std::string_view::npos || equals == 0 || equals + 1 == item.size()) {
      Fail(ErrorKind::kInput, "--context {}: '{}' is not KEY=VALUE", spec.name, item);
    }
    const std::string key(item.substr(0, equals));
    const bool known = std::any_of(row.keys.begin(), row.keys.end(),
                                   [&](const ContextKey& row_key) { return row_key.name == key; });
    if (!known) {
      std::string keys;
      for (const ContextKey& row_key : row.keys)
        keys += fmt::format("{}{}", keys.empty() ? "" : ", ", row_key.name);
      Fail(ErrorKind::kInput, "--context {}: no key '{}'; it has: {}", spec.name, key,
           keys.empty() ? "none" : keys);
    }
    if (!spec.options.emplace(key, item.substr(equals + 1)).second) {
      Fail(ErrorKind::kInput, "--context {}: key '{}' is given twice", spec.name, key);
    }
  }
  return spec;
}

ResolvedContext ResolveContext(const ContextShape& shape, const ContextSettings& settings, size_t cap_bytes,
                               int64_t num_tokens, size_t num_threads) {
  const ContextSpec spec = ParseContextSpec(settings.spec);
  if (spec.name == "auto") return ResolveAuto(shape, settings, cap_bytes, num_tokens, num_threads);
  return ResolveNamed(shape, settings, spec, cap_bytes, num_threads);
}

ContextBytes PeakContextBytes(const ContextShape& shape, const ContextSettings& settings, int64_t num_tokens,
                              size_t num_threads) {
  const ContextSpec spec = ParseContextSpec(settings.spec);
  if (spec.name == "infini") {
    return InfiniContext::PeakBytes(shape, settings, MakeInfiniOptions(shape, settings, spec), num_threads);
  }
  const std::unique_ptr<Policy> policy = MakePolicy(shape, settings, spec, kUnbounded);
  return SpanContext::PeakBytes(shape, settings, *policy, num_tokens, num_threads);
}

std::unique_ptr<Context> MakeContext(const ContextShape& shape, const ContextSettings& settings,
                                     Budget& budget, size_t num_threads) {
  if (settings.max_chunk < 1 || settings.max_rewind < 0 || settings.start_position < 0) {
    Fail(ErrorKind::kInput, "a chunk of {} tokens, a rewind of {} and a start at {} make no context",
         settings.max_chunk, settings.max_rewind, settings.start_position);
  }
  const ContextSpec spec = ParseContextSpec(settings.spec);
  if (spec.name == "infini") {
    return std::make_unique<InfiniContext>(shape, settings, MakeInfiniOptions(shape, settings, spec), budget,
                                           num_threads);
  }
  std::unique_ptr<Policy> policy = MakePolicy(shape, settings, spec, kUnbounded);
  return std::make_unique<SpanContext>(shape, settings, std::move(policy), budget, num_threads);
}

}  // namespace mneme
