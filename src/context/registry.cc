#include "context/registry.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text/units.h"
#include "context/infini.h"
#include "context/policy.h"
#include "context/recall_context.h"
#include "context/recurrent/hybrid.h"
#include "context/span_context.h"

namespace mneme {
namespace {

constexpr int64_t kSmallestWindow = 16;
constexpr int64_t kMostChunk = 65536;
// One more than a session may ask for: it takes a token back to have its logits again.
constexpr int64_t kMostRewind = (int64_t{1} << 20) + 1;

// A spec taken apart: a row and what was given for its keys. Read once, for any number of tries at a size.
struct ParsedSpec {
  const PolicyRow* row;
  std::vector<std::optional<int64_t>> values;
};

const PolicyRow& FindRow(std::string_view name) {
  std::string known;
  for (const PolicyRow& row : PolicyTable()) {
    if (row.name == name) return row;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  Fail(ErrorKind::kInput, "context '{}' is not known; there are: {}", name, known);
}

size_t FindKey(const PolicyRow& row, std::string_view name) {
  std::string known;
  for (size_t i = 0; i < row.keys.size(); ++i) {
    if (row.keys[i].name == name) return i;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.keys[i].name);
  }
  Fail(ErrorKind::kInput, "--context {}: no key '{}'; it has: {}", row.name, name,
       known.empty() ? "none" : known);
}

int64_t ParseValue(const PolicyRow& row, const PolicyKey& key, std::string_view text) {
  if (!key.words.empty()) {
    const auto found = std::find(key.words.begin(), key.words.end(), text);
    if (found == key.words.end()) {
      Fail(ErrorKind::kInput, "--context {}: {}={} is not one of: {}", row.name, key.name, text,
           fmt::join(key.words, ", "));
    }
    return found - key.words.begin();
  }
  const int64_t value = ParseCount(text, fmt::format("--context {}: {}", row.name, key.name));
  if (value < key.least || value > key.most) {
    Fail(ErrorKind::kInput, "--context {}: {}={} is out of range: it is {} to {}", row.name, key.name, value,
         key.least, key.most);
  }
  return value;
}

ParsedSpec ParseSpec(std::string_view text) {
  const size_t colon = text.find(':');
  const PolicyRow& row = FindRow(text.substr(0, colon));
  ParsedSpec spec{&row, std::vector<std::optional<int64_t>>(row.keys.size())};
  std::vector<bool> is_given(row.keys.size());
  std::string_view rest = colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    const size_t equals = item.find('=');
    if (equals == std::string_view::npos || equals == 0 || equals + 1 == item.size()) {
      Fail(ErrorKind::kInput, "--context {}: '{}' is not KEY=VALUE", row.name, item);
    }
    const size_t key = FindKey(row, item.substr(0, equals));
    if (is_given[key]) {
      Fail(ErrorKind::kInput, "--context {}: key '{}' is given twice", row.name, row.keys[key].name);
    }
    is_given[key] = true;
    const std::string_view value = item.substr(equals + 1);
    if (value != "auto") spec.values[key] = ParseValue(row, row.keys[key], value);
  }
  return spec;
}

// Automatic windows come to at most `auto_window`.
std::shared_ptr<const Policy> MakePolicy(const ContextShape& shape, const ContextSettings& settings,
                                         const ParsedSpec& spec, int64_t auto_window) {
  const PolicyRow& row = *spec.row;
  if (row.make == nullptr) Fail(ErrorKind::kInput, "context '{}' must be resolved first", row.name);
  if (shape.learned_positions && row.can_slide) {
    Fail(ErrorKind::kUnsupported,
         "this model has learned absolute positions: nothing can slide, so only --context dense is possible, "
         "up to {} tokens",
         shape.trained_length);
  }
  if (settings.num_pinned > 0 && !row.can_pin) {
    Fail(ErrorKind::kInput,
         "context {} keeps no first tokens and so cannot pin {}: use sinks, lambda or dense", row.name,
         settings.num_pinned);
  }
  std::shared_ptr<const Policy> policy =
      row.make(PolicyInput(row, spec.values, shape, settings.num_pinned, auto_window));
  if (!settings.store.path.empty() && policy->recall() == nullptr) {
    Fail(ErrorKind::kInput, "context {} stores nothing: --store goes with --context recall", row.name);
  }
  return policy;
}

// Whether a key that depends on the cap (PolicyKey::fits_cap, fits_half) was left open.
bool IsOpen(const ParsedSpec& spec, bool PolicyKey::*fits) {
  for (size_t i = 0; i < spec.values.size(); ++i) {
    if (spec.row->keys[i].*fits && !spec.values[i].has_value()) return true;
  }
  return false;
}

ContextBytes BytesOf(const ContextShape& shape, const ContextSettings& given, const Policy& policy,
                     int64_t num_tokens, size_t num_threads) {
  const ContextSettings settings = RecallContext::RecallSettings(given, policy);
  ContextBytes bytes =
      policy.memory() != nullptr   ? InfiniContext::PeakBytes(shape, settings, policy, num_threads)
      : policy.recall() != nullptr ? RecallContext::PeakBytes(shape, settings, policy)
                                   : SpanContext::PeakBytes(shape, settings, policy, num_tokens);
  if (!shape.recurrent.layers.empty()) {
    bytes.kv_bytes = SaturatingAdd(bytes.kv_bytes, HybridContext::PeakBytes(shape, settings));
  }
  return bytes;
}

size_t BytesWith(const ContextShape& shape, const ContextSettings& settings, const ParsedSpec& spec,
                 int64_t auto_window, int64_t num_tokens, size_t num_threads) {
  const std::shared_ptr<const Policy> policy = MakePolicy(shape, settings, spec, auto_window);
  return BytesOf(shape, settings, *policy, num_tokens, num_threads).total();
}

// The largest automatic window, at most `most`, whose context fits; 0 if none does.
int64_t LargestWindow(const ContextShape& shape, const ContextSettings& settings, const ParsedSpec& spec,
                      int64_t most, size_t cap_bytes, size_t num_threads) {
  int64_t low = 0, high = most;
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

// The policy, and its text with the chosen window, so that it no longer depends on the cap.
ContextSettings Fixed(const ContextShape& shape, ContextSettings settings, const ParsedSpec& spec,
                      int64_t window) {
  settings.policy = MakePolicy(shape, settings, spec, window);
  settings.spec = settings.policy->Describe();
  return settings;
}

ResolvedContext ResolveNamed(const ContextShape& shape, const ContextSettings& settings,
                             const ParsedSpec& spec, size_t cap_bytes, int64_t num_tokens,
                             size_t num_threads) {
  const bool keeps_half = IsOpen(spec, &PolicyKey::fits_half);
  if (!IsOpen(spec, &PolicyKey::fits_cap) && !keeps_half) {
    ContextSettings fixed = Fixed(shape, settings, spec, kUnbounded);
    // A memory has one size, and so has a model without attention: whether it fits is known here.
    if (fixed.policy->memory() != nullptr || shape.layers.empty()) {
      const size_t bytes = BytesOf(shape, fixed, *fixed.policy, -1, num_threads).total();
      if (bytes > cap_bytes) {
        Fail(ErrorKind::kBudget, "context {} takes {}, and {} are left for it", spec.row->name,
             FormatBytes(bytes), FormatBytes(cap_bytes));
      }
    }
    return {std::move(fixed), ""};
  }
  const bool is_known = keeps_half && num_tokens >= 0;
  const int64_t most = is_known     ? std::clamp<int64_t>(num_tokens, kSmallestWindow, kMostTokens)
                       : keeps_half ? kMostTokens
                                    : TrainedLength(shape);
  const int64_t window = LargestWindow(shape, settings, spec, most,
                                       keeps_half && !is_known ? cap_bytes / 2 : cap_bytes, num_threads);
  if (window == 0) {
    Fail(ErrorKind::kBudget,
         "context {} with the smallest useful window, {} tokens, takes {}, and {} are left for it",
         spec.row->name, kSmallestWindow,
         FormatBytes(BytesWith(shape, settings, spec, kSmallestWindow, -1, num_threads)),
         FormatBytes(cap_bytes));
  }
  return {Fixed(shape, settings, spec, window), ""};
}

ResolvedContext ResolveAuto(const ContextShape& shape, const ContextSettings& settings, size_t cap_bytes,
                            int64_t num_tokens, size_t num_threads) {
  if (shape.layers.empty()) {
    ResolvedContext resolved =
        ResolveNamed(shape, settings, ParseSpec("dense"), cap_bytes, num_tokens, num_threads);
    resolved.reason = "dense, because this model has no attention: its state has one size";
    return resolved;
  }
  if (shape.memory.segment > 0 && settings.num_pinned == 0) {
    ResolvedContext resolved{Fixed(shape, settings, ParseSpec("infini"), kUnbounded), ""};
    resolved.reason = resolved.settings.spec + ", because this model was trained with that memory";
    return resolved;
  }
  const ParsedSpec dense = ParseSpec("dense");
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
  ResolvedContext resolved =
      ResolveNamed(shape, settings, ParseSpec("sinks"), cap_bytes, num_tokens, num_threads);
  const std::string why = num_tokens < 0 ? "the length of the input is not known"
                          : num_tokens > trained
                              ? fmt::format("{} tokens are more than the trained length of {}",
                                            FormatCount(num_tokens), FormatCount(trained))
                              : "dense would not fit into the cap";
  resolved.reason = fmt::format("{}, because {}", resolved.settings.spec, why);
  return resolved;
}

}  // namespace

std::span<const PolicyRow> PolicyTable() {
  static const std::array kTable = {
      PolicyRow{.name = "auto",
                .help = "picks one of the others by model, cap and length, and says which and why",
                .paper = "-"},
      DenseRow(),
      WindowRow(),
      SinksRow(),
      LambdaRow(),
      XlRow(),
      RecallRow(),
      InfiniRow(),
  };
  return kTable;
}

void CheckContextSpec(std::string_view text) { ParseSpec(text); }

bool ContextAgrees(std::string_view asked, std::string_view spec, int64_t num_pinned) {
  const ParsedSpec a = ParseSpec(asked), b = ParseSpec(spec);
  if (a.row->make == nullptr) return true;
  if (a.row->name != b.row->name) return false;
  for (size_t i = 0; i < a.values.size(); ++i) {
    if (!a.values[i].has_value()) continue;
    // The same words as when it was saved, when pinned tokens raised what they say.
    const int64_t least = a.row->keys[i].holds_pinned ? num_pinned : 0;
    if (b.values[i] != std::max(*a.values[i], least)) return false;
  }
  return true;
}

bool Recalls(std::string_view text) { return ParseSpec(text).row->name == RecallRow().name; }

int64_t ReplayOf(std::string_view text) {
  const ParsedSpec spec = ParseSpec(text);
  for (size_t i = 0; i < spec.values.size(); ++i) {
    const PolicyKey& key = spec.row->keys[i];
    if (key.name == "replay") return spec.values[i].value_or(key.default_value);
  }
  return 0;
}

void CheckContextNumbers(const ContextSettings& settings) {
  const auto check = [](std::string_view what, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return;
    Fail(ErrorKind::kInput, "{} is {}; it must be from {} to {}", what, value, least, most);
  };
  check("the chunk of a context", settings.max_chunk, 1, kMostChunk);
  check("the longest rewind of a context", settings.max_rewind, 0, kMostRewind);
  check("the number of pinned tokens", settings.num_pinned, 0, kMostTokens);
  check("the position of the first token", settings.start_position, 0, kMostPosition);
}

std::shared_ptr<const Policy> PolicyOf(const ContextShape& shape, const ContextSettings& settings) {
  if (settings.policy != nullptr && settings.policy->Describe() == settings.spec) return settings.policy;
  return MakePolicy(shape, settings, ParseSpec(settings.spec), kUnbounded);
}

ResolvedContext ResolveContext(const ContextShape& shape, const ContextSettings& settings, size_t cap_bytes,
                               int64_t num_tokens, size_t num_threads) {
  CheckContextNumbers(settings);
  const ParsedSpec spec = ParseSpec(settings.spec);
  if (spec.row->make == nullptr) return ResolveAuto(shape, settings, cap_bytes, num_tokens, num_threads);
  return ResolveNamed(shape, settings, spec, cap_bytes, num_tokens, num_threads);
}

ContextBytes PeakContextBytes(const ContextShape& shape, const ContextSettings& settings, int64_t num_tokens,
                              size_t num_threads) {
  CheckContextNumbers(settings);
  return BytesOf(shape, settings, *PolicyOf(shape, settings), num_tokens, num_threads);
}

std::unique_ptr<Context> MakeContext(const ContextShape& shape, const ContextSettings& given,
                                     const Budget& budget, size_t num_threads) {
  CheckContextNumbers(given);
  std::shared_ptr<const Policy> policy = PolicyOf(shape, given);
  const ContextSettings settings = RecallContext::RecallSettings(given, *policy);
  std::unique_ptr<RecurrentState> state;
  if (!shape.recurrent.layers.empty()) {
    state = std::make_unique<RecurrentState>(shape.recurrent, HybridContext::SettingsOf(settings), budget);
  }
  std::unique_ptr<Context> context;
  if (policy->memory() != nullptr) {
    context = std::make_unique<InfiniContext>(shape, settings, std::move(policy), budget, num_threads);
  } else if (policy->recall() != nullptr) {
    context = std::make_unique<RecallContext>(shape, settings, std::move(policy), budget);
  } else {
    context = std::make_unique<SpanContext>(shape, settings, std::move(policy), budget);
  }
  if (state == nullptr) return context;
  return std::make_unique<HybridContext>(std::move(context), std::move(state), !shape.layers.empty());
}

}  // namespace mneme
