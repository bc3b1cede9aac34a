#include "session/plan.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace mneme {
namespace {

// Below this many rows a chunk no longer saves much memory.
constexpr int64_t kSmallestChunk = 16;

// Activations, and what the session keeps beside its context.
size_t FixedBytes(const Model& model, const SessionOptions& options, size_t num_threads) {
  return SaturatingAdd(Runner::ScratchBytes(model, options.context.max_chunk, num_threads),
                       Session::OwnBytes(model, options));
}

// Bytes of keys and values of one token.
double KvBytesPerToken(const ContextShape& shape, const ContextSettings& settings) {
  const auto bytes_per_value = [](Encoding encoding) {
    return static_cast<double>(EncodingBlockBytes(encoding)) /
           static_cast<double>(EncodingBlockValues(encoding));
  };
  double bytes = 0;
  for (const LayerAttention& layer : shape.layers) {
    bytes += static_cast<double>(layer.num_kv_heads) *
             (static_cast<double>(layer.key_dim) * bytes_per_value(settings.key_encoding) +
              static_cast<double>(layer.value_dim) * bytes_per_value(settings.value_encoding));
  }
  return bytes;
}

// Tokens that a query sees, averaged over the stream. What a bounded context keeps, all of it is seen.
double MeanVisible(const ContextShape& shape, const ContextSettings& settings, size_t kv_bytes,
                   int64_t num_tokens) {
  const double kept = static_cast<double>(kv_bytes) / KvBytesPerToken(shape, settings);
  const auto n = static_cast<double>(num_tokens);
  // Grows to `kept`, then stays.
  return n <= kept ? n / 2 : (kept * kept / 2 + (n - kept) * kept) / n;
}

}  // namespace

size_t SessionBytes::total() const {
  return SaturatingAdd(kv_bytes, SaturatingAdd(scratch_bytes, other_bytes));
}

namespace {

// A run that ResolveSessionContext is asked about, under some cap.
struct RunToResolve {
  const Model& model;
  const SessionOptions& options;
  int64_t num_tokens;
  size_t num_threads;
  size_t reserved_bytes;
};

// Throws Error(kBudget) with what does not fit, without the cap that would do.
ResolvedContext ResolveUnder(const RunToResolve& run, size_t cap_bytes) {
  const auto fixed = [&run](const SessionOptions& options, size_t num_threads) {
    return SaturatingAdd(FixedBytes(run.model, options, num_threads), run.reserved_bytes);
  };
  SessionOptions chosen = run.options;
  while (chosen.context.max_chunk > kSmallestChunk && fixed(chosen, 0) > cap_bytes / 4) {
    chosen.context.max_chunk = std::max(chosen.context.max_chunk / 2, kSmallestChunk);
  }
  const size_t fixed_bytes = fixed(chosen, run.num_threads);
  const size_t left_bytes = cap_bytes > fixed_bytes ? cap_bytes - fixed_bytes : 0;
  ResolvedContext resolved;
  try {
    resolved = ResolveContext(run.model.context_shape(), Session::InnerContext(chosen.context), left_bytes,
                              run.num_tokens, run.num_threads);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget) throw;
    Fail(ErrorKind::kBudget, "{} (of the memory cap of {}; activations and buffers take {})", error.what(),
         FormatBytes(cap_bytes), FormatBytes(fixed_bytes));
  }
  resolved.settings.max_rewind = run.options.context.max_rewind;
  chosen.context = resolved.settings;
  const SessionBytes bytes = PeakSessionBytes(run.model, chosen, run.num_tokens, run.num_threads);
  const size_t total = SaturatingAdd(bytes.total(), run.reserved_bytes);
  if (bytes.kv_bytes != SIZE_MAX && total > cap_bytes) {
    Fail(ErrorKind::kBudget,
         "context {} needs {} for {} tokens ({} for keys and values, {} for activations, {} for the rest), "
         "and the memory cap is {}",
         resolved.settings.spec, FormatBytes(total),
         run.num_tokens < 0 ? "any number of" : FormatCount(run.num_tokens), FormatBytes(bytes.kv_bytes),
         FormatBytes(bytes.scratch_bytes), FormatBytes(SaturatingAdd(bytes.other_bytes, run.reserved_bytes)),
         FormatBytes(cap_bytes));
  }
  return resolved;
}

// A cap, as FormatBytesUp writes it, under which the run resolves: at most a 64th above the smallest. 0 if
// there is none. Tried, not computed: under another cap the chunk is another.
size_t CapThatWouldDo(const RunToResolve& run, size_t too_small) {
  constexpr size_t kLargest = size_t{1} << 50;
  const auto fits = [&run](size_t cap_bytes) {
    try {
      ResolveUnder(run, cap_bytes);
      return true;
    } catch (const Error&) {
      return false;
    }
  };
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

}  // namespace

