// Attention speed: one decoded token at several depths (bytes of K and V per second, to be held against
// BM_ReadBandwidth) and chunks of prefill (floating-point operations per second, against the peak of
// the machine). Every run cycles through enough layers that nothing stays in the cache, as
// in a model.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "kernels/attend/attend.h"

namespace mneme {
namespace {

constexpr size_t kColdBytes = size_t{256} << 20;

// The caches of several layers with the same random block everywhere.
class Caches {
 public:
  Caches(const KvLayout& layout, size_t num_keys)
      : blocks_per_layer_((num_keys + kBlockTokens - 1) / kBlockTokens) {
    const size_t layer_bytes = blocks_per_layer_ * layout.block_bytes();
    num_layers_ = std::max<size_t>(1, kColdBytes / layer_bytes);
    memory_ = MakeAligned<uint8_t>(num_layers_ * layer_bytes);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> k(layout.num_kv_heads * layout.key_dim), v(layout.num_kv_heads * layout.value_dim);
    for (size_t slot = 0; slot < kBlockTokens; ++slot) {
      for (float& x : k) x = normal(random);
      for (float& x : v) x = normal(random);
      KvStore(layout, memory_.get(), slot, k.data(), v.data());
    }
    for (size_t b = 0; b < num_layers_ * blocks_per_layer_; ++b) {
      uint8_t* block = memory_.get() + b * layout.block_bytes();
      if (b > 0) std::memcpy(block, memory_.get(), layout.block_bytes());
      blocks_.push_back(block);
    }
  }
  const uint8_t* const* NextLayer() {
    layer_ = (layer_ + 1) % num_layers_;
    return blocks_.data() + layer_ * blocks_per_layer_;
  }

 private:
  size_t blocks_per_layer_;
  size_t num_layers_ = 0;
  size_t layer_ = 0;
  AlignedArray<uint8_t> memory_;
  std::vector<const uint8_t*> blocks_;
};

struct Workload {
  size_t num_rows;
  size_t num_keys;  // the last num_rows of them are the rows' own
  size_t num_kv_heads;
  size_t group;
  size_t head_dim;
  Encoding encoding;
};

void RunAttend(benchmark::State& state, const Workload& work, bool is_decode) {
  ThreadPool pool;
  AttendShape shape;
  shape.num_rows = work.num_rows;
  shape.num_heads = work.num_kv_heads * work.group;
  shape.layout = {work.num_kv_heads, work.head_dim, work.head_dim, work.encoding, work.encoding};
  shape.scale = 1.0f / std::sqrt(static_cast<float>(work.head_dim));
  Caches caches(shape.layout, work.num_keys);
  std::vector<float> q(work.num_rows * shape.num_heads * work.head_dim);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (float& x : q) x = normal(random);
  std::vector<int32_t> begin(work.num_rows, 0), end(work.num_rows);
  double visible = 0;
  for (size_t r = 0; r < work.num_rows; ++r) {
    end[r] = static_cast<int32_t>(work.num_keys - work.num_rows + r + 1);
    visible += end[r];
  }
  KvSpan span;
  span.begin = begin.data();
  span.end = end.data();
  span.q = q.data();
  std::vector<float> out(q.size());
  const auto scratch = MakeAligned<uint8_t>(AttendScratchBytes(
      work.num_rows, shape.num_heads, work.head_dim, work.head_dim, work.num_keys, pool.num_threads()));
  for (auto _ : state) {
    span.blocks = caches.NextLayer();
    Attend(shape, {&span, 1}, out.data(), nullptr, scratch.get(), pool);
    benchmark::DoNotOptimize(out.data());
  }
  const double iterations = static_cast<double>(state.iterations());
  const double blocks = std::ceil(static_cast<double>(work.num_keys) / kBlockTokens);
  if (is_decode) {
    state.counters["GB/s"] =
        benchmark::Counter(iterations * blocks * static_cast<double>(shape.layout.block_bytes()) / 1e9,
                           benchmark::Counter::kIsRate);
  }
  // Two products of 2 * head_dim operations for every visible pair of query and key.
  state.counters["GFLOP/s"] = benchmark::Counter(
      iterations * visible * static_cast<double>(shape.num_heads * work.head_dim) * 4 / 1e9,
      benchmark::Counter::kIsRate);
}

void BM_ReadBandwidth(benchmark::State& state) {
  ThreadPool pool;
  const size_t count = kColdBytes / sizeof(uint64_t);
  const auto memory = MakeAligned<uint64_t>(count);
  std::fill_n(memory.get(), count, 1);
  std::vector<uint64_t> sums(pool.num_threads() * 8);
  constexpr size_t kPiece = 1 << 15;
  for (auto _ : state) {
    pool.Run(count / kPiece, [&](size_t task, size_t thread) {
      uint64_t sum[32] = {};
      for (const uint64_t* p = memory.get() + task * kPiece; p < memory.get() + (task + 1) * kPiece;
           p += 32) {
        for (size_t i = 0; i < 32; ++i) sum[i] += p[i];
      }
      for (const uint64_t s : sum) sums[thread * 8] += s;
    });
    benchmark::DoNotOptimize(sums.data());
  }
  state.counters["GB/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * static_cast<double>(kColdBytes) / 1e9,
                         benchmark::Counter::kIsRate);
}

void Register() {
  benchmark::RegisterBenchmark("BM_ReadBandwidth", BM_ReadBandwidth)->UseRealTime();
  // KV heads, query heads of each, values of a head: the last two as in TinyLlama 1.1B and SmolLM 135M.
  const std::array<size_t, 3> shapes[] = {{8, 8, 128}, {8, 4, 128}, {8, 1, 128}, {4, 8, 64}, {3, 3, 64}};
  for (const Encoding encoding :
       {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0}) {
    const std::string name(EncodingName(encoding));
    for (const auto& [kv_heads, group, head_dim] : shapes) {
      for (const size_t depth : {size_t{1} << 10, size_t{1} << 12, size_t{1} << 16}) {
        const Workload work{1, depth, kv_heads, group, head_dim, encoding};
        benchmark::RegisterBenchmark(("decode/" + name + "/group:" + std::to_string(group) +
                                      "/dim:" + std::to_string(head_dim) + "/depth:" + std::to_string(depth))
                                         .c_str(),
                                     [work](benchmark::State& state) { RunAttend(state, work, true); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
    for (const size_t keys : {512, 1024}) {
      for (const size_t group : {1, 4}) {
        const Workload work{512, keys, 8, group, 128, encoding};
        benchmark::RegisterBenchmark(
            ("prefill/" + name + "/group:" + std::to_string(group) + "/512x" + std::to_string(keys)).c_str(),
            [work](benchmark::State& state) { RunAttend(state, work, false); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  mneme::Register();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
