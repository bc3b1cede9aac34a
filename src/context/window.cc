// The most recent tokens only. Kept as the honest baseline: once the first tokens leave the window, most
// models fail, because much of their attention rests there (StreamingLLM, arXiv 2309.17453, section 3).
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "context/policy.h"

namespace mneme {
namespace {

class WindowPolicy : public Policy {
 public:
  explicit WindowPolicy(int64_t window) : window_(window), tracks_{Track{.keep_last = window}} {}

  std::span<const Track> tracks() const override { return tracks_; }
  void View(int64_t index, SpanList* spans) const override {
    spans->Add({.begin = std::max<int64_t>(0, index - window_ + 1), .end = index + 1, .query_at = index});
  }
  int64_t seen_for() const override { return window_; }
  std::string Describe() const override { return fmt::format("window:window={}", window_); }

 private:
  const int64_t window_;
  const std::array<Track, 1> tracks_;
};

constexpr PolicyKey kKeys[] = {
    {.name = "window",
     .help = "how many recent tokens a query sees, itself included (auto: the trained length)",
     .least = 1,
     .fits_cap = true},
};

std::shared_ptr<const Policy> Make(const PolicyInput& input) {
  return MakeWindowPolicy(input.Get("window", std::min(input.trained_length(), input.auto_window())));
}

}  // namespace

std::shared_ptr<const Policy> MakeWindowPolicy(int64_t window) {
  return std::make_shared<const WindowPolicy>(window);
}

PolicyRow WindowRow() {
  return {.name = "window",
          .help = "recent tokens only: the baseline that fails once the first tokens are gone",
          .paper = "Beltagy et al. 2020, arXiv 2004.05150",
          .keys = kKeys,
          .make = &Make};
}

}  // namespace mneme
