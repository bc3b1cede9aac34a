// Operations of devices: the same bits with any number of threads, and what TimingDevice counts.
#include "kernels/device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "formats/quant.h"
#include "kernels/cpu_device.h"
#include "kernels/timing_device.h"

namespace mneme {
namespace {

std::vector<float> RandomFloats(size_t count, uint64_t seed) {
  std::vector<float> values(count);
  Random random(seed);
  for (float& value : values) value = static_cast<float>(random.Normal());
  return values;
}

WeightView F32View(const std::vector<float>& values, size_t num_cols) {
  return {.encoding = Encoding::kF32,
          .num_rows = values.size() / num_cols,
          .num_cols = num_cols,
          .data = reinterpret_cast<const uint8_t*>(values.data())};
}

// Enough values that several threads share them.
constexpr size_t kRows = 70;
constexpr size_t kCols = 768;

TEST(CpuDevice, AllocatesAlignedMemoryThatOutlivesIt) {
  DeviceMemory memory;
  {
    CpuDevice device(1);
    memory = device.Allocate(1000, DeviceMemoryUse::kWork);
  }
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0u);
  std::memset(memory.get(), 1, 1000);
}

TEST(CpuDevice, EmbedScalesAndAddsPositions) {
  const std::vector<float> tokens = RandomFloats(20 * kCols, 1), positions = RandomFloats(100 * kCols, 2);
  std::vector<TokenId> ids(kRows);
  std::vector<Position> places(kRows);
  for (size_t row = 0; row < kRows; ++row) {
    ids[row] = static_cast<TokenId>(row * 7 % 20);
    places[row] = static_cast<Position>(row + 30);
  }
  std::vector<float> out(kRows * kCols), scratch(out.size());
  CpuDevice device(3);
  device.Embed({.tokens = F32View(tokens, kCols),
                .ids = ids,
                .scale = 3.0f,
                .positions = F32View(positions, kCols),
                .places = places.data(),
                .out = out.data(),
                .scratch = scratch.data()});
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t i = 0; i < kCols; ++i) {
      const float token = tokens[static_cast<size_t>(ids[row]) * kCols + i];
      const float position = positions[static_cast<size_t>(places[row]) * kCols + i];
      ASSERT_EQ(out[row * kCols + i], token * 3.0f + position) << row << " " << i;
    }
  }
}

TEST(CpuDevice, NormOfPartsIsThatOfEachPart) {
  constexpr size_t kParts = 12;
  constexpr size_t kPart = kCols / kParts;
  const std::vector<float> x = RandomFloats(kRows * kCols, 1), weight = RandomFloats(kCols, 2),
                           bias = RandomFloats(kCols, 3);
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const bool has_weights_per_part : {false, true}) {
      std::vector<float> out(x.size()), expected(x.size());
      CpuDevice device(3);
      device.Norm({.kind = kind,
                   .epsilon = 1e-5f,
                   .weight = weight.data(),
                   .bias = bias.data(),
                   .has_weights_per_part = has_weights_per_part,
                   .num_rows = kRows,
                   .num_parts = kParts,
                   .num_cols = kPart,
                   .x = x.data(),
                   .out = out.data()});
      for (size_t part = 0; part < kRows * kParts; ++part) {
        const size_t of_weights = has_weights_per_part ? part % kParts * kPart : 0;
        const float* const from = x.data() + part * kPart;
        float* const to = expected.data() + part * kPart;
        if (kind == NormKind::kRms) {
          RmsNorm(from, weight.data() + of_weights, 1e-5f, 1, kPart, kPart, to);
        } else {
          LayerNorm(from, weight.data() + of_weights, bias.data() + of_weights, 1e-5f, 1, kPart, kPart, to);
        }
      }
      EXPECT_EQ(out, expected) << has_weights_per_part;
    }
  }
}

TEST(CpuDevice, NormWithAGateIsThatOfEachPart) {
  constexpr size_t kParts = 12;
  constexpr size_t kPart = kCols / kParts;
  const std::vector<float> x = RandomFloats(kRows * kCols, 1), gate = RandomFloats(kRows * kCols, 2),
                           weight = RandomFloats(kCols, 3);
  for (const NormGate kind : {NormGate::kSiluAfter, NormGate::kSiluBefore}) {
    for (const bool has_weights_per_part : {false, true}) {
      std::vector<float> out = x, expected(x.size());
      CpuDevice device(3);
      device.Norm({.epsilon = 1e-5f,
                   .weight = weight.data(),
                   .has_weights_per_part = has_weights_per_part,
                   .num_rows = kRows,
                   .num_parts = kParts,
                   .num_cols = kPart,
                   .x = out.data(),
                   .gate_kind = kind,
                   .gate = gate.data(),
                   .out = out.data()});
      for (size_t part = 0; part < kRows * kParts; ++part) {
        const size_t of_weights = has_weights_per_part ? part % kParts * kPart : 0;
        GatedRmsNorm(kind, x.data() + part * kPart, gate.data() + part * kPart, weight.data() + of_weights,
                     1e-5f, 1, kPart, kPart, expected.data() + part * kPart);
      }
      EXPECT_EQ(out, expected) << has_weights_per_part;
    }
  }
}

