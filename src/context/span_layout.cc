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

struct SpanContext::ScratchSizes {
  size_t query_values = 0;  // [rows, num_heads, key_dim]
  size_t num_queries = 0;   // of these
  size_t key_values = 0;    // [threads, num_kv_heads, key_dim]
  size_t attend_bytes = 0;
  size_t lse_values = 0;
  size_t table_values = 0;
  size_t middle_bytes = 0;
  size_t row_bytes = 0;

  size_t Bytes() const {
    return (num_queries * query_values + key_values + lse_values + table_values) * sizeof(float) +
           attend_bytes + middle_bytes + row_bytes;
  }
};

std::vector<SpanContext::Slot> SpanContext::SlotsOf(const Policy& policy) {
  SpanList spans;
  policy.View(kFarRow, &spans);
  std::vector<Slot> slots(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    slots[i].track = static_cast<size_t>(spans[i].track);
    slots[i].top_k = spans[i].top_k;
    slots[i].num_keys = spans[i].end - spans[i].begin;
    slots[i].is_here = spans[i].query_at == kFarRow;
  }
  MNEME_CHECK(!slots.empty() && slots.back().is_here);
  return slots;
}

SpanContext::ScratchSizes SpanContext::ScratchOf(const ContextShape& shape, const ContextSettings& settings,
                                                 const Policy& policy, size_t num_threads) {
  ScratchSizes sizes;
  const auto rows = static_cast<size_t>(settings.max_chunk);
  const std::vector<Slot> slots = SlotsOf(policy);
  const auto elsewhere = [](const Slot& slot) { return !slot.is_here; };
  const auto num_elsewhere = static_cast<size_t>(std::count_if(slots.begin(), slots.end(), elsewhere));
  const auto num_middle = static_cast<size_t>(
      std::count_if(slots.begin(), slots.end(), [](const Slot& slot) { return slot.top_k > 0; }));
  sizes.num_queries = 1 + num_elsewhere - num_middle;
  sizes.row_bytes = rows * slots.size() * kRowBytesPerSlot;
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const LayerAttention& layer = shape.layers[i];
    const auto plans = PlanTracks(policy, layer, i, settings);
    sizes.query_values = std::max(sizes.query_values, rows * layer.num_heads * layer.key_dim);
    sizes.key_values = std::max(sizes.key_values, num_threads * layer.num_kv_heads * layer.key_dim);
    sizes.attend_bytes =
        std::max(sizes.attend_bytes, AttendScratchBytes(rows, layer.num_heads, layer.key_dim, layer.value_dim,
                                                        static_cast<size_t>(kMostTokens), num_threads));
    for (const Slot& slot : slots) {
      if (slot.top_k == 0 || !plans[slot.track].has_value()) continue;
      sizes.lse_values = std::max(sizes.lse_values, rows * layer.num_heads);
      sizes.middle_bytes =
          std::max(sizes.middle_bytes,
                   MiddleReader::Bytes(slot.top_k, slot.num_keys, plans[slot.track]->layout, num_threads));
    }
  }
  for (const Rope* rope : RopesOf(shape)) sizes.table_values += (1 + num_elsewhere) * rows * rope->rotary_dim;
  return sizes;
}

ContextBytes SpanContext::PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                    const Policy& policy, int64_t num_tokens, size_t num_threads) {
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
  bytes.scratch_bytes = ScratchOf(shape, settings, policy, num_threads).Bytes();
  return bytes;
}

SpanContext::SpanContext(const ContextShape& shape, const ContextSettings& settings,
                         std::shared_ptr<const Policy> policy, Budget& budget, size_t num_threads,
                         EvictionSink* sink)
    : shape_(shape),
      settings_(settings),
      policy_(std::move(policy)),
      budget_(budget),
      num_threads_(num_threads),
      sink_(sink),
      ropes_(RopesOf(shape)),
      slots_(SlotsOf(*policy_)),
      keeps_ids_(sink != nullptr && std::any_of(policy_->tracks().begin(), policy_->tracks().end(),
                                                [](const Track& track) { return track.evicts; })),
      num_evicted_(policy_->tracks().size()) {
  start_position_ = settings_.start_position;
  const std::string what = "the keys and values of context " + policy_->Describe();
  // Refused with the number of all of it, not of the part that did not fit.
  budget_.Reserve(MemoryTag::kKv, PeakBytes(shape_, settings_, *policy_, 0, num_threads_).kv_bytes, what);
  MakeTables();
  for (Pool& pool : pools_) pool.quota = pool.blocks->Reserve(pool.num_fixed, what);
  ReserveScratch();
  for (Pool& pool : pools_) pool.blocks->Populate(pool.num_fixed);
  MakeScratch();
}

SpanContext::SpanContext(const SpanContext& origin)
    : shape_(origin.shape_),
      settings_(origin.settings_),
      policy_(origin.policy_),
      budget_(origin.budget_),
      num_threads_(origin.num_threads_),
      sink_(nullptr),
      ropes_(origin.ropes_),
      slots_(SlotsOf(*policy_)),
      oldest_row_(origin.oldest_row_),
      keeps_ids_(false),
      num_evicted_(policy_->tracks().size()) {
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
      if (track.has_value()) copy.tracks.back().emplace(track->plan, track->table.Share(), track->pool);
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
      layer.tracks.back().emplace(*plan, BlockTable(pool->blocks, plan->keep_first),
                                  static_cast<size_t>(pool - pools_.begin()));
    }
    layers_.push_back(std::move(layer));
  }
}

void SpanContext::ReserveScratch() {
  scratch_lease_ =
      budget_.Reserve(MemoryTag::kScratch, ScratchOf(shape_, settings_, *policy_, num_threads_).Bytes(),
                      "the attention buffers of the context");
}

void SpanContext::MakeScratch() {
  const ScratchSizes sizes = ScratchOf(shape_, settings_, *policy_, num_threads_);
  const auto rows = static_cast<size_t>(settings_.max_chunk);
  views_.resize(rows * slots_.size());
  for (const Rope* rope : ropes_) position_tables_.emplace_back(rows * rope->rotary_dim);
  for (Slot& slot : slots_) {
    slot.begin.resize(rows);
    slot.end.resize(rows);
    slot.distance.resize(rows);
    if (slot.is_here) continue;
    for (const Rope* rope : ropes_) slot.tables.emplace_back(rows * rope->rotary_dim);
    if (slot.top_k == 0) slot.q = MakeAligned<float>(sizes.query_values);
  }
  q_here_ = MakeAligned<float>(sizes.query_values);
  k_rotated_ = MakeAligned<float>(sizes.key_values);
  attend_scratch_ = MakeAligned<uint8_t>(sizes.attend_bytes);
  if (sizes.lse_values == 0) return;
  log_sum_exp_ = MakeAligned<float>(sizes.lse_values);
  for (const Slot& slot : slots_) {
    if (slot.top_k == 0) continue;
    const auto has_track = [&](const Layer& layer) { return layer.tracks[slot.track].has_value(); };
    const auto layer = std::find_if(layers_.begin(), layers_.end(), has_track);
    middle_reader_ = std::make_unique<MiddleReader>(slot.top_k, slot.num_keys,
                                                    layer->tracks[slot.track]->plan.layout, num_threads_);
  }
}

}  // namespace mneme
