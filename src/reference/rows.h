// What the twins of a model's parts in double precision are made of.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/linear/linear.h"
#include "kernels/pointwise/elementwise.h"
#include "model/blocks/weights.h"
#include "model/plan.h"

namespace mneme::reference {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

Row DecodedRow(const WeightView& view, size_t row);
Rows Product(const LinearLayer& linear, const Rows& x);
// Normalises `size` values from `first` on. weight_first: where its weights begin.
void NormPart(const ModelPlan& m, const NormWeights& norm, size_t weight_first, size_t first, size_t size,
              Row* x);
Rows Normed(const ModelPlan& m, const NormWeights& norm, Rows x);
double Activated(Activation activation, double x);
void Add(const Rows& y, Rows* x);       // x += y
void Multiply(const Rows& y, Rows* x);  // x *= y
void Scale(double factor, Rows* rows);
std::vector<float> Flat(const Rows& rows);
Rows RowsOf(const std::vector<double>& values, size_t num_cols);

}  // namespace mneme::reference
