// What a run will take, before anything runs: bytes of every context, whether they fit under the cap, how
// long the stream will take, and all memory as one sum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mneme/export.h"
#include "mneme/model.h"
#include "mneme/options.h"

namespace mneme {

// The thread rule of all functions here is the engine's.

// What a session made with these options would have, without making one: SessionOptions::context resolved for
// expected_tokens under what is left of the cap, and why "auto" chose it. more_bytes: what else is going to
// be taken of the cap. Throws what Session throws.
struct ContextChoice {
  std::string context;
  std::string reason;  // empty where the context was named
};
MNEME_API ContextChoice ChooseContext(const Model& model, const SessionOptions& options,
                                      size_t more_bytes = 0);

// Everything beside the weights and their repacked copies that a session takes at its peak.
struct MNEME_API SessionBytes {
  size_t kv_bytes = 0;       // SIZE_MAX: grows as long as the stream does
  size_t scratch_bytes = 0;  // activations, attention partials, logits
  size_t other_bytes = 0;    // history, sampler, text streams
  bool is_bounded = true;
  size_t total() const;  // saturates at SIZE_MAX
};

// Speed of this model on this machine. Prefill of one token takes base_seconds plus visible_seconds for each
// token that it sees, when nothing else runs; up to slow_factor times as long where things are as they were
// while it was measured.
struct SpeedEstimate {
  double base_seconds = 0;
  double visible_seconds = 0;
  double slow_factor = 1;
  int64_t chunk = 0;  // rows per call while measuring
  int64_t depth = 0;  // tokens that were visible in the deeper of the two places that were measured
  double SecondsFor(double num_visible) const { return base_seconds + visible_seconds * num_visible; }
};
// Reads chunks at the beginning of a stream and at a depth, in turns, for about max_seconds and at least
// three times each, through a dense context with f16 keys and values, beside the cap: at most 128 MiB. The
// depth is filled without being read. Leaves the engine as it was. Throws Error(kFile) where the model's file
// has changed.
MNEME_API SpeedEstimate MeasureSpeed(const Model& model, double max_seconds = 2);

// One context of the table.
struct PlanRow {
  std::string name;
  std::string context;  // resolved; as asked where it could not be
  std::string help;
  std::string paper;
  SessionBytes bytes = {};
  bool fits = false;
  std::string note = {};  // why it does not fit or does not work, with the cap that would do; else empty
  // For all tokens, at best and as things were while the speed was measured; -1: unknown (endless, or not
  // measured).
  double seconds = -1;
  double slow_seconds = -1;
};
// One row per context of ContextTable(), in its order, for a stream of options.expected_tokens
// (options.context is not looked at). Never throws for a context that cannot be. speed: null for no times.
MNEME_API std::vector<PlanRow> PlanRun(const Model& model, const SessionOptions& options,
                                       const SpeedEstimate* speed = nullptr);

// All that a run can take of the machine's memory, as one sum: what a limit of the system is set to
// (MemoryMax= of systemd, memory.max of a control group, the limit of a container).
struct MNEME_API MemorySum {
  size_t weight_bytes = 0;   // model files, mapped: pages of the system's cache, counted where they are read
  size_t packed_bytes = 0;   // weights repacked at load
  size_t cap_bytes = 0;      // all that grows with the stream
  size_t program_bytes = 0;  // program, libraries, stacks, tables of tokenizer and model, small buffers
  size_t load_peak_bytes = 0;  // resident at the most while the model was loaded, which comes before the rest

  // In whole MiB, each part rounded up: at least what is resident at any time.
  size_t total_bytes() const;
  // "weights 463 MiB + packed 209 MiB + cap 256 MiB + program 26 MiB = 954 MiB at most (MemoryMax=954M)".
  std::string ToString() const;
};
MNEME_API MemorySum SumMemory(const Model& model);

}  // namespace mneme
