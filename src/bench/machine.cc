#include "bench/machine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>

#include "base/aligned.h"
#include "bench/timing.h"
#include "kernels/simd/peak.h"
#include "kernels/simd/target.h"
#include "model/engine.h"

namespace mneme {
namespace {

// Best rate of `work`, which returns the amount that all threads did, within about `seconds`.
template <typename Work>
double BestRate(double seconds, const Work& work) {
  const Clock::time_point start = Clock::now();
  double best = 0;
  do {
    const Clock::time_point begin = Clock::now();
    const double amount = work();
    best = std::max(best, amount / SecondsSince(begin));
  } while (SecondsSince(start) < seconds);
  return best;
}

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    return colon == std::string::npos ? "" : line.substr(colon + 2);
  }
  return "";
}

std::vector<std::string> Instructions() {
  std::vector<std::string> names;
#if defined(__x86_64__)
  const auto add = [&names](const char* name, bool is_there) {
    if (is_there) names.emplace_back(name);
  };
  add("sse4.2", __builtin_cpu_supports("sse4.2"));
  add("avx2", __builtin_cpu_supports("avx2"));
  add("avx512f", __builtin_cpu_supports("avx512f"));
  add("avx512vnni", __builtin_cpu_supports("avx512vnni"));
  add("avx512bf16", __builtin_cpu_supports("avx512bf16"));
#endif
  return names;
}

MachineRate ComputeRate(ThreadPool& pool, double seconds, double (*loop)(size_t, float*)) {
  constexpr size_t kRounds = 200'000;  // a fraction of a millisecond to a few
  MachineRate rate;
  for (const bool all : {false, true}) {
    const size_t num_threads = all ? pool.num_threads() : 1;
    const double best = BestRate(seconds / 2, [&] {
      std::atomic<double> amount = 0;
      pool.Run(num_threads, [&](size_t, size_t) {
        float sink[3] = {0.5f, 1.0f, 0};
        amount.fetch_add(loop(kRounds, sink));
      });
      return amount.load();
    });
    (all ? rate.all_threads : rate.one_thread) = best;
  }
  return rate;
}

MachineRate ReadRate(ThreadPool& pool, double seconds, const uint8_t* data, size_t bytes) {
  MachineRate rate;
  std::atomic<uint64_t> sink = 0;
  for (const bool all : {false, true}) {
    // Each thread reads its own part, so that a part fits the thread's private caches where the table says
    // so.
    const size_t num_parts = all ? pool.num_threads() : 1;
    const size_t part = bytes / num_parts / 4096 * 4096;
    const size_t repeats = std::max<size_t>(1, (size_t{8} << 20) / bytes);
    const double best = BestRate(seconds / 2, [&] {
      pool.Run(num_parts, [&](size_t task, size_t) {
        for (size_t i = 0; i < repeats; ++i) sink.fetch_xor(peak::Read(data + task * part, part));
      });
      return static_cast<double>(part * num_parts * repeats);
    });
    (all ? rate.all_threads : rate.one_thread) = best;
  }
  return rate;
}

}  // namespace

double MachineLimits::ReadBandwidth(size_t footprint_bytes, bool all_threads) const {
  double nearest = 0;
  double distance = 1e300;
  for (const MachineBandwidth& row : bandwidth) {
    const double d = std::abs(std::log(static_cast<double>(std::max<size_t>(1, footprint_bytes)) /
                                       static_cast<double>(row.footprint_bytes)));
    if (d >= distance) continue;
    distance = d;
    nearest = all_threads ? row.read_bytes.all_threads : row.read_bytes.one_thread;
  }
  return nearest;
}

MachineLimits MeasureMachine(ThreadPool& pool, double seconds, size_t max_footprint_bytes) {
  MachineLimits limits;
  limits.num_threads = pool.num_threads();
  limits.processor = ProcessorName();
  limits.instructions = Instructions();
  limits.simd_target = SimdTargetName();
  std::vector<size_t> footprints;
  for (size_t bytes = size_t{256} << 10; bytes <= max_footprint_bytes; bytes *= 4)
    footprints.push_back(bytes);
  if (footprints.empty() || footprints.back() < max_footprint_bytes) {
    footprints.push_back(std::max<size_t>(max_footprint_bytes / 4096 * 4096, 4096 * pool.num_threads()));
  }
  const double share = seconds / static_cast<double>(footprints.size() + 4);
  limits.fp32_ops = ComputeRate(pool, share, peak::Fp32Ops);
  limits.int8_ops = ComputeRate(pool, share, peak::Int8Ops);
  limits.int16_ops = ComputeRate(pool, share, peak::Int16Ops);
  if (peak::HasBf16()) limits.bf16_ops = ComputeRate(pool, share, peak::Bf16Ops);

  // As large weights are.
  const AlignedArray<uint8_t> data = MakeHuge(footprints.back());
  std::memset(data.get(), 1, footprints.back());  // pages must exist
  for (const size_t bytes : footprints) {
    limits.bandwidth.push_back(
        {.footprint_bytes = bytes, .read_bytes = ReadRate(pool, share, data.get(), bytes)});
  }
  return limits;
}

MachineLimits MeasureMachine(const Engine& engine, double seconds, size_t max_footprint_bytes) {
  return MeasureMachine(engine.impl().device.pool(), seconds, max_footprint_bytes);
}

}  // namespace mneme
