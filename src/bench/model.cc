#include "bench/model.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/text/units.h"
#include "bench/session_timing.h"
#include "kernels/linear/linear.h"
#include "mneme/plan.h"
#include "mneme/scheduler.h"
#include "mneme/session.h"
#include "model/weights.h"

namespace mneme {
namespace {

// One context of one model: sessions at depths, and what is timed there.
class ContextBench {
 public:
  ContextBench(const Model& model, const BenchSettings& settings, const MachineFloor* floor)
      : model_(model),
        settings_(settings),
        floor_(floor),
        costs_(CostsOf(model)),
        ids_(model.info().vocab_size),
        options_(settings.session) {
    options_.context = ResolveDeepest();
    is_bounded_ = IsBounded(model_, options_);
  }

  std::vector<BenchRow> Rows() {
    if (settings_.num_prefill > 0) Guarded("prefill", 0, [&] { Prefill(); });
    for (const int64_t depth : settings_.depths) {
      if (settings_.stop.stop_requested()) break;
      if (settings_.num_decode > 0) Guarded("decode", depth, [&] { Decode(depth); });
      if (settings_.batch > 1 && !settings_.stop.stop_requested())
        Guarded("batch", depth, [&] { Batch(depth); });
      if (!settings_.state_folder.empty() && !settings_.stop.stop_requested())
        Guarded("state", depth, [&] { State(depth); });
    }
    return std::move(rows_);
  }

 private:
  // For the deepest depth that the cap allows; rows beyond it say why there are none.
  std::string ResolveDeepest() {
    SessionOptions options = options_;
    std::vector<int64_t> depths = settings_.depths;
    if (depths.empty()) depths.push_back(0);
    std::sort(depths.begin(), depths.end());
    for (;; depths.pop_back()) {
      try {
        options.expected_tokens = depths.back() + settings_.num_prefill + settings_.num_decode;
        return ChooseContext(model_, options).context;
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kBudget || depths.size() == 1) throw;
        too_deep_ = depths.back();
        why_too_deep_ = error.what();
      }
    }
  }

  void Guarded(const char* what, int64_t depth, const std::function<void()>& measure) {
    try {
      if (depth >= too_deep_) Fail(ErrorKind::kBudget, "{}", why_too_deep_);
      measure();
    } catch (const Error& error) {
      BenchRow row = NewRow(what, depth);
      row.note = error.what();
      rows_.push_back(std::move(row));
    }
  }

  BenchRow NewRow(std::string what, int64_t depth) const {
    BenchRow row;
    row.what = std::move(what);
    row.context = options_.context;
    row.depth = depth;
    row.num_threads = model_.engine().num_threads();
    return row;
  }

  void Prefill() {
    BenchRow row = NewRow(fmt::format("prefill {}", settings_.num_prefill), 0);
    std::vector<double> seconds;
    for (int64_t i = 0; i <= settings_.num_repeats; ++i) {
      Session session(model_, options_);
      const std::vector<TokenId> ids = ids_.Take(settings_.num_prefill);
      const Clock::time_point start = Clock::now();
      if (session.Feed(ids) < settings_.num_prefill) return;
      max_rows_ = session.max_rows();
      if (i > 0) seconds.push_back(SecondsSince(start));  // the first run warms caches and pages
    }
    const Timing timing = MedianOf(std::move(seconds));
    row.reached = "read";
    row.tokens_per_second = static_cast<double>(settings_.num_prefill) / timing.median_seconds;
    prefill_rate_ = row.tokens_per_second;
    row.spread = timing.spread;
    row.bytes_per_token =
        static_cast<double>(model_.info().read_bytes_per_token) / static_cast<double>(max_rows_);
    if (floor_ != nullptr && floor_->flops_per_second > 0) {
      row.share = row.tokens_per_second * costs_.flops_per_token / floor_->flops_per_second;
      row.share_of = floor_->flops_name + " peak";
    }
    rows_.push_back(std::move(row));
  }

  // Tokens per second of reading: what was measured, or else one chunk, which is too kind to a context that
  // grows.
  double PrefillRate(int64_t depth) {
    if (prefill_rate_ > 0 || depth == 0) return std::max(prefill_rate_, 1.0);
    Session session(model_, options_);
    const std::vector<TokenId> ids = ids_.Take(std::min(depth, session.max_rows()));
    const Clock::time_point start = Clock::now();
    const int64_t count = session.Feed(ids);
    prefill_rate_ = std::max(1.0, static_cast<double>(count) / SecondsSince(start));
    return prefill_rate_;
  }