// gate and up with the activation, as one call and as three.
TEST(CpuDevice, LinearActivatesWhatItComputed) {
  const std::vector<float> x = RandomFloats(kRows * kCols, 1), a = RandomFloats(64 * kCols, 2),
                           b = RandomFloats(64 * kCols, 3);
  const LinearWeights gate = LinearWeights::InPlace(F32View(a, kCols)),
                      up = LinearWeights::InPlace(F32View(b, kCols));
  CpuDevice device(3);
  const auto run = [&](bool with_gate, std::optional<ThenActivate> then) {
    std::vector<float> first(kRows * 64), second(kRows * 64);
    const MatMulJob jobs[] = {{&gate, nullptr, first.data(), 64, false},
                              {&up, nullptr, second.data(), 64, false}};
    device.Linear({.x = x.data(),
                   .num_rows = kRows,
                   .num_cols = kCols,
                   .jobs = {jobs, with_gate ? size_t{2} : size_t{1}},
                   .then = then});
    return std::pair(first, second);
  };
  const auto [plain, factor] = run(true, std::nullopt);
  std::vector<float> expected = plain;
  ActivateGated(Activation::kSilu, expected.data(), factor.data(), expected.size());
  EXPECT_EQ(run(true, ThenActivate{}).first, expected);
  expected = plain;
  Activate(Activation::kGelu, expected.data(), expected.size());
  EXPECT_EQ(run(false, ThenActivate{.activation = Activation::kGelu}).first, expected);
  expected = plain;
  ActivateHalfGelu(expected.data(), factor.data(), expected.size());
  EXPECT_EQ(run(true, ThenActivate{.activation = Activation::kGeluTanh, .rounds_to_half = true}).first,
            expected);
}

// One head of rows that hold several.
TEST(CpuDevice, LinearReadsRowsThatLieApart) {
  constexpr size_t kHead = kCols / 12;
  const std::vector<float> x = RandomFloats(kRows * kCols, 1), a = RandomFloats(64 * kHead, 2);
  std::vector<float> heads;
  for (size_t row = 0; row < kRows; ++row) {
    const auto first = x.begin() + static_cast<ptrdiff_t>(row * kCols + 5 * kHead);
    heads.insert(heads.end(), first, first + static_cast<ptrdiff_t>(kHead));
  }
  const LinearWeights weights = LinearWeights::InPlace(F32View(a, kHead));
  CpuDevice device(3);
  const auto run = [&](const float* from, size_t stride) {
    std::vector<float> out(kRows * 64);
    const MatMulJob job{&weights, nullptr, out.data(), 64, false};
    device.Linear({.x = from, .num_rows = kRows, .num_cols = kHead, .x_stride = stride, .jobs = {&job, 1}});
    return out;
  };
  EXPECT_EQ(run(x.data() + 5 * kHead, kCols), run(heads.data(), 0));
}

// Matrices that have columns of their own, side by side and one after the other.
TEST(CpuDevice, LinearOfHeadsIsThatOfEachHead) {
  constexpr size_t kHeads = 12, kHead = kCols / kHeads, kOut = 40;
  const std::vector<float> x = RandomFloats(kRows * kCols, 1);
  std::vector<std::vector<uint8_t>> encoded(kHeads);
  std::vector<LinearWeights> weights;
  for (size_t head = 0; head < kHeads; ++head) {
    const std::vector<float> values = RandomFloats(kOut * kHead, 2 + head);
    encoded[head].resize(EncodedBytes(Encoding::kQ8_0, values.size()));
    EncodeBlocks(Encoding::kQ8_0, values.data(), values.size(), encoded[head].data());
    weights.push_back(LinearWeights::InPlace({Encoding::kQ8_0, kOut, kHead, encoded[head].data()}));
  }
  const auto run = [&](size_t num_threads, bool together) {
    CpuDevice device(num_threads);
    std::vector<float> out(kRows * kHeads * kOut);
    std::vector<MatMulJob> jobs;
    for (size_t head = 0; head < kHeads; ++head) {
      jobs.push_back({&weights[head], nullptr, out.data() + head * kOut, kHeads * kOut, false});
    }
    const DeviceMemory scratch = device.Allocate(
        num_threads * ActivationRows::Bytes(kRows, kHead, ActivationForm::kBlocks32), DeviceMemoryUse::kWork);
    LinearCall call{.x = x.data(), .num_rows = kRows, .num_cols = kHead, .x_stride = kCols};
    call.scratch = static_cast<uint8_t*>(scratch.get());
    call.job_step = kHead;
    call.jobs = jobs;
    if (together) {
      device.Linear(call);
      return out;
    }
    call.job_step = 0;
    for (size_t head = 0; head < kHeads; ++head) {
      call.x = x.data() + head * kHead;
      call.jobs = {&jobs[head], 1};
      device.Linear(call);
    }
    return out;
  };
  const std::vector<float> expected = run(1, false);
  EXPECT_EQ(run(1, true), expected);
  EXPECT_EQ(run(3, true), expected);
}

