// LM-Infinite (Han et al., NAACL 2024, arXiv 2308.16137): a Lambda-shaped mask and a ceiling on distance.
//
// Keys at distance below L are seen at their true distance; the first n_g tokens, once they are L or farther
// away, at the constant distance D; nothing else, or the k middle tokens with the largest logits per head, at
// the constant distance `middle_distance`.
//
// Where the paper and its code differ: the paper gives every query its top-k middle tokens "in layers above
// 5"; the code only the last query of a forward call, from 0-based layer 4. Here every query row gets them,
// from layer `from_layer` (default 4), so that the result does not depend on how the input is cut into
// chunks. Middle keys are cached for the last `middle_tokens` tokens before the window (the code keeps all of
// them without bound).
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "context/policy.h"

namespace mneme {
namespace {

class LambdaPolicy : public Policy {
 public:
  explicit LambdaPolicy(const LambdaOptions& options) : options_(options) {
    tracks_[kMiddle].from_layer = options.from_layer;
    if (options.top_k > 0) tracks_[kMiddle].keep_last = options.window + options.middle_tokens;
    tracks_[kStarts].keep_first = options.starts;
    tracks_[kWindow] = {.keep_last = options.window};
  }

  std::span<const Track> tracks() const override {
    return std::span(tracks_).first(options_.top_k > 0 ? 3 : 2);
  }
  void View(int64_t index, SpanList* spans) const override {
    const int64_t window_begin = std::max<int64_t>(0, index - options_.window + 1);
    // A short input must not see an angle that is longer than itself.
    spans->Add({.track = kStarts,
                .begin = 0,
                .end = std::min(options_.starts, window_begin),
                .query_at = std::min(options_.distance, index)});
    if (options_.top_k > 0) {
      const int64_t begin = std::max(options_.starts, window_begin - options_.middle_tokens);
      spans->Add({.track = kMiddle,
                  .top_k = static_cast<int32_t>(options_.top_k),
                  .begin = std::min(window_begin, begin),
                  .end = window_begin,
                  .query_at = options_.middle_distance});
    }
    spans->Add({.track = kWindow, .begin = window_begin, .end = index + 1, .query_at = index});
  }
  int64_t seen_for() const override { return options_.window; }
  std::string Describe() const override {
    std::string text = fmt::format("lambda:starts={},window={},distance={},top_k={}", options_.starts,
                                   options_.window, options_.distance, options_.top_k);
    if (options_.top_k > 0) {
      text += fmt::format(",from_layer={},middle_distance={},middle_tokens={}", options_.from_layer,
                          options_.middle_distance, options_.middle_tokens);
    }
    return text;
  }

 private:
  static constexpr int32_t kWindow = 0, kStarts = 1, kMiddle = 2;
  const LambdaOptions options_;
  std::array<Track, 3> tracks_ = {Track{}, Track{.frame = KeyFrame::kNone}, Track{.frame = KeyFrame::kNone}};
};

// Distances are angles, not sizes.
constexpr int64_t kMostDistance = int64_t{1} << 40;

constexpr PolicyKey kKeys[] = {
    {.name = "starts",
     .help = "how many first tokens are always kept",
     .default_value = 10,
     .holds_pinned = true},
    {.name = "window",
     .help = "keys nearer than this are seen at their true distance (auto: the trained length)",
     .least = 1,
     .fits_cap = true},
    {.name = "distance",
     .help = "the ceiling: distance of the first tokens once they are out of the window (auto: window)",
     .least = 1,
     .most = kMostDistance},
    {.name = "top_k",
     .help = "middle tokens per query and head, chosen by their logits; the paper takes 5",
     .default_value = 0},
    {.name = "from_layer", .help = "first layer (0-based) with middle tokens", .default_value = 4},
    {.name = "middle_distance",
     .help = "distance of the middle tokens (auto: half of distance)",
     .least = 1,
     .most = kMostDistance},
    {.name = "middle_tokens",
     .help = "how many tokens before the window stay candidates (auto: 4 windows)",
     .least = 1},
};

std::shared_ptr<const Policy> Make(const PolicyInput& input) {
  LambdaOptions lambda;
  lambda.starts = std::max(input.Get("starts", 0), input.num_pinned());
  lambda.window = input.Get("window", std::min(input.trained_length(), input.auto_window()));
  lambda.distance = input.Get("distance", lambda.window);
  lambda.top_k = input.Get("top_k", 0);
  lambda.from_layer = input.Get("from_layer", 0);
  lambda.middle_distance = input.Get("middle_distance", std::max<int64_t>(1, lambda.distance / 2));
  lambda.middle_tokens = input.Get("middle_tokens", std::min(4 * lambda.window, kMostTokens));
  input.Sum(input.Sum(lambda.starts, lambda.window), lambda.top_k > 0 ? lambda.middle_tokens : 0);
  return MakeLambdaPolicy(lambda);
}

}  // namespace

std::shared_ptr<const Policy> MakeLambdaPolicy(const LambdaOptions& options) {
  return std::make_shared<const LambdaPolicy>(options);
}

PolicyRow LambdaRow() {
  return {.name = "lambda",
          .help = "first tokens and recent ones under a ceiling on distance; optional top-k middle tokens",
          .paper = "LM-Infinite, arXiv 2308.16137",
          .keys = kKeys,
          .can_pin = true,
          .make = &Make};
}

}  // namespace mneme
