// The double-precision twin of kernels/experts: by sorting, from the definitions.
#pragma once

#include <span>
#include <vector>

#include "kernels/experts/experts.h"

namespace mneme {

// The weight of every expert [num_experts] for one row; 0 for those that it is not sent to.
std::vector<double> ReferenceRoute(const RouterShape& shape, std::span<const double> logits,
                                   std::span<const float> correction);

}  // namespace mneme
