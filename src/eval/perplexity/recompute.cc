#include "eval/perplexity/recompute.h"

#include <fmt/core.h>

#include <utility>

#include "base/error.h"
#include "base/text/units.h"
#include "eval/scores/text.h"

namespace mneme {

std::string RecomputeSpec::ToString() const {
  return every == 1 ? fmt::format("recompute:window={}", window)
                    : fmt::format("recompute:window={},every={}", window, every);
}

std::optional<RecomputeSpec> ParseRecompute(std::string_view spec) {
  constexpr std::string_view kName = "recompute";
  if (spec != kName && !spec.starts_with("recompute:")) return std::nullopt;
  RecomputeSpec parsed;
  if (spec == kName) return parsed;
  for (const std::string_view part : scores::Split(spec.substr(kName.size() + 1), ',')) {
    const size_t equal = part.find('=');
    const std::string_view key = part.substr(0, equal);
    int64_t* value = key == "window" ? &parsed.window : key == "every" ? &parsed.every : nullptr;
    if (value == nullptr || equal == std::string_view::npos)
      Fail(ErrorKind::kInput, "context {}: '{}' is not one of its keys, window=N and every=N", spec, part);
    *value = ParseCount(part.substr(equal + 1), fmt::format("context {}: {}", spec, key));
    if (*value < 1 || *value > (int64_t{1} << 24))
      Fail(ErrorKind::kInput, "context {}: {} is outside 1 .. 16777216", spec, part);
  }
  return parsed;
}

namespace {

SessionOptions OptionsFor(int64_t window, const SessionOptions& base) {
  SessionOptions options;
  options.context = "dense";
  options.keys = base.keys;
  options.values = base.values;
  options.max_rewind = window;
  options.expected_tokens = window;
  return options;
}

}  // namespace

RecomputeWindow::RecomputeWindow(const Model& model, int64_t window, const SessionOptions& base)
    : window_(window), recent_(static_cast<size_t>(window)), session_(model, OptionsFor(window, base)) {}

void RecomputeWindow::Push(TokenId token) { recent_[static_cast<size_t>(num_tokens_++ % window_)] = token; }

std::span<const float> RecomputeWindow::Logits(StopToken stop) {
  if (num_tokens_ == 0) Fail(ErrorKind::kInput, "recompute: the stream is empty");
  session_.Rewind(session_.num_tokens());
  const int64_t count = std::min(num_tokens_, window_);
  std::vector<TokenId> ids(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    ids[static_cast<size_t>(i)] = recent_[static_cast<size_t>((num_tokens_ - count + i) % window_)];
  if (session_.Feed(ids, stop) < count) return {};
  return session_.Logits();
}

}  // namespace mneme
