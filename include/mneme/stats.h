// What a session measured of itself: counts, speeds, and how speed and resident memory developed over the
// stream. Bounded however long the stream is: samples thin out as they age.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mneme/export.h"

namespace mneme {

// One point of a log: after num_tokens tokens and busy_seconds seconds of work on them.
struct SpeedSample {
  int64_t num_tokens = 0;
  double busy_seconds = 0;
  size_t resident_bytes = 0;
};

// First tenth of the logged tokens against the last. Zeroes while a log has fewer than kMinSamples samples.
struct Flatness {
  double first_tokens_per_second = 0;
  double last_tokens_per_second = 0;
  size_t first_resident_bytes = 0;  // mean over the tenth
  size_t last_resident_bytes = 0;
};

// Thread rule: one thread at a time.
class MNEME_API SpeedLog {
 public:
  static constexpr size_t kMaxSamples = 1024;
  static constexpr size_t kMinSamples = 20;

  SpeedLog();
  // num_tokens more tokens took `seconds`.
  void Add(int64_t num_tokens, double seconds);

  int64_t num_tokens() const { return total_.num_tokens; }
  double busy_seconds() const { return total_.busy_seconds; }
  double tokens_per_second() const {
    return total_.busy_seconds > 0 ? static_cast<double>(total_.num_tokens) / total_.busy_seconds : 0;
  }
  // In order; at most kMaxSamples, evenly spread in busy time.
  const std::vector<SpeedSample>& samples() const { return samples_; }
  Flatness flatness() const;

 private:
  double interval_seconds_ = 1e-3;
  SpeedSample total_;
  std::vector<SpeedSample> samples_;
};

// Counted since the session object was made; a restored session starts again at 0.
struct SessionStats {
  SpeedLog prefill;                 // what was fed, and pauses
  SpeedLog decode;                  // tokens of answers, one at a time
  double first_token_seconds = -1;  // from the start of the first Generate to its first token; -1: none yet
  int64_t num_generated = 0;        // without what was taken back
  int64_t num_backspaces = 0;       // generated tokens that were taken back
};

}  // namespace mneme
