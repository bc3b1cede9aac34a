// Layers with a state of fixed size: one decoded token in the middle of a block, and chunks of prefill.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/aligned.h"
#include "base/random.h"
#include "bench/kernels.h"
#include "kernels/cpu_device.h"
#include "kernels/recur/recur.h"

namespace mneme {
namespace {

// Every run meets a state that the caches have forgotten, as in a model: it goes round several layers.
constexpr size_t kColdBytes = size_t{256} << 20;

void FillRandom(float* values, size_t count, double size, Random& random) {
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(size * random.Normal());
}

// The states of several layers, the same random one everywhere, in the middle of a block.
class Layers {
 public:
  Layers(const RecurShape& shape, bool is_cold) : shape_(shape) {
    const size_t floats =
        2 * shape.state_floats() + shape.key_floats() + shape.update_floats() + 2 * shape.sum_doubles();
    layer_floats_ = floats;
    num_layers_ = is_cold ? std::max<size_t>(2, kColdBytes / (floats * sizeof(float))) : 1;
    memory_ = MakeHuge(num_layers_ * floats * sizeof(float));  // as RecurrentState has it
    auto* const first = reinterpret_cast<float*>(memory_.get());
    Random random(1);
    FillRandom(first, floats, 0.1, random);
    std::memset(first + floats - 2 * shape.sum_doubles(), 0, shape.sum_doubles() * sizeof(double));
    for (size_t i = 1; i < num_layers_; ++i) {
      std::memcpy(first + i * floats, first, floats * sizeof(float));
    }
    inputs_.resize(kMaxConvWidth * shape.num_channels());
  }

  void SetNext(RecurStream* stream) {
    layer_ = (layer_ + 1) % num_layers_;
    stream->states = reinterpret_cast<float*>(memory_.get()) + layer_ * layer_floats_;
    stream->keys = stream->states + 2 * shape_.state_floats();
    stream->updates = stream->keys + shape_.key_floats();
    stream->sums = reinterpret_cast<double*>(stream->updates + shape_.update_floats());
    stream->inputs = inputs_.data();
    stream->num_input_slots = kMaxConvWidth;
  }

 private:
  RecurShape shape_;
  size_t layer_floats_ = 0;
  size_t num_layers_ = 0;
  size_t layer_ = 0;
  AlignedArray<uint8_t> memory_;
  std::vector<float> inputs_;
};

KernelRow MeasureRecur(const RecurShape& shape, size_t num_rows, const MachineLimits& limits, double seconds,
                       CpuDevice& device) {
  const bool is_decode = num_rows == 1;
  Random random(2);
  std::vector<float> weight(shape.conv_width * shape.num_channels()), x(num_rows * shape.num_channels());
  std::vector<float> log_decay(num_rows * shape.num_decays());
  std::vector<float> beta(num_rows * shape.num_gates(), 0.5f);
  std::vector<float> keys(num_rows * shape.key_dim), rate(shape.state_floats(), 1.0f);
  FillRandom(keys.data(), keys.size(), 1, random);
  FillRandom(weight.data(), weight.size(), 0.5, random);
  FillRandom(x.data(), x.size(), 1, random);
  for (float& value : log_decay) value = static_cast<float>(-0.1 * random.Uniform());
  std::vector<float> out(num_rows * shape.value_channels());
  Layers layers(shape, is_decode);
  const std::vector<int32_t> border_slots(NumRecurBorders(0, num_rows), 1);
  const std::vector<int32_t> block_slots(NumRecurBlocks(0, num_rows), is_decode ? 0 : -1);
  const auto scratch = MakeAligned<float>(RecurScratchFloats(shape, num_rows, device.num_threads()));
  RecurCall call{.shape = &shape, .conv_weight = weight.data(), .num_rows = num_rows, .x = x.data()};
  call.log_decay = log_decay.data();
  call.beta = beta.data();
  call.out = out.data();
  if (shape.is_stepped()) {
    call.keys = call.queries = keys.data();
    call.rate = rate.data();
  }
  call.stream.first_index = is_decode ? kRecurBlockTokens / 2 : 0;
  call.stream.border_slots = border_slots.data();
  call.stream.block_slots = block_slots.data();
  call.stream.first_kept_row = num_rows - std::min(num_rows, kMaxConvWidth - 1);
  KernelRow row;
  row.timing = TimeRuns(seconds, [&] {
    layers.SetNext(&call.stream);
    if (shape.is_stepped() && is_decode) call.stream.head = call.stream.states;
    if (shape.is_stepped()) call.stream.next_head = call.stream.states + shape.state_floats();
    device.Recur({&call, 1}, scratch.get());
  });
  const RecurCost cost = CostOf(call);
  row.bytes = cost.bytes;
  row.ops = cost.flops;
  const bool all = limits.num_threads > 1;
  SetShare({.bytes_per_second = limits.ReadBandwidth(kColdBytes, all),
            .ops_per_second = all ? limits.fp32_ops.all_threads : limits.fp32_ops.one_thread,
            .ops_name = "fp32"},
           &row);
  return row;
}

}  // namespace

std::vector<KernelCase> RecurCases() {
  // Qwen3.5 4B; Kimi Linear; Granite 4 H Micro; Mamba 2.8B.
  const std::pair<const char*, RecurShape> shapes[] = {{"delta/16x32/128x128",
                                                        {.rule = RecurRule::kDelta,
                                                         .num_key_heads = 16,
                                                         .num_value_heads = 32,
                                                         .key_dim = 128,
                                                         .value_dim = 128}},
                                                       {"channels/32x32/128x128",
                                                        {.rule = RecurRule::kDelta,
                                                         .num_key_heads = 32,
                                                         .num_value_heads = 32,
                                                         .key_dim = 128,
                                                         .value_dim = 128,
                                                         .decays_by_channel = true}},
                                                       {"scan/1x64/128x64",
                                                        {.rule = RecurRule::kScan,
                                                         .num_key_heads = 1,
                                                         .num_value_heads = 64,
                                                         .key_dim = 128,
                                                         .value_dim = 64,
                                                         .has_values_first = true,
                                                         .normalises = false}},
                                                       {"selective/5120x16",
                                                        {.rule = RecurRule::kDiagonal,
                                                         .num_key_heads = 1,
                                                         .num_value_heads = 80,
                                                         .key_dim = 16,
                                                         .value_dim = 64,
                                                         .conv_width = 1}}};
  std::vector<KernelCase> cases;
  for (const auto& [name, shape] : shapes) {
    for (const size_t num_rows : {size_t{1}, size_t{512}}) {
      const RecurShape measured = shape;
      cases.push_back({std::string("recur/") + name + "/rows:" + std::to_string(num_rows),
                       [measured, num_rows](const MachineLimits& limits, double seconds, CpuDevice& device) {
                         return MeasureRecur(measured, num_rows, limits, seconds, device);
                       }});
    }
  }
  return cases;
}

}  // namespace mneme
