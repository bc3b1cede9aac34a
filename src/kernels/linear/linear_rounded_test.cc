// Products of float weights that were packed as bfloat16 or as 14-bit integers.
#include "kernels/linear/linear_test_util.h"

namespace mneme {
namespace {

class RoundedProductTargets : public LinearTargets {};
INSTANTIATE_TEST_SUITE_P(Targets, RoundedProductTargets,
                         ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return std::string(hwy::TargetName(info.param)); });

constexpr Encoding kFloatEncodings[] = {Encoding::kF32, Encoding::kF16, Encoding::kBF16};

double AsBFloat16(double value) { return BF16ToF32(F32ToBF16(static_cast<float>(value))); }

TEST_P(RoundedProductTargets, BFloat16ProductsMatchTheDoublePrecisionTwin) {
  ThreadPool pool(2);
  for (const Encoding encoding : kFloatEncodings) {
    // Odd columns, whole pieces, a piece with one column, and sums that go to memory and come back.
    for (const Shape shape : {Shape{1, 1}, {33, 257}, {16, 64}, {50, 172}, {40, 512}, {36, 2305}}) {
      SCOPED_TRACE(std::string(EncodingName(encoding)) + " " + std::to_string(shape.num_rows) + "x" +
                   std::to_string(shape.num_cols));
      TestWeights weights(encoding, shape.num_rows, shape.num_cols, 7);
      const size_t stride = shape.num_cols + 3;
      const size_t num_rows = 15;
      std::vector<float> x = RandomRows(num_rows, stride, 11);
      const LinearWeights linear = LinearWeights::Packed(weights.view, pool, FloatProducts::kBFloat16);
      ASSERT_EQ(linear.products(), FloatProducts::kBFloat16);
      const std::vector<float> out = Product(linear, x.data(), stride, num_rows, pool);
      EXPECT_LT(WorstError(weights, x, stride, num_rows, out, shape.num_rows), kBFloat16DotError);
      // What is left beside the rounding of both sides is that of float32 sums.
      for (double& weight : weights.decoded) weight = AsBFloat16(weight);
      for (float& value : x) value = static_cast<float>(AsBFloat16(value));
      EXPECT_LT(WorstError(weights, x, stride, num_rows, out, shape.num_rows), kFloatDotError);
    }
  }
}

// 1 + 2^-8 lies half-way between two bfloat16 and goes to the even one, 1: nothing is rounded further.
TEST_P(RoundedProductTargets, BFloat16ProductsOfTheWorstNumbersStayInTheirBound) {
  ThreadPool pool(1);
  for (const Shape shape : {Shape{1, 1}, {16, 300}}) {
    TestWeights weights(Encoding::kF32, shape.num_rows, shape.num_cols, 7);
    const std::vector<float> worst(shape.num_rows * shape.num_cols, 1.00390625f);
    std::memcpy(weights.bytes.data() + 1, worst.data(), worst.size() * sizeof(float));
    std::fill(weights.decoded.begin(), weights.decoded.end(), 1.00390625);
    const LinearWeights linear = LinearWeights::Packed(weights.view, pool, FloatProducts::kBFloat16);
    const std::vector<float> x(shape.num_cols, 1.00390625f);
    const std::vector<float> out = Product(linear, x.data(), shape.num_cols, 1, pool);
    const double error = WorstError(weights, x, shape.num_cols, 1, out, shape.num_rows);
    EXPECT_LT(error, kBFloat16DotError);
    EXPECT_GT(error, 0.9 * kBFloat16DotError);
  }
}

// Weights as packed 16-bit integers hold them: one scale for 256 columns of a row.
void RoundToInt16(TestWeights& weights) {
  constexpr size_t kStripCols = linear::kInt16StripBlocks * linear::kBlockCols;
  const size_t cols = weights.view.num_cols;
  for (size_t row = 0; row < weights.view.num_rows; ++row) {
    for (size_t first = 0; first < cols; first += kStripCols) {
      double* const values = weights.decoded.data() + row * cols + first;
      const size_t count = std::min(kStripCols, cols - first);
      double most = 0;
      for (size_t i = 0; i < count; ++i) most = std::max(most, std::abs(values[i]));
      for (size_t i = 0; i < count && most > 0; ++i) {
        const float inverse = static_cast<float>(linear::kInt16Most) / static_cast<float>(most);
        values[i] = std::nearbyint(static_cast<float>(values[i]) * inverse) * most / linear::kInt16Most;
      }
    }
  }
}

TEST_P(RoundedProductTargets, Int16ProductsMatchTheDoublePrecisionTwin) {
  ThreadPool pool(2);
  for (const Encoding encoding : kFloatEncodings) {
    // Parts of pairs, blocks and strips; whole strips; few and many tiles of rows, the last not full.
    for (const Shape shape : {Shape{1, 1}, {33, 257}, {16, 64}, {50, 172}, {40, 512}, {36, 2305}}) {
      for (const size_t num_rows : {4, 15}) {
        SCOPED_TRACE(std::string(EncodingName(encoding)) + " " + std::to_string(shape.num_rows) + "x" +
                     std::to_string(shape.num_cols) + ", " + std::to_string(num_rows) + " rows");
        TestWeights weights(encoding, shape.num_rows, shape.num_cols, 7);
        const size_t stride = shape.num_cols + 3;
        const std::vector<float> x = RandomRows(num_rows, stride, 11);
        const LinearWeights linear = LinearWeights::Packed(weights.view, pool, FloatProducts::kInt16);
        ASSERT_EQ(linear.products(), FloatProducts::kInt16);
        const std::vector<float> out = Product(linear, x.data(), stride, num_rows, pool);
        EXPECT_LT(WorstError(weights, x, stride, num_rows, out, shape.num_rows), kInt16DotError);
        // What is left beside the rounding of both sides is that of float32 sums.
        RoundToInt16(weights);
        const std::vector<float> rounded =
            Rounded(x, stride, num_rows, shape.num_cols, ActivationForm::kInt16, pool);
        EXPECT_LT(WorstError(weights, rounded, stride, num_rows, out, shape.num_rows), kFloatDotError);
      }
    }
  }
}

// Every magnitude at its most: no sum of 32 products leaves 32 bits, whatever the signs.
TEST_P(RoundedProductTargets, Int16ProductsDoNotOverflow) {
  ThreadPool pool(1);
  const size_t cols = 512, outputs = 16;
  TestWeights weights(Encoding::kF32, outputs, cols, 7);
  std::vector<float> values(outputs * cols);
  for (size_t i = 0; i < values.size(); ++i) values[i] = i / cols % 2 == 0 ? 3.0f : -3.0f;
  std::memcpy(weights.bytes.data() + 1, values.data(), values.size() * sizeof(float));
  const LinearWeights linear = LinearWeights::Packed(weights.view, pool, FloatProducts::kInt16);
  const std::vector<float> x(cols, 5.0f);
  const std::vector<float> out = Product(linear, x.data(), cols, 1, pool);
  for (size_t n = 0; n < outputs; ++n) EXPECT_NEAR(out[n], (n % 2 == 0 ? 15.0f : -15.0f) * cols, 0.01f);
}

// The error of the product of one row of weights and one of activations.
double Int16Error(const std::vector<float>& values, const std::vector<float>& x) {
  ThreadPool pool(1);
  const size_t cols = x.size();
  TestWeights weights(Encoding::kF32, 1, cols, 7);
  std::memcpy(weights.bytes.data() + 1, values.data(), cols * sizeof(float));
  weights.decoded.assign(values.begin(), values.end());
  const LinearWeights linear = LinearWeights::Packed(weights.view, pool, FloatProducts::kInt16);
  return WorstError(weights, x, cols, 1, Product(linear, x.data(), cols, 1, pool), 1);
}

// A little below half a step beside a large number is lost, of 31 activations or of 255 weights; the bound
// knows of it.
TEST_P(RoundedProductTargets, Int16ProductsOfTheWorstNumbersStayInTheirBound) {
  for (const size_t count : {linear::kBlockCols, linear::kInt16StripBlocks * linear::kBlockCols}) {
    std::vector<float> large(count, 0.499f), ones(count, 1.0f);
    large[0] = static_cast<float>(linear::kInt16Most);
    ones[0] = 0.0f;
    const bool of_activations = count == linear::kBlockCols;
    const double error = of_activations ? Int16Error(ones, large) : Int16Error(large, ones);
    EXPECT_LT(error, kInt16DotError);
    EXPECT_GT(error, 0.95 * std::sqrt(static_cast<double>(count)) / (2 * linear::kInt16Most));
  }
}

// A row of weights with a value that is not finite gives NaN; the others do not notice.
void CheckNotFiniteWeight(float value) {
  ThreadPool pool(1);
  const size_t cols = 300, outputs = 20;
  TestWeights weights(Encoding::kF32, outputs, cols, 3);
  const std::vector<float> x = RandomRows(3, cols, 5);
  const auto product = [&] {
    return Product(LinearWeights::Packed(weights.view, pool, FloatProducts::kInt16), x.data(), cols, 3, pool);
  };
  const std::vector<float> clean = product();
  std::memcpy(weights.bytes.data() + 1 + (7 * cols + 290) * sizeof(float), &value, sizeof(value));
  const std::vector<float> out = product();
  for (size_t i = 0; i < out.size(); ++i) {
    if (i % outputs == 7) {
      EXPECT_TRUE(std::isnan(out[i])) << i;
    } else {
      EXPECT_EQ(out[i], clean[i]) << i;
    }
  }
}

TEST_P(RoundedProductTargets, Int16WeightsThatAreNotFiniteStayInTheirRow) {
  CheckNotFiniteWeight(std::numeric_limits<float>::infinity());
  CheckNotFiniteWeight(std::numeric_limits<float>::quiet_NaN());
}

TEST_P(RoundedProductTargets, RoundedProductsGiveTheSameBitsForAnyNumberOfRowsAndThreads) {
  ThreadPool one(1), three(3);
  const size_t cols = 1355, outputs = 213;
  const auto check = [&](Encoding encoding, FloatProducts products) {
    const TestWeights weights(encoding, outputs, cols, 3);
    const LinearWeights linear = LinearWeights::Packed(weights.view, one, products);
    const std::vector<float> x = RandomRows(40, cols, 5);
    std::vector<float> expected;
    for (size_t r = 0; r < 40; ++r) {
      const std::vector<float> row = Product(linear, x.data() + r * cols, cols, 1, one);
      expected.insert(expected.end(), row.begin(), row.end());
    }
    for (const size_t num_rows : {2, 3, 5, 6, 7, 11, 12, 13, 40}) {
      for (ThreadPool* pool : {&one, &three}) {
        const std::vector<float> out = Product(linear, x.data(), cols, num_rows, *pool);
        ASSERT_EQ(0, std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)))
            << EncodingName(encoding) << " " << num_rows << " rows, " << pool->num_threads() << " threads";
      }
    }
  };
  for (const Encoding encoding : kFloatEncodings) {
    for (const FloatProducts products : kRoundedProducts) check(encoding, products);
  }
}

