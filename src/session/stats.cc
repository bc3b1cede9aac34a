#include "mneme/stats.h"

#include "mneme/system.h"

namespace mneme {

SpeedLog::SpeedLog() { samples_.reserve(kMaxSamples); }

void SpeedLog::Add(int64_t num_tokens, double seconds) {
  total_.num_tokens += num_tokens;
  total_.busy_seconds += seconds;
  const double last = samples_.empty() ? 0 : samples_.back().busy_seconds;
  if (!samples_.empty() && total_.busy_seconds - last < interval_seconds_) return;
  if (samples_.size() == kMaxSamples) {
    // Every second sample goes; from now on they come half as often.
    for (size_t i = 0; i < kMaxSamples / 2; ++i) samples_[i] = samples_[2 * i + 1];
    samples_.resize(kMaxSamples / 2);
    interval_seconds_ *= 2;
  }
  total_.resident_bytes = ResidentBytes();
  samples_.push_back(total_);
}

Flatness SpeedLog::flatness() const {
  Flatness result;
  if (samples_.size() < kMinSamples) return result;
  // The first sample is the origin: what came before it includes first touches of memory.
  const SpeedSample& first = samples_.front();
  const SpeedSample& last = samples_.back();
  const int64_t tenth = (last.num_tokens - first.num_tokens) / 10;
  size_t head_end = 1;
  while (head_end + 1 < samples_.size() && samples_[head_end].num_tokens - first.num_tokens < tenth) {
    ++head_end;
  }
  size_t tail_begin = samples_.size() - 2;
  while (tail_begin > 0 && last.num_tokens - samples_[tail_begin].num_tokens < tenth) --tail_begin;

  const auto speed = [](const SpeedSample& a, const SpeedSample& b) {
    const double seconds = b.busy_seconds - a.busy_seconds;
    return seconds > 0 ? static_cast<double>(b.num_tokens - a.num_tokens) / seconds : 0;
  };
  const auto mean_resident = [this](size_t begin, size_t end) {
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += static_cast<double>(samples_[i].resident_bytes);
    return static_cast<size_t>(sum / static_cast<double>(end - begin));
  };
  result.first_tokens_per_second = speed(first, samples_[head_end]);
  result.last_tokens_per_second = speed(samples_[tail_begin], last);
  result.first_resident_bytes = mean_resident(0, head_end + 1);
  result.last_resident_bytes = mean_resident(tail_begin, samples_.size());
  return result;
}

}  // namespace mneme
