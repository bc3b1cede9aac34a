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
  std::string Describe() const override { return fmt::format("window:window={}", window_); }

 private:
  const int64_t window_;
};

}  // namespace

std::unique_ptr<Policy> MakeWindowPolicy(int64_t window) { return std::make_unique<WindowPolicy>(window); }

}  // namespace mneme