TEST(CpuDevice, CopiedRowsLeaveWhatLiesBetween) {
  constexpr size_t kPart = 100, kFromStride = 130;
  const std::vector<float> x = RandomFloats(kRows * kCols, 1), y = RandomFloats(kRows * kFromStride, 2);
  std::vector<float> out = x;
  CpuDevice(3).Pointwise({.kind = PointwiseCall::Kind::kCopyRows,
                          .x = out.data() + 7,
                          .y = y.data() + 11,
                          .count = kRows * kPart,
                          .num_cols = kPart,
                          .x_stride = kCols,
                          .y_stride = kFromStride});
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t i = 0; i < kCols; ++i) {
      const bool is_copied = i >= 7 && i < 7 + kPart;
      ASSERT_EQ(out[row * kCols + i], is_copied ? y[row * kFromStride + 11 + i - 7] : x[row * kCols + i]);
    }
  }
}

TEST(CpuDevice, PointwiseDoesNotDependOnThreads) {
  const std::vector<float> x = RandomFloats(kRows * kCols + 5, 1), y = RandomFloats(x.size(), 2);
  using Kind = PointwiseCall::Kind;
  for (const Kind kind :
       {Kind::kAdd, Kind::kMultiply, Kind::kSigmoidGate, Kind::kClamp, Kind::kSoftCap, Kind::kWriteGate}) {
    std::vector<float> one = x, three = x;
    CpuDevice(1).Pointwise({.kind = kind, .x = one.data(), .y = y.data(), .value = 0.5f, .count = x.size()});
    CpuDevice(3).Pointwise(
        {.kind = kind, .x = three.data(), .y = y.data(), .value = 0.5f, .count = x.size()});
    EXPECT_EQ(one, three);
    EXPECT_NE(one, x);
    for (size_t i = 0; kind == Kind::kClamp && i < one.size(); ++i) ASSERT_LE(std::abs(one[i]), 0.5f);
    for (size_t i = 0; kind == Kind::kWriteGate && i < one.size(); ++i) {
      // Shut exactly where the sigmoid is not above the floor.
      ASSERT_EQ(one[i] > 0, 1.0f / (1.0f + std::exp(-x[i])) > 0.5f) << x[i];
    }
  }
}

TEST(TimingDevice, CountsWhatItPassesOn) {
  const std::vector<float> x = RandomFloats(2 * kCols, 1), a = RandomFloats(64 * kCols, 2);
  const LinearWeights weights = LinearWeights::InPlace(F32View(a, kCols));
  CpuDevice cpu(1);
  TimingDevice device(cpu);
  std::vector<float> expected(2 * 64), out(2 * 64), sum = x;
  MatMulJob job = {&weights, nullptr, expected.data(), 64, false};
  const LinearCall call{.label = "down", .x = x.data(), .num_rows = 2, .num_cols = kCols, .jobs = {&job, 1}};
  cpu.Linear(call);
  job.out = out.data();
  device.Linear(call);
  device.Linear(call);
  EXPECT_EQ(out, expected);
  device.Pointwise({.kind = PointwiseCall::Kind::kAdd, .x = sum.data(), .y = x.data(), .count = sum.size()});
  EXPECT_EQ(sum[5], 2 * x[5]);

  const std::vector<TimingDevice::Op> ops = device.TakeOps();
  ASSERT_EQ(ops.size(), 2u);
  EXPECT_EQ(ops[0].name, "down");
  EXPECT_EQ(ops[0].num_calls, 2u);
  EXPECT_GT(ops[0].seconds, 0);
  EXPECT_EQ(ops[0].bytes, 2.0 * 64 * kCols * 4);
  EXPECT_EQ(ops[0].flops, 2 * 2.0 * 64 * kCols * 2);
  EXPECT_EQ(ops[1].name, "pointwise");
  EXPECT_EQ(ops[1].num_calls, 1u);
  EXPECT_TRUE(device.TakeOps().empty());
}

