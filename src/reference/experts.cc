#include "reference/experts.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace mneme {
namespace {

std::vector<double> Softmax(std::span<const double> logits) {
  std::vector<double> values(logits.size());
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += values[i] = std::exp(logits[i] - largest);
  for (double& value : values) value /= sum;
  return values;
}

// Numbers of the `count` largest values, lower numbers first among equals.
std::vector<size_t> Largest(std::span<const double> values, size_t count) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] > values[b]; });
  order.resize(count);
  return order;
}

// One expert after the other, as the paper has it: the largest of those left, among those near it.
std::vector<double> SparseMixer(const RouterShape& shape, std::span<const double> logits) {
  std::vector<double> weights(logits.size());
  std::vector<double> left(logits.begin(), logits.end());
  for (size_t chosen = 0; chosen < shape.num_used; ++chosen) {
    const size_t best = Largest(left, 1)[0];
    std::vector<double> near;
    for (size_t i = 0; i < left.size(); ++i) {
      const double size = std::max(std::abs(logits[i]), left[best]);
      const bool is_near = !((left[best] - logits[i]) / size > static_cast<double>(shape.nearness));
      near.push_back(is_near ? left[i] : -HUGE_VAL);
    }
    weights[best] = Softmax(near)[best] * static_cast<double>(shape.scale);
    left[best] = -HUGE_VAL;
  }
  return weights;
}

}  // namespace

std::vector<double> ReferenceRoute(const RouterShape& shape, std::span<const double> logits,
                                   std::span<const float> correction) {
  if (shape.score == RouterScore::kSparseMixer) return SparseMixer(shape, logits);
  std::vector<double> scores(logits.begin(), logits.end());
  if (shape.score == RouterScore::kSoftmax) scores = Softmax(logits);
  if (shape.score == RouterScore::kSigmoid) {
    for (double& score : scores) score = 1 / (1 + std::exp(-score));
  }
  std::vector<double> for_choice = scores;
  for (size_t i = 0; i < correction.size(); ++i) for_choice[i] += static_cast<double>(correction[i]);
  if (shape.num_groups > 1) {
    const size_t size = shape.num_experts / shape.num_groups;
    std::vector<double> groups;
    for (size_t group = 0; group < shape.num_groups; ++group) {
      std::vector<double> members(for_choice.begin() + static_cast<ptrdiff_t>(group * size),
                                  for_choice.begin() + static_cast<ptrdiff_t>((group + 1) * size));
      std::sort(members.begin(), members.end(), std::greater<>());
      groups.push_back(correction.empty() || size == 1 ? members[0] : members[0] + members[1]);
    }
    const std::vector<size_t> kept = Largest(groups, shape.num_used_groups);
    for (size_t i = 0; i < for_choice.size(); ++i) {
      if (std::find(kept.begin(), kept.end(), i / size) == kept.end()) for_choice[i] = -HUGE_VAL;
    }
  }
  std::vector<double> weights(shape.num_experts);
  double sum = 0;
  const std::vector<size_t> chosen = Largest(for_choice, shape.num_used);
  for (const size_t expert : chosen) {
    weights[expert] = shape.score == RouterScore::kSoftmaxChosen ? std::exp(scores[expert]) : scores[expert];
    sum += weights[expert];
  }
  const bool divides = shape.renormalise || shape.score == RouterScore::kSoftmaxChosen;
  for (double& weight : weights) weight *= static_cast<double>(shape.scale) / (divides ? sum : 1);
  return weights;
}

}  // namespace mneme
