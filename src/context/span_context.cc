// The way of a chunk: Begin, Plan, Commit or Abort.
#include "context/span_context.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/text/units.h"

namespace mneme {
namespace {

constexpr int64_t kBlock = static_cast<int64_t>(kBlockTokens);

}  // namespace

// ---- Begin

void SpanContext::Begin(std::span<const TokenId> tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  MNEME_CHECK(chunk_tokens_ == 0 && count > 0 && count <= settings_.max_chunk);
  if (shape_.learned_positions && next_position() + count > shape_.trained_length) {
    Fail(ErrorKind::kUnsupported,
         "this model has learned positions for {} tokens and cannot read token {}: give it a shorter text, "
         "or use a model with rotary or ALiBi positions",
         FormatCount(shape_.trained_length), FormatCount(shape_.trained_length));
  }
  if (next_position() > kMostPosition - count)
    Fail(ErrorKind::kInput, "the stream's position is beyond 2^61");
  Grow(num_tokens_ + count);
  LetGo(count);
  Extend(num_tokens_ + count);
  if (KeepsIds()) ids_.insert(ids_.end(), tokens.begin(), tokens.end());
  chunk_tokens_ = count;
  FillViews(count);
  FillTables();
}

// Reserves the blocks of tracks without a bound.
void SpanContext::Grow(int64_t end) {
  std::vector<int64_t> wanted(pools_.size());
  bool grows = false;
  for (const Layer& layer : layers_) {
    for (const std::optional<LayerTrack>& track : layer.tracks) {
      if (!track.has_value() || track->plan.is_bounded()) continue;
      wanted[track->pool] += track->table.NumBlocksAt(track->plan.End(end));
      grows = true;
    }
  }
  if (!grows) return;
  if (end > kMostTokens) {
    Fail(ErrorKind::kUnsupported, "context {} reads at most {} tokens; a bounded one goes on without an end",
         Describe(), FormatCount(kMostTokens));
  }
  for (size_t i = 0; i < pools_.size(); ++i) {
    Pool& pool = pools_[i];
    const int64_t more = pool.num_fixed + wanted[i] - pool.quota.num_blocks();
    if (more <= 0) continue;
    try {
      pool.quota.Grow(more, "more keys and values");
    } catch (const Error& error) {
      Fail(ErrorKind::kBudget,
           "context {} is full at token {}: {}. A bounded context goes on without an end: --context sinks "
           "(or lambda, xl)",
           Describe(), FormatCount(num_tokens_), error.what());
    }
    pool.blocks->Populate(more);
  }
}

// Drops what no row of the chunk and no rewind, before or after it, can reach.
void SpanContext::LetGo(int64_t num_tokens) {
  const int64_t ahead = std::min<int64_t>(0, num_tokens - RewindSlack(settings_));
  oldest_row_ = std::max(oldest_row_, num_tokens_ + ahead - settings_.max_rewind);
  if (KeepsIds()) {
    int64_t first = num_tokens_;
    for (size_t track = 0; track < num_evicted_.size(); ++track) {
      if (!policy_->tracks()[track].evicts) continue;
      Evict(track);
      first = std::min(first, num_evicted_[track] * kBlock);
    }
    const int64_t gone = std::max<int64_t>(0, first - ids_begin_);
    ids_.erase(ids_.begin(), ids_.begin() + gone);
    ids_begin_ += gone;
  }
  for (Layer& layer : layers_) {
    for (std::optional<LayerTrack>& track : layer.tracks) {
      if (track.has_value()) track->table.DropBefore(track->plan.Need(oldest_row_));
    }
  }
}

void SpanContext::Evict(size_t index) {
  const Track& track = policy_->tracks()[index];
  int64_t limit = INT64_MAX;
  for (const Layer& layer : layers_) {
    if (Evicts(layer, index)) limit = std::min(limit, layer.tracks[index]->plan.Need(oldest_row_) / kBlock);
  }
  if (limit == INT64_MAX) return;  // no layer has the track
  std::vector<BlockRef> refs;
  for (int64_t& block = num_evicted_[index]; block < limit; ++block) {
    // The head is never evicted, but for what shares its last block.
    if ((block + 1) * kBlock <= track.keep_first) continue;
    refs.clear();
    for (const Layer& layer : layers_) {
      if (Evicts(layer, index)) refs.push_back(layer.tracks[index]->table.Ref(block));
    }
    const auto first = static_cast<size_t>(block * kBlock - ids_begin_);
    sink_->Evict({block, std::span(ids_).subspan(first, kBlockTokens), refs});
  }
}

void SpanContext::Extend(int64_t num_tokens) {
  try {
    for (Layer& layer : layers_) {
      for (std::optional<LayerTrack>& track : layer.tracks) {
        if (track.has_value()) track->table.Extend(track->plan.End(num_tokens));
      }
    }
  } catch (...) {
    CutTables(num_tokens_);
    throw;
  }
}

void SpanContext::CutTables(int64_t num_tokens) {
  for (Layer& layer : layers_) {
    for (std::optional<LayerTrack>& track : layer.tracks) {
      if (track.has_value()) track->table.Cut(track->plan.End(num_tokens));
    }
  }
  if (KeepsIds()) ids_.resize(static_cast<size_t>(num_tokens - ids_begin_));
}

void SpanContext::FillViews(int64_t num_tokens) {
  for (Slot& slot : slots_) slot.is_used = false;
  SpanList spans;
  for (int64_t row = 0; row < num_tokens; ++row) {
    spans.Clear();
    policy_->View(num_tokens_ + row, &spans);
    MNEME_DCHECK(spans.size() == slots_.size());
    for (size_t i = 0; i < slots_.size(); ++i) {
      views_[static_cast<size_t>(row) * slots_.size() + i] = spans[i];
      slots_[i].is_used |= spans[i].begin < spans[i].end;
    }
  }
}

void SpanContext::FillTables() {
  for (size_t i = 0; i < ropes_.size(); ++i) {
    if (ropes_[i]->rotary_dim == 0) continue;
    for (int64_t row = 0; row < chunk_tokens_; ++row) {
      RopeTable(*ropes_[i], next_position() + row, position_tables_[i].At(row));
    }
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].is_here && slots_[i].is_used) FillSlotTables(slots_[i], i);
  }
}