void CheckRoundedBiasAndNaN(FloatProducts products) {
  ThreadPool pool(1);
  const size_t cols = 1281, outputs = 21;
  const TestWeights weights(Encoding::kF16, outputs, cols, 3);
  const LinearWeights linear = LinearWeights::Packed(weights.view, pool, products);
  const std::vector<float> bias(outputs, 3.0f);
  for (const size_t num_rows : {3, 20}) {
    std::vector<float> x = RandomRows(num_rows, cols, 5);
    const std::vector<float> plain = Product(linear, x.data(), cols, num_rows, pool);
    x[cols + 1280] = std::numeric_limits<float>::quiet_NaN();  // in a pair with nothing beside it
    ActivationRows rows(num_rows, cols, FormFor(linear));
    rows.Set(x.data(), num_rows, cols, cols, FormFor(linear), pool);
    std::vector<float> out(num_rows * outputs, 2.0f);
    const MatMulJob job = {.weights = &linear,
                           .bias = bias.data(),
                           .out = out.data(),
                           .out_stride = outputs,
                           .accumulate = true};
    MatMul(rows, {&job, 1}, pool);
    for (size_t i = 0; i < out.size(); ++i) {
      if (i / outputs == 1) {
        EXPECT_TRUE(std::isnan(out[i])) << i;
      } else {
        EXPECT_NEAR(out[i], plain[i] + 5.0f, 1e-5f * (std::abs(plain[i]) + 40)) << i;
      }
    }
  }
}

