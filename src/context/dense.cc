// Exact attention over the whole stream.
#include "context/policy.h"

namespace mneme {
namespace {

class DensePolicy : public Policy {
 public:
  RowView View(int64_t) const override { return {}; }
  int64_t window_tokens() const override { return kUnbounded; }
  std::string Describe() const override { return "dense"; }
};

}  // namespace

std::unique_ptr<Policy> MakeDensePolicy() { return std::make_unique<DensePolicy>(); }

}  // namespace mneme
