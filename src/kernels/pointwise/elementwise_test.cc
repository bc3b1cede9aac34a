#include "kernels/pointwise/elementwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "base/half.h"
#include "kernels/simd/test_util.h"

namespace mneme {
namespace {

using testing::ForEachTarget;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kCounts[] = {1, 3, 15, 16, 17, 64, 100, 515, 2049};

std::vector<float> Random(size_t count, uint32_t seed, float size = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, size);
  std::vector<float> x(count);
  for (float& value : x) value = normal(random);
  return x;
}

TEST(ElementwiseTest, RmsNorm) {
  ForEachTarget([] {
    for (const size_t cols : kCounts) {
      const size_t stride = cols + 3;
      const std::vector<float> x = Random(2 * stride, 1), weight = Random(cols, 2);
      for (const float* w : {static_cast<const float*>(nullptr), weight.data()}) {
        std::vector<float> out = x;
        RmsNorm(out.data(), w, 1e-5f, 2, cols, stride, out.data());
        for (size_t r = 0; r < 2; ++r) {
          double squares = 0;
          for (size_t c = 0; c < cols; ++c) squares += double{x[r * stride + c]} * x[r * stride + c];
          const double factor = 1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5f);
          for (size_t c = 0; c < cols; ++c) {
            const double expected = x[r * stride + c] * factor * (w == nullptr ? 1.0f : w[c]);
            ASSERT_NEAR(out[r * stride + c], expected, 1e-6 * std::abs(expected) + 1e-30) << cols;
          }
        }
        EXPECT_EQ(out[cols], x[cols]) << "wrote between rows";
      }
    }
  });
}

TEST(ElementwiseTest, RoundToHalvesGivesTheBitsOfTheScalarConversion) {
  ForEachTarget([] {
    std::vector<float> x = Random(2049, 7, 100.0f);
    for (size_t i = 0; i < 600; ++i) x[i] *= std::exp2(-static_cast<float>(i) / 20);  // subnormals and zeros
    const float edges[] = {
        0.0f,     -0.0f,     kInfinity, -kInfinity, 65519.0f,
        65520.0f, -65536.0f, 0x1p-14f,  0x1p-25f,   std::numeric_limits<float>::quiet_NaN()};
    std::copy(std::begin(edges), std::end(edges), x.begin() + 1000);
    for (const size_t count : kCounts) {
      std::vector<uint16_t> out(count + 1, 0xABCD);
      RoundToHalves(x.data(), count, out.data());
      for (size_t i = 0; i < count; ++i) ASSERT_EQ(out[i], F32ToF16(x[i])) << x[i];
      EXPECT_EQ(out[count], 0xABCD);
    }
  });
}

TEST(ElementwiseTest, LayerNorm) {
  ForEachTarget([] {
    for (const size_t cols : kCounts) {
      std::vector<float> x = Random(cols, 3);
      for (float& value : x) value += 50.0f;  // a mean far from zero
      const std::vector<float> weight = Random(cols, 4), bias = Random(cols, 5);
      for (const bool affine : {false, true}) {
        std::vector<float> out(cols);
        LayerNorm(x.data(), affine ? weight.data() : nullptr, affine ? bias.data() : nullptr, 1e-5f, 1, cols,
                  cols, out.data());
        double mean = 0, variance = 0;
        for (const float value : x) mean += value / static_cast<double>(cols);
        for (const float value : x) variance += (value - mean) * (value - mean) / static_cast<double>(cols);
        for (size_t c = 0; c < cols; ++c) {
          double expected = (x[c] - mean) / std::sqrt(variance + 1e-5f);
          if (affine) expected = expected * weight[c] + bias[c];
          // The mean as float32 moves every value by half an ulp of it.
          const double shift = 4e-6 / std::sqrt(variance + 1e-5f);
          ASSERT_NEAR(out[c], expected, 1e-5 + shift * (affine ? std::abs(weight[c]) : 1)) << cols;
        }
      }
    }
  });
}

double Exact(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kRelu:
      return x > 0 ? x : 0;
    case Activation::kRelu2:
      return x > 0 ? x * x : 0;
  }
  return NAN;
}

