// A cache of whole previous segments, after Transformer-XL (Dai et al., ACL 2019, arXiv 1901.02860): a query
// sees its own segment up to itself and the `previous` segments before it, all at true distances. The paper
// caches hidden states of a model with learned relative positions; models with RoPE or ALiBi have relative
// positions already, so K and V are cached here.
#include <fmt/core.h>

#include <algorithm>

#include "context/policy.h"

namespace mneme {
namespace {

class XlPolicy : public Policy {
 public:
  XlPolicy(int64_t segment, int64_t previous) : segment_(segment), previous_(previous) {}

  RowView View(int64_t index) const override {
    return {.window_begin = std::max<int64_t>(0, (index / segment_ - previous_) * segment_)};
  }
  int64_t window_tokens() const override { return (previous_ + 1) * segment_; }
  std::string Describe() const override {
    return fmt::format("xl:segment={},previous={}", segment_, previous_);
  }

 private:
  const int64_t segment_;
  const int64_t previous_;
};

}  // namespace

std::unique_ptr<Policy> MakeXlPolicy(int64_t segment, int64_t previous) {
  return std::make_unique<XlPolicy>(segment, previous);
}

}  // namespace mneme
