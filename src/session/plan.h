// What a run will take, before anything runs: bytes of every context, whether they fit under the cap, and how
// long the stream will take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "context/registry.h"
#include "kernels/device.h"
#include "model/model.h"
#include "session/session.h"

namespace mneme {

// Resolves options.context (auto included) for a session of this model under the cap, from which the
// activations and the session's own buffers are taken first. The chunk is made smaller where activations for
// options.context.max_chunk rows would take more than a quarter of the cap. num_tokens: length of the stream,
// -1 if unknown. reserved_bytes: what something else than the session takes of the cap. Throws
// Error(kBudget), with a cap that would do, if nothing fits: a run is refused before it starts.
ResolvedContext ResolveSessionContext(const Model& model, const SessionOptions& options, size_t cap_bytes,
                                      int64_t num_tokens, size_t num_threads, size_t reserved_bytes = 0);

// Everything beside the weights and their repacked copies that a session takes at its peak, for a stream of
// num_tokens (-1: endless; contexts without a bound then say SIZE_MAX).
struct SessionBytes {
  size_t kv_bytes = 0;
  size_t scratch_bytes = 0;  // activations, attention partials, logits
  size_t other_bytes = 0;    // history, sampler, text streams
  bool is_bounded = true;
  size_t total() const;  // saturates at SIZE_MAX
};
SessionBytes PeakSessionBytes(const Model& model, const SessionOptions& options, int64_t num_tokens,
                              size_t num_threads);

// Speed of this model on this machine now. Prefill of one token takes base_seconds plus visible_seconds for
// each token that it sees.
struct SpeedEstimate {
  double base_seconds = 0;
  double visible_seconds = 0;
  int64_t chunk = 0;  // rows per call while measuring
  double SecondsFor(double num_visible) const { return base_seconds + visible_seconds * num_visible; }
};
// Runs a short prefill (about max_seconds) through a dense context with f16 keys and values.
SpeedEstimate MeasureSpeed(std::shared_ptr<const Model> model, Device& device, double max_seconds = 0.5);

// One context of the table.
struct PlanRow {
  std::string name;
  std::string spec;  // resolved; as asked where it could not be
  std::string help;
  std::string paper;
  SessionBytes bytes;
  bool fits = false;
  std::string note;     // why it does not fit or does not work, with the cap that would do; else empty
  double seconds = -1;  // for all tokens; -1: unknown (endless, or not measured)
};

struct PlanOptions {
  SessionOptions session;  // encodings, chunk, rewind...; context.spec is not looked at
  size_t cap_bytes = SIZE_MAX;
  int64_t num_tokens = -1;
  size_t num_threads = 1;
  const SpeedEstimate* speed = nullptr;  // without it no times
};
// One row per context of PolicyTable(), in its order; never throws for a context that cannot be.
std::vector<PlanRow> PlanRun(const Model& model, const PlanOptions& options);

}  // namespace mneme
