// Attention: one decoded token at several depths, and chunks of prefill.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "base/random.h"
#include "bench/kernels.h"
#include "kernels/attend/attend.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

// Every run meets keys and values that the caches have forgotten, as in a model: it goes round several
// layers.
constexpr size_t kColdBytes = size_t{256} << 20;

struct AttendWork {
  size_t num_rows;
  size_t num_keys;  // the last num_rows of them are the rows' own
  size_t num_kv_heads;
  size_t group;
  size_t head_dim;
  Encoding encoding;
};

std::vector<float> RandomFloats(size_t count, Random& random) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.Normal());
  return values;
}

// The keys and values of several layers, the same random block everywhere.
class Layers {
 public:
  Layers(const KvLayout& layout, size_t num_keys)
      : blocks_per_layer_((num_keys + kBlockTokens - 1) / kBlockTokens) {
    num_layers_ = std::max<size_t>(1, kColdBytes / (blocks_per_layer_ * layout.block_bytes()));
    const size_t num_blocks = num_layers_ * blocks_per_layer_;
    memory_ = MakeAligned<uint8_t>(num_blocks * layout.block_bytes());
    Random random(1);
    for (size_t slot = 0; slot < kBlockTokens; ++slot) {
      const std::vector<float> k = RandomFloats(layout.num_kv_heads * layout.key_dim, random);
      const std::vector<float> v = RandomFloats(layout.num_kv_heads * layout.value_dim, random);
      KvStore(layout, memory_.get(), slot, k.data(), v.data());
    }
    for (size_t i = 0; i < num_blocks; ++i) {
      uint8_t* const block = memory_.get() + i * layout.block_bytes();
      if (i > 0) std::memcpy(block, memory_.get(), layout.block_bytes());
      blocks_.push_back(block);
    }
  }
  const uint8_t* const* Next() {
    layer_ = (layer_ + 1) % num_layers_;
    return blocks_.data() + layer_ * blocks_per_layer_;
  }
  size_t blocks_per_layer() const { return blocks_per_layer_; }

 private:
  size_t blocks_per_layer_;
  size_t num_layers_ = 0;
  size_t layer_ = 0;
  AlignedArray<uint8_t> memory_;
  std::vector<const uint8_t*> blocks_;
};

KernelLimits LimitsOf(const AttendWork& work, const MachineLimits& limits) {
  const bool all = limits.num_threads > 1;
  const bool is_bf16 = work.encoding == Encoding::kBF16 && limits.bf16_ops.one_thread > 0;
  const MachineRate& rate = is_bf16 ? limits.bf16_ops : limits.fp32_ops;
  return {.bytes_per_second = limits.ReadBandwidth(kColdBytes, all),
          .ops_per_second = all ? rate.all_threads : rate.one_thread,
          .ops_name = is_bf16 ? "bf16" : "fp32"};
}

KernelRow MeasureAttend(const AttendWork& work, const MachineLimits& limits, double seconds,
                        CpuDevice& device) {
  AttendShape shape;
  shape.num_rows = work.num_rows;
  shape.num_heads = work.num_kv_heads * work.group;
  shape.layout = {work.num_kv_heads, work.head_dim, work.head_dim, work.encoding, work.encoding};
  shape.scale = 1.0f / std::sqrt(static_cast<float>(work.head_dim));
  Layers layers(shape.layout, work.num_keys);
  Random random(2);
  const std::vector<float> q = RandomFloats(work.num_rows * shape.num_heads * work.head_dim, random);
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
  const auto scratch = MakeAligned<uint8_t>(
      AttendScratchBytes(work.num_rows, shape.num_heads, work.head_dim, work.head_dim, device.num_threads()));
  KernelRow row;
  row.timing = TimeRuns(seconds, [&] {
    span.blocks = layers.Next();
    const AttendCall call{.shape = shape, .spans = {&span, 1}, .out = out.data()};
    device.Attend({&call, 1}, scratch.get());
  });
  row.bytes = static_cast<double>(layers.blocks_per_layer() * shape.layout.block_bytes());
  // Two products of 2 * head_dim operations for every visible pair of query and key.
  row.ops = visible * static_cast<double>(shape.num_heads * work.head_dim) * 4;
  SetShare(LimitsOf(work, limits), &row);
  return row;
}

KernelCase CaseOf(std::string name, const AttendWork& work) {
  return {std::move(name), [work](const MachineLimits& limits, double seconds, CpuDevice& device) {
            return MeasureAttend(work, limits, seconds, device);
          }};
}

}  // namespace

std::vector<KernelCase> AttendCases() {
  std::vector<KernelCase> cases;
  // KV heads, query heads of each, values of a head: the last two as in TinyLlama 1.1B and SmolLM 135M.
  constexpr std::array<size_t, 3> kShapes[] = {{8, 8, 128}, {8, 4, 128}, {8, 1, 128}, {4, 8, 64}, {3, 3, 64}};
  for (const Encoding encoding :
       {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0}) {
    const std::string name(EncodingName(encoding));
    for (const auto& [kv_heads, group, head_dim] : kShapes) {
      for (const size_t depth : {size_t{1} << 10, size_t{1} << 12, size_t{1} << 16}) {
        cases.push_back(CaseOf("attend/decode/" + name + "/group:" + std::to_string(group) +
                                   "/dim:" + std::to_string(head_dim) + "/depth:" + std::to_string(depth),
                               {1, depth, kv_heads, group, head_dim, encoding}));
      }
    }
    for (const size_t keys : {size_t{512}, size_t{1024}}) {
      for (const size_t group : {size_t{1}, size_t{4}}) {
        cases.push_back(CaseOf(
            "attend/prefill/" + name + "/group:" + std::to_string(group) + "/512x" + std::to_string(keys),
            {512, keys, 8, group, 128, encoding}));
      }
    }
  }
  return cases;
}

}  // namespace mneme