TEST(TimingDevice, CountsTheStatesThatRecurrencesRead) {
  const RecurShape shape = {.rule = RecurRule::kScan,
                            .num_key_heads = 1,
                            .num_value_heads = 2,
                            .key_dim = 4,
                            .value_dim = 8,
                            .conv_width = 1,
                            .conv_activates = false,
                            .normalises = false};
  const std::vector<float> x = RandomFloats(shape.num_channels(), 1), ones(shape.num_channels(), 1.0f),
                           log_decay = {-1, -2};
  CpuDevice cpu(1);
  TimingDevice device(cpu);
  const size_t floats =
      shape.state_floats() + shape.key_floats() + shape.update_floats() + 2 * shape.sum_doubles();
  const DeviceMemory memory = cpu.Allocate(floats * sizeof(float), DeviceMemoryUse::kWork);
  const DeviceMemory scratch =
      cpu.Allocate(RecurScratchFloats(shape, 1, 1) * sizeof(float), DeviceMemoryUse::kWork);
  const int32_t slot = 0;
  std::vector<float> out(16);
  RecurCall call{.shape = &shape, .conv_weight = ones.data(), .num_rows = 1, .x = x.data()};
  call.log_decay = log_decay.data();
  call.beta = ones.data();
  call.out = out.data();
  call.stream.states = static_cast<float*>(memory.get());
  call.stream.keys = call.stream.states + shape.state_floats();
  call.stream.updates = call.stream.keys + shape.key_floats();
  call.stream.sums = reinterpret_cast<double*>(call.stream.updates + shape.update_floats());
  call.stream.block_slots = &slot;
  call.stream.first_kept_row = 1;
  std::fill_n(call.stream.states, shape.state_floats(), 0.0f);
  device.Recur({&call, 1}, static_cast<float*>(scratch.get()));
  float dot = 0;  // q . k
  for (size_t i = 0; i < 4; ++i) dot += x[i] * x[4 + i];
  for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(out[i], dot * x[8 + i], 1e-5);
  std::vector<float> step = {0, 0}, beta = {0, 0};
  const float rates[] = {-1, -3};
  device.Gates({.num_rows = 1,
                .num_heads = 2,
                .step = step.data(),
                .rate = rates,
                .strength = beta.data(),
                .log_decay = step.data(),
                .beta = beta.data()});
  EXPECT_NEAR(step[1], -3 * std::log(2.0), 1e-6);
  EXPECT_NEAR(beta[1], 0.5, 1e-6);
  const std::vector<TimingDevice::Op> ops = device.TakeOps();
  ASSERT_EQ(ops.size(), 2u);
  EXPECT_EQ(ops[0].name, "recurrence");
  EXPECT_EQ(ops[0].bytes, CostOf(call).bytes);
  EXPECT_EQ(ops[0].flops, CostOf(call).flops);
  EXPECT_GT(ops[0].flops, 0);
  EXPECT_EQ(ops[1].name, "gates");
}

TEST(TimingDevice, CountsTheKeysThatRowsSee) {
  const KvLayout layout = {1, 8, 8, Encoding::kF32, Encoding::kF32};
  std::vector<uint8_t> memory(layout.block_bytes() + 64);
  auto* const block = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  const std::vector<float> q = RandomFloats(2 * 2 * 8, 1), kv = RandomFloats(8, 2);
  for (size_t slot = 0; slot < kBlockTokens; ++slot) KvStore(layout, block, slot, kv.data(), kv.data());
  CpuDevice cpu(1);
  TimingDevice device(cpu);
  const int32_t begin[] = {3, 4}, end[] = {10, 11};
  KvSpan span;
  span.blocks = &block;
  span.begin = begin;
  span.end = end;
  span.q = q.data();
  std::vector<float> out(q.size());
  const DeviceMemory scratch = cpu.Allocate(AttendScratchBytes(2, 2, 8, 8, 1), DeviceMemoryUse::kWork);
  const AttendCall call{
      .shape = {.num_rows = 2, .num_heads = 2, .layout = layout}, .spans = {&span, 1}, .out = out.data()};
  device.Attend({&call, 1}, static_cast<uint8_t*>(scratch.get()));
  for (size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], kv[i % 8], 1e-5);
  const std::vector<TimingDevice::Op> ops = device.TakeOps();
  ASSERT_EQ(ops.size(), 1u);
  EXPECT_EQ(ops[0].name, "attention");
  EXPECT_EQ(ops[0].bytes, 8.0 * 2 * 8 * 4);              // tokens 3 to 10, keys and values
  EXPECT_EQ(ops[0].flops, 2.0 * (7 + 7) * 2 * (8 + 8));  // 14 pairs of row and key, two heads
}

}  // namespace
}  // namespace mneme
