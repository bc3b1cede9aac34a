// Matrix products by encoding, shape and number of rows, as a share of what the machine can do.
//
//   linear_bench [--threads=N] [Google Benchmark flags, such as --benchmark_filter=q8_0]
//
// Per row: GB/s of weights read, GOP/s, and `floor`: the time that reading the weights once or doing the
// products at the measured peak would take, whichever is longer, over the time taken.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/half.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "kernels/linear/linear.h"
#include "bench/machine.h"

namespace mneme {
namespace {

struct Shape {
  size_t num_rows, num_cols;
};

// Random bits with factors near 0.01, so that nothing is infinite or denormal.
std::vector<uint8_t> RandomWeights(Encoding encoding, size_t num_values) {
  std::vector<uint8_t> bytes(EncodedBytes(encoding, num_values));
  Random random(1);
  if (encoding == Encoding::kF32 || encoding == Encoding::kF16 || encoding == Encoding::kBF16) {
    for (size_t i = 0; i < num_values; ++i) {
      const float value = static_cast<float>(random.Uniform()) - 0.5f;
      const uint16_t half = encoding == Encoding::kF16 ? F32ToF16(value) : F32ToBF16(value);
      if (encoding == Encoding::kF32) {
        std::memcpy(bytes.data() + i * 4, &value, 4);
      } else {
        std::memcpy(bytes.data() + i * 2, &half, 2);
      }
    }
    return bytes;
  }
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random.Next();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  const size_t block_bytes = EncodingBlockBytes(encoding);
  const uint16_t half = F32ToF16(0.01f);
  std::vector<size_t> offsets = {0};
  if (encoding == Encoding::kQ4_1 || encoding == Encoding::kQ5_1 || encoding == Encoding::kQ4_K ||
      encoding == Encoding::kQ5_K) {
    offsets = {0, 2};
  } else if (encoding == Encoding::kQ2_K) {
    offsets = {80, 82};
  } else if (encoding == Encoding::kQ3_K || encoding == Encoding::kQ6_K) {
    offsets = {block_bytes - 2};
  }
  for (size_t at = 0; at < bytes.size(); at += block_bytes) {
    for (const size_t offset : offsets) std::memcpy(bytes.data() + at + offset, &half, 2);
  }
  return bytes;
}

struct Setup {
  ThreadPool* pool;
  const MachineLimits* limits;
};

void RunProduct(benchmark::State& state, Setup setup, Encoding encoding, Shape shape, size_t num_rows,
                bool packed, FloatProducts products, bool from_memory) {
  ThreadPool& pool = *setup.pool;
  // Decode meets weights that the caches have forgotten: go round several matrices.
  const size_t bytes = shape.num_rows * EncodedBytes(encoding, shape.num_cols);
  const size_t copies = from_memory ? std::max<size_t>(1, (size_t{512} << 20) / bytes) : 1;
  std::vector<std::vector<uint8_t>> stored;
  const size_t packed_bytes =
      packed ? LinearWeights::PackedBytes(encoding, shape.num_rows, shape.num_cols, products) : 0;
  AlignedArray<uint8_t> memory = MakeHuge(copies * packed_bytes);
  std::vector<LinearWeights> weights;
  const std::vector<uint8_t> one = RandomWeights(encoding, shape.num_rows * shape.num_cols);
  for (size_t i = 0; i < copies; ++i) {
    WeightView view = {
        .encoding = encoding, .num_rows = shape.num_rows, .num_cols = shape.num_cols, .data = one.data()};
    if (packed) {
      weights.push_back(LinearWeights::PackedInto(view, memory.get() + i * packed_bytes, pool, products));
    } else {
      stored.push_back(one);
      view.data = stored.back().data();
      weights.push_back(LinearWeights::InPlace(view));
    }
  }
  std::vector<float> x(num_rows * shape.num_cols);
  Random random(2);
  for (float& value : x) value = static_cast<float>(random.Normal());
  std::vector<float> out(num_rows * shape.num_rows);
  const ActivationForm form = FormFor(weights[0]);
  ActivationRows rows(num_rows, shape.num_cols, form);
  const bool quantised = NeedsQuantised(encoding);
  size_t next = 0;
  for (auto _ : state) {
    rows.Set(x.data(), num_rows, shape.num_cols, shape.num_cols, form, pool);
    const MatMulJob job = {
        .weights = &weights[next++ % copies], .out = out.data(), .out_stride = shape.num_rows};
    MatMul(rows, {&job, 1}, pool);
    benchmark::DoNotOptimize(out.data());
  }
  const double ops = 2.0 * static_cast<double>(shape.num_rows * shape.num_cols * num_rows);
  const double read_bytes = static_cast<double>(weights[0].read_bytes());
  const bool all = pool.num_threads() > 1;
  const auto peak_of = [&] {
    if (quantised) return setup.limits->int8_ops;
    if (products == FloatProducts::kInt16) return setup.limits->int16_ops;
    const bool pairs = products == FloatProducts::kBFloat16 && setup.limits->bf16_ops.one_thread > 0;
    return pairs ? setup.limits->bf16_ops : setup.limits->fp32_ops;
  };
  const MachineRate peak = peak_of();
  const double floor =
      std::max(ops / (all ? peak.all_threads : peak.one_thread),
               read_bytes / setup.limits->ReadBandwidth(copies * weights[0].read_bytes(), all));
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  state.counters["GB/s"] = Counter(read_bytes * 1e-9, rate);
  state.counters["GOP/s"] = Counter(ops * 1e-9, rate);
  state.counters["floor"] = Counter(floor, rate);
}

void RegisterForm(Setup setup, Encoding encoding, const char* form, bool packed, FloatProducts products) {
  constexpr Shape kShapes[] = {{2048, 2048},  {5632, 2048}, {2048, 5632},
                               {32000, 2048}, {576, 576},   {1536, 576}};
  for (const Shape shape : kShapes) {
    if (shape.num_cols % EncodingBlockValues(encoding) != 0) continue;
    for (const size_t num_rows : {1, 2, 4, 8, 16, 512}) {
      const std::string name = std::string(EncodingName(encoding)) + "/" + form + "/" +
                               std::to_string(shape.num_rows) + "x" + std::to_string(shape.num_cols) +
                               "/rows:" + std::to_string(num_rows);
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
        RunProduct(state, setup, encoding, shape, num_rows, packed, products, num_rows < 512);
      })->UseRealTime();
    }
  }
}