ResolvedContext ResolveSessionContext(const Model& model, const SessionOptions& options, size_t cap_bytes,
                                      int64_t num_tokens, size_t num_threads, size_t reserved_bytes) {
  if (options.context.max_chunk < 1) {
    Fail(ErrorKind::kInput, "the chunk is {} tokens; it must be at least 1", options.context.max_chunk);
  }
  const RunToResolve run{model, options, num_tokens, num_threads, reserved_bytes};
  try {
    return ResolveUnder(run, cap_bytes);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBudget) throw;
    const size_t enough = CapThatWouldDo(run, cap_bytes);
    if (enough == 0) throw;
    Fail(ErrorKind::kBudget, "{}: give --memory at least {}, or choose a smaller context", error.what(),
         FormatBytesUp(enough));
  }
}

SessionBytes PeakSessionBytes(const Model& model, const SessionOptions& options, int64_t num_tokens,
                              size_t num_threads) {
  const ContextBytes context = PeakContextBytes(model.context_shape(), Session::InnerContext(options.context),
                                                num_tokens, num_threads);
  return {.kv_bytes = context.kv_bytes,
          .scratch_bytes = SaturatingAdd(
              context.scratch_bytes, Runner::ScratchBytes(model, options.context.max_chunk, num_threads)),
          .other_bytes = Session::OwnBytes(model, options),
          .is_bounded = context.is_bounded};
}

SpeedEstimate MeasureSpeed(std::shared_ptr<const Model> model, Device& device, double max_seconds) {
  using Clock = std::chrono::steady_clock;
  const int64_t trained = model->config().trained_length;
  // A learned-position model cannot go beyond its length; others are not asked to, for the measure's sake.
  const int64_t max_tokens = trained > 0 ? std::min<int64_t>(trained, 4096) : 2048;
  SpeedEstimate estimate;
  estimate.chunk = std::clamp<int64_t>(max_tokens / 4, 1, 64);
  Budget budget;
  SessionOptions options;
  options.context.spec = "dense";
  options.context.max_chunk = estimate.chunk;
  options.context.max_rewind = 0;
  Session session(model, options, budget, device);
  const std::vector<TokenId> tokens(static_cast<size_t>(estimate.chunk), 0);
  const auto begin = Clock::now();
  const auto elapsed = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  // The first chunk reads the weights into memory. After it, a line through time against depth: the best of
  // the early chunks and the best of the late ones, because noise only ever adds.
  session.Feed(tokens);
  struct Point {
    double depth;
    double seconds;
  };
  std::vector<Point> points;
  while (session.num_tokens() + estimate.chunk <= max_tokens &&
         (points.size() < 2 || elapsed(begin) < max_seconds)) {
    const double depth = static_cast<double>(session.num_tokens()) + static_cast<double>(estimate.chunk) / 2;
    const auto start = Clock::now();
    session.Feed(tokens);
    points.push_back({depth, elapsed(start) / static_cast<double>(estimate.chunk)});
  }
  if (points.empty()) {
    estimate.base_seconds = elapsed(begin) / static_cast<double>(estimate.chunk);
    return estimate;
  }
  const size_t part = std::max<size_t>(points.size() / 3, 1);
  const auto faster = [](const Point& a, const Point& b) { return a.seconds < b.seconds; };
  // Few of the early ones: they are there for what a token costs that sees nearly nothing.
  const size_t num_early = std::min<size_t>(part, 3);
  const Point early =
      *std::min_element(points.begin(), points.begin() + static_cast<ptrdiff_t>(num_early), faster);
  const Point late = *std::min_element(points.end() - static_cast<ptrdiff_t>(part), points.end(), faster);
  if (late.depth > early.depth) {
    estimate.visible_seconds = std::max(0.0, (late.seconds - early.seconds) / (late.depth - early.depth));
  }
  estimate.base_seconds = std::max(early.seconds - estimate.visible_seconds * early.depth, 0.0);
  return estimate;
}

std::vector<PlanRow> PlanRun(const Model& model, const PlanOptions& options) {
  std::vector<PlanRow> rows;
  for (const PolicyRow& context : PolicyTable()) {
    PlanRow row;
    row.name = std::string(context.name);
    row.spec = row.name;
    row.help = std::string(context.help);
    row.paper = std::string(context.paper);
    SessionOptions session = options.session;
    session.context.spec = row.name;
    const auto fill = [&](const ContextSettings& settings) {
      session.context = settings;
      row.spec = settings.spec;
      row.bytes = PeakSessionBytes(model, session, options.num_tokens, options.num_threads);
      if (options.speed == nullptr || options.num_tokens < 0) return;
      const double visible =
          MeanVisible(model.context_shape(), settings, row.bytes.kv_bytes, options.num_tokens);
      row.seconds = static_cast<double>(options.num_tokens) * options.speed->SecondsFor(visible);
    };
    try {
      fill(ResolveSessionContext(model, session, options.cap_bytes, options.num_tokens, options.num_threads)
               .settings);
      row.fits = row.bytes.total() <= options.cap_bytes && row.bytes.kv_bytes != SIZE_MAX;
      if (row.bytes.kv_bytes == SIZE_MAX) {
        row.note = "grows without bound; give the number of tokens to see how far the cap reaches";
      }
    } catch (const Error& error) {
      row.note = error.what();
      // What it would take with room enough, if it can be at all.
      try {
        fill(ResolveSessionContext(model, session, SIZE_MAX, options.num_tokens, options.num_threads)
                 .settings);
      } catch (const Error&) {
        row.bytes = {};  // the note says why
      }
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace mneme
