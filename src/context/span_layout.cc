// What a SpanContext is made of and what it takes: tables, pools, scratch.
#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "context/span_context.h"

namespace mneme {
namespace {

// Far enough into a stream that every span of every policy is as long as it gets.
constexpr int64_t kFarRow = int64_t{1} << 50;

constexpr size_t kRowBytesPerSlot = sizeof(SpanView) + 2 * sizeof(int32_t) + sizeof(int64_t);

size_t FindRope(const std::vector<const Rope*>& ropes, const Rope& rope) {
  return static_cast<size_t>(
      std::find_if(ropes.begin(), ropes.end(), [&](const Rope* known) { return *known == rope; }) -
      ropes.begin());
}

std::vector<const Rope*> RopesOf(const ContextShape& shape) {
  std::vector<const Rope*> ropes;
  for (const LayerAttention& layer : shape.layers) {
    if (FindRope(ropes, layer.rope) == ropes.size()) ropes.push_back(&layer.rope);
  }
  return ropes;
}

}  // namespace

std::vector<SpanContext::Slot> SpanContext::SlotsOf(const Policy& policy) {
  SpanList spans;
  policy.View(kFarRow, &spans);
  std::vector<Slot> slots(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    slots[i].track = static_cast<size_t>(spans[i].track);
    slots[i].top_k = spans[i].top_k;
    slots[i].is_here = spans[i].query_at == kFarRow;
  }
  MNEME_CHECK(!slots.empty() && slots.back().is_here);
  return slots;
}

SpanContext::Tables::Tables(const Rope& rope, size_t num_rows) : values(num_rows * rope.rotary_dim) {
  for (size_t row = 0; row < num_rows; ++row) rows.push_back(values.data() + row * rope.rotary_dim);
}

// What rows see, and the tables that rotate them.
size_t SpanContext::ScratchBytes(const ContextShape& shape, const ContextSettings& settings,
                                 const Policy& policy) {
  const auto rows = static_cast<size_t>(settings.max_chunk);
  const std::vector<Slot> slots = SlotsOf(policy);
  const auto num_elsewhere = static_cast<size_t>(
      std::count_if(slots.begin(), slots.end(), [](const Slot& slot) { return !slot.is_here; }));
  size_t bytes = rows * slots.size() * kRowBytesPerSlot;
  for (const Rope* rope : RopesOf(shape)) {
    bytes += (1 + num_elsewhere) * rows * (rope->rotary_dim * sizeof(float) + sizeof(const float*));
  }
  return bytes;
}

ContextBytes SpanContext::PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                    const Policy& policy, int64_t num_tokens) {
  ContextBytes bytes;
  const auto known_tokens = std::max<int64_t>(num_tokens, 0);
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    for (const auto& plan : PlanTracks(policy, shape.layers[i], i, settings)) {
      if (!plan.has_value()) continue;
      bytes.is_bounded = bytes.is_bounded && plan->is_bounded();
      const int64_t blocks =
          plan->is_bounded() ? plan->NumBlocks(settings) : BlockTable::NumBlocks(known_tokens, 0);
      bytes.kv_bytes = SaturatingAdd(
          bytes.kv_bytes, SaturatingMultiply(static_cast<size_t>(blocks), plan->layout.block_bytes()));
    }
  }
  if (!bytes.is_bounded && num_tokens < 0) bytes.kv_bytes = SIZE_MAX;
  bytes.scratch_bytes = ScratchBytes(shape, settings, policy);
  return bytes;
}

