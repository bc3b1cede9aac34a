// A mean over parts that come one after the other, each with its weight: in any number and order of parts it
// is the mean of all.
#pragma once

#include <cmath>

namespace mneme {

struct WeightedMean {
  double sum = 0;
  double weight = 0;

  // `total`: the sum over a part whose weight is `part_weight`.
  void Add(double total, double part_weight) {
    sum += total;
    weight += part_weight;
  }
  void Add(const WeightedMean& part) { Add(part.sum, part.weight); }
  // NaN without any weight.
  double value() const { return weight > 0 ? sum / weight : std::nan(""); }
};

}  // namespace mneme
