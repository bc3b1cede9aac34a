// The most recent tokens only. Kept as the honest baseline: once the first tokens leave the window, most
// models fail, because much of their attention rests there (StreamingLLM, arXiv 2309.17453, section 3).
#include <fmt/core.h>

#include <algorithm>

#include "context/policy.h"

namespace mneme {
namespace {

class WindowPolicy : public Policy {
 public:
  explicit WindowPolicy(int64_t window) : window_(window) {}

  RowView View(int64_t index) const override {
    return {.window_begin = std::max<int64_t>(0, index - window_ + 1)};
  }
  int64_t window_tokens() const override { return window_; }
  int64_t seen_for() const override { return window_; }
  std::string Describe() const override { return fmt::format("window:window={}", window_); }

 private:
  const int64_t window_;
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
