#include "bench/machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/aligned.h"
#include "kernels/simd/target.h"
#include "kernels/simd/targets.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/machine.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/linear/int16-inl.h"
#include "kernels/linear/tile-inl.h"

#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme::machine::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Independent chains: more than latency times throughput of any current core.
constexpr size_t kChains = 12;

// Multiplies and adds; returns the number of operations.
HWY_NOINLINE double Fp32Loop(size_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  hn::Vec<decltype(d)> sums[kChains];
  HWY_UNROLL(12)
  for (size_t i = 0; i < kChains; ++i) sums[i] = hn::Set(d, sink[0] + static_cast<float>(i));
  const auto factor = hn::Set(d, sink[1]);
  for (size_t round = 0; round < rounds; ++round) {
    HWY_UNROLL(12)
    for (size_t i = 0; i < kChains; ++i) sums[i] = hn::MulAdd(sums[i], factor, factor);
  }
  auto total = sums[0];
  HWY_UNROLL(11)
  for (size_t i = 1; i < kChains; ++i) total = hn::Add(total, sums[i]);
  sink[2] = hn::GetLane(total);
  return 2.0 * static_cast<double>(rounds * kChains * hn::Lanes(d));
}

HWY_NOINLINE double Int8Loop(size_t rounds, float* sink) {
#if HWY_TARGET == HWY_SCALAR
  int32_t sums[kChains] = {};
  int8_t factor = static_cast<int8_t>(sink[1]);
  for (size_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < kChains; ++i) sums[i] += (factor ^ static_cast<int8_t>(i)) * factor;
    factor = static_cast<int8_t>(factor + sums[0]);
  }
  sink[2] = static_cast<float>(sums[0] + sums[kChains - 1]);
  return 2.0 * static_cast<double>(rounds * kChains);
#else
  namespace tile = linear::HWY_NAMESPACE;
  const tile::DI di;
  tile::VI sums[kChains];
  HWY_UNROLL(12)
  for (size_t i = 0; i < kChains; ++i) sums[i] = hn::Set(di, static_cast<int32_t>(i));
  const auto x = hn::Set(di, static_cast<int32_t>(sink[1]));
  const tile::Dot<0> dot(hn::BitCast(tile::DU8(), x));
  for (size_t round = 0; round < rounds; ++round) {
    HWY_UNROLL(12)
    for (size_t i = 0; i < kChains; ++i) sums[i] = dot.Add(sums[i], x);
  }
  auto total = sums[0];
  HWY_UNROLL(11)
  for (size_t i = 1; i < kChains; ++i) total = hn::Add(total, sums[i]);
  sink[2] = static_cast<float>(hn::GetLane(total));
  return 2.0 * 4 * static_cast<double>(rounds * kChains * tile::kLanes);
#endif
}

HWY_NOINLINE double Int16Loop(size_t rounds, float* sink) {
  namespace tile = linear::HWY_NAMESPACE;
  const tile::DI di;
  tile::VI sums[kChains];
  HWY_UNROLL(12)
  for (size_t i = 0; i < kChains; ++i) sums[i] = hn::Set(di, static_cast<int32_t>(i));
  // Where products and sums are instructions of their own, no product may be one of another chain or round.
  tile::VI factors[kChains];
  HWY_UNROLL(12)
  for (size_t i = 0; i < kChains; ++i)
    factors[i] = hn::Set(di, static_cast<int32_t>(sink[1]) + 2 * static_cast<int32_t>(i));
  auto pair = hn::Set(di, static_cast<int32_t>(sink[1]));
  for (size_t round = 0; round < rounds; ++round) {
    HWY_UNROLL(12)
    for (size_t i = 0; i < kChains; ++i) sums[i] = tile::AddPairs(sums[i], factors[i], pair);
    pair = hn::Add(pair, hn::Set(di, 0x10001));
  }
  auto total = sums[0];
  HWY_UNROLL(11)
  for (size_t i = 1; i < kChains; ++i) total = hn::Xor(total, sums[i]);
  sink[2] = static_cast<float>(hn::GetLane(total));
  return 2.0 * 2 * static_cast<double>(rounds * kChains * tile::kLanes);
}

