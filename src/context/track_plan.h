// How long one layer keeps the keys of one track of a policy: arithmetic alone, the same before a run and in
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "context/context.h"
#include "context/policy.h"
#include "kernels/attend/attend.h"

namespace mneme {

// Tokens beyond max_rewind that stay too, so that taking back a few and going on does not shorten what can be
// taken back then.
int64_t RewindSlack(const ContextSettings& settings);

struct TrackPlan {
  KvLayout layout;
  KeyFrame frame = KeyFrame::kPosition;
  int64_t keep_first = 0;
  int64_t keep_last = 0;  // of this layer: the model's own window may need less than the policy's
  bool evicts = false;

  bool is_bounded() const { return keep_last != kUnbounded; }
  // The first token behind the head that row `row`, or a later one, may see. 0 as long as head and tail are
  // read as one run.
  int64_t Need(int64_t row) const;
  // Of a stream of num_tokens tokens, those before this one are stored.
  int64_t End(int64_t num_tokens) const;
  // Most blocks at any time; bounded tracks only.
  int64_t NumBlocks(const ContextSettings& settings) const;
};

// One per track of the policy, in its order; empty where the layer has no such track.
std::vector<std::optional<TrackPlan>> PlanTracks(const Policy& policy, const LayerAttention& layer,
                                                 size_t layer_index, const ContextSettings& settings);

}  // namespace mneme
