#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "kernels/experts/experts.h"

namespace mneme {
namespace {

// Of one row.
class Router {
 public:
  Router(const RouterShape& shape, const float* correction)
      : shape_(shape), correction_(correction), scores_(shape.num_experts), order_(shape.num_experts) {}

  void Choose(const float* logits, int32_t* experts, float* weights) {
    Score(logits);
    std::iota(order_.begin(), order_.end(), 0);
    auto end = order_.end();
    if (shape_.num_groups > 1) end = KeepBestGroups();
    const auto middle = order_.begin() + static_cast<ptrdiff_t>(shape_.num_used);
    std::partial_sort(order_.begin(), middle, end, [&](int32_t a, int32_t b) { return IsBetter(a, b); });
    std::sort(order_.begin(), middle);
    std::copy(order_.begin(), middle, experts);
    Weigh(experts, weights);
  }

 private:
  void Score(const float* logits) {
    const auto at = [&](size_t i) { return static_cast<double>(logits[i]); };
    if (shape_.score == RouterScore::kSoftmaxChosen || shape_.score == RouterScore::kSparseMixer) {
      for (size_t i = 0; i < scores_.size(); ++i) scores_[i] = at(i);
      return;
    }
    if (shape_.score == RouterScore::kSigmoid) {
      for (size_t i = 0; i < scores_.size(); ++i) scores_[i] = 1 / (1 + std::exp(-at(i)));
      return;
    }
    const double largest = *std::max_element(logits, logits + scores_.size());
    double sum = 0;
    for (size_t i = 0; i < scores_.size(); ++i) sum += scores_[i] = std::exp(at(i) - largest);
    for (double& score : scores_) score /= sum;
  }

  double ForChoice(int32_t expert) const {
    const auto i = static_cast<size_t>(expert);
    return scores_[i] + (correction_ == nullptr ? 0 : static_cast<double>(correction_[i]));
  }
  // A strict order also where scores are not numbers.
  bool IsBetter(int32_t a, int32_t b) const {
    const double first = ForChoice(a), second = ForChoice(b);
    const bool is_first = !std::isnan(first), is_second = !std::isnan(second);
    if (is_first != is_second) return is_first;
    return is_first && first != second ? first > second : a < b;
  }

  // The experts of the best groups come first in order_; returns their end.
  std::vector<int32_t>::iterator KeepBestGroups() {
    const size_t size = shape_.num_experts / shape_.num_groups;
    const size_t num_best = correction_ == nullptr ? 1 : std::min<size_t>(2, size);
    std::vector<std::pair<double, size_t>> groups;
    for (size_t group = 0; group < shape_.num_groups; ++group) {
      const auto first = order_.begin() + static_cast<ptrdiff_t>(group * size);
      std::partial_sort(first, first + static_cast<ptrdiff_t>(num_best), first + static_cast<ptrdiff_t>(size),
                        [&](int32_t a, int32_t b) { return IsBetter(a, b); });
      double value = 0;
      for (size_t i = 0; i < num_best; ++i) value += ForChoice(first[static_cast<ptrdiff_t>(i)]);
      groups.emplace_back(std::isnan(value) ? -HUGE_VAL : value, group);
    }
    std::stable_sort(groups.begin(), groups.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    auto end = order_.begin();
    for (size_t i = 0; i < shape_.num_used_groups; ++i) {
      for (size_t j = 0; j < size; ++j) *end++ = static_cast<int32_t>(groups[i].second * size + j);
    }
    return end;
  }

  // The weight of one of the chosen.
  double SparseWeight(std::span<const int32_t> chosen, int32_t expert) const {
    const double largest = scores_[static_cast<size_t>(expert)];
    double sum = 0;
    for (size_t i = 0; i < scores_.size(); ++i) {
      const auto other = static_cast<int32_t>(i);
      const bool was_before =
          IsBetter(other, expert) && std::find(chosen.begin(), chosen.end(), other) != chosen.end();
      const double below = (largest - scores_[i]) / std::max(std::abs(scores_[i]), largest);
      if (was_before || below > static_cast<double>(shape_.nearness)) continue;
      sum += std::exp(scores_[i] - largest);
    }
    return 1 / sum;
  }

  void Weigh(const int32_t* experts, float* weights) const {
    if (shape_.score == RouterScore::kSparseMixer) {
      for (size_t i = 0; i < shape_.num_used; ++i) {
        weights[i] = static_cast<float>(SparseWeight({experts, shape_.num_used}, experts[i]) *
                                        static_cast<double>(shape_.scale));
      }
      return;
    }
    std::array<double, 256> chosen;
    const size_t count = shape_.num_used;
    MNEME_CHECK(count <= chosen.size());
    double largest = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < count; ++i) {
      chosen[i] = scores_[static_cast<size_t>(experts[i])];
      largest = std::max(largest, chosen[i]);
    }
    const bool is_softmax = shape_.score == RouterScore::kSoftmaxChosen;
    for (size_t i = 0; i < count; ++i) {
      if (is_softmax) chosen[i] = std::exp(chosen[i] - largest);
      sum += chosen[i];
    }
    // The small number that DeepSeek-V3 adds matters only where all scores vanish.
    const double divisor = is_softmax || shape_.renormalise ? sum + (is_softmax ? 0 : 1e-20) : 1;
    for (size_t i = 0; i < count; ++i) {
      weights[i] = static_cast<float>(chosen[i] / divisor * static_cast<double>(shape_.scale));
    }
  }

  const RouterShape& shape_;
  const float* correction_;
  std::vector<double> scores_;
  std::vector<int32_t> order_;
};

}  // namespace

void Route(const RouterShape& shape, const float* logits, const float* correction, size_t num_rows,
           int32_t* experts, float* weights) {
  Router router(shape, correction);
  for (size_t row = 0; row < num_rows; ++row) {
    router.Choose(logits + row * shape.num_experts, experts + row * shape.num_used,
                  weights + row * shape.num_used);
  }
}

}  // namespace mneme
