#include "kernels/simd/peak.h"

#include <cstdint>

#include "kernels/simd/targets.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/peak.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
//
#include "hwy/highway.h"
#include "kernels/linear/int16-inl.h"
#include "kernels/linear/tile-inl.h"

#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme::peak::HWY_NAMESPACE {

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

}  // namespace mneme::peak::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme::peak {

HWY_EXPORT(Fp32Loop);
HWY_EXPORT(Int8Loop);
HWY_EXPORT(Int16Loop);
HWY_EXPORT(ReadLoop);

double Fp32Ops(size_t rounds, float* sink) { return HWY_DYNAMIC_DISPATCH(Fp32Loop)(rounds, sink); }
double Int8Ops(size_t rounds, float* sink) { return HWY_DYNAMIC_DISPATCH(Int8Loop)(rounds, sink); }
double Int16Ops(size_t rounds, float* sink) { return HWY_DYNAMIC_DISPATCH(Int16Loop)(rounds, sink); }
uint64_t Read(const uint8_t* data, size_t bytes) { return HWY_DYNAMIC_DISPATCH(ReadLoop)(data, bytes); }

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bf16"))) double Bf16Ops(size_t rounds, float* sink) {
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
double Bf16Ops(size_t, float*) { return 0; }
bool HasBf16() { return false; }
#endif

}  // namespace mneme::peak
#endif  // HWY_ONCE