  // A session at `depth`. Reads up to it where that is quick or cannot be avoided; else starts there and
  // fills what a token can see, which for a bounded context is the same work per token.
  std::unique_ptr<Session> At(int64_t depth, std::string* reached) {
    SessionOptions options = options_;
    const double rate = PrefillRate(depth);
    const bool can_read = static_cast<double>(depth) / rate <= settings_.max_seconds;
    if (!can_read && !is_bounded_) {
      Fail(ErrorKind::kInput, "reading {} tokens takes about {}; --max-seconds allows {}", FormatCount(depth),
           FormatSeconds(static_cast<double>(depth) / rate), FormatSeconds(settings_.max_seconds));
    }
    *reached = can_read ? "read" : "filled";
    if (!can_read) options.start_position = depth;
    auto session = std::make_unique<Session>(model_, options);
    int64_t left = can_read ? std::max<int64_t>(depth, 1) : std::numeric_limits<int64_t>::max();
    while (left > 0 && !settings_.stop.stop_requested()) {
      const int64_t count = std::min(left, session->max_rows());
      session->Feed(ids_.Take(count));
      left -= count;
      if (!can_read && (HasForgotten(*session) || session->num_tokens() >= depth)) break;
    }
    return session;
  }

  void AddDecodeRow(BenchRow row, const Session& session, std::vector<double> seconds, int64_t num_steps,
                    int64_t num_sessions) {
    if (seconds.empty()) return;
    const Timing timing = MedianOf(std::move(seconds));
    const double step_seconds = timing.median_seconds / static_cast<double>(num_steps);
    const double kv_bytes =
        KvBytesPerToken(*model_.impl()->loaded, options_) * static_cast<double>(VisibleTokens(session));
    const double step_bytes =
        static_cast<double>(costs_.weight_bytes_per_token) + kv_bytes * static_cast<double>(num_sessions);
    row.tokens_per_second = static_cast<double>(num_sessions) / step_seconds;
    row.spread = timing.spread;
    row.bytes_per_token = step_bytes / static_cast<double>(num_sessions);
    if (floor_ != nullptr && floor_->bytes_per_second > 0) {
      row.share = step_bytes / step_seconds / floor_->bytes_per_second;
      row.share_of = "read bandwidth";
    }
    rows_.push_back(std::move(row));
  }

  void Decode(int64_t depth) {
    BenchRow row = NewRow(fmt::format("decode {}", settings_.num_decode), depth);
    const std::unique_ptr<Session> base = At(depth, &row.reached);
    std::vector<double> seconds;
    for (int64_t i = 0; i < settings_.num_repeats && !settings_.stop.stop_requested(); ++i) {
      // Each run starts at the same depth, and warm.
      Session session = base->Clone();
      seconds.push_back(TimeDecode(session, ids_, settings_.num_decode));
    }
    AddDecodeRow(std::move(row), *base, std::move(seconds), settings_.num_decode, 1);
  }

  void Batch(int64_t depth) {
    BenchRow row = NewRow(fmt::format("batch {}", settings_.batch), depth);
    std::vector<std::unique_ptr<Session>> sessions;
    for (int64_t i = 0; i < settings_.batch && !settings_.stop.stop_requested(); ++i) {
      sessions.push_back(i == 0 ? At(depth, &row.reached) : std::make_unique<Session>(sessions[0]->Clone()));
    }
    Scheduler scheduler(model_);
    std::vector<double> seconds;
    for (int64_t i = 0; i < settings_.num_repeats && !settings_.stop.stop_requested(); ++i) {
      const Clock::time_point start = Clock::now();
      for (int64_t step = 0; step < settings_.num_decode; ++step) {
        for (const auto& session : sessions)
          scheduler.Add({.session = session.get(), .tokens = ids_.Take(1)});
        scheduler.Step();
      }
      seconds.push_back(SecondsSince(start));
    }
    AddDecodeRow(std::move(row), *sessions[0], std::move(seconds), settings_.num_decode, settings_.batch);
  }

