// Exact attention over the whole stream.
#include "context/policy.h"

namespace mneme {
namespace {

class DensePolicy : public Policy {
 public:
  RowView View(int64_t) const override { return {}; }
  int64_t window_tokens() const override { return kUnbounded; }
  int64_t seen_for() const override { return kUnbounded; }
  std::string Describe() const override { return "dense"; }
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
