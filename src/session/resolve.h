// Which context a session gets, and what it takes, under a cap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "context/registry.h"
#include "mneme/plan.h"
#include "model/loaded_model.h"

namespace mneme {

// What a session is to be made under.
struct SessionLimits {
  size_t cap_bytes = SIZE_MAX;
  size_t used_bytes = 0;       // of the cap, what others have; without the activations
  int64_t max_rows = 512;      // most rows of a forward call
  bool rows_are_made = false;  // there are activations for max_rows rows; else fewer where the cap is small
  size_t num_threads = 1;
};
// Those of a session of an engine's model, as things are now.
SessionLimits LimitsOf(const Model& model);

// The settings of the context inside a session: room to rewind one token more than asked for, because the
// logits after Rewind come from running the last token again.
ContextSettings InnerContext(const SessionOptions& options, int64_t max_rows);

// SessionOptions::rope_length as it is in force: of a resolved context, for a model to which it matters.
int64_t RopeLengthFor(const LoadedModel& model, const SessionOptions& options,
                      const ContextSettings& settings);

// Bytes of keys and values of one cached token in all layers.
double KvBytesPerToken(const LoadedModel& model, const SessionOptions& options);

// What a session takes beside its context and the activations.
size_t OwnBytes(const LoadedModel& model, const SessionOptions& options);
// In a context with these settings (InnerContext), for a stream of num_tokens; -1: endless.
SessionBytes PeakSessionBytes(const LoadedModel& model, const SessionOptions& options,
                              const ContextSettings& settings, int64_t num_tokens, size_t num_threads);

// settings: InnerContext with options.context resolved, auto included, for a stream of
// options.expected_tokens, and with the rows that fit: activations that would take more than a quarter of the
// cap are made for fewer. Throws Error(kBudget), with a cap that would do, if nothing fits.
ResolvedContext ResolveSession(const LoadedModel& model, const SessionOptions& options,
                               const SessionLimits& limits);

// The smallest cap above too_small, or at most a 64th more, for which `fits` says yes, as FormatBytesUp
// writes it; 0 if there is none below 2^50.
size_t CapThatWouldDo(size_t too_small, const std::function<bool(size_t cap_bytes)>& fits);

}  // namespace mneme