void RegisterAll(Setup setup) {
  for (const bool packed : {true, false}) {
    for (const Encoding encoding :
         {Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_K, Encoding::kQ6_K, Encoding::kF16, Encoding::kBF16,
          Encoding::kF32, Encoding::kQ4_1, Encoding::kQ5_0, Encoding::kQ5_1, Encoding::kQ2_K, Encoding::kQ3_K,
          Encoding::kQ5_K}) {
      if (packed && LinearWeights::PackedBytes(encoding, 256, 256) == 0) continue;
      RegisterForm(setup, encoding, packed ? "packed" : "stored", packed, FloatProducts::kFloat32);
    }
  }
  RegisterForm(setup, Encoding::kF16, "bfloat16", true, FloatProducts::kBFloat16);
  RegisterForm(setup, Encoding::kF16, "int16", true, FloatProducts::kInt16);
}

void PrintLimits(const MachineLimits& limits) {
  std::printf("%s, %zu threads\n", limits.simd_target.c_str(), limits.num_threads);
  const auto row = [](const char* what, const MachineRate& rate, const char* unit) {
    std::printf("  %-22s one thread %8.1f  all %8.1f %s\n", what, rate.one_thread * 1e-9,
                rate.all_threads * 1e-9, unit);
  };
  row("fp32", limits.fp32_ops, "GFLOP/s");
  row("bf16", limits.bf16_ops, "GFLOP/s");
  row("int16", limits.int16_ops, "GOP/s");
  row("int8", limits.int8_ops, "GOP/s");
  for (const MachineBandwidth& bandwidth : limits.bandwidth) {
    const std::string what = "read " + std::to_string(bandwidth.footprint_bytes >> 10) + " KiB";
    row(what.c_str(), bandwidth.read_bytes, "GB/s");
  }
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) {
  size_t num_threads = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--threads=", 10) != 0) continue;
    num_threads = static_cast<size_t>(std::atoi(argv[i] + 10));
    std::copy(argv + i + 1, argv + argc, argv + i);
    --argc;
    break;
  }
  mneme::ThreadPool pool(num_threads);
  const mneme::MachineLimits limits = mneme::MeasureMachine(pool, 3.0);
  mneme::PrintLimits(limits);
  mneme::RegisterAll({.pool = &pool, .limits = &limits});
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