TEST(ElementwiseTest, ActivationsOverTheWholeRange) {
  std::vector<float> x;
  for (float v = -12; v < 12; v += 0.00173f) x.push_back(v);
  for (const float v : {0.0f, 1e-30f, -1e-30f, 90.0f, -90.0f, 1e30f, -1e30f, 1e10f, -3e38f}) x.push_back(v);
  const std::vector<float> up = Random(x.size(), 6);
  ForEachTarget([&] {
    for (const Activation a :
         {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu, Activation::kRelu}) {
      std::vector<float> y = x, gated = x;
      Activate(a, y.data(), y.size());
      ActivateGated(a, gated.data(), up.data(), gated.size());
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(y[i], Exact(a, x[i]), 4e-6 * std::abs(x[i])) << static_cast<int>(a) << " at " << x[i];
        ASSERT_EQ(gated[i], y[i] * up[i]) << x[i];
      }
      float bad = NAN;
      Activate(a, &bad, 1);
      EXPECT_TRUE(std::isnan(bad));
    }
  });
}

TEST(ElementwiseTest, XieluOverTheWholeRange) {
  const Xielu xielu{.square = 1.17f, .bend = 0.83f, .line = 0.5f, .below = -1e-6f};
  std::vector<float> x = {0.0f, 1e-30f, -1e-30f, -5e-7f, -1e-6f, -2e-6f, -90.0f, 1e10f, -1e30f, -3e38f};
  for (float v = -12; v < 12; v += 0.00173f) x.push_back(v);
  ForEachTarget([&] {
    std::vector<float> y = x;
    ActivateXielu(xielu, y.data(), y.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = x[i];
      const double bent = double{xielu.bend} * (std::expm1(std::min(v, double{xielu.below})) - v);
      const double exact = (v > 0 ? double{xielu.square} * v * v : bent) + double{xielu.line} * v;
      ASSERT_NEAR(y[i], exact, 4e-6 * std::max({std::abs(v) * 2.5, v > 0 ? v * v : 0, 2.5e-6})) << "at " << v;
    }
    float bad = NAN;
    ActivateXielu(xielu, &bad, 1);
    EXPECT_TRUE(std::isnan(bad));
  });
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST(ElementwiseTest, GatedRmsNorm) {
  ForEachTarget([] {
    for (const NormGate kind :
         {NormGate::kNone, NormGate::kSiluAfter, NormGate::kSigmoidAfter, NormGate::kSiluBefore}) {
      for (const size_t cols : kCounts) {
        const size_t stride = cols + 3;
        const std::vector<float> x = Random(2 * stride, 1), gate = Random(2 * stride, 2, 3.0f),
                                 weight = Random(cols, 3);
        std::vector<float> out = x;
        GatedRmsNorm(kind, out.data(), gate.data(), weight.data(), 1e-5f, 2, cols, stride, out.data());
        for (size_t r = 0; r < 2; ++r) {
          std::vector<double> row(x.begin() + static_cast<ptrdiff_t>(r * stride),
                                  x.begin() + static_cast<ptrdiff_t>(r * stride + cols));
          const float* const z = gate.data() + r * stride;
          double squares = 0;
          for (size_t c = 0; c < cols; ++c) {
            if (kind == NormGate::kSiluBefore) row[c] *= z[c] * Sigmoid(z[c]);
            squares += row[c] * row[c];
          }
          for (size_t c = 0; c < cols; ++c) {
            double expected = row[c] / std::sqrt(squares / static_cast<double>(cols) + 1e-5f) * weight[c];
            if (kind == NormGate::kSiluAfter) expected *= z[c] * Sigmoid(z[c]);
            if (kind == NormGate::kSigmoidAfter) expected *= Sigmoid(z[c]);
            ASSERT_NEAR(out[r * stride + c], expected, 8e-6 * std::abs(expected) + 1e-30)
                << static_cast<int>(kind) << " " << cols;
          }
        }
        EXPECT_EQ(out[cols], x[cols]) << "wrote between rows";
      }
    }
  });
}

TEST(ElementwiseTest, SoftplusOverTheWholeRange) {
  std::vector<float> x = {0.0f, 1e-30f, -1e-30f, 90.0f, -80.0f, 1e30f, -1e30f};
  for (float v = -12; v < 12; v += 0.0173f) x.push_back(v);
  ForEachTarget([&] {
    std::vector<float> y = x;
    SoftplusInPlace(y.data(), y.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::max(double{x[i]}, 0.0) + std::log1p(std::exp(-std::abs(double{x[i]})));
      ASSERT_NEAR(y[i], exact, 1e-6 * exact) << "at " << x[i];
    }
  });
}

TEST(ElementwiseTest, MultiplyAndSigmoidGate) {
  ForEachTarget([] {
    for (const size_t count : kCounts) {
      const std::vector<float> x = Random(count, 7), y = Random(count, 8, 20.0f);
      std::vector<float> product = x, gated = x;
      MultiplyInPlace(product.data(), y.data(), count);
      SigmoidGateInPlace(gated.data(), y.data(), count);
      for (size_t i = 0; i < count; ++i) {
        EXPECT_EQ(product[i], x[i] * y[i]);
        const double expected = x[i] * Sigmoid(y[i]);
        EXPECT_NEAR(gated[i], expected, 8e-6 * std::abs(expected) + 1e-30) << y[i];
      }
    }
  });
}

TEST(ElementwiseTest, AddScaleClampSoftCap) {
  ForEachTarget([] {
    for (const size_t count : kCounts) {
      const std::vector<float> x = Random(count, 7, 20.0f), y = Random(count, 8);
      std::vector<float> sum = x, scaled = x, clamped = x, capped = x;
      AddInPlace(sum.data(), y.data(), count);
      ScaleInPlace(scaled.data(), 1.5f, count);
      ClampInPlace(clamped.data(), 7.0f, count);
      SoftCapInPlace(capped.data(), 30.0f, count);
      for (size_t i = 0; i < count; ++i) {
        EXPECT_EQ(sum[i], x[i] + y[i]);
        EXPECT_EQ(scaled[i], x[i] * 1.5f);
        EXPECT_EQ(clamped[i], std::min(std::max(x[i], -7.0f), 7.0f));
        const double exact = 30.0 * std::tanh(x[i] / 30.0);
        EXPECT_NEAR(capped[i], exact, 1e-6 * std::abs(exact) + 1e-30);
      }
    }
    float values[] = {NAN, kInfinity, -kInfinity};
    ClampInPlace(values, 5.0f, 3);
    EXPECT_TRUE(std::isnan(values[0]));
    EXPECT_EQ(values[1], 5.0f);
    EXPECT_EQ(values[2], -5.0f);
    float capped[] = {NAN, kInfinity, -kInfinity};
    SoftCapInPlace(capped, 5.0f, 3);
    EXPECT_TRUE(std::isnan(capped[0]));
    EXPECT_EQ(capped[1], 5.0f);
    EXPECT_EQ(capped[2], -5.0f);
  });
}

TEST(ElementwiseTest, ArgMax) {
  ForEachTarget([] {
    for (const size_t count : kCounts) {
      std::vector<float> x = Random(count, 9);
      for (const size_t at : {size_t{0}, count / 2, count - 1}) {
        std::vector<float> y = x;
        y[at] = 100.0f;
        EXPECT_EQ(ArgMax(y.data(), count), at);
        for (size_t i = at; i < count; ++i) y[i] = 100.0f;  // ties: the first
        EXPECT_EQ(ArgMax(y.data(), count), at);
        for (size_t i = 0; i < at; ++i) y[i] = NAN;
        EXPECT_EQ(ArgMax(y.data(), count), at);
      }
      std::vector<float> none(count, NAN);
      EXPECT_EQ(ArgMax(none.data(), count), 0u);
      none.back() = -kInfinity;
      EXPECT_EQ(ArgMax(none.data(), count), count - 1);
    }
  });
}

TEST(ElementwiseTest, LogSumExp) {
  ForEachTarget([] {
    for (const size_t count : kCounts) {
      for (const float size : {1.0f, 100.0f}) {
        std::vector<float> x = Random(count, 10, size);
        long double maximum = x[0], sum = 0;
        for (const float value : x) maximum = std::max(maximum, static_cast<long double>(value));
        for (const float value : x) sum += std::exp(static_cast<long double>(value) - maximum);
        EXPECT_NEAR(LogSumExp(x.data(), count), static_cast<double>(maximum + std::log(sum)), 1e-12 * size);
        x[count / 2] = NAN;
        EXPECT_TRUE(std::isnan(LogSumExp(x.data(), count)));
      }
      std::vector<float> x(count, -kInfinity);
      EXPECT_EQ(LogSumExp(x.data(), count), -kInfinity);
      x[count / 2] = 2.0f;
      EXPECT_EQ(LogSumExp(x.data(), count), 2.0);
      x[0] = kInfinity;
      EXPECT_EQ(LogSumExp(x.data(), count), kInfinity);
    }
  });
}

}  // namespace
}  // namespace mneme
