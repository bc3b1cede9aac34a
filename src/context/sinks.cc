// StreamingLLM (Xiao et al., ICLR 2024, arXiv 2309.17453): the first S tokens and the W most recent ones;
// positions are indices inside the cache.
//
// The paper's cache holds S + W tokens before a step, so the step itself sees S + W + 1 keys with indices 0
// .. S + W. That rule is applied to every row, in prefill too, so a chunk of any size gives what token by
// token gives. The recent tokens have contiguous indices, so among them cache distance is true distance; only
// the sinks move: sink j is at distance S + W - j.
#include <fmt/core.h>

#include "context/policy.h"

namespace mneme {
namespace {

class SinksPolicy : public Policy {
 public:
  SinksPolicy(int64_t sinks, int64_t window) : sinks_(sinks), window_(window) {}

  RowView View(int64_t index) const override {
    if (index <= sinks_ + window_) return {};  // nothing evicted yet: dense
    return {.window_begin = index - window_, .num_far = sinks_, .far_distance = sinks_ + window_};
  }
  int64_t window_tokens() const override { return sinks_ + window_ + 1; }
  int64_t far_tokens() const override { return sinks_; }
  std::string Describe() const override { return fmt::format("sinks:sinks={},window={}", sinks_, window_); }

 private:
  const int64_t sinks_;
  const int64_t window_;
};

}  // namespace

std::unique_ptr<Policy> MakeSinksPolicy(int64_t sinks, int64_t window) {
  return std::make_unique<SinksPolicy>(sinks, window);
}

}  // namespace mneme
