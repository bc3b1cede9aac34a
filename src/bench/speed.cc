#include "bench/speed.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text/units.h"
#include "bench/session_timing.h"
#include "eval/perplexity/recompute.h"
#include "mneme/session.h"
#include "mneme/system.h"

namespace mneme {
namespace {

// One stream, walked through the depths.
class DepthWalk {
 public:
  DepthWalk(const Model& model, const SpeedSettings& settings, Progress& progress)
      : model_(model),
        settings_(settings),
        progress_(progress),
        ids_(model.info().vocab_size),
        options_(settings.session),
        is_bounded_(IsBounded(model, options_)),
        session_(std::make_unique<Session>(model, options_)) {}

  SpeedPoint At(int64_t depth) {
    SpeedPoint point;
    point.depth = depth;
    try {
      Reach(depth, &point);
      if (!settings_.stop.stop_requested()) Measure(&point);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kInterrupted) throw;
      point.note = error.what();
    }
    return point;
  }

 private:
  // False where max_seconds went by before: what a token costs may grow with the depth, so that no estimate
  // holds.
  bool Feed(int64_t count, int64_t depth) {
    const double limit = read_seconds_ + settings_.max_seconds;
    // Pieces of a few chunks, so that progress shows.
    while (count > 0 && !settings_.stop.stop_requested()) {
      if (read_seconds_ > limit) return false;
      const int64_t piece = std::min(count, 16 * session_->max_rows());
      const auto start = Clock::now();
      session_->Feed(ids_.Take(piece));
      read_seconds_ += SecondsSince(start);
      num_read_ += piece;
      count -= piece;
      progress_.Update(
          session_->next_position(), depth,
          fmt::format("{}, {:.0f} tok/s, {}", options_.context,
                      static_cast<double>(num_read_) / read_seconds_, FormatBytes(ResidentBytes())));
    }
    return true;
  }

  void Reach(int64_t depth, SpeedPoint* point) {
    const double before = read_seconds_;
    const auto left = [&] { return std::max<int64_t>(depth, 1) - session_->next_position(); };
    // Enough to know what a token takes.
    const int64_t sample = 4 * session_->max_rows();
    if (num_read_ < sample) Feed(std::min(left(), sample), depth);
    const double wanted = static_cast<double>(left()) * read_seconds_ / static_cast<double>(num_read_);
    if (wanted <= settings_.max_seconds && Feed(left(), depth)) {
      // A stream that once was filled stays one.
      point->reached = options_.start_position > 0 ? "filled" : "read";
    } else if (is_bounded_) {
      session_.reset();
      options_.start_position = depth;
      session_ = std::make_unique<Session>(model_, options_);
      while (!HasForgotten(*session_) && session_->num_tokens() < depth && !settings_.stop.stop_requested())
        Feed(session_->max_rows(), depth);
      point->reached = "filled";
    } else {
      Fail(ErrorKind::kInput, "reading up to {} tokens takes more than the {} that --max-seconds allows",
           FormatCount(depth), FormatSeconds(settings_.max_seconds));
    }
    point->read_seconds = read_seconds_ - before;
  }

  void Measure(SpeedPoint* point) {
    point->resident_bytes = ResidentBytes();
    point->session_bytes = model_.engine().memory().used_bytes;
    MeasureState(point);
    std::vector<double> first, prefill, decode;
    for (int64_t i = 0; i < settings_.num_repeats && !settings_.stop.stop_requested(); ++i) {
      {
        Session session = session_->Clone();
        const auto start = Clock::now();
        session.Feed(ids_.Take(settings_.num_prompt));
        session.Sample();
        first.push_back(SecondsSince(start));
      }
      {
        Session session = session_->Clone();
        const std::vector<TokenId> ids = ids_.Take(settings_.num_prefill);
        const auto start = Clock::now();
        session.Feed(ids);
        prefill.push_back(SecondsSince(start));
      }
      Session session = session_->Clone();
      decode.push_back(TimeDecode(session, ids_, settings_.num_decode));
    }
    if (settings_.stop.stop_requested()) return;
    point->first_token_seconds = MedianOf(first).median_seconds;
    point->prefill_per_second = static_cast<double>(settings_.num_prefill) / MedianOf(prefill).median_seconds;
    const Timing timing = MedianOf(decode);
    point->decode_per_second = static_cast<double>(settings_.num_decode) / timing.median_seconds;
    point->decode_spread = timing.spread;
    if (settings_.bytes_per_second > 0) {
      const double kv_bytes =
          KvBytesPerToken(*model_.impl()->loaded, options_) * static_cast<double>(VisibleTokens(*session_));
      point->floor_per_second =
          settings_.bytes_per_second / (static_cast<double>(model_.info().read_bytes_per_token) + kv_bytes);
    }
  }

