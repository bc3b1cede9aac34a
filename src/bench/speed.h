// Speed and size of a model by depth of the stream: time to the first token of an answer, prefill and decode,
// resident bytes, bytes of the saved state on disk; each beside what the machine's bandwidth allows. And the
// cost of a token beside that of computing its window again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "mneme/model.h"
#include "mneme/options.h"
#include "mneme/stop.h"

namespace mneme {

struct SpeedSettings {
  SessionOptions session;        // with a resolved context
  std::vector<int64_t> depths;   // ascending
  int64_t num_prompt = 64;       // tokens of the question whose first answer token is timed
  int64_t num_prefill = 512;     // tokens of prefill that are timed
  int64_t num_decode = 64;       // tokens of decode that are timed
  int64_t num_repeats = 3;       // the median counts
  double max_seconds = 60;       // most time to read up to a depth; beyond it bounded contexts start there
  double bytes_per_second = 0;   // read bandwidth of the machine at the model's footprint; 0: not measured
  std::string temporary_folder;  // for the saved state
  StopToken stop = {};
};

struct SpeedPoint {
  int64_t depth = 0;
  std::string reached;  // "read": every token before it was fed; "filled": started there with a full window
  double first_token_seconds = 0;
  double prefill_per_second = 0;
  double decode_per_second = 0;
  double decode_spread = 0;     // (largest - smallest) / median
  double floor_per_second = 0;  // decode if weights and visible cache were read at full bandwidth; 0: unknown
  double read_seconds = 0;      // of reading up to this depth from the last one
  size_t resident_bytes = 0;    // of this process, with the mapped weights that were touched
  size_t session_bytes = 0;     // under the cap
  size_t disk_bytes = 0;        // of the saved state; 0: disk_note says why it was not written
  std::string disk_note;
  std::string note;  // why there are no figures
};

// Walks one stream through the depths, calls on_point at each. Ends early after a stop, and where the
// context cannot go on (that point has a note). A temporary folder that cannot take the state costs only the
// size of the state. Ids are random: speed does not depend on them. Throws what
// Session throws when the first session is made.
void MeasureSpeedByDepth(const Model& model, const SpeedSettings& settings, Progress& progress,
                         const std::function<void(const SpeedPoint& point)>& on_point);

// One token of a full cache against one token by recomputing the window.
struct RecomputePoint {
  int64_t cache = 0;  // tokens seen: sinks and window, or the window that is computed again
  double sinks_seconds = 0;
  double recompute_seconds = 0;
  double ratio() const { return sinks_seconds > 0 ? recompute_seconds / sinks_seconds : 0; }
};
// num_sinks of the cache are sinks. Median of num_repeats runs. Throws Error(kBudget, kInput,
// kUnsupported, kInterrupted).
RecomputePoint MeasureRecompute(const Model& model, int64_t cache, int64_t num_sinks,
                                const SessionOptions& base, int64_t num_repeats, StopToken stop = {});

}  // namespace mneme
