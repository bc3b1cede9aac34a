// The differentiable memory against its other half, the double-precision twin in kernels/memory/memory.h.
#include "train/memory_ops.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/random.h"

namespace mneme::train {
namespace {

using torch::Tensor;

constexpr int64_t kHeads = 4, kKvHeads = 2, kTokens = 7, kKeyDim = 6, kValueDim = 5, kSegments = 3;

Tensor Values(std::vector<int64_t> shape, uint64_t seed) {
  Random random(seed);
  Tensor tensor = torch::empty(shape, torch::kFloat64);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data_ptr<double>()[i] = static_cast<float>(random.Normal());
  return tensor;
}

std::vector<float> Floats(const Tensor& tensor) {
  const Tensor flat = tensor.to(torch::kFloat32).contiguous();
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}

class MemoryOps : public ::testing::TestWithParam<MemoryUpdate> {
 protected:
  MemoryShape shape() const {
    return {.num_heads = kHeads,
            .num_kv_heads = kKvHeads,
            .key_dim = kKeyDim,
            .value_dim = kValueDim,
            .update = GetParam()};
  }
  bool gated() const { return GetParam() == MemoryUpdate::kGatedDelta; }
};

TEST_P(MemoryOps, EqualsTheTwinOverSegments) {
  MemoryTensors memory = EmptyMemory(1, kKvHeads, kKeyDim, kValueDim, torch::kFloat64);
  std::vector<double> twin(shape().num_floats(), 0.0);
  for (int64_t s = 0; s < kSegments; ++s) {
    const auto seed = static_cast<uint64_t>(10 * s);
    // Token-major as the engine has them.
    const Tensor q = Values({kTokens, kHeads, kKeyDim}, seed + 1),
                 k = Values({kTokens, kKvHeads, kKeyDim}, seed + 2);
    const Tensor v = Values({kTokens, kKvHeads, kValueDim}, seed + 3);
    const Tensor b =
        torch::sigmoid(Values({kTokens, kKvHeads}, seed + 4)).to(torch::kFloat32).to(torch::kFloat64);

    std::vector<double> expected(kTokens * kHeads * kValueDim);
    MemoryReadReference(shape(), twin.data(), Floats(q).data(), kTokens, expected.data());
    const Tensor q_heads =
        q.view({1, kTokens, kKvHeads, kHeads / kKvHeads, kKeyDim}).permute({0, 2, 3, 1, 4});
    const Tensor read =
        ReadMemory(GetParam(), memory, q_heads).permute({0, 3, 1, 2, 4}).contiguous().flatten();
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(read.data_ptr<double>()[i], expected[i], 1e-6) << "segment " << s << " value " << i;
    }

    const std::vector<float> gates = Floats(b);
    MemoryWriteReference(shape(), twin.data(), s == 0, Floats(k).data(), Floats(v).data(),
                         gated() ? gates.data() : nullptr, kTokens);
    memory = WriteMemory(GetParam(), memory, k.unsqueeze(0).transpose(1, 2), v.unsqueeze(0).transpose(1, 2),
                         gated() ? b.unsqueeze(0).transpose(1, 2) : Tensor());
    const Tensor m = memory.m.contiguous().flatten(), z = memory.z.contiguous().flatten();
    for (int64_t i = 0; i < m.numel(); ++i) {
      ASSERT_NEAR(m.data_ptr<double>()[i], twin[static_cast<size_t>(i)], 1e-6) << "segment " << s;
    }
    for (int64_t i = 0; i < z.numel() && !gated(); ++i) {
      ASSERT_NEAR(z.data_ptr<double>()[i], twin[static_cast<size_t>(m.numel() + i)], 1e-6);
    }
  }
}

// Finite differences through three segments, with respect to everything that the first one was given.
TEST_P(MemoryOps, GradientThroughSegmentsIsTheDerivative) {
  std::vector<Tensor> inputs;
  for (int64_t s = 0; s < kSegments; ++s) {
    const auto seed = static_cast<uint64_t>(100 + 10 * s);
    inputs.push_back(Values({1, kKvHeads, 2, kTokens, kKeyDim}, seed));
    inputs.push_back(Values({1, kKvHeads, kTokens, kKeyDim}, seed + 1));
    inputs.push_back(Values({1, kKvHeads, kTokens, kValueDim}, seed + 2));
    inputs.push_back(Values({1, kKvHeads, kTokens}, seed + 3));
  }
  const Tensor mix = Values({1, kKvHeads, 2, kTokens, kValueDim}, 7);
  const auto loss = [&] {
    MemoryTensors memory = EmptyMemory(1, kKvHeads, kKeyDim, kValueDim, torch::kFloat64);
    Tensor total = torch::zeros({}, torch::kFloat64);
    for (size_t s = 0; s < kSegments; ++s) {
      const Tensor* at = &inputs[4 * s];
      if (s > 0) total = total + (ReadMemory(GetParam(), memory, at[0]) * mix).sum();
      memory = WriteMemory(GetParam(), memory, at[1], at[2], gated() ? torch::sigmoid(at[3]) : Tensor());
    }
    return total;
  };
  for (Tensor& input : inputs) input.set_requires_grad(true);
  loss().backward();
  torch::NoGradGuard no_grad;
  int64_t checked = 0;
  for (size_t which = 0; which < inputs.size(); ++which) {
    const Tensor gradient = inputs[which].grad();
    if (!gradient.defined()) continue;  // the first query, the last write
    for (int64_t i = 0; i < inputs[which].numel(); i += 5) {
      double* value = inputs[which].data_ptr<double>() + i;
      const double old = *value;
      constexpr double kStep = 1e-6;
      *value = old + kStep;
      const double up = loss().item<double>();
      *value = old - kStep;
      const double down = loss().item<double>();
      *value = old;
      const double expected = (up - down) / (2 * kStep);
      const double got = gradient.contiguous().data_ptr<double>()[i];
      ASSERT_NEAR(got, expected, 1e-6 * (1 + std::abs(expected))) << "input " << which << " at " << i;
      ++checked;
    }
  }
  EXPECT_GT(checked, 100);
}

INSTANTIATE_TEST_SUITE_P(Rules, MemoryOps,
                         ::testing::Values(MemoryUpdate::kLinear, MemoryUpdate::kDelta,
                                           MemoryUpdate::kGatedDelta));

TEST(MemoryOpsGatedDelta, SegmentFormIsTheTokenByTokenRule) {
  const Tensor k = Values({1, 1, 12, kKeyDim}, 1), v = Values({1, 1, 12, kValueDim}, 2);
  const Tensor b = torch::sigmoid(Values({1, 1, 12}, 3));
  const MemoryTensors empty = EmptyMemory(1, 1, kKeyDim, kValueDim, torch::kFloat64);
  const Tensor whole = WriteMemory(MemoryUpdate::kGatedDelta, empty, k, v, b).m;
  MemoryTensors by_token = empty;
  for (int64_t t = 0; t < 12; ++t) {
    by_token = WriteMemory(MemoryUpdate::kGatedDelta, by_token, k.narrow(2, t, 1), v.narrow(2, t, 1),
                           b.narrow(2, t, 1));
  }
  EXPECT_LT((whole - by_token.m).abs().max().item<double>(), 1e-12);
  const Tensor shut = WriteMemory(MemoryUpdate::kGatedDelta, by_token, k, v, torch::zeros_like(b)).m;
  EXPECT_TRUE(torch::equal(shut, by_token.m));
}

}  // namespace
}  // namespace mneme::train
