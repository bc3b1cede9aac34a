// How fast this machine multiplies weights in each arithmetic, measured on the kernels that run models, and
// whether what `auto` takes is the right one here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bench/machine.h"
#include "kernels/cpu_device.h"
#include "mneme/engine.h"

namespace mneme {

// A matrix of 2048 x 2048 with many rows of activations, as in prefill.
struct ProductRate {
  Encoding encoding = Encoding::kF16;                // as stored
  FloatProducts products = FloatProducts::kFloat32;  // of float weights
  MachineRate ops;                                   // multiply-adds count as two
};

struct ProductRates {
  std::vector<ProductRate> rows;  // F16 as float32, bf16 and int16, then Q8_0
  const ProductRate* Find(FloatProducts products) const;
};

// Takes about `seconds`, and a few MB. The pool's rule applies.
ProductRates MeasureProducts(CpuDevice& device, double seconds);
ProductRates MeasureProducts(const Engine& engine, double seconds);

// Of float32 and int16, between which `auto` chooses.
struct AutoVerdict {
  std::string target;  // ProductTarget()
  FloatProducts taken = FloatProducts::kFloat32;
  FloatProducts other = FloatProducts::kInt16;
  double gain = 0;  // rate of what is taken over that of the other, with all threads
  // The other is not faster by more than measurements differ.
  bool agrees = true;
};
// Of the table's choice for a target.
AutoVerdict JudgeAuto(std::string_view target, const ProductRates& rates);
// For the one of this machine.
AutoVerdict JudgeAuto(const ProductRates& rates);

}  // namespace mneme
