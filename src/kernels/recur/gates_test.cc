#include "kernels/recur/gates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/simd/test_util.h"

namespace mneme {
namespace {

double Softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

std::vector<float> RandomFloats(size_t count, uint64_t seed, double size) {
  std::vector<float> values(count);
  Random random(seed);
  for (float& value : values) value = static_cast<float>(size * random.Normal());
  return values;
}

TEST(Gates, MatchTheDefinitionOverTheWholeRange) {
  testing::ForEachTarget([] {
    for (const size_t num_heads : {1, 5, 16, 33}) {
      for (const double size : {1.0, 30.0}) {
        constexpr size_t kRows = 40;
        const std::vector<float> step = RandomFloats(kRows * num_heads, 1, size),
                                 strength = RandomFloats(kRows * num_heads, 2, size),
                                 bias = RandomFloats(num_heads, 3, 1), rate = RandomFloats(num_heads, 4, 2);
        std::vector<float> log_decay = step, beta(step.size());
        GatesCall call{.num_rows = kRows, .num_heads = num_heads, .step = log_decay.data()};
        call.step_bias = bias.data();
        call.rate = rate.data();
        call.strength = strength.data();
        call.most_strength = size > 1 ? 2.0f : 1.0f;
        call.log_decay = log_decay.data();
        call.beta = beta.data();
        Gates(call);
        for (size_t i = 0; i < step.size(); ++i) {
          // The sum with the bias is float32: what it loses moves softplus by as much.
          const double sum = step[i] + bias[i % num_heads];
          const double s = Softplus(sum);
          const double expected = double{rate[i % num_heads]} * s;
          const double tolerance = kGatesError + 6e-8 * std::abs(sum);
          ASSERT_NEAR(log_decay[i], expected, tolerance * std::abs(expected) + 1e-36) << step[i];
          const double open = call.most_strength / (1 + std::exp(-double{strength[i]}));
          ASSERT_NEAR(beta[i], open, (kGatesError + 6e-8 * std::abs(strength[i])) * open + 1e-36)
              << strength[i];
        }
      }
    }
  });
}

TEST(Gates, MambaWritesWithTheStepItself) {
  testing::ForEachTarget([] {
    const std::vector<float> step = {-3, 0, 1, 8, NAN}, rate = {-1, -2, -3, -4, -5};
    std::vector<float> log_decay(5), beta(5);
    GatesCall call{.num_rows = 1, .num_heads = 5, .step = step.data(), .rate = rate.data()};
    call.min_step = 0.1f;
    call.max_step = 2.0f;
    call.log_decay = log_decay.data();
    call.beta = beta.data();
    Gates(call);
    EXPECT_EQ(beta[0], 0.1f);
    EXPECT_NEAR(beta[1], std::log(2.0), 1e-6);
    EXPECT_NEAR(beta[2], std::log(1 + std::exp(1.0)), 1e-6);
    EXPECT_EQ(beta[3], 2.0f);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(log_decay[i], beta[i] * rate[i]);
    EXPECT_TRUE(std::isnan(beta[4]));
    EXPECT_TRUE(std::isnan(log_decay[4]));
  });
}

// RG-LRU: what a token adds makes up for what it makes forget, and the first token counts in full.
TEST(Gates, NormalisedOnesKeepTheSize) {
  testing::ForEachTarget([] {
    constexpr size_t kRows = 30, kHeads = 21;
    const std::vector<float> step = RandomFloats(kRows * kHeads, 5, 4),
                             strength = RandomFloats(kRows * kHeads, 6, 4);
    std::vector<float> rate = RandomFloats(kHeads, 7, 1), log_decay = step, beta = strength;
    for (float& value : rate) value = -8 * std::abs(value);
    rate[3] = -1e-4f;  // nearly nothing is forgotten: the square root of a small difference
    const std::vector<size_t> first_rows = {2, 11};
    GatesCall call{.num_rows = kRows, .num_heads = kHeads, .step = log_decay.data()};
    call.rate = rate.data();
    call.strength = beta.data();
    call.is_normalised = true;
    call.first_rows = first_rows;
    call.log_decay = log_decay.data();
    call.beta = beta.data();
    Gates(call);
    for (size_t i = 0; i < step.size(); ++i) {
      const bool is_first = i / kHeads == 2 || i / kHeads == 11;
      const double open = 1 / (1 + std::exp(-double{strength[i]}));
      const double expected = double{rate[i % kHeads]} / (1 + std::exp(-double{step[i]}));
      const double size = is_first ? 1 : std::sqrt(-std::expm1(2 * expected));
      ASSERT_NEAR(beta[i], open * size, 2 * kGatesError * open * size + 1e-36) << i;
      if (is_first) {
        ASSERT_EQ(log_decay[i], -std::numeric_limits<float>::infinity());
      } else {
        ASSERT_NEAR(log_decay[i], expected, -2 * kGatesError * expected) << i;
      }
    }
  });
}

}  // namespace
}  // namespace mneme
