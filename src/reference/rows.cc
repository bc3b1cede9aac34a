#include "reference/rows.h"

#include <algorithm>
#include <cmath>

#include "formats/quant.h"

namespace mneme::reference {

Row DecodedRow(const WeightView& view, size_t row) {
  Row values(view.num_cols);
  DecodeBlocksReference(view.encoding, view.data + row * view.row_bytes(), view.num_cols, values.data());
  return values;
}

Rows Product(const LinearLayer& linear, const Rows& x) {
  Rows out(x.size(), Row(linear.weights.num_rows()));
  for (size_t n = 0; n < linear.weights.num_rows(); ++n) {
    const Row w = DecodedRow(linear.file, n);
    const double bias = linear.bias.empty() ? 0 : static_cast<double>(linear.bias[n]);
    for (size_t r = 0; r < x.size(); ++r) {
      double sum = 0;
      for (size_t i = 0; i < w.size(); ++i) sum += w[i] * x[r][i];
      out[r][n] = sum + bias;
    }
  }
  return out;
}

// Normalises `size` values from `first` on.
void NormPart(const ModelPlan& m, const NormWeights& norm, size_t weight_first, size_t first, size_t size,
              Row* x) {
  double mean = 0;
  double square = 0;
  const double count = static_cast<double>(size);
  if (m.norm == NormKind::kLayer) {
    for (size_t i = 0; i < size; ++i) mean += (*x)[first + i] / count;
  }
  for (size_t i = 0; i < size; ++i) square += std::pow((*x)[first + i] - mean, 2) / count;
  const double scale = 1 / std::sqrt(square + static_cast<double>(m.norm_epsilon));
  for (size_t i = 0; i < size; ++i) {
    double& value = (*x)[first + i];
    value = (value - mean) * scale;
    if (!norm.weight.empty()) value *= static_cast<double>(norm.weight[weight_first + i]);
    if (!norm.bias.empty()) value += static_cast<double>(norm.bias[weight_first + i]);
  }
}

Rows Normed(const ModelPlan& m, const NormWeights& norm, Rows x) {
  for (Row& row : x) NormPart(m, norm, 0, 0, row.size(), &row);
  return x;
}

double Activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kRelu2:
      return x > 0 ? x * x : 0;
  }
  return 0;
}

std::vector<float> Flat(const Rows& rows) {
  std::vector<float> values;
  for (const Row& row : rows) {
    for (const double value : row) values.push_back(static_cast<float>(value));
  }
  return values;
}

// x *= y.
void Multiply(const Rows& y, Rows* x) {
  for (size_t r = 0; r < x->size(); ++r) {
    for (size_t i = 0; i < (*x)[r].size(); ++i) (*x)[r][i] *= y[r][i];
  }
}

Rows RowsOf(const std::vector<double>& values, size_t num_cols) {
  Rows rows;
  for (size_t at = 0; at < values.size(); at += num_cols) {
    rows.emplace_back(&values[at], &values[at] + num_cols);
  }
  return rows;
}

void Add(const Rows& y, Rows* x) {
  for (size_t r = 0; r < x->size(); ++r) {
    for (size_t i = 0; i < (*x)[r].size(); ++i) (*x)[r][i] += y[r][i];
  }
}

void Scale(double factor, Rows* rows) {
  for (Row& row : *rows) {
    for (double& value : row) value *= factor;
  }
}

}  // namespace mneme::reference
