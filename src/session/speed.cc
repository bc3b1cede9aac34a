// How fast a model reads on this machine: MeasureSpeed of mneme/plan.h.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "base/aligned.h"
#include "context/registry.h"
#include "kernels/attend/attend.h"
#include "mneme/plan.h"
#include "model/model_impl.h"
#include "model/runner.h"
#include "session/resolve.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostRows = 256;
constexpr int64_t kMostDepth = 4096;
constexpr double kMostKvBytes = 128 << 20;
constexpr int kLeastRounds = 3;
// A call that is to be repeated in both places may take this part of the time.
constexpr double kCallShare = 1.0 / 8;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Processor time of the calling thread, which does its share of every call and waits for the others without
// sleeping: time that other programs take from it is not in it.
double ThreadSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Seconds per row of the calls in one place.
struct Place {
  std::vector<double> thread, wall;
  double Best() const {
    return std::min(*std::min_element(thread.begin(), thread.end()),
                    *std::min_element(wall.begin(), wall.end()));
  }
  // The upper quartile: a single hiccup does not count.
  double Slow() const {
    std::vector<double> sorted = wall;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() * 3 / 4];
  }
};

class SpeedProbe {
 public:
  explicit SpeedProbe(const Model& model)
      : model_(*model.impl()->loaded),
        device_(model.engine().impl().device),
        max_rows_(MostRows(model)),
        runner_(model_, max_rows_, device_, budget_),
        shallow_(MakeDense()),
        deep_(MakeDense()),
        tokens_(static_cast<size_t>(max_rows_), 0) {}

  SpeedEstimate Measure(double max_seconds) {
    const auto begin = Clock::now();
    chunk_ = std::min<int64_t>(16, max_rows_);
    Call(*shallow_, nullptr);  // reads the weights into memory, wakes the threads
    Place first;
    Call(*shallow_, &first);
    while (chunk_ * 2 <= max_rows_ &&
           first.Best() * static_cast<double>(chunk_ * 2) < max_seconds * kCallShare) {
      chunk_ *= 2;
    }
    Fill(DepthFor(chunk_));
    Place shallow, deep;
    Call(*shallow_, nullptr);
    Call(*deep_, nullptr);
    for (int round = 0; round < kLeastRounds || SecondsSince(begin) < max_seconds; ++round) {
      Call(*shallow_, &shallow);
      Call(*deep_, &deep);
    }
    return Line(shallow, deep);
  }

 private:
  static int64_t MostRows(const Model& model) {
    const int64_t trained = model.info().trained_length;
    const int64_t rows = std::min(model.engine().options().max_rows, kMostRows);
    return std::max<int64_t>(trained > 0 ? std::min(rows, trained / 4) : rows, 1);
  }

  // Without what a model with learned positions cannot read.
  int64_t DepthFor(int64_t chunk) const {
    const int64_t trained = model_.plan().trained_length;
    const double kv_bytes = std::max(KvBytesPerToken(model_, SessionOptions()), 1.0);
    int64_t depth = std::min<int64_t>(kMostDepth, static_cast<int64_t>(kMostKvBytes / kv_bytes));
    if (trained > 0) depth = std::min(depth, trained - chunk);
    return std::max(depth / chunk, int64_t{1}) * chunk;
  }

  std::unique_ptr<Context> MakeDense() const {
    SessionOptions options;
    options.context = "dense";
    options.max_rewind = max_rows_;
    return MakeContext(model_.context_shape(), InnerContext(options, max_rows_), budget_,
                       device_.num_threads());
  }

  // One chunk, which is taken back.
  void Call(Context& context, Place* place) {
    const ForwardChunk chunk{.context = &context,
                             .tokens = std::span(tokens_).first(static_cast<size_t>(chunk_)),
                             .no_logits = true};
    const auto start = Clock::now();
    const double thread_start = ThreadSeconds();
    runner_.Forward({&chunk, 1}, {});
    const auto rows = static_cast<double>(chunk_);
    if (place != nullptr) {
      place->thread.push_back((ThreadSeconds() - thread_start) / rows);
      place->wall.push_back(SecondsSince(start) / rows);
    }
    context.Rewind(chunk_);
  }

  // Makes `depth` tokens visible in the deep context: writes keys and values of zeros, which take as long to
  // read as any others, and computes nothing.
  void Fill(int64_t depth) {
    const std::vector<LayerAttention>& layers = model_.context_shape().layers;
    size_t floats = 1, scratch_bytes = 1;
    const auto rows = static_cast<size_t>(chunk_);
    for (const LayerAttention& layer : layers) {
      floats = std::max(floats, rows * layer.num_heads * std::max(layer.key_dim, layer.value_dim));
      scratch_bytes = std::max(scratch_bytes, AttendScratchBytes(rows, layer.num_heads, layer.key_dim,
                                                                 layer.value_dim, device_.num_threads()));
    }
    const std::vector<float> zeros(floats);
    std::vector<float> out(floats);
    AlignedArray<uint8_t> scratch = MakeAligned<uint8_t>(scratch_bytes);
    for (int64_t i = 0; i < depth; i += chunk_) {
      deep_->Begin(std::span(tokens_).first(rows));
      for (size_t layer = 0; layer < layers.size(); ++layer) {
        AttendCall call = deep_->Plan(layer, zeros.data(), zeros.data(), zeros.data(), out.data());
        call.spans = {};
        device_.Attend({&call, 1}, scratch.get());
        deep_->Finish(layer, device_);
      }
      device_.Wait();
      deep_->Commit();
    }
  }

  SpeedEstimate Line(const Place& shallow, const Place& deep) const {
    SpeedEstimate estimate;
    estimate.chunk = chunk_;
    const auto depth = static_cast<double>(deep_->num_tokens());
    estimate.depth = deep_->num_tokens();
    // A chunk's rows see half of it, on average, and so do those at the depth.
    estimate.visible_seconds = std::max(0.0, (deep.Best() - shallow.Best()) / depth);
    estimate.base_seconds =
        std::max(0.0, shallow.Best() - estimate.visible_seconds * static_cast<double>(chunk_) / 2);
    estimate.slow_factor = std::max({1.0, shallow.Slow() / shallow.Best(), deep.Slow() / deep.Best()});
    return estimate;
  }

  const LoadedModel& model_;
  Device& device_;
  const Budget budget_;  // beside the engine's
  const int64_t max_rows_;
  Runner runner_;
  std::unique_ptr<Context> shallow_, deep_;
  const std::vector<TokenId> tokens_;  // speed does not depend on which they are
  int64_t chunk_ = 0;
};

}  // namespace

SpeedEstimate MeasureSpeed(const Model& model, double max_seconds) {
  return SpeedProbe(model).Measure(max_seconds);
}

}  // namespace mneme
