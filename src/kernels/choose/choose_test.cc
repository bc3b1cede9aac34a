#include "kernels/choose/choose.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/aligned.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "kernels/attend/attend.h"
#include "kernels/simd/test_util.h"

namespace mneme {
namespace {

struct Slices {
  Slices(size_t key_dim, size_t num_slices, uint64_t seed) : dim(key_dim), count(num_slices) {
    Random random(seed);
    keys.resize(count * kBlockTokens * dim);
    for (float& key : keys) key = static_cast<float>(random.Normal());
    bytes = (ChoiceKeyBytes(dim) + 63) / 64 * 64;
    packed = MakeAligned<uint8_t>(bytes * count);
    for (size_t i = 0; i < count; ++i) {
      PackChoiceKeys(keys.data() + i * kBlockTokens * dim, dim, dim, packed.get() + i * bytes);
      pointers.push_back(packed.get() + i * bytes);
      first_tokens.push_back(static_cast<int32_t>(random.Below(kBlockTokens)));
    }
  }
  // The largest product with a token that counts, and what it may be off by.
  double Best(const float* q, size_t slice, double* error) const {
    double best = -INFINITY;
    *error = 0;
    for (auto token = static_cast<size_t>(first_tokens[slice]); token < kBlockTokens; ++token) {
      const float* const key = keys.data() + (slice * kBlockTokens + token) * dim;
      double dot = 0, sum = 0, largest = 0;
      for (size_t i = 0; i < dim; ++i) {
        dot += static_cast<double>(q[i]) * static_cast<double>(key[i]);
        sum += std::abs(static_cast<double>(q[i]));
        largest = std::max(largest, std::abs(static_cast<double>(key[i])));
      }
      best = std::max(best, dot);
      *error = std::max(*error, kChoiceError * sum * largest);
    }
    return best;
  }

  size_t dim, count, bytes = 0;
  std::vector<float> keys;
  AlignedArray<uint8_t> packed;
  std::vector<const uint8_t*> pointers;
  std::vector<int32_t> first_tokens;
};

TEST(Choose, ScoresAreTheLargestProductOfEachSlice) {
  testing::ForEachTarget([] {
    for (const size_t dim : {size_t{1}, size_t{16}, size_t{64}, size_t{96}, size_t{257}}) {
      for (const size_t num_queries : {size_t{1}, size_t{3}, size_t{4}, size_t{13}}) {
        const Slices slices(dim, 37, dim);
        Random random(num_queries);
        std::vector<float> q(num_queries * dim);
        for (float& value : q) value = static_cast<float>(random.Normal());
        std::vector<float> expected;
        for (const size_t num_threads : {size_t{1}, size_t{3}}) {
          ThreadPool pool(num_threads);
          std::vector<float> out(num_queries * slices.count);
          ScoreSlices({.slices = slices.pointers,
                       .first_tokens = slices.first_tokens,
                       .key_dim = dim,
                       .q = q.data(),
                       .num_queries = num_queries,
                       .out = out.data()},
                      pool);
          for (size_t i = 0; i < num_queries; ++i) {
            for (size_t slice = 0; slice < slices.count; ++slice) {
              double error;
              const double best = slices.Best(q.data() + i * dim, slice, &error);
              ASSERT_NEAR(static_cast<double>(out[i * slices.count + slice]), best, error);
            }
          }
          if (expected.empty()) expected = out;
          EXPECT_TRUE(out == expected);
        }
      }
    }
  });
}

TEST(Choose, WhatIsNotFiniteCountsAsZero) {
  Slices slices(8, 1, 5);
  slices.keys[3] = std::numeric_limits<float>::quiet_NaN();
  slices.keys[9] = std::numeric_limits<float>::infinity();
  PackChoiceKeys(slices.keys.data(), 8, 8, slices.packed.get());
  ThreadPool pool(1);
  const std::vector<float> q(8, 1.0f);
  float out = 0;
  ScoreSlices({.slices = slices.pointers,
               .first_tokens = slices.first_tokens,
               .key_dim = 8,
               .q = q.data(),
               .num_queries = 1,
               .out = &out},
              pool);
  EXPECT_TRUE(std::isfinite(out));
}

}  // namespace
}  // namespace mneme
