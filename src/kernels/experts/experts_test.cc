#include "kernels/experts/experts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/linear/linear.h"
#include "reference/experts.h"

namespace mneme {
namespace {

std::vector<float> Random(size_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

std::vector<RouterShape> Shapes() {
  return {
      {.num_experts = 8, .num_used = 2, .renormalise = true},
      {.num_experts = 60, .num_used = 4},
      {.num_experts = 5, .num_used = 5, .scale = 2.5f},
      {.num_experts = 32, .num_used = 4, .score = RouterScore::kSoftmaxChosen},
      {.num_experts = 64, .num_used = 6, .score = RouterScore::kSigmoid, .renormalise = true, .scale = 1.5f},
      {.num_experts = 16,
       .num_used = 3,
       .score = RouterScore::kSigmoid,
       .renormalise = true,
       .num_groups = 4,
       .num_used_groups = 2},
      {.num_experts = 12, .num_used = 2, .num_groups = 3, .num_used_groups = 1},
      {.num_experts = 16, .num_used = 2, .score = RouterScore::kSparseMixer, .nearness = 0.5f},
  };
}

TEST(Experts, RoutesAsTheTwinDoes) {
  constexpr size_t kRows = 40;
  for (const RouterShape& shape : Shapes()) {
    for (const bool has_correction : {false, true}) {
      if (has_correction && shape.score == RouterScore::kSparseMixer) continue;  // there is none
      const std::vector<float> logits = Random(kRows * shape.num_experts, 3, 2.0f);
      const std::vector<float> correction =
          has_correction ? Random(shape.num_experts, 4, 0.3f) : std::vector<float>();
      std::vector<int32_t> experts(kRows * shape.num_used);
      std::vector<float> weights(kRows * shape.num_used);
      Route(shape, logits.data(), has_correction ? correction.data() : nullptr, kRows, experts.data(),
            weights.data());
      for (size_t row = 0; row < kRows; ++row) {
        const auto first = logits.begin() + static_cast<ptrdiff_t>(row * shape.num_experts);
        const std::vector<double> in_double(first, first + static_cast<ptrdiff_t>(shape.num_experts));
        const std::vector<double> expected = ReferenceRoute(shape, in_double, correction);
        size_t num_chosen = 0;
        for (const double weight : expected) num_chosen += weight != 0 ? 1 : 0;
        ASSERT_EQ(num_chosen, shape.num_used);
        for (size_t i = 0; i < shape.num_used; ++i) {
          const size_t at = row * shape.num_used + i;
          if (i > 0) {
            ASSERT_LT(experts[at - 1], experts[at]);
          }
          const double exact = expected[static_cast<size_t>(experts[at])];
          ASSERT_NEAR(weights[at], exact, kRouteError * exact);
        }
      }
    }
  }
}

TEST(Experts, TiesGoToTheLowerNumberAndNanHurtsItsRowAlone) {
  const RouterShape shape{.num_experts = 4, .num_used = 2, .renormalise = true};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {1, 1, 1, 1, nan, 2, 3, 1, 0, 5, 0, 5};
  std::vector<int32_t> experts(6);
  std::vector<float> weights(6);
  Route(shape, logits.data(), nullptr, 3, experts.data(), weights.data());
  EXPECT_EQ(experts[0], 0);
  EXPECT_EQ(experts[1], 1);
  EXPECT_FLOAT_EQ(weights[0], 0.5f);
  EXPECT_TRUE(std::isnan(weights[2]) && std::isnan(weights[3]));
  EXPECT_EQ(experts[4], 1);
  EXPECT_EQ(experts[5], 3);
}

// All experts of a layer, in float32.
struct Layer {
  static constexpr size_t kDim = 24, kModelDim = 32;
  explicit Layer(size_t num_experts) {
    for (size_t e = 0; e < num_experts; ++e) {
      const auto seed = static_cast<uint32_t>(10 * e);
      values.push_back({Random(kDim * kModelDim, seed + 1, 0.3f), Random(kDim * kModelDim, seed + 2, 0.3f),
                        Random(kModelDim * kDim, seed + 3, 0.3f), Random(kDim, seed + 4),
                        Random(kDim, seed + 5), Random(kModelDim, seed + 6)});
    }
    const auto view = [](const std::vector<float>& v, size_t rows, size_t cols) {
      return LinearWeights::InPlace({Encoding::kF32, rows, cols, reinterpret_cast<const uint8_t*>(v.data())});
    };
    for (const auto& v : values) {
      weights.push_back(view(v[0], kDim, kModelDim));
      weights.push_back(view(v[1], kDim, kModelDim));
      weights.push_back(view(v[2], kModelDim, kDim));
    }
    for (size_t e = 0; e < num_experts; ++e) {
      matrices.push_back({.gate = &weights[3 * e],
                          .up = &weights[3 * e + 1],
                          .down = &weights[3 * e + 2],
                          .gate_bias = values[e][3].data(),
                          .up_bias = values[e][4].data(),
                          .down_bias = values[e][5].data()});
    }
  }

  std::vector<float> Run(const RouterShape& router, float clamp, const float* scale, const float* logits,
                         const float* x, size_t num_rows, size_t num_threads,
                         bool weighs_inputs = false) const {
    ThreadPool pool(num_threads);
    std::vector<float> out(num_rows * kModelDim, 7.0f);
    std::vector<float> scratch(ExpertsScratchFloats(num_rows, router.num_used, kDim, kModelDim));
    auto memory = MakeAligned<uint8_t>(ActivationRows::Bytes(num_rows, kModelDim, ActivationForm::kFloat));
    RunExperts({.router = router,
                .logits = logits,
                .expert_scale = scale,
                .experts = matrices,
                .clamp = clamp,
                .weighs_inputs = weighs_inputs,
                .x = x,
                .num_rows = num_rows,
                .out = out.data(),
                .scratch = scratch.data(),
                .rows_memory = memory.get()},
               pool);
    return out;
  }

  std::vector<double> Exact(size_t e, float clamp, const float* x) const {
    const auto product = [](const std::vector<float>& w, const std::vector<float>& bias, const auto* in,
                            size_t rows, size_t cols) {
      std::vector<double> result(rows);
      for (size_t r = 0; r < rows; ++r) {
        result[r] = static_cast<double>(bias[r]);
        for (size_t c = 0; c < cols; ++c) {
          result[r] += static_cast<double>(w[r * cols + c]) * static_cast<double>(in[c]);
        }
      }
      return result;
    };
    const auto& v = values[e];
    std::vector<double> gate = product(v[0], v[3], x, kDim, kModelDim);
    const std::vector<double> up = product(v[1], v[4], x, kDim, kModelDim);
    const double limit = static_cast<double>(clamp);
    for (size_t i = 0; i < kDim; ++i) {
      const double g = limit > 0 ? std::min(gate[i], limit) : gate[i];
      gate[i] = limit > 0 ? (std::clamp(up[i], -limit, limit) + 1) * g / (1 + std::exp(-1.702 * g))
                          : up[i] * g / (1 + std::exp(-g));
    }
    return product(v[2], v[5], gate.data(), kModelDim, kDim);
  }

  std::vector<std::vector<std::vector<float>>> values;
  std::vector<LinearWeights> weights;
  std::vector<ExpertMatrices> matrices;
};

TEST(Experts, WeighsWhatAnExpertReads) {
  constexpr size_t kRows = 5, kExperts = 4;
  const RouterShape router{.num_experts = kExperts, .num_used = 2, .score = RouterScore::kSigmoid};
  Layer layer(kExperts);
  for (auto& v : layer.values) {
    for (size_t i = 3; i < 6; ++i) std::fill(v[i].begin(), v[i].end(), 0.0f);
  }
  for (ExpertMatrices& e : layer.matrices) e.gate_bias = e.up_bias = e.down_bias = nullptr;
  const std::vector<float> x = Random(kRows * Layer::kModelDim, 1);
  const std::vector<float> logits = Random(kRows * kExperts, 5, 2.0f);
  for (const size_t num_rows : {kRows, size_t{1}}) {
    const std::vector<float> out =
        layer.Run(router, 0, nullptr, logits.data(), x.data(), num_rows, 1, /*weighs_inputs=*/true);
    for (size_t row = 0; row < num_rows; ++row) {
      const std::vector<double> in_double(logits.begin() + static_cast<ptrdiff_t>(row * kExperts),
                                          logits.begin() + static_cast<ptrdiff_t>((row + 1) * kExperts));
      const std::vector<double> weights = ReferenceRoute(router, in_double, {});
      std::vector<double> exact(Layer::kModelDim);
      for (size_t e = 0; e < kExperts; ++e) {
        if (weights[e] == 0) continue;
        std::vector<float> read(x.begin() + static_cast<ptrdiff_t>(row * Layer::kModelDim),
                                x.begin() + static_cast<ptrdiff_t>((row + 1) * Layer::kModelDim));
        for (float& value : read) value *= static_cast<float>(weights[e]);
        const std::vector<double> one = layer.Exact(e, 0, read.data());
        for (size_t i = 0; i < exact.size(); ++i) exact[i] += one[i];
      }
      for (size_t i = 0; i < exact.size(); ++i) {
        ASSERT_NEAR(out[row * Layer::kModelDim + i], exact[i], 3 * kFloatDotError * 10);
      }
    }
  }
}

TEST(Experts, MixesAsWrittenOut) {
  constexpr size_t kRows = 9, kExperts = 6;
  const RouterShape router{.num_experts = kExperts, .num_used = 2, .renormalise = true};
  const Layer layer(kExperts);
  const std::vector<float> x = Random(kRows * Layer::kModelDim, 1), scale = Random(kExperts, 2);
  const std::vector<float> logits = Random(kRows * kExperts, 5, 2.0f);
  for (const float clamp : {0.0f, 1.5f}) {
    const std::vector<float> out = layer.Run(router, clamp, scale.data(), logits.data(), x.data(), kRows, 1);
    for (size_t row = 0; row < kRows; ++row) {
      const std::vector<double> in_double(logits.begin() + static_cast<ptrdiff_t>(row * kExperts),
                                          logits.begin() + static_cast<ptrdiff_t>((row + 1) * kExperts));
      const std::vector<double> weights = ReferenceRoute(router, in_double, {});
      std::vector<double> exact(Layer::kModelDim);
      for (size_t e = 0; e < kExperts; ++e) {
        if (weights[e] == 0) continue;
        const std::vector<double> one = layer.Exact(e, clamp, x.data() + row * Layer::kModelDim);
        for (size_t i = 0; i < exact.size(); ++i)
          exact[i] += weights[e] * static_cast<double>(scale[e]) * one[i];
      }
      for (size_t i = 0; i < exact.size(); ++i) {
        // Three products of some dozens of terms, of values of a few units.
        ASSERT_NEAR(out[row * Layer::kModelDim + i], exact[i], 3 * kFloatDotError * 10);
      }
    }
  }
}

// A row alone, whose experts share a call, gives the bits of the row among others, on any number of threads.
TEST(Experts, ARowDoesNotDependOnTheOthers) {
  constexpr size_t kRows = 33, kExperts = 8;
  const RouterShape router{.num_experts = kExperts, .num_used = 3};
  const Layer layer(kExperts);
  const std::vector<float> x = Random(kRows * Layer::kModelDim, 1);
  const std::vector<float> logits = Random(kRows * kExperts, 5, 2.0f);
  const std::vector<float> all = layer.Run(router, 0, nullptr, logits.data(), x.data(), kRows, 1);
  EXPECT_EQ(layer.Run(router, 0, nullptr, logits.data(), x.data(), kRows, 3), all);
  for (size_t row = 0; row < kRows; ++row) {
    const std::vector<float> one = layer.Run(router, 0, nullptr, logits.data() + row * kExperts,
                                             x.data() + row * Layer::kModelDim, 1, 1 + row % 3);
    for (size_t i = 0; i < one.size(); ++i) ASSERT_EQ(one[i], all[row * Layer::kModelDim + i]) << row;
  }
}

}  // namespace
}  // namespace mneme
