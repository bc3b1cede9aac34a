#include "kernels/memory/memory.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "base/testing.h"
#include "kernels/simd/test_util.h"

namespace mneme {
namespace {

using testing::RelativeDifference;

constexpr MemoryUpdate kUpdates[] = {MemoryUpdate::kLinear, MemoryUpdate::kDelta, MemoryUpdate::kGatedDelta};

std::vector<float> Normal(size_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.Normal());
  return values;
}

struct Segments {
  Segments(const MemoryShape& shape, size_t num_tokens, uint64_t seed)
      : k(Normal(num_tokens * shape.num_kv_heads * shape.key_dim, seed)),
        v(Normal(num_tokens * shape.num_kv_heads * shape.value_dim, seed + 1)),
        gate(Normal(num_tokens * shape.num_kv_heads, seed + 2)) {
    for (float& value : gate) value = 1 / (1 + std::exp(-value));
  }
  const float* Gate(const MemoryShape& shape) const {
    return shape.update == MemoryUpdate::kGatedDelta ? gate.data() : nullptr;
  }
  std::vector<float> k, v, gate;
};

class MemoryUnderTest {
 public:
  explicit MemoryUnderTest(const MemoryShape& shape) : shape_(shape), values(shape.num_floats()) {}
  void Write(const float* k, const float* v, const float* gate, size_t num_tokens) {
    std::vector<float> scratch(MemoryScratchFloats(shape_, pool_.num_threads()));
    MemoryWrite(shape_, values.data(), is_empty_, k, v, gate, num_tokens, scratch.data(), pool_);
    is_empty_ = false;
  }
  std::vector<float> Read(const std::vector<float>& q) {
    const size_t rows = q.size() / (shape_.num_heads * shape_.key_dim);
    std::vector<float> out(rows * shape_.num_heads * shape_.value_dim);
    MemoryRead(shape_, values.data(), q.data(), rows, out.data(), pool_);
    return out;
  }

 private:
  MemoryShape shape_;
  ThreadPool pool_{2};
  bool is_empty_ = true;

