// The way of a chunk: Begin, Attend, Commit or Abort.
#include "context/span_context.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/units.h"

namespace mneme {
namespace {

constexpr int64_t kBlock = static_cast<int64_t>(kBlockTokens);
// Rows of a chunk that one task rotates and stores.
constexpr size_t kRowsPerTask = 16;

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
    if (layer.tracks[index].has_value())
      limit = std::min(limit, layer.tracks[index]->plan.Need(oldest_row_) / kBlock);
  }
  if (limit == INT64_MAX) return;  // no layer has the track
  std::vector<BlockRef> refs;
  for (int64_t& block = num_evicted_[index]; block < limit; ++block) {
    // The head is never evicted.
    if (block * kBlock < track.keep_first) continue;
    refs.clear();
    for (const Layer& layer : layers_) {
      if (layer.tracks[index].has_value()) refs.push_back(layer.tracks[index]->table.Ref(block));
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
      RopeTable(*ropes_[i], next_position() + row,
                const_cast<float*>(PositionTable(i, static_cast<size_t>(row))));
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
      float* table = slot.tables[i].data() + static_cast<size_t>(row) * dim;
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

const float* SpanContext::PositionTable(size_t rope, size_t row) const {
  const size_t dim = ropes_[rope]->rotary_dim;
  return dim == 0 ? nullptr : position_tables_[rope].data() + row * dim;
}

const float* SpanContext::SlotTable(const Slot& slot, size_t rope, size_t row) const {
  const size_t dim = ropes_[rope]->rotary_dim;
  return dim == 0 ? nullptr : slot.tables[rope].data() + row * dim;
}

// ---- Attend

// Rotates one row's keys and stores keys and values, of KV heads [first, last). k and v of the chunk;
// rotated: room for the keys of a row.
void SpanContext::StoreHeads(size_t layer_index, size_t row, size_t first, size_t last, const float* k,
                             const float* v, float* rotated) {
  Layer& layer = layers_[layer_index];
  const LayerAttention& spec = shape_.layers[layer_index];
  const int64_t index = num_tokens_ + static_cast<int64_t>(row);
  const float* keys = k + row * spec.num_kv_heads * spec.key_dim;
  const float* values = v + row * spec.num_kv_heads * spec.value_dim;
  Rotate(spec.rope, PositionTable(layer.rope, row), keys + first * spec.key_dim, last - first, spec.key_dim,
         rotated + first * spec.key_dim);
  for (std::optional<LayerTrack>& track : layer.tracks) {
    if (!track.has_value() || index >= track->plan.End(index + 1)) continue;
    const float* from = track->plan.frame == KeyFrame::kPosition ? rotated : keys;
    for (size_t head = first; head < last; ++head) {
      track->table.StoreHead(index, head, from + head * spec.key_dim, values + head * spec.value_dim);
    }
  }
}

// Rotates one row's queries, of heads [first, last).
void SpanContext::RotateHeads(size_t layer_index, size_t row, size_t first, size_t last, const float* q) {
  const size_t rope = layers_[layer_index].rope;
  const LayerAttention& spec = shape_.layers[layer_index];
  const size_t at = (row * spec.num_heads + first) * spec.key_dim;
  Rotate(spec.rope, PositionTable(rope, row), q + at, last - first, spec.key_dim, q_here_.get() + at);
  for (const Slot& slot : slots_) {
    if (slot.is_here || slot.top_k > 0 || !slot.is_used) continue;
    Rotate(spec.rope, SlotTable(slot, rope, row), q + at, last - first, spec.key_dim, slot.q.get() + at);
  }
}

// All rows and heads.
void SpanContext::StoreChunk(size_t layer_index, const float* q, const float* k, const float* v,
                             ThreadPool& pool) {
  const LayerAttention& spec = shape_.layers[layer_index];
  const auto rows = static_cast<size_t>(chunk_tokens_);
  pool.Run((rows + kRowsPerTask - 1) / kRowsPerTask, [&](size_t task, size_t thread) {
    float* rotated = k_rotated_.get() + thread * spec.num_kv_heads * spec.key_dim;
    for (size_t row = task * kRowsPerTask; row < std::min(rows, (task + 1) * kRowsPerTask); ++row) {
      StoreHeads(layer_index, row, 0, spec.num_kv_heads, k, v, rotated);
      RotateHeads(layer_index, row, 0, spec.num_heads, q);
    }
  });
}

bool SpanContext::SetSpan(const Layer& layer, const LayerAttention& spec, size_t slot_index) {
  Slot& slot = slots_[slot_index];
  if (!slot.is_used || !layer.tracks[slot.track].has_value()) return false;
  const bool has_positions = layer.tracks[slot.track]->plan.frame == KeyFrame::kPosition;
  // What the model's own window hides of a row's keys: those at a distance that it does not reach.
  const auto begin_of = [&](const SpanView& view) {
    if (spec.layer_window == 0) return view.begin;
    if (!has_positions) return view.query_at >= spec.layer_window ? view.end : view.begin;
    return std::clamp(view.query_at - spec.layer_window + 1, view.begin, std::max(view.begin, view.end));
  };
  int64_t base = INT64_MAX;
  for (int64_t row = 0; row < chunk_tokens_; ++row) {
    const SpanView& view = View(row, slot_index);
    if (begin_of(view) < view.end) base = std::min(base, begin_of(view));
  }
  if (base == INT64_MAX) return false;
  base = base / kBlock * kBlock;
  for (int64_t row = 0; row < chunk_tokens_; ++row) {
    const SpanView& view = View(row, slot_index);
    const auto r = static_cast<size_t>(row);
    const int64_t begin = begin_of(view);
    slot.begin[r] = begin < view.end ? static_cast<int32_t>(begin - base) : 0;
    slot.end[r] = begin < view.end ? static_cast<int32_t>(view.end - base) : 0;
    slot.distance[r] = has_positions ? view.query_at - base : view.query_at;
  }
  slot.span = {.blocks = layer.tracks[slot.track]->table.Blocks(base / kBlock),
               .first_slot = 0,
               .first_block_number = base / kBlock,
               .begin = slot.begin.data(),
               .end = slot.end.data(),
               .q = slot.is_here ? q_here_.get() : slot.q.get(),
               .distance = slot.distance.data(),
               .distance_step = has_positions ? 1 : 0};
  return true;
}

void SpanContext::Attend(size_t layer_index, const float* q, const float* k, const float* v, float* out,
                         ThreadPool& pool) {
  MNEME_CHECK(chunk_tokens_ > 0 && layer_index < layers_.size() && pool.num_threads() <= num_threads_);
  const Layer& layer = layers_[layer_index];
  const LayerAttention& spec = shape_.layers[layer_index];
  // One row is stored by who attends; several are shared by rows.
  const bool one_row = chunk_tokens_ == 1;
  if (!one_row) StoreChunk(layer_index, q, k, v, pool);
  const auto prepare = [&](size_t kv_head) {
    StoreHeads(layer_index, 0, kv_head, kv_head + 1, k, v, k_rotated_.get());
    const size_t group = spec.num_heads / spec.num_kv_heads;
    RotateHeads(layer_index, 0, kv_head * group, (kv_head + 1) * group, q);
  };
  const KvHeadFn prepare_fn = {&prepare, [](const void* fn, size_t kv_head) {
                                 (*static_cast<const decltype(prepare)*>(fn))(kv_head);
                               }};
  KvSpan spans[kMostSpans];
  size_t num_spans = 0;
  const Slot* middle = nullptr;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].top_k > 0) {
      if (slots_[i].is_used && layer.tracks[slots_[i].track].has_value()) middle = &slots_[i];
    } else if (SetSpan(layer, spec, i)) {
      spans[num_spans++] = slots_[i].span;
    }
  }
  const AttendShape attend_shape{
      .num_rows = static_cast<size_t>(chunk_tokens_),
      .num_heads = spec.num_heads,
      .layout = layer.tracks[slots_.back().track]->plan.layout,
      .scale = spec.scale,
      .soft_cap = spec.soft_cap,
      .alibi_slopes = spec.alibi_slopes.empty() ? nullptr : spec.alibi_slopes.data(),
      .sink_logits = spec.sink_logits.empty() ? nullptr : spec.sink_logits.data(),
  };
  mneme::Attend(attend_shape, {spans, num_spans}, out, middle != nullptr ? log_sum_exp_.get() : nullptr,
                attend_scratch_.get(), pool, one_row ? prepare_fn : KvHeadFn{});
  if (middle != nullptr) {
    MergeMiddle(layer_index, *middle, static_cast<size_t>(middle - slots_.data()), attend_shape, q, out,
                pool);
  }
}