// Where the queries of a span stand that is not seen from their own position.
void SpanContext::FillSlotTables(Slot& slot, size_t slot_index) {
  const bool has_positions = policy_->tracks()[slot.track].frame == KeyFrame::kPosition;
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const size_t dim = ropes_[i]->rotary_dim;
    if (dim == 0) continue;
    for (int64_t row = 0; row < chunk_tokens_; ++row) {
      float* const table = slot.tables[i].At(row);
      const int64_t query_at = View(row, slot_index).query_at;
      // Nearly always that of the row before.
      if (row > 0 && query_at == View(row - 1, slot_index).query_at) {
        std::memcpy(table, table - dim, dim * sizeof(float));
      } else {
        RopeTable(*ropes_[i], has_positions ? start_position_ + query_at : query_at, table);
      }
    }
  }
}

// ---- Plan

// Where the rows' keys and values go: into every track that keeps them.
void SpanContext::SetWrites(const Layer& layer) {
  for (const std::optional<LayerTrack>& track : layer.tracks) {
    if (!track.has_value()) continue;
    const int64_t count = track->plan.End(num_tokens_ + chunk_tokens_) - num_tokens_;
    if (count <= 0) continue;
    const bool has_positions = track->plan.frame == KeyFrame::kPosition;
    writes_.push_back({.blocks = track->table.Blocks(num_tokens_ / kBlock),
                       .first_token = num_tokens_ % kBlock,
                       .num_rows = static_cast<size_t>(count),
                       .rope = has_positions ? position_tables_[layer.rope].rows_or_null() : nullptr});
  }
}

