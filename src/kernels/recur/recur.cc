#include "kernels/recur/recur.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "kernels/recur/job.h"
#include "kernels/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/recur/recur.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
//
#include "hwy/highway.h"
#include "kernels/recur/convolve-inl.h"
#include "kernels/recur/rule-inl.h"
#include "kernels/recur/step-inl.h"

#if HWY_ONCE
namespace mneme {
namespace {

HWY_EXPORT(KeyTask);
HWY_EXPORT(ValueTask);
HWY_EXPORT(RuleTask);
HWY_EXPORT(StepTask);

void CheckCall(const RecurCall& call) {
  const RecurShape& shape = *call.shape;
  const RecurStream& stream = call.stream;
  MNEME_CHECK(call.num_rows > 0 && stream.first_index >= 0 && call.x != call.out);
  if (shape.is_stepped()) {
    const bool has_keys = shape.num_key_heads > 0;
    MNEME_CHECK(has_keys == (call.keys != nullptr) && has_keys == (call.queries != nullptr));
    MNEME_CHECK(shape.rule == RecurRule::kWkv ? !has_keys : has_keys || shape.key_dim == 1);
  } else {
    MNEME_CHECK(shape.conv_width >= 1 && shape.conv_width <= kMaxConvWidth);
    MNEME_CHECK(stream.num_input_slots + 1 >= shape.conv_width);
    if (!shape.has_state()) return;
    MNEME_CHECK(shape.num_key_heads > 0 && shape.num_value_heads % shape.num_key_heads == 0);
    MNEME_CHECK(!shape.decays_by_channel ||
                (shape.rule == RecurRule::kDelta && shape.num_key_heads == shape.num_value_heads));
  }
  // Where a block is not kept, nothing of it may lie before or after the chunk.
  const size_t num_blocks = NumRecurBlocks(stream.first_index, call.num_rows);
  const bool starts_inside = stream.first_index % static_cast<int64_t>(kRecurBlockTokens) != 0;
  MNEME_CHECK(!starts_inside || stream.block_slots[0] >= 0);
  MNEME_CHECK(num_blocks == NumRecurBorders(stream.first_index, call.num_rows) ||
              stream.block_slots[num_blocks - 1] >= 0);
}

size_t PerRow(const RecurShape& shape) {
  if (!shape.has_state() || shape.is_stepped()) return 0;
  return shape.num_key_heads * (RowsPerToken(shape) * (shape.key_dim + kRecurBlockTokens) + shape.key_dim) +
         shape.num_value_heads * shape.num_panels() * kRecurPanel;
}

size_t ThreadFloats(const RecurShape& shape) {
  // The state of a panel, and what a block that is not kept would keep.
  if (shape.is_stepped()) return (shape.state_depth() + 2 * kRecurBlockTokens) * kRecurPanel;
  return shape.has_state() ? RecurThreadScratch::Floats(shape) : 0;
}

// The calls as jobs, whose arrays lie in `scratch`, each for all calls together.
std::vector<RecurJob> MakeJobs(std::span<const RecurCall> calls, float* scratch) {
  const RecurShape& shape = *calls.front().shape;
  size_t total = 0;
  for (const RecurCall& call : calls) total += call.num_rows;
  // Those that are read as aligned vectors are multiples of 64; rows come last.
  float* products = scratch;
  float* values = products + total * shape.num_key_heads * RowsPerToken(shape) * kRecurBlockTokens;
  float* keys = values + total * shape.num_value_heads * shape.num_panels() * kRecurPanel;
  float* rows = keys + total * shape.key_channels();
  std::vector<RecurJob> jobs;
  jobs.reserve(calls.size());
  for (const RecurCall& call : calls) {
    MNEME_CHECK(*call.shape == shape);
    CheckCall(call);
    RecurJob job{.call = &call, .num_blocks = NumRecurBlocks(call.stream.first_index, call.num_rows)};
    if (shape.has_state() && !shape.is_stepped()) {
      job.rows = rows;
      job.products = products;
      job.values = values;
      job.unkept_keys = keys;
      rows += call.num_rows * shape.num_key_heads * RowsPerToken(shape) * shape.key_dim;
      products += call.num_rows * shape.num_key_heads * RowsPerToken(shape) * kRecurBlockTokens;
      values += call.num_rows * shape.num_value_heads * shape.num_panels() * kRecurPanel;
      for (size_t block = 0; block < job.num_blocks; ++block) {
        if (call.stream.block_slots[block] < 0) keys += shape.key_floats();
      }
    }
    jobs.push_back(job);
  }
  return jobs;
}

// Sum over the chunk's tokens of the tokens of its block before it.
double PairsBefore(const RecurCall& call) {
  double pairs = 0;
  for (size_t row = 0; row < call.num_rows; ++row) {
    pairs += static_cast<double>((call.stream.first_index + static_cast<int64_t>(row)) %
                                 static_cast<int64_t>(kRecurBlockTokens));
  }
  return pairs;
}

}  // namespace

size_t RecurScratchFloats(const RecurShape& shape, size_t num_rows, size_t num_threads) {
  // Blocks that are not kept are whole ones, so that their keys too are so many floats per row.
  return num_threads * ThreadFloats(shape) + num_rows * PerRow(shape);
}

void Recur(std::span<const RecurCall> calls, float* scratch, ThreadPool& pool) {
  if (calls.empty()) return;
  const RecurShape& shape = *calls.front().shape;
  const size_t thread_floats = ThreadFloats(shape);
  const std::vector<RecurJob> jobs = MakeJobs(calls, scratch + pool.num_threads() * thread_floats);
  if (shape.is_stepped()) {
    const size_t num_panels = shape.num_value_heads * shape.num_panels();
    pool.Run(jobs.size() * num_panels, [&](size_t task, size_t thread) {
      HWY_DYNAMIC_DISPATCH(StepTask)
      (jobs[task / num_panels], task % num_panels, scratch + thread * thread_floats);
    });
    return;
  }
  const size_t key_heads = shape.has_state() ? shape.num_key_heads : 0;
  const size_t heads = key_heads + shape.num_value_heads;
  size_t num_tasks = 0;
  for (const RecurJob& job : jobs) num_tasks += job.num_blocks * heads;
  pool.Run(num_tasks, [&](size_t task, size_t thread) {
    const RecurJob* job = jobs.data();
    while (task >= job->num_blocks * heads) task -= job++->num_blocks * heads;
    const size_t block = task / heads;
    const size_t head = task % heads;
    if (head < key_heads) {
      HWY_DYNAMIC_DISPATCH(KeyTask)(*job, block, head, scratch + thread * thread_floats);
    } else {
      HWY_DYNAMIC_DISPATCH(ValueTask)(*job, block, head - key_heads);
    }
  });
  if (!shape.has_state()) return;
  pool.Run(jobs.size() * shape.num_value_heads, [&](size_t task, size_t thread) {
    HWY_DYNAMIC_DISPATCH(RuleTask)
    (jobs[task / shape.num_value_heads], task % shape.num_value_heads, scratch + thread * thread_floats);
  });
}

void ClearState(const RecurShape& shape, float* state) {
  std::fill_n(state, shape.state_floats(), 0.0f);
  if (shape.rule != RecurRule::kWkv) return;
  // No term yet: what comes is larger.
  constexpr double kNone = -1e38;
  auto* at = reinterpret_cast<double*>(state) + 2 * kRecurPanel;
  for (size_t panel = 0; panel < shape.num_value_heads * shape.num_panels(); ++panel) {
    std::fill_n(at + panel * 3 * kRecurPanel, kRecurPanel, kNone);
  }
}

std::vector<float> ByPanels(const RecurShape& shape, size_t depth, const std::vector<float>& values) {
  MNEME_CHECK(values.size() == shape.value_channels() * depth);
  std::vector<float> result(shape.num_value_heads * shape.num_panels() * depth * kRecurPanel);
  for (size_t channel = 0; channel < shape.value_channels(); ++channel) {
    const size_t in_head = channel % shape.value_dim;
    const size_t panel = channel / shape.value_dim * shape.num_panels() + in_head / kRecurPanel;
    for (size_t i = 0; i < depth; ++i) {
      result[(panel * depth + i) * kRecurPanel + in_head % kRecurPanel] = values[channel * depth + i];
    }
  }
  return result;
}

RecurCost CostOf(const RecurCall& call) {
  const RecurShape& shape = *call.shape;
  const auto num_rows = static_cast<double>(call.num_rows);
  RecurCost cost;
  if (shape.is_stepped()) {
    const auto state = static_cast<double>(shape.state_floats());
    // Decay, update and output; exponentials do not count.
    return {.bytes = sizeof(float) * state, .flops = 6 * num_rows * state};
  }
  cost.flops = 2 * num_rows * static_cast<double>(shape.conv_width * shape.num_channels());
  if (!shape.has_state()) return cost;
  const auto offset = static_cast<size_t>(call.stream.first_index % static_cast<int64_t>(kRecurBlockTokens));
  const auto matrix = static_cast<double>(shape.num_value_heads * shape.key_dim * shape.value_dim);
  const auto keys = static_cast<double>(shape.key_channels());
  const auto values = static_cast<double>(shape.value_channels());
  const double before = PairsBefore(call);
  const bool corrects = shape.rule == RecurRule::kDelta;
  const double pairs = before + num_rows + (corrects ? before : 0);
  const auto ended = static_cast<double>(NumRecurBorders(call.stream.first_index, call.num_rows));
  cost.bytes = sizeof(float) * (matrix + static_cast<double>(offset) * (keys + values));
  if (shape.decays_by_channel) cost.bytes += sizeof(double) * static_cast<double>(offset) * keys;
  cost.flops +=
      2 * (matrix * (num_rows * (corrects ? 2 : 1) + ended * kRecurBlockTokens) + pairs * (keys + values));
  return cost;
}

}  // namespace mneme
#endif  // HWY_ONCE
