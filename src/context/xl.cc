// A cache of whole previous segments, after Transformer-XL (Dai et al., ACL 2019, arXiv 1901.02860): a query
// sees its own segment up to itself and the `previous` segments before it, all at true distances. The paper
// caches hidden states of a model with learned relative positions; models with RoPE or ALiBi have relative
// positions already, so K and V are cached here.
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "context/policy.h"

namespace mneme {
namespace {

class XlPolicy : public Policy {
 public:
  XlPolicy(int64_t segment, int64_t previous)
      : segment_(segment), previous_(previous), tracks_{Track{.keep_last = (previous + 1) * segment}} {}

  std::span<const Track> tracks() const override { return tracks_; }
  void View(int64_t index, SpanList* spans) const override {
    const int64_t begin = std::max<int64_t>(0, (index / segment_ - previous_) * segment_);
    spans->Add({.begin = begin, .end = index + 1, .query_at = index});
  }
  // A token ends its segment at worst.
  int64_t seen_for() const override { return segment_ * std::max<int64_t>(previous_, 1); }
  std::string Describe() const override {
    return fmt::format("xl:segment={},previous={}", segment_, previous_);
  }

 private:
  const int64_t segment_;
  const int64_t previous_;
  const std::array<Track, 1> tracks_;
};

constexpr PolicyKey kKeys[] = {
    {.name = "segment",
     .help = "tokens of a segment (auto: half of the trained length)",
     .least = 1,
     .fits_cap = true},
    {.name = "previous", .help = "whole previous segments that a query sees", .default_value = 1},
};

std::shared_ptr<const Policy> Make(const PolicyInput& input) {
  const int64_t previous = input.Get("previous", 1);
  const int64_t seen = std::min(input.trained_length(), input.auto_window());
  const int64_t automatic = std::max<int64_t>(1, seen / (previous + 1));
  const int64_t segment = input.Get("segment", automatic);
  input.Product(segment, previous + 1);
  return MakeXlPolicy(segment, previous);
}

}  // namespace

std::shared_ptr<const Policy> MakeXlPolicy(int64_t segment, int64_t previous) {
  return std::make_shared<const XlPolicy>(segment, previous);
}

PolicyRow XlRow() {
  return {.name = "xl",
          .help = "whole previous segments at true distances",
          .paper = "Transformer-XL, arXiv 1901.02860",
          .keys = kKeys,
          .make = &Make};
}

}  // namespace mneme
