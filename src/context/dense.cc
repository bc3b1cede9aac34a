// Exact attention over the whole stream.
#include <array>

#include "context/policy.h"

namespace mneme {
namespace {

class DensePolicy : public Policy {
 public:
  std::span<const Track> tracks() const override { return tracks_; }
  void View(int64_t index, SpanList* spans) const override {
    spans->Add({.begin = 0, .end = index + 1, .query_at = index});
  }
  int64_t seen_for() const override { return kUnbounded; }
  std::string Describe() const override { return "dense"; }

 private:
  const std::array<Track, 1> tracks_ = {Track{.keep_last = kUnbounded}};
};

}  // namespace

std::shared_ptr<const Policy> MakeDensePolicy() { return std::make_shared<const DensePolicy>(); }

PolicyRow DenseRow() {
  return {.name = "dense",
          .help = "exact attention over everything; stops politely at the cap",
          .paper = "Vaswani et al. 2017, arXiv 1706.03762",
          .can_pin = true,
          .can_slide = false,
          .make = [](const PolicyInput&) { return MakeDensePolicy(); }};
}

}  // namespace mneme
