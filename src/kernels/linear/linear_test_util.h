// What the tests of products share: weights and activations at random, their double-precision twin, and a
// test per SIMD target.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/half.h"
#include "base/random.h"
#include "formats/quant.h"
#include "kernels/linear/layout.h"
#include "kernels/linear/linear.h"
#include "kernels/simd/targets.h"

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#include "hwy/highway.h"

namespace mneme {

inline constexpr Encoding kEncodings[] = {
    Encoding::kF32,  Encoding::kF16,   Encoding::kBF16,   Encoding::kQ8_0,   Encoding::kQ4_0, Encoding::kQ4_1,
    Encoding::kQ5_0, Encoding::kQ5_1,  Encoding::kQ2_K,   Encoding::kQ3_K,   Encoding::kQ4_K, Encoding::kQ5_K,
    Encoding::kQ6_K, Encoding::kMXFP4, Encoding::kIQ4_NL, Encoding::kIQ4_XS,
};

// Byte offsets of the half-precision factors in a block.
inline std::vector<size_t> HalfOffsets(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ4_1:
    case Encoding::kQ5_1:
    case Encoding::kQ4_K:
    case Encoding::kQ5_K:
      return {0, 2};
    case Encoding::kQ2_K:
      return {80, 82};
    case Encoding::kQ3_K:
      return {108};
    case Encoding::kQ6_K:
      return {208};
    default:
      return {0};
  }
}

// Stored weights of random bits, so that every level and scale occurs, with factors of moderate size. One
// byte off alignment, as in a file.
struct TestWeights {
  TestWeights(Encoding encoding, size_t num_rows, size_t num_cols, uint64_t seed) : random(seed) {
    view = {.encoding = encoding, .num_rows = num_rows, .num_cols = num_cols, .data = nullptr};
    const size_t num_values = num_rows * num_cols;
    bytes.resize(EncodedBytes(encoding, num_values) + 1);
    uint8_t* data = bytes.data() + 1;
    if (linear::IsFloat(encoding)) {
      std::vector<float> values(num_values);
      for (float& value : values) value = static_cast<float>(random.Normal());
      EncodeBlocks(encoding, values.data(), num_values, data);
    } else {
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next());
      const size_t block_bytes = EncodingBlockBytes(encoding);
      for (size_t at = 0; at + 1 < bytes.size(); at += block_bytes) {
        // A power of two has no half-precision factor.
        if (encoding == Encoding::kMXFP4) {
          data[at] = static_cast<uint8_t>(118 + random.Next() % 8);
          continue;
        }
        for (const size_t offset : HalfOffsets(encoding)) {
          const uint16_t half = F32ToF16(static_cast<float>(random.Normal()) * 0.05f);
          std::memcpy(data + at + offset, &half, 2);
        }
      }
    }
    view.data = data;
    decoded.resize(num_values);
    DecodeBlocksReference(encoding, data, num_values, decoded.data());
  }

  Random random;
  WeightView view;
  std::vector<uint8_t> bytes;
  std::vector<double> decoded;
};

inline std::vector<float> RandomRows(size_t num_rows, size_t stride, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(num_rows * stride);
  for (float& value : x) value = static_cast<float>(random.Normal() * std::exp(random.Normal()));
  return x;
}

// The highest error of `out` against the double-precision product, relative to |x||w|.
inline double WorstError(const TestWeights& weights, const std::vector<float>& x, size_t stride,
                         size_t num_rows, const std::vector<float>& out, size_t out_stride) {
  const size_t cols = weights.view.num_cols;
  double worst = 0;
  for (size_t r = 0; r < num_rows; ++r) {
    for (size_t n = 0; n < weights.view.num_rows; ++n) {
      double sum = 0, norm_w = 0, norm_x = 0;
      for (size_t k = 0; k < cols; ++k) {
        const double w = weights.decoded[n * cols + k];
        const double value = x[r * stride + k];
        sum += w * value;
        norm_w += w * w;
        norm_x += value * value;
      }
      const double error =
          std::abs(sum - static_cast<double>(out[r * out_stride + n])) / std::sqrt(norm_w * norm_x);
      worst = error <= worst ? worst : error;  // NaN counts as worst
    }
  }
  return worst;
}