TEST_P(RoundedProductTargets, RoundedProductsTakeBiasAndAccumulateAndKeepNaNInItsRow) {
  for (const FloatProducts products : kRoundedProducts) CheckRoundedBiasAndNaN(products);
}

TEST(LinearWeights, RoundedProductsAreForFloatWeightsAlone) {
  ThreadPool pool(1);
  const TestWeights weights(Encoding::kQ8_0, 32, 64, 3);
  for (const FloatProducts products : kRoundedProducts) {
    const LinearWeights linear = LinearWeights::Packed(weights.view, pool, products);
    EXPECT_EQ(linear.products(), FloatProducts::kFloat32);
    EXPECT_EQ(linear.read_bytes(), LinearWeights::PackedBytes(Encoding::kQ8_0, 32, 64));
  }
  // Half of the bytes of float32.
  EXPECT_EQ(LinearWeights::PackedBytes(Encoding::kF32, 32, 64, FloatProducts::kBFloat16), 32u * 64 * 2);
  // The same and four bytes for 256.
  EXPECT_EQ(LinearWeights::PackedBytes(Encoding::kF32, 32, 512, FloatProducts::kInt16),
            32u * (512 * 2 + 2 * 4));
}

TEST(ActivationForms, CommonFormHasWhatEitherNeeds) {
  const auto common = [](Encoding a, Encoding b, FloatProducts products) {
    return CommonForm(FormFor(a, products), FormFor(b, products));
  };
  constexpr FloatProducts kFloat32 = FloatProducts::kFloat32, kInt16 = FloatProducts::kInt16;
  EXPECT_EQ(common(Encoding::kF16, Encoding::kF32, kFloat32), ActivationForm::kFloat);
  EXPECT_EQ(common(Encoding::kF16, Encoding::kF32, kInt16), ActivationForm::kInt16);
  EXPECT_EQ(common(Encoding::kF16, Encoding::kQ4_K, kFloat32), ActivationForm::kBlocks256);
  EXPECT_EQ(common(Encoding::kQ8_0, Encoding::kQ4_K, kInt16), ActivationForm::kBlocks32);
  EXPECT_EQ(common(Encoding::kQ8_0, Encoding::kF16, kInt16), (ActivationForm{.block8 = 32, .int16 = true}));
  EXPECT_EQ(ActivationRows::Bytes(10, 512, ActivationForm::kFloat), 0u);
  EXPECT_EQ(ActivationRows::Bytes(10, 512, {.block8 = 32, .int16 = true}),
            ActivationRows::Bytes(10, 512, ActivationForm::kBlocks32) +
                ActivationRows::Bytes(10, 512, ActivationForm::kInt16));
}

}  // namespace
}  // namespace mneme
