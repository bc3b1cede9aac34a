#include "bench/profile.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/budget.h"
#include "bench/session_timing.h"
#include "context/registry.h"
#include "kernels/timing_device.h"
#include "mneme/session.h"

namespace mneme {
namespace {

constexpr int kMinRuns = 3;
constexpr double kEnoughSeconds = 0.3;

// One context at one depth, and the same forward call on it again and again.
class ProfileRun {
 public:
  ProfileRun(const LoadedModel& model, const ContextSettings& settings, const Budget& budget, Device& device)
      : timing_(device),
        runner_(model, settings.max_chunk, timing_, budget),
        context_(MakeContext(model.context_shape(), settings, budget, device.num_threads())),
        max_chunk_(settings.max_chunk),
        ids_(static_cast<int64_t>(model.plan().vocab_size)) {}

  void Reach(int64_t depth, StopToken stop) {
    while (context_->num_tokens() < depth && !stop.stop_requested()) {
      Feed(ids_.Take(std::min(depth - context_->num_tokens(), max_chunk_)), /*no_logits=*/true);
    }
  }

  // Of at most max_runs runs the fastest, after one that warms caches and pages.
  std::vector<ProfileRow> Fastest(int64_t num_rows, int max_runs) {
    const std::vector<TokenId> chunk = ids_.Take(num_rows);
    RunOnce(chunk);
    double least = std::numeric_limits<double>::infinity();
    std::vector<TimingDevice::Op> ops;
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < kMinRuns || (SecondsSince(start) < kEnoughSeconds && i < max_runs); ++i) {
      timing_.TakeOps();
      const double seconds = RunOnce(chunk);
      if (seconds >= least) continue;
      least = seconds;
      ops = timing_.TakeOps();
    }
    return ToRows(ops, least);
  }

 private:
  void Feed(std::span<const TokenId> tokens, bool no_logits) {
    const ForwardChunk chunk{.context = context_.get(), .tokens = tokens, .no_logits = no_logits};
    runner_.Forward({&chunk, 1}, [](size_t, size_t, std::span<const float>) {});
  }

  double RunOnce(std::span<const TokenId> chunk) {
    const Clock::time_point start = Clock::now();
    Feed(chunk, /*no_logits=*/false);
    const double seconds = SecondsSince(start);
    const auto count = static_cast<int64_t>(chunk.size());
    if (context_->MaxRewind() >= count) context_->Rewind(count);
    return seconds;
  }

  static std::vector<ProfileRow> ToRows(std::span<const TimingDevice::Op> ops, double whole_seconds) {
    std::vector<ProfileRow> rows;
    ProfileRow rest{.op = "rest", .seconds = whole_seconds};
    ProfileRow whole{.op = "whole", .seconds = whole_seconds};
    for (const TimingDevice::Op& op : ops) {
      rows.push_back({op.name, op.seconds, op.bytes, op.flops});
      rest.seconds = std::max(0.0, rest.seconds - op.seconds);
      whole.bytes += op.bytes;
      whole.flops += op.flops;
    }
    rows.push_back(std::move(rest));
    rows.push_back(std::move(whole));
    return rows;
  }

  TimingDevice timing_;
  Runner runner_;
  std::unique_ptr<Context> context_;
  int64_t max_chunk_;
  RandomIds ids_;
};

}  // namespace

std::vector<ProfileRow> ProfileModel(const Model& model, SessionOptions options, int64_t num_rows,
                                     int64_t depth, StopToken stop) {
  const LoadedModel& loaded = *model.impl()->loaded;
  Device& device = model.engine().impl().device;
  // Every run starts at `depth`, where the context can go back that far.
  options.max_rewind = std::max(options.max_rewind, num_rows);
  // Where it cannot, it holds what the runs add: few where each adds many tokens.
  const int max_runs = num_rows == 1 ? 256 : kMinRuns;
  options.expected_tokens = depth + (max_runs + 1) * num_rows;
  const ContextSettings settings = ResolveSession(loaded, options, LimitsOf(model)).settings;
  Budget budget(model.engine().options().memory_bytes);
  ProfileRun run(loaded, settings, budget, device);
  run.Reach(depth, stop);
  return run.Fastest(std::min(num_rows, settings.max_chunk), max_runs);
}

}  // namespace mneme
