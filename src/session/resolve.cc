#include "session/resolve.h"

#include <fmt/core.h>

#include <algorithm>
#include <string>

#include "base/checked.h"
#include "base/error.h"
#include "base/text/units.h"
#include "context/policy.h"
#include "context/registry.h"
#include "model/model_impl.h"
#include "model/weights.h"
#include "session/session_impl.h"

namespace mneme {
namespace {

// Below this many rows a chunk no longer saves much memory.
constexpr int64_t kSmallestChunk = 16;

int64_t RowsUnder(const LoadedModel& model, const SessionLimits& limits, size_t own_bytes) {
  if (limits.rows_are_made) return limits.max_rows;
  int64_t rows = limits.max_rows;
  const auto takes = [&] { return SaturatingAdd(Runner::ScratchBytes(model, rows, 0), own_bytes); };
  while (rows > kSmallestChunk && takes() > limits.cap_bytes / 4) rows = std::max(rows / 2, kSmallestChunk);
  return rows;
}

// What the context shows a query at the most: all of a stream of num_tokens where it has no bound.
int64_t LongestView(const Policy& policy, int64_t num_tokens) {
  int64_t longest = 0;
  for (const Track& track : policy.tracks()) {
    if (track.frame != KeyFrame::kPosition) continue;
    longest = std::max(longest, track.keep_last == kUnbounded ? std::max<int64_t>(num_tokens, 0)
                                                              : track.keep_first + track.keep_last);
  }
  if (policy.recall() != nullptr) longest += policy.recall()->budget;
  return longest;
}

// Throws Error(kBudget) if the session would take more than its share or than what is left of the cap.
void CheckFits(const LoadedModel& model, const SessionOptions& options, const SessionLimits& limits,
               const ContextSettings& settings) {
  // Of what grows with a stream of unknown length the first chunk must fit.
  ContextBytes context =
      PeakContextBytes(model.context_shape(), settings, options.expected_tokens, limits.num_threads);
  std::string num_tokens =
      options.expected_tokens < 0 ? "any number of" : FormatCount(options.expected_tokens);
  if (context.kv_bytes == SIZE_MAX) {
    context = PeakContextBytes(model.context_shape(), settings, settings.max_chunk, limits.num_threads);
    num_tokens = "its first " + FormatCount(settings.max_chunk);
  }
  const size_t own_bytes = OwnBytes(model, options);
  const size_t session_bytes = SaturatingAdd(context.total(), own_bytes);
  if (options.memory_bytes != 0 && session_bytes > options.memory_bytes) {
    Fail(ErrorKind::kBudget,
         "context {} needs {} for {} tokens, and the session's share of the memory cap is {}", settings.spec,
         FormatBytes(session_bytes), num_tokens, FormatBytes(options.memory_bytes));
  }
  const size_t rows_bytes = Runner::ScratchBytes(model, settings.max_chunk, limits.num_threads);
  const size_t rest_bytes = SaturatingAdd(own_bytes, limits.used_bytes);
  const size_t scratch_bytes = SaturatingAdd(context.scratch_bytes, rows_bytes);
  const size_t total = SaturatingAdd(SaturatingAdd(context.kv_bytes, scratch_bytes), rest_bytes);
  if (total <= limits.cap_bytes) return;
  Fail(ErrorKind::kBudget,
       "context {} needs {} for {} tokens ({} for keys and values, {} for activations, {} for the rest), "
       "and the memory cap is {}",
       settings.spec, FormatBytes(total), num_tokens, FormatBytes(context.kv_bytes),
       FormatBytes(scratch_bytes), FormatBytes(rest_bytes), FormatBytes(limits.cap_bytes));
}

// Multiply-adds of attention for a row that sees `visible` tokens.
double AttentionCost(const ContextShape& shape, int64_t visible) {
  double cost = 0;
  for (const LayerAttention& layer : shape.layers) {
    const int64_t seen = layer.layer_window > 0 ? std::min(visible, layer.layer_window) : visible;
    cost +=
        static_cast<double>(layer.num_heads * (layer.key_dim + layer.value_dim)) * static_cast<double>(seen);
  }
  return cost;
}

// Most of what text needs is near (`mneme eval perplexity --context` shows it for a model).
constexpr int64_t kCheapWindow = 2044;

// A window as long as training allows is the best one and the dearest: what a token costs in it, beside what
// it costs in one that is known to do nearly as well. Empty where that is no cheaper.
std::string PriceOf(const LoadedModel& model, const ContextShape& shape, const Policy& policy) {
  const int64_t visible = LongestView(policy, 0);
  if (!policy.Describe().starts_with("sinks:") || visible < 2 * kCheapWindow) return "";
  const double products = ProductsPerToken(model.plan(), model.weights());
  const double factor =
      (products + AttentionCost(shape, visible)) / (products + AttentionCost(shape, kCheapWindow));
  if (factor < 1.2) return "";
  return fmt::format(
      "; once it is full, a token takes {:.1f} times the arithmetic of --context sinks:window={}, which "
      "mostly "
      "predicts nearly as well",
      factor, kCheapWindow);
}

// Throws Error(kBudget) with what does not fit, without the cap that would do.
ResolvedContext ResolveUnder(const LoadedModel& model, const SessionOptions& options,
                             const SessionLimits& limits) {
  const size_t own_bytes = OwnBytes(model, options);
  const int64_t rows = RowsUnder(model, limits, own_bytes);
  const size_t fixed_bytes = SaturatingAdd(Runner::ScratchBytes(model, rows, limits.num_threads),
                                           SaturatingAdd(own_bytes, limits.used_bytes));
  size_t left_bytes = limits.cap_bytes > fixed_bytes ? limits.cap_bytes - fixed_bytes : 0;
  const size_t share_bytes = options.memory_bytes == 0 ? SIZE_MAX : options.memory_bytes;
  left_bytes = std::min(left_bytes, share_bytes > own_bytes ? share_bytes - own_bytes : 0);
  ResolvedContext resolved;
  // What a stream of that length was trained for.
  const std::shared_ptr<const ContextShape> shape =
      model.ShapeFor(options.rope_length > 0 ? options.rope_length : options.expected_tokens);
  try {
    resolved = ResolveContext(*shape, InnerContext(options, rows), left_bytes, options.expected_tokens,
                              limits.num_threads);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget) throw;
    Fail(ErrorKind::kBudget, "{} (of the memory cap of {}; activations and buffers take {})", error.what(),
         FormatBytes(limits.cap_bytes), FormatBytes(fixed_bytes));
  }
  CheckFits(model, options, limits, resolved.settings);
  if (!resolved.reason.empty()) resolved.reason += PriceOf(model, *shape, *resolved.settings.policy);
  return resolved;
}

bool Resolves(const LoadedModel& model, const SessionOptions& options, const SessionLimits& limits) {
  try {
    ResolveUnder(model, options, limits);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

int64_t RopeLengthFor(const LoadedModel& model, const SessionOptions& options,
                      const ContextSettings& settings) {
  if (options.rope_length > 0 || model.plan().rope_length == 0) return options.rope_length;
  const std::shared_ptr<const Policy> policy = PolicyOf(model.context_shape(), settings);
  return std::max(model.plan().rope_length, LongestView(*policy, options.expected_tokens));
}

size_t CapThatWouldDo(size_t too_small, const std::function<bool(size_t cap_bytes)>& fits) {
  constexpr size_t kLargest = size_t{1} << 50;
  const auto round_up = [](size_t bytes) {
    const size_t unit = bytes >= (size_t{64} << 20) ? size_t{1} << 20 : 1024;
    return (bytes + unit - 1) / unit * unit;
  };
  if (too_small >= kLargest) return 0;
  size_t low = too_small;
  size_t high = round_up(std::max<size_t>(low, 1) * 2);
  while (!fits(high)) {
    if (high >= kLargest) return 0;
    low = high;
    high *= 2;
  }
  while (high - low > std::max<size_t>(high / 64, 1024)) {
    const size_t middle = round_up(low + (high - low) / 2);
    if (middle >= high) break;
    (fits(middle) ? high : low) = middle;
  }
  return high;
}

SessionLimits LimitsOf(const Model& model) {
  const Engine::Impl& engine = model.engine().impl();
  SessionLimits limits{.cap_bytes = engine.budget.cap_bytes(),
                       .used_bytes = engine.budget.used_bytes(),
                       .max_rows = engine.options.max_rows,
                       .num_threads = engine.device.num_threads()};
  if (const auto& runner = model.impl()->runner) {
    limits.used_bytes -= runner->reserved_bytes();
    if (runner.use_count() > 1) {  // else no session has them, and they can be made anew
      limits.max_rows = runner->max_rows();
      limits.rows_are_made = true;
    }
  }
  return limits;
}

ContextSettings InnerContext(const SessionOptions& options, int64_t max_rows) {
  ContextSettings settings;
  settings.spec = options.context;
  settings.key_encoding = options.keys;
  settings.value_encoding = options.values;
  settings.num_pinned = options.num_pinned;
  settings.max_chunk = max_rows;
  settings.max_rewind = options.max_rewind + 1;
  settings.start_position = options.start_position;
  settings.store = {.path = options.store,
                    .most_bytes = options.disk_bytes,
                    .forgets = options.disk_full == DiskFull::kForget};
  return settings;
}

double KvBytesPerToken(const LoadedModel& model, const SessionOptions& options) {
  const auto row = [](Encoding encoding, size_t values) {
    const size_t block = EncodingBlockValues(encoding);
    return static_cast<double>(EncodedBytes(encoding, (values + block - 1) / block * block));
  };
  double bytes = 0;
  for (const LayerAttention& layer : model.context_shape().layers) {
    if (layer.kv_source >= 0) continue;
    const bool are_in_keys = layer.StoresValuesInKeys(options.keys, options.values);
    bytes += static_cast<double>(layer.num_kv_heads) *
             (row(options.keys, layer.key_dim) + (are_in_keys ? 0 : row(options.values, layer.value_dim)));
  }
  return bytes;
}

SessionBytes PeakSessionBytes(const LoadedModel& model, const SessionOptions& options,
                              const ContextSettings& settings, int64_t num_tokens, size_t num_threads) {
  const ContextBytes context = PeakContextBytes(model.context_shape(), settings, num_tokens, num_threads);
  return {.kv_bytes = context.kv_bytes,
          .scratch_bytes = SaturatingAdd(context.scratch_bytes,
                                         Runner::ScratchBytes(model, settings.max_chunk, num_threads)),
          .other_bytes = OwnBytes(model, options),
          .is_bounded = context.is_bounded};
}

ResolvedContext ResolveSession(const LoadedModel& model, const SessionOptions& options,
                               const SessionLimits& limits) {
  try {
    return ResolveUnder(model, options, limits);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget) throw;
    // The cap that would do. Where others are, they would be larger under it too: then what is lacking now.
    SessionLimits tried = limits;
    const size_t enough = CapThatWouldDo(limits.cap_bytes, [&](size_t cap_bytes) {
      tried.cap_bytes = cap_bytes;
      return Resolves(model, options, tried);
    });
    if (enough != 0 && limits.rows_are_made) {
      Fail(ErrorKind::kBudget,
           "{}: {} are lacking beside the sessions that are there; end one, give more --memory, or choose a "
           "smaller "
           "context",
           error.what(), FormatBytesUp(enough - limits.cap_bytes));
    }
    if (enough != 0) {
      Fail(ErrorKind::kBudget, "{}: give --memory at least {}, or choose a smaller context", error.what(),
           FormatBytesUp(enough));
    }
    SessionOptions shared = options;
    const size_t share =
        options.memory_bytes == 0 ? 0 : CapThatWouldDo(options.memory_bytes, [&](size_t bytes) {
          shared.memory_bytes = bytes;
          return Resolves(model, shared, limits);
        });
    if (share == 0) throw;
    Fail(ErrorKind::kBudget, "{} (session_memory): it needs at least {}, or a smaller context", error.what(),
         FormatBytesUp(share));
  }
}

}  // namespace mneme