// Reads [data, data + bytes), a multiple of 4 KiB, as two runs side by side: what hardware prefetchers follow
// best. Prefetches of our own made it slower (Zen 5).
HWY_NOINLINE uint64_t ReadLoop(const uint8_t* data, size_t bytes) {
  const hn::ScalableTag<uint64_t> d;
  constexpr size_t kStep = HWY_LANES(uint64_t) * 8;
  const uint8_t* const second = data + bytes / 2;
  hn::Vec<decltype(d)> sums[8];
  HWY_UNROLL(8)
  for (size_t i = 0; i < 8; ++i) sums[i] = hn::Zero(d);
  for (size_t at = 0; at < bytes / 2; at += 4 * kStep) {
    HWY_UNROLL(4)
    for (size_t i = 0; i < 4; ++i) {
      const auto* a = reinterpret_cast<const uint64_t*>(data + at + i * kStep);
      const auto* b = reinterpret_cast<const uint64_t*>(second + at + i * kStep);
      sums[2 * i] = hn::Xor(sums[2 * i], hn::Load(d, a));
      sums[2 * i + 1] = hn::Xor(sums[2 * i + 1], hn::Load(d, b));
    }
  }
  auto total = sums[0];
  HWY_UNROLL(7)
  for (size_t i = 1; i < 8; ++i) total = hn::Xor(total, sums[i]);
  return hn::GetLane(total);
}

}  // namespace mneme::machine::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {
namespace machine {

HWY_EXPORT(Fp32Loop);
HWY_EXPORT(Int8Loop);
HWY_EXPORT(Int16Loop);
HWY_EXPORT(ReadLoop);

double Fp32(size_t rounds, float* sink) { return HWY_DYNAMIC_DISPATCH(Fp32Loop)(rounds, sink); }
double Int8(size_t rounds, float* sink) { return HWY_DYNAMIC_DISPATCH(Int8Loop)(rounds, sink); }
double Int16(size_t rounds, float* sink) { return HWY_DYNAMIC_DISPATCH(Int16Loop)(rounds, sink); }
uint64_t Read(const uint8_t* data, size_t bytes) { return HWY_DYNAMIC_DISPATCH(ReadLoop)(data, bytes); }

}  // namespace machine

namespace {

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bf16"))) double Bf16(size_t rounds, float* sink) {
  __m512 sums[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 one = _mm512_set1_ps(sink[1]);
  const __m512bh factor = _mm512_cvtne2ps_pbh(one, one);
  for (size_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], factor, factor);
  }
  __m512 total = sums[0];
#pragma GCC unroll 11
  for (int i = 1; i < 12; ++i) total = _mm512_add_ps(total, sums[i]);
  sink[2] = _mm512_cvtss_f32(total);
  return 2.0 * 32 * 12 * static_cast<double>(rounds);
}
bool HasBf16() { return __builtin_cpu_supports("avx512bf16"); }
#else
double Bf16(size_t, float*) { return 0; }
bool HasBf16() { return false; }
#endif

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

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
        for (size_t i = 0; i < repeats; ++i) sink.fetch_xor(machine::Read(data + task * part, part));
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
  limits.simd_target = SimdTargetName();
  std::vector<size_t> footprints;
  for (size_t bytes = size_t{256} << 10; bytes <= max_footprint_bytes; bytes *= 4)
    footprints.push_back(bytes);
  if (footprints.empty() || footprints.back() < max_footprint_bytes) {
    footprints.push_back(std::max<size_t>(max_footprint_bytes / 4096 * 4096, 4096 * pool.num_threads()));
  }
  const double share = seconds / static_cast<double>(footprints.size() + 4);
  limits.fp32_ops = ComputeRate(pool, share, machine::Fp32);
  limits.int8_ops = ComputeRate(pool, share, machine::Int8);
  limits.int16_ops = ComputeRate(pool, share, machine::Int16);
  if (HasBf16()) limits.bf16_ops = ComputeRate(pool, share, Bf16);

  // As large weights are.
  const AlignedArray<uint8_t> data = MakeHuge(footprints.back());
  std::memset(data.get(), 1, footprints.back());  // pages must exist
  for (const size_t bytes : footprints) {
    limits.bandwidth.push_back(
        {.footprint_bytes = bytes, .read_bytes = ReadRate(pool, share, data.get(), bytes)});
  }
  return limits;
}

}  // namespace mneme
#endif  // HWY_ONCE
