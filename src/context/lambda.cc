// LM-Infinite (Han et al., NAACL 2024, arXiv 2308.16137): a Lambda-shaped mask and a ceiling on distance.
//
// Keys at distance below L are seen at their true distance; the first n_g tokens, once they are L or farther
// away, at the constant distance D; nothing else, or the k middle tokens with the largest logits per head, at
// the constant distance `middle_distance`.
//
// Where the paper and its code differ: the paper gives every query its top-k middle tokens "in layers above
// 5"; the code only the last query of a forward call, from 0-based layer 4. Here every query row gets them,
// from layer `from_layer` (default 4), so that the result does not depend on how the input is cut into
// chunks. Middle keys are cached for the last `middle_tokens` tokens before the window (the code keeps all of
// them without bound).
#include <fmt/core.h>

#include <algorithm>

#include "context/policy.h"

namespace mneme {
namespace {

class LambdaPolicy : public Policy {
 public:
  explicit LambdaPolicy(const LambdaOptions& options) : options_(options) {}

  RowView View(int64_t index) const override {
    RowView view;
    view.window_begin = std::max<int64_t>(0, index - options_.window + 1);
    view.num_far = std::min(options_.starts, view.window_begin);
    // A short input must not see an angle that is longer than itself.
    view.far_distance = std::min(options_.distance, index);
    if (options_.top_k > 0) {
      view.middle_end = view.window_begin;
      view.middle_begin =
          std::min(view.middle_end, std::max(options_.starts, view.middle_end - options_.middle_tokens));
    }
    return view;
  }
  int64_t window_tokens() const override { return options_.window; }
  int64_t far_tokens() const override { return options_.starts; }
  bool far_is_constant() const override { return true; }
  int64_t middle_top_k() const override { return options_.top_k; }
  int64_t middle_from_layer() const override { return options_.from_layer; }
  int64_t middle_distance() const override { return options_.middle_distance; }
  int64_t middle_tokens() const override { return options_.top_k > 0 ? options_.middle_tokens : 0; }
  std::string Describe() const override {
    std::string text = fmt::format("lambda:starts={},window={},distance={},top_k={}", options_.starts,
                                   options_.window, options_.distance, options_.top_k);
    if (options_.top_k > 0) {
      text += fmt::format(",from_layer={},middle_distance={},middle_tokens={}", options_.from_layer,
                          options_.middle_distance, options_.middle_tokens);
    }
    return text;
  }

 private:
  const LambdaOptions options_;
};

}  // namespace

std::unique_ptr<Policy> MakeLambdaPolicy(const LambdaOptions& options) {
  return std::make_unique<LambdaPolicy>(options);
}

}  // namespace mneme
