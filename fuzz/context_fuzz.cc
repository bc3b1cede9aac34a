// A context as a user writes it, NAME[:key=value,...], for models and settings of any shape: resolved, its
// bytes foretold, made under a budget, fed, rewound, saved and restored. Sizes may be anything; what comes of
// them must be an Error or a context that stays in its budget.
//
// Input: eight bytes (chunk, rewind, pinned, trained length, heads, tokens, encodings, rules), then the text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/budget.h"
#include "context/context_test_util.h"
#include "context/registry.h"
#include "fuzz/guard.h"
#include "kernels/cpu_device.h"

namespace mneme::fuzz {
namespace {

constexpr size_t kNumBytes = 8;
constexpr size_t kDim = 32;  // of a head: a block of q8_0 and q4_0

ContextShape ShapeFor(const uint8_t* bytes) {
  ContextShape shape;
  shape.trained_length = bytes[3];
  shape.learned_positions = bytes[7] % 16 == 15;
  shape.num_sinks = 1 + bytes[7] % 4;
  for (int i = 0; i < 2; ++i) {
    LayerAttention layer;
    layer.num_kv_heads = 1 + bytes[4] % 2;
    layer.num_heads = layer.num_kv_heads * 2;
    layer.key_dim = layer.value_dim = kDim;
    if (bytes[7] % 3 == 1) layer.layer_window = 3;
    if (bytes[7] % 2 == 1) layer.memory_gate.assign(layer.num_heads, 0.5f);
    shape.layers.push_back(std::move(layer));
  }
  if (bytes[7] % 2 == 1) shape.memory.segment = 4;
  return shape;
}

void Feed(const ContextShape& shape, Context& context, int64_t num_tokens, Device& device) {
  const auto rows = static_cast<size_t>(num_tokens);
  context.Begin(std::vector<TokenId>(rows, 1));
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const LayerAttention& layer = shape.layers[i];
    const std::vector<float> q(rows * layer.num_heads * kDim, 0.5f),
        kv(rows * layer.num_kv_heads * kDim, 0.25f);
    std::vector<float> out(rows * layer.num_heads * kDim);
    testing::AttendLayer(context, i, q.data(), kv.data(), kv.data(), out.data(), device);
  }
  context.Commit();
}

void Run(const uint8_t* bytes, std::string_view spec) {
  static CpuDevice device(1);
  const ContextShape shape = ShapeFor(bytes);
  ContextSettings settings;
  settings.spec = std::string(spec);
  settings.max_chunk = 1 + bytes[0] % 8;
  settings.max_rewind = bytes[1] % 8;
  settings.num_pinned = bytes[2] % 8;
  if (bytes[6] % 2 == 1) settings.key_encoding = settings.value_encoding = Encoding::kQ8_0;
  Budget budget(size_t{8} << 20);
  const int64_t num_tokens = bytes[5] % 32;
  const ContextSettings resolved =
      ResolveContext(shape, settings, budget.cap_bytes(), bytes[6] % 4 < 2 ? num_tokens : -1).settings;
  const ContextBytes foretold = PeakContextBytes(shape, resolved, num_tokens, 1);
  const std::unique_ptr<Context> context = MakeContext(shape, resolved, budget, 1);
  MNEME_CHECK(context->Describe() == MakeContext(shape, resolved, budget, 1)->Describe());
  if (foretold.is_bounded) MNEME_CHECK(budget.used_bytes() <= foretold.total());
  for (int64_t done = 0; done < num_tokens;) {
    const int64_t count = std::min(settings.max_chunk, num_tokens - done);
    Feed(shape, *context, count, device);
    done += count;
  }
  context->Rewind(context->MaxRewind());
  context->Ledger();
  Feed(shape, *context->Fork(), 1, device);
  BufferWriter writer;
  context->Save(writer);
  const std::unique_ptr<Context> restored = MakeContext(shape, resolved, budget, 1);
  BufferReader reader(writer.buffer());
  restored->Restore(reader);
  MNEME_CHECK(restored->num_tokens() == context->num_tokens());
}

}  // namespace
}  // namespace mneme::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mneme::fuzz;
  if (size < kNumBytes) return 0;
  Accepts([&] { Run(data, {reinterpret_cast<const char*>(data + kNumBytes), size - kNumBytes}); });
  return 0;
}