inline std::vector<float> Product(const LinearWeights& weights, const float* x, size_t stride,
                                  size_t num_rows, ThreadPool& pool,
                                  std::optional<ActivationForm> form = std::nullopt) {
  const ActivationForm taken = form.value_or(FormFor(weights));
  ActivationRows rows(num_rows, weights.num_cols(), taken);
  rows.Set(x, num_rows, weights.num_cols(), stride, taken, pool);
  std::vector<float> out(num_rows * weights.num_rows());
  const MatMulJob job = {.weights = &weights, .out = out.data(), .out_stride = weights.num_rows()};
  MatMul(rows, {&job, 1}, pool);
  return out;
}

// Weights with a minimum per block of 32 meet the block's sum rounded to half precision: 2^-11 of it.
inline bool HasRoundedSums(Encoding encoding) {
  return encoding == Encoding::kQ4_1 || encoding == Encoding::kQ5_1;
}

// The rows as integer products see them.
inline std::vector<float> Rounded(const std::vector<float>& x, size_t stride, size_t num_rows,
                                  size_t num_cols, ActivationForm form, ThreadPool& pool) {
  ActivationRows rows(num_rows, num_cols, form);
  rows.Set(x.data(), num_rows, num_cols, stride, form, pool);
  std::vector<float> out(num_rows * stride);
  const auto dequantise = form.int16 ? linear::DequantiseInt16Row : linear::DequantiseRow;
  for (size_t r = 0; r < num_rows; ++r) dequantise(rows, r, out.data() + r * stride);
  return out;
}

// MatMulThen and MatMul give the products of both matrices; `finish` has each output once.
inline void CheckHandedOn(const LinearWeights (&weights)[2], const std::vector<float>& x, size_t num_rows) {
  ThreadPool one(1);
  const size_t cols = weights[0].num_cols(), outputs = weights[0].num_rows();
  const ActivationForm form = CommonForm(FormFor(weights[0]), FormFor(weights[1]));
  ActivationRows rows(num_rows, cols, form);
  rows.Set(x.data(), num_rows, cols, cols, form, one);
  const std::vector<float> plain[] = {Product(weights[0], x.data(), cols, num_rows, one, form),
                                      Product(weights[1], x.data(), cols, num_rows, one, form)};
  std::vector<float> multiplied = plain[0];
  for (size_t i = 0; i < multiplied.size(); ++i) multiplied[i] *= plain[1][i];
  for (const size_t num_threads : {1, 2, 3}) {
    ThreadPool pool(num_threads);
    std::vector<float> outs[] = {std::vector<float>(num_rows * outputs),
                                 std::vector<float>(num_rows * outputs)};
    const MatMulJob jobs[] = {
        {.weights = &weights[0], .out = outs[0].data(), .out_stride = outputs},
        {.weights = &weights[1], .out = outs[1].data(), .out_stride = outputs},
    };
    MatMulThen(rows, jobs, pool, [&](size_t first, size_t last) {
      EXPECT_EQ(first % 16, 0u);
      for (size_t row = 0; row < num_rows; ++row) {
        for (size_t n = first; n < last; ++n) outs[0][row * outputs + n] *= outs[1][row * outputs + n];
      }
    });
    ASSERT_EQ(outs[0], multiplied) << outputs << " outputs, " << num_rows << " rows, " << num_threads
                                   << " threads";
    MatMul(rows, jobs, pool);
    ASSERT_EQ(outs[0], plain[0]);
    ASSERT_EQ(outs[1], plain[1]);
  }
}

// Runs each test once per SIMD target of this machine.
class LinearTargets : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

struct Shape {
  size_t num_rows, num_cols;
};

inline constexpr FloatProducts kRoundedProducts[] = {FloatProducts::kBFloat16, FloatProducts::kInt16};

}  // namespace mneme