  // A state that cannot be written (the folder is full, say) costs that one figure.
  void MeasureState(SpeedPoint* point) const {
    // A folder of its own, with a name that nobody can have planted a link under.
    std::string folder = settings_.temporary_folder + "/mneme-speed-XXXXXX";
    if (::mkdtemp(folder.data()) == nullptr) {
      point->disk_note = fmt::format("no size of the state on disk: {}: {}", folder, std::strerror(errno));
      return;
    }
    std::error_code error;
    try {
      const std::string path = folder + "/state";
      session_->Save(path);
      point->disk_bytes = static_cast<size_t>(std::filesystem::file_size(path, error));
    } catch (const Error& failure) {
      if (failure.kind() == ErrorKind::kInterrupted) throw;
      point->disk_note = fmt::format("no size of the state on disk: {}", failure.what());
    }
    std::filesystem::remove_all(folder, error);
  }

  const Model& model_;
  const SpeedSettings& settings_;
  Progress& progress_;
  RandomIds ids_;
  SessionOptions options_;
  bool is_bounded_;
  std::unique_ptr<Session> session_;
  int64_t num_read_ = 0;
  double read_seconds_ = 0;
};

}  // namespace

void MeasureSpeedByDepth(const Model& model, const SpeedSettings& settings, Progress& progress,
                         const std::function<void(const SpeedPoint& point)>& on_point) {
  MNEME_CHECK(std::is_sorted(settings.depths.begin(), settings.depths.end()));
  DepthWalk walk(model, settings, progress);
  for (const int64_t depth : settings.depths) {
    const SpeedPoint point = walk.At(depth);
    if (settings.stop.stop_requested()) return;
    on_point(point);
    if (!point.note.empty()) return;
  }
}

RecomputePoint MeasureRecompute(const Model& model, int64_t cache, int64_t num_sinks,
                                const SessionOptions& base, int64_t num_repeats, StopToken stop) {
  if (cache <= num_sinks || num_sinks < 1)
    Fail(ErrorKind::kInput, "a cache of {} tokens has no window beside {} sinks", cache, num_sinks);
  constexpr int64_t kDecodeSteps = 32;
  RecomputePoint point;
  point.cache = cache;
  RandomIds ids(model.info().vocab_size);
  std::vector<double> seconds;
  {
    SessionOptions options = base;
    options.context = fmt::format("sinks:sinks={},window={}", num_sinks, cache - num_sinks);
    Session session(model, options);
    session.Feed(ids.Take(cache + 1), stop);
    for (int64_t i = 0; i < num_repeats && !stop.stop_requested(); ++i)
      seconds.push_back(TimeDecode(session, ids, kDecodeSteps) / kDecodeSteps);
    if (stop.stop_requested()) Fail(ErrorKind::kInterrupted, "interrupted");
    point.sinks_seconds = MedianOf(seconds).median_seconds;
  }
  RecomputeWindow window(model, cache, base);
  for (const TokenId id : ids.Take(cache)) window.Push(id);
  window.Logits(stop);  // warm
  seconds.clear();
  for (int64_t i = 0; i < num_repeats && !stop.stop_requested(); ++i) {
    const auto start = Clock::now();
    window.Push(ids.Take(1)[0]);
    window.Logits(stop);
    seconds.push_back(SecondsSince(start));
  }
  if (stop.stop_requested()) Fail(ErrorKind::kInterrupted, "interrupted");
  point.recompute_seconds = MedianOf(seconds).median_seconds;
  return point;
}

}  // namespace mneme