SpanContext::SpanContext(const ContextShape& shape, const ContextSettings& settings,
                         std::shared_ptr<const Policy> policy, const Budget& budget, EvictionSink* sink)
    : shape_(shape),
      settings_(settings),
      policy_(std::move(policy)),
      budget_(budget),
      sink_(sink),
      ropes_(RopesOf(shape)),
      slots_(SlotsOf(*policy_)),
      keeps_ids_(sink != nullptr && std::any_of(policy_->tracks().begin(), policy_->tracks().end(),
                                                [](const Track& track) { return track.evicts; })),
      num_evicted_(policy_->tracks().size()) {
  start_position_ = settings_.start_position;
  const std::string what = "the keys and values of context " + policy_->Describe();
  // Refused with the number of all of it, not of the part that did not fit.
  budget_.Reserve(MemoryTag::kKv, PeakBytes(shape_, settings_, *policy_, 0).kv_bytes, what);
  MakeTables();
  for (Pool& pool : pools_) pool.quota = pool.blocks->Reserve(pool.num_fixed, what);
  ReserveScratch();
  for (Pool& pool : pools_) pool.blocks->Populate(pool.num_fixed);
  MakeScratch();
}

SpanContext::SpanContext(const SpanContext& origin, EvictionSink* sink)
    : shape_(origin.shape_),
      settings_(origin.settings_),
      policy_(origin.policy_),
      budget_(origin.budget_),
      sink_(sink),
      ropes_(origin.ropes_),
      slots_(SlotsOf(*policy_)),
      oldest_row_(origin.oldest_row_),
      keeps_ids_(sink != nullptr && origin.keeps_ids_),
      num_evicted_(origin.num_evicted_),
      ids_(origin.ids_),
      ids_begin_(origin.ids_begin_) {
  MNEME_CHECK(origin.chunk_tokens_ == 0);
  start_position_ = origin.start_position_;
  num_tokens_ = origin.num_tokens_;
  for (const Pool& pool : origin.pools_) {
    pools_.push_back({.blocks = pool.blocks,
                      .quota = pool.blocks->Reserve(pool.quota.num_blocks(), "a copy of the keys and values"),
                      .num_fixed = pool.num_fixed});
  }
  ReserveScratch();
  for (const Layer& layer : origin.layers_) {
    Layer copy{.rope = layer.rope, .tracks = {}};
    for (const std::optional<LayerTrack>& track : layer.tracks) {
      copy.tracks.emplace_back();
      if (track.has_value())
        copy.tracks.back().emplace(LayerTrack{track->plan, track->table.Share(), track->pool});
    }
    layers_.push_back(std::move(copy));
  }
  MakeScratch();
}

void SpanContext::MakeTables() {
  for (size_t i = 0; i < shape_.layers.size(); ++i) {
    Layer layer{.rope = FindRope(ropes_, shape_.layers[i].rope), .tracks = {}};
    for (const auto& plan : PlanTracks(*policy_, shape_.layers[i], i, settings_)) {
      layer.tracks.emplace_back();
      if (!plan.has_value()) continue;
      const auto same = [&](const Pool& pool) { return pool.blocks->layout() == plan->layout; };
      auto pool = std::find_if(pools_.begin(), pools_.end(), same);
      if (pool == pools_.end()) {
        pools_.push_back(
            {.blocks = std::make_shared<BlockPool>(plan->layout, budget_, MemoryTag::kKv), .quota = {}});
        pool = pools_.end() - 1;
      }
      if (plan->is_bounded()) pool->num_fixed += plan->NumBlocks(settings_);
      layer.tracks.back().emplace(LayerTrack{*plan, BlockTable(pool->blocks, plan->keep_first),
                                             static_cast<size_t>(pool - pools_.begin())});
    }
    layers_.push_back(std::move(layer));
  }
}

void SpanContext::ReserveScratch() {
  scratch_lease_ = budget_.Reserve(MemoryTag::kScratch, ScratchBytes(shape_, settings_, *policy_),
                                   "the attention buffers of the context");
}

void SpanContext::MakeScratch() {
  const auto rows = static_cast<size_t>(settings_.max_chunk);
  views_.resize(rows * slots_.size());
  for (const Rope* rope : ropes_) position_tables_.emplace_back(*rope, rows);
  for (Slot& slot : slots_) {
    slot.begin.resize(rows);
    slot.end.resize(rows);
    slot.distance.resize(rows);
    if (slot.is_here) continue;
    for (const Rope* rope : ropes_) slot.tables.emplace_back(*rope, rows);
  }
}

}  // namespace mneme