 public:
  std::vector<float> values;
};

TEST(Memory, MatchesTheDoubleTwinOnEveryTarget) {
  testing::ForEachTarget([] {
    for (const MemoryUpdate update : kUpdates) {
      for (const size_t dim : {1, 7, 16, 33, 64}) {
        const MemoryShape shape{6, 3, dim, dim + 3, update};
        MemoryUnderTest memory(shape);
        std::vector<double> twin(shape.num_floats());
        for (uint64_t segment = 0; segment < 3; ++segment) {
          const Segments data(shape, 50, 10 * segment);
          memory.Write(data.k.data(), data.v.data(), data.Gate(shape), 50);
          MemoryWriteReference(shape, twin.data(), segment == 0, data.k.data(), data.v.data(),
                               data.Gate(shape), 50);
          EXPECT_LT(RelativeDifference(memory.values, twin), kMemoryError);
          const std::vector<float> q = Normal(4 * 6 * dim, 99);
          std::vector<double> expected(4 * 6 * shape.value_dim);
          MemoryReadReference(shape, twin.data(), q.data(), 4, expected.data());
          EXPECT_LT(RelativeDifference(memory.Read(q), expected), 4 * kMemoryError);
        }
      }
    }
  });
}

TEST(Memory, LinearReadIsTheWeightedMeanOfAllTokens) {  // T17, T18, T20
  const MemoryShape shape{2, 2, 8, 8, MemoryUpdate::kLinear};
  const Segments data(shape, 60, 1);
  MemoryUnderTest whole(shape), parts(shape), twice(shape), constant(shape);
  whole.Write(data.k.data(), data.v.data(), nullptr, 60);
  for (size_t part = 0; part < 4; ++part) {
    parts.Write(data.k.data() + part * 15 * 16, data.v.data() + part * 15 * 16, nullptr, 15);
  }
  const std::vector<float> q = Normal(3 * 16, 5);
  const std::vector<float> read = whole.Read(q);
  EXPECT_LT(RelativeDifference(read, parts.Read(q)), 2e-6);
  twice.Write(data.k.data(), data.v.data(), nullptr, 60);
  twice.Write(data.k.data(), data.v.data(), nullptr, 60);
  EXPECT_EQ(twice.Read(q), read);  // M and z both double, exactly
  const auto sigma = [](double x) { return x > 0 ? x + 1 : std::exp(x); };
  for (size_t at = 0; at < 6; ++at) {
    std::vector<double> expected(8);
    double total = 0;
    for (size_t t = 0; t < 60; ++t) {
      double weight = 0;
      for (size_t d = 0; d < 8; ++d) weight += sigma(q[at * 8 + d]) * sigma(data.k[(t * 2 + at % 2) * 8 + d]);
      total += weight;
      for (size_t d = 0; d < 8; ++d) expected[d] += weight * data.v[(t * 2 + at % 2) * 8 + d];
    }
    for (double& value : expected) value /= total;
    EXPECT_LT(RelativeDifference(std::span(read).subspan(at * 8, 8), expected), 1e-5);
  }
  const std::vector<float> same(60 * 16, 0.75f);
  constant.Write(data.k.data(), same.data(), nullptr, 30);
  constant.Write(data.k.data() + 30 * 16, same.data(), nullptr, 30);
  for (const float value : constant.Read(q)) EXPECT_NEAR(value, 0.75f, 1e-6);
}

TEST(Memory, DeltaOnOnePairAndOnDisjointKeys) {  // T19
  const MemoryShape shape{1, 1, 4, 4, MemoryUpdate::kDelta};
  const std::vector<float> k = {0.5f, -1, 2, 0.25f}, v = {1, 2, 3, 4};
  MemoryUnderTest memory(shape), linear({1, 1, 4, 4, MemoryUpdate::kLinear});
  memory.Write(k.data(), v.data(), nullptr, 1);
  linear.Write(k.data(), v.data(), nullptr, 1);
  EXPECT_EQ(memory.values, linear.values);  // first segment: delta is linear
  const std::vector<float> first = memory.Read(k);
  const std::vector<float> before = memory.values;
  memory.Write(k.data(), v.data(), nullptr, 1);
  for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(memory.values[i], before[i], 1e-6);  // M stays
  for (size_t i = 16; i < 20; ++i) EXPECT_EQ(memory.values[i], 2 * before[i]);     // z doubles
  const std::vector<float> second = memory.Read(k);
  for (size_t d = 0; d < 4; ++d) EXPECT_NEAR(second[d], first[d] / 2, 1e-6);
  MemoryUnderTest disjoint(shape);
  for (size_t t = 0; t < 4; ++t) {
    std::vector<float> key(4, -200.0f), value(4, static_cast<float>(t + 1));
    key[t] = 0.5f;
    disjoint.Write(key.data(), value.data(), nullptr, 1);
    for (const float x : disjoint.Read(key)) EXPECT_FLOAT_EQ(x, static_cast<float>(t + 1));
  }
}

TEST(Memory, GatedDeltaForgetsNothingItNeedNot) {
  const MemoryShape shape{1, 1, 16, 16, MemoryUpdate::kGatedDelta};
  // Segmentation changes nothing; a shut gate changes no bit; a pair written again changes nothing.
  const Segments data(shape, 40, 3);
  MemoryUnderTest whole(shape), parts(shape);
  whole.Write(data.k.data(), data.v.data(), data.gate.data(), 40);
  for (size_t t = 0; t < 40; ++t) parts.Write(&data.k[t * 16], &data.v[t * 16], &data.gate[t], 1);
  EXPECT_EQ(whole.values, parts.values);
  const std::vector<float> shut(40, 0.0f);
  parts.Write(data.k.data(), data.v.data(), shut.data(), 40);
  EXPECT_EQ(whole.values, parts.values);
  MemoryUnderTest again(shape);
  const std::vector<float> open(40, 1.0f);
  again.Write(data.k.data(), data.v.data(), open.data(), 1);
  const std::vector<float> before = again.values;
  again.Write(data.k.data(), data.v.data(), open.data(), 1);
  EXPECT_LT(RelativeDifference(again.values, before), 1e-5);
}

TEST(Memory, GateMixes) {
  std::vector<float> local = {1, 1, 1, 1}, memory = {3, 3, 3, 3};
  const std::vector<float> gate = {0.0f, -INFINITY};
  MemoryMix(1, 2, 2, gate.data(), memory.data(), local.data());
  EXPECT_EQ(local, (std::vector<float>{2, 2, 1, 1}));
}

TEST(Memory, SmallSigmaIsNotZero) {
  const MemoryShape shape{1, 1, 1, 1, MemoryUpdate::kLinear};
  MemoryUnderTest memory(shape);
  const std::vector<float> k = {-20.0f}, v = {5.0f};
  memory.Write(k.data(), v.data(), nullptr, 1);
  EXPECT_GT(memory.values[1], 2e-9f);
  EXPECT_NEAR(memory.Read({-2.0f})[0], 5.0f, 1e-5);
}

}  // namespace
}  // namespace mneme