void SpanContext::AddSpan(const Layer& layer, const LayerAttention& spec, size_t slot_index, const float* q) {
  Slot& slot = slots_[slot_index];
  if (!slot.is_used || !layer.tracks[slot.track].has_value()) return;
  const bool has_positions = layer.tracks[slot.track]->plan.frame == KeyFrame::kPosition;
  // What the model's own window hides of a row's keys: those at a distance that it does not reach.
  const auto begin_of = [&](const SpanView& view) {
    if (spec.layer_window == 0) return view.begin;
    if (!has_positions) return view.query_at >= spec.layer_window ? view.end : view.begin;
    // In a chunk, as many as there are positions before the query.
    const int64_t reach =
        spec.is_chunked ? (start_position_ + view.query_at) % spec.layer_window : spec.layer_window - 1;
    return std::clamp(view.query_at - reach, view.begin, std::max(view.begin, view.end));
  };
  int64_t base = INT64_MAX;
  for (int64_t row = 0; row < chunk_tokens_; ++row) {
    const SpanView& view = View(row, slot_index);
    if (begin_of(view) < view.end) base = std::min(base, begin_of(view));
  }
  if (base == INT64_MAX) return;
  base = base / kBlock * kBlock;
  for (int64_t row = 0; row < chunk_tokens_; ++row) {
    const SpanView& view = View(row, slot_index);
    const auto r = static_cast<size_t>(row);
    const int64_t begin = begin_of(view);
    slot.begin[r] = begin < view.end ? static_cast<int32_t>(begin - base) : 0;
    slot.end[r] = begin < view.end ? static_cast<int32_t>(view.end - base) : 0;
    slot.distance[r] = has_positions ? view.query_at - base : view.query_at;
  }
  const Tables& tables = slot.is_here ? position_tables_[layer.rope] : slot.tables[layer.rope];
  spans_.push_back({.blocks = layer.tracks[slot.track]->table.Blocks(base / kBlock),
                    .first_block_number = base / kBlock,
                    .begin = slot.begin.data(),
                    .end = slot.end.data(),
                    .q = q,
                    .rope = tables.rows_or_null(),
                    .distance = slot.distance.data(),
                    .distance_step = has_positions ? 1 : 0,
                    .top_k = slot.top_k});
}

AttendCall SpanContext::Plan(size_t layer_index, const float* q, const float* k, const float* v, float* out) {
  MNEME_CHECK(chunk_tokens_ > 0 && layer_index < layers_.size());
  const LayerAttention& spec = shape_.layers[layer_index];
  const bool is_shared = spec.kv_source >= 0;
  const Layer& layer = layers_[is_shared ? static_cast<size_t>(spec.kv_source) : layer_index];
  writes_.clear();
  if (!is_shared) SetWrites(layer);
  spans_.clear();
  // What is chosen from comes last (KvSpan::top_k).
  for (const bool is_chosen : {false, true}) {
    for (size_t i = 0; i < slots_.size(); ++i) {
      if ((slots_[i].top_k > 0) == is_chosen) AddSpan(layer, spec, i, q);
    }
  }
  return {.shape = {.num_rows = static_cast<size_t>(chunk_tokens_),
                    .num_heads = spec.num_heads,
                    .layout = layer.tracks[slots_.back().track]->plan.layout,
                    .rope = &spec.rope,
                    .scale = spec.scale,
                    .soft_cap = spec.soft_cap,
                    .alibi_slopes = spec.alibi_slopes.empty() ? nullptr : spec.alibi_slopes.data(),
                    .sink_logits = spec.sink_logits.empty() ? nullptr : spec.sink_logits.data(),
                    .query_factors = spec.query_factors.empty() ? nullptr : spec.query_factors.data()},
          .k = k,
          .v = v,
          .writes = writes_,
          .spans = spans_,
          .out = out};
}

// ---- the end of a chunk

void SpanContext::Commit() {
  MNEME_CHECK(chunk_tokens_ > 0);
  num_tokens_ += chunk_tokens_;
  chunk_tokens_ = 0;
  // The blocks go with the next Begin; what a rewind may come back to is settled here, whatever the chunks.
  oldest_row_ = std::max(oldest_row_, num_tokens_ - settings_.max_rewind - RewindSlack(settings_));
}

void SpanContext::Abort() {
  if (chunk_tokens_ == 0) return;
  chunk_tokens_ = 0;
  CutTables(num_tokens_);
}

}  // namespace mneme
