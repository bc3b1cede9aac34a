#include "context/track_plan.h"

#include <algorithm>

#include "kv/block_table.h"

namespace mneme {

int64_t RewindSlack(const ContextSettings& settings) {
  return std::min(settings.max_rewind, static_cast<int64_t>(kBlockTokens));
}

int64_t TrackPlan::Need(int64_t row) const {
  if (!is_bounded() || keep_last == 0) return 0;
  const int64_t need = row + 1 - keep_last;
  return need <= keep_first ? 0 : need;
}

int64_t TrackPlan::End(int64_t num_tokens) const {
  return keep_last == 0 ? std::min(num_tokens, keep_first) : num_tokens;
}

int64_t TrackPlan::NumBlocks(const ContextSettings& settings) const {
  if (keep_last == 0) return BlockTable::NumBlocks(keep_first, 0);
  // What one row sees, the other rows of a chunk, and what a rewind may bring back.
  const int64_t more_rows = std::max(settings.max_chunk, RewindSlack(settings)) - 1 + settings.max_rewind;
  return BlockTable::NumBlocks(keep_first, keep_last + more_rows);
}

std::vector<std::optional<TrackPlan>> PlanTracks(const Policy& policy, const LayerAttention& layer,
                                                 size_t layer_index, const ContextSettings& settings) {
  std::vector<std::optional<TrackPlan>> plans;
  for (const Track& track : policy.tracks()) {
    plans.emplace_back();
    if (layer.kv_source >= 0 || static_cast<int64_t>(layer_index) < track.from_layer) continue;
    TrackPlan plan{.layout = {.num_kv_heads = layer.num_kv_heads,
                              .key_dim = layer.key_dim,
                              .value_dim = layer.value_dim,
                              .key_encoding = settings.key_encoding,
                              .value_encoding = settings.value_encoding},
                   .frame = track.frame,
                   .keep_first = track.keep_first,
                   .keep_last = track.keep_last,
                   .evicts = track.evicts && !(track.skips_windowed && layer.layer_window > 0)};
    plan.layout.values_in_keys = layer.StoresValuesInKeys(settings.key_encoding, settings.value_encoding);
    // Behind the head, keys of this frame are seen at their true distance. Who wants what is evicted wants
    // all of it.
    if (layer.layer_window > 0 && track.frame == KeyFrame::kPosition && !plan.evicts) {
      plan.keep_last = std::min(plan.keep_last, layer.layer_window);
    }
    plans.back() = plan;
  }
  return plans;
}

}  // namespace mneme