  // Saves the session of `depth` to a file and restores it into another, checksums included.
  void State(int64_t depth) {
    BenchRow save = NewRow("save", depth);
    BenchRow restore = NewRow("restore", depth);
    const std::unique_ptr<Session> session = At(depth, &save.reached);
    restore.reached = save.reached;
    std::string folder = settings_.state_folder + "/mneme-bench-XXXXXX";
    if (::mkdtemp(folder.data()) == nullptr) {
      Fail(ErrorKind::kFile, "{}: cannot be made: {}", folder, std::strerror(errno));
    }
    struct Removal {
      const std::string& folder;
      ~Removal() {
        std::error_code ignored;
        std::filesystem::remove_all(folder, ignored);
      }
    } const removal{folder};
    const std::string path = folder + "/state";
    std::vector<double> save_seconds, restore_seconds;
    for (int64_t i = 0; i <= settings_.num_repeats && !settings_.stop.stop_requested(); ++i) {
      Clock::time_point start = Clock::now();
      session->Save(path);
      const double saved = SecondsSince(start);
      Session other(model_, session->options());
      start = Clock::now();
      other.Reload(path);
      const double restored = SecondsSince(start);
      if (i == 0) continue;  // warms pages
      save_seconds.push_back(saved);
      restore_seconds.push_back(restored);
    }
    if (save_seconds.empty()) return;
    const auto bytes = static_cast<double>(MappedFile(path).bytes().size());
    for (BenchRow* row : {&save, &restore}) {
      const Timing timing = MedianOf(row == &save ? save_seconds : restore_seconds);
      row->spread = timing.spread;
      row->bytes_per_second = bytes / timing.median_seconds;
      row->bytes_per_token = bytes / static_cast<double>(std::max<int64_t>(1, VisibleTokens(*session)));
      rows_.push_back(std::move(*row));
    }
  }

  const Model& model_;
  const BenchSettings& settings_;
  const MachineFloor* floor_;
  ModelCosts costs_;
  RandomIds ids_;
  SessionOptions options_;
  bool is_bounded_ = false;
  int64_t max_rows_ = 1;
  double prefill_rate_ = 0;
  int64_t too_deep_ = std::numeric_limits<int64_t>::max();  // depths from here on do not fit under the cap
  std::string why_too_deep_;
  std::vector<BenchRow> rows_;
};

ProductKind KindOf(const LinearWeights& weights) {
  if (NeedsQuantised(weights.encoding())) return ProductKind::kInt8;
  switch (weights.products()) {
    case FloatProducts::kInt16:
      return ProductKind::kInt16;
    case FloatProducts::kBFloat16:
      return ProductKind::kBFloat16;
    default:
      return ProductKind::kFloat32;
  }
}

}  // namespace

ModelCosts CostsOf(const Model& model) {
  ModelCosts costs;
  std::map<ProductKind, size_t> bytes;
  size_t all_bytes = 0;
  const LoadedModel& loaded = *model.impl()->loaded;
  costs.flops_per_token = 2 * ProductsPerToken(loaded.plan(), loaded.weights());
  for (const LayerWeights& layer : loaded.weights().layers) {
    ForEachLinearOfLayer(layer, [&](const LinearLayer& linear, bool) {
      all_bytes += linear.weights.read_bytes();
      bytes[KindOf(linear.weights)] += linear.weights.read_bytes();
    });
  }
  for (const auto& [kind, count] : bytes) {
    if (count * 2 > all_bytes) costs.products = kind;
  }
  costs.weight_bytes_per_token = model.info().read_bytes_per_token;
  return costs;
}

MachineFloor FloorOf(const MachineLimits& limits, const Model& model) {
  const ModelCosts costs = CostsOf(model);
  const bool all = limits.num_threads > 1;
  MachineFloor floor{.bytes_per_second = limits.ReadBandwidth(costs.weight_bytes_per_token, all)};
  const auto use = [&](const char* name, const MachineRate& rate) {
    if (rate.one_thread <= 0) return;  // without the instruction, products run at the rate of float32
    floor.flops_name = name;
    floor.flops_per_second = all ? rate.all_threads : rate.one_thread;
  };
  use("fp32", limits.fp32_ops);
  floor.float_flops_per_second = floor.flops_per_second;
  if (costs.products == ProductKind::kInt8) use("int8", limits.int8_ops);
  if (costs.products == ProductKind::kInt16) use("int16", limits.int16_ops);
  if (costs.products == ProductKind::kBFloat16) use("bf16", limits.bf16_ops);
  return floor;
}

std::vector<BenchRow> MeasureContext(const Model& model, const BenchSettings& settings,
                                     const MachineFloor* floor) {
  return ContextBench(model, settings, floor).Rows();
}

}  // namespace mneme
