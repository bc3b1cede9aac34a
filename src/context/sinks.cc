// StreamingLLM (Xiao et al., ICLR 2024, arXiv 2309.17453): the first S tokens and the W most recent ones;
// positions are indices inside the cache.
//
// The paper's cache holds S + W tokens before a step, so the step itself sees S + W + 1 keys with indices 0
// .. S + W. That rule is applied to every row, in prefill too, so a chunk of any size gives what token by
// token gives. The recent tokens have contiguous indices, so among them cache distance is true distance; only
// the sinks move: sink j is at distance S + W - j.
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "context/context.h"
#include "context/policy.h"

namespace mneme {
namespace {

class SinksPolicy : public Policy {
 public:
  SinksPolicy(int64_t sinks, int64_t window)
      : sinks_(sinks), window_(window), tracks_{Track{.keep_first = sinks, .keep_last = window + 1}} {}

  std::span<const Track> tracks() const override { return tracks_; }
  void View(int64_t index, SpanList* spans) const override {
    const bool is_dense = index <= sinks_ + window_;  // nothing has left the window yet
    spans->Add({.begin = 0, .end = is_dense ? 0 : sinks_, .query_at = sinks_ + window_});
    spans->Add({.begin = is_dense ? 0 : index - window_, .end = index + 1, .query_at = index});
  }
  int64_t seen_for() const override { return window_; }
  std::string Describe() const override { return fmt::format("sinks:sinks={},window={}", sinks_, window_); }

 private:
  const int64_t sinks_;
  const int64_t window_;
  const std::array<Track, 1> tracks_;
};

constexpr int64_t kSmallestAutoWindow = 16;

constexpr PolicyKey kKeys[] = {
    {.name = "sinks",
     .help = "how many first tokens are always kept (auto: 4, or 1 for a model with a learned sink token)",
     .holds_pinned = true},
    {.name = "window",
     .help = "how many recent tokens are kept (auto: the trained length less sinks and one, or what the cap "
             "holds)",
     .fits_cap = true},
};

std::shared_ptr<const Policy> Make(const PolicyInput& input) {
  const int64_t sinks = std::max(input.Get("sinks", input.shape().num_sinks), input.num_pinned());
  const int64_t automatic = std::max(input.trained_length() - sinks - 1, kSmallestAutoWindow);
  const int64_t window = input.Get("window", std::min(automatic, input.auto_window()));
  input.Sum(input.Sum(sinks, window), 1);
  return MakeSinksPolicy(sinks, window);
}

}  // namespace

std::shared_ptr<const Policy> MakeSinksPolicy(int64_t sinks, int64_t window) {
  return std::make_shared<const SinksPolicy>(sinks, window);
}

PolicyRow SinksRow() {
  return {.name = "sinks",
          .help = "first tokens and recent ones, positions inside the cache",
          .paper = "StreamingLLM, arXiv 2309.17453",
          .keys = kKeys,
          .can_pin = true,
          .make = &Make};
}

}  // namespace mneme