// The candidates of all rows are at one distance.
void SpanContext::MergeMiddle(size_t layer_index, const Slot& slot, size_t slot_index,
                              const AttendShape& attend_shape, const float* q, float* out, ThreadPool& pool) {
  const Layer& layer = layers_[layer_index];
  const LayerAttention& spec = shape_.layers[layer_index];
  const int64_t distance = View(0, slot_index).query_at;
  if (spec.layer_window > 0 && distance >= spec.layer_window) return;
  const size_t stride = spec.num_heads * spec.key_dim;
  std::vector<MiddleReader::Row> rows(attend_shape.num_rows);
  for (size_t row = 0; row < rows.size(); ++row) {
    const SpanView& view = View(static_cast<int64_t>(row), slot_index);
    rows[row] = {view.begin, view.end};
    Rotate(spec.rope, SlotTable(slot, layer.rope, row), q + row * stride, spec.num_heads, spec.key_dim,
           q_here_.get() + row * stride);
  }
  std::vector<float> bias;
  for (const float slope : spec.alibi_slopes) bias.push_back(-slope * static_cast<float>(distance));
  middle_reader_->MergeInto(attend_shape, layer.tracks[slot.track]->table, q_here_.get(), rows.data(),
                            bias.empty() ? nullptr : bias.data(), out, log_sum_exp_.get(), pool);
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
