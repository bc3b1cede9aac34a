// The way of a chunk through a RecallContext, and how slices are stored.
#include "context/recall_context.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "context/track_plan.h"

namespace mneme {
namespace {

constexpr auto kSlice = static_cast<int64_t>(kBlockTokens);

size_t RoundUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Where nobody found the heads that choose: some by their place, of three layers in the middle and above.
std::vector<RecallHead> HeadsByPlace(const ContextShape& shape, std::span<const size_t> layers) {
  std::vector<RecallHead> heads;
  for (const size_t tenths : {5, 6, 8}) {
    const size_t layer = layers[std::min(layers.size() - 1, layers.size() * tenths / 10)];
    const LayerAttention& spec = shape.layers[layer];
    for (size_t kv_head = 0; kv_head < std::min<size_t>(spec.num_kv_heads, 2); ++kv_head) {
      const RecallHead head{layer, kv_head * (spec.num_heads / spec.num_kv_heads)};
      if (std::find(heads.begin(), heads.end(), head) == heads.end()) heads.push_back(head);
    }
  }
  return heads;
}

}  // namespace

// ---- what is fixed

ContextSettings RecallContext::RecallSettings(const ContextSettings& settings, const Policy& policy) {
  ContextSettings with_replay = settings;
  if (policy.recall() != nullptr) {
    with_replay.max_rewind = std::max(settings.max_rewind, policy.recall()->replay + 1);
  }
  return with_replay;
}

RecallContext::Layout::Layout(const ContextShape& shape, const ContextSettings& settings,
                              const Policy& policy) {
  const RecallOptions& options = *policy.recall();
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const auto plan = PlanTracks(policy, shape.layers[i], i, settings)[0];
    if (!plan.has_value() || !plan->evicts) continue;
    evicting.push_back(i);
    if (static_cast<int64_t>(i) < options.from_layer && i + 1 < shape.layers.size()) continue;
    layers.push_back(i);
    layer_offsets.push_back(slice.record_bytes);
    layouts.push_back(plan->layout);
    slice.record_bytes += plan->layout.block_bytes();
    const Rope* const rope = &shape.layers[i].rope;
    const auto same = [rope](const Rope* known) { return *known == *rope; };
    if (std::none_of(ropes.begin(), ropes.end(), same)) ropes.push_back(rope);
  }
  if (layers.empty()) {
    Fail(ErrorKind::kInput, "context recall: from_layer={} leaves no layer that sees what came back",
         options.from_layer);
  }
  std::vector<RecallHead> heads = shape.recall.heads;
  if (heads.empty()) heads = HeadsByPlace(shape, layers);
  for (const RecallHead& head : heads) {
    const LayerAttention& spec = shape.layers[head.layer];
    KeySet set{.layer = spec.kv_source >= 0 ? static_cast<size_t>(spec.kv_source) : head.layer,
               .kv_head = head.head / (spec.num_heads / spec.num_kv_heads),
               .key_dim = spec.key_dim,
               .offset = slice.key_bytes};
    if (std::find(layers.begin(), layers.end(), set.layer) == layers.end()) continue;
    auto known = std::find_if(key_sets.begin(), key_sets.end(), [&](const KeySet& other) {
      return other.layer == set.layer && other.kv_head == set.kv_head;
    });
    if (known == key_sets.end()) {
      slice.key_bytes += RoundUp(ChoiceKeyBytes(set.key_dim));
      known = key_sets.insert(key_sets.end(), set);
    }
    choosers.push_back(
        {.head = head, .keys = static_cast<size_t>(known - key_sets.begin()), .offset = row_floats});
    row_floats += spec.key_dim;
    key_floats = std::max(key_floats, spec.num_kv_heads * spec.key_dim);
  }
  if (choosers.empty()) {
    Fail(ErrorKind::kInput, "context recall: none of the heads that choose is in a layer from {} on",
         options.from_layer);
  }
  store = settings.store;
  first_slice = options.sinks / kSlice;
  num_stored = options.keep / kSlice;
  // What no row of the longest rewind may miss, and the chunk that is under way.
  num_pending = (settings.max_rewind + RewindSlack(settings) + settings.max_chunk) / kSlice + 3;
  num_held = options.budget / kSlice;
  num_rows = options.replay + settings.max_rewind + settings.max_chunk;
}

size_t RecallContext::Layout::StoreBytes() const {
  const size_t held = SaturatingMultiply(static_cast<size_t>(num_held), slice.record_bytes);
  const size_t pending = SaturatingMultiply(static_cast<size_t>(num_pending), slice.slice_bytes());
  return SaturatingAdd(SliceStore::PeakBytes(slice, num_stored, store), SaturatingAdd(held, pending));
}

size_t RecallContext::Layout::ScratchBytes(const ContextSettings& settings) const {
  const auto chunk = static_cast<size_t>(settings.max_chunk);
  const auto held = static_cast<size_t>(num_held) + 1;
  const size_t slices = SaturatingAdd(static_cast<size_t>(num_stored), static_cast<size_t>(num_pending));
  // Of a look-up, for each slice: pointer, first token, votes, shares, the largest share of a head, scores.
  const size_t lookup_bytes =
      sizeof(const uint8_t*) + sizeof(int32_t) + (3 + static_cast<size_t>(kScoreRows)) * sizeof(float);
  size_t table_floats = 0;
  for (const Rope* rope : ropes) table_floats += rope->rotary_dim;
  size_t bytes = static_cast<size_t>(num_rows) * row_floats * sizeof(float);
  bytes += held * (layers.size() * sizeof(uint8_t*) + table_floats * sizeof(float));
  bytes += held * chunk * (ropes.size() * sizeof(float*) + 2 * sizeof(int32_t) + sizeof(int64_t));
  bytes += (2 * (kBlockTokens + 1) + static_cast<size_t>(kScoreRows)) * key_floats * sizeof(float);
  return SaturatingAdd(bytes, SaturatingMultiply(slices, lookup_bytes));
}

ContextBytes RecallContext::PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                      const Policy& policy) {
  const Layout layout(shape, settings, policy);
  ContextBytes bytes = SpanContext::PeakBytes(shape, settings, policy, -1);
  bytes.kv_bytes = SaturatingAdd(bytes.kv_bytes, layout.StoreBytes());
  bytes.scratch_bytes = SaturatingAdd(bytes.scratch_bytes, layout.ScratchBytes(settings));
  return bytes;
}

RecallContext::RecallContext(const ContextShape& shape, const ContextSettings& settings,
                             std::shared_ptr<const Policy> policy, const Budget& budget)
    : shape_(shape),
      settings_(settings),
      policy_(std::move(policy)),
      options_(*policy_->recall()),
      layout_(shape, settings, *policy_),
      budget_(budget),
      scratch_lease_(budget.Reserve(MemoryTag::kScratch, layout_.ScratchBytes(settings),
                                    "the queries of a turn, and what a choice is made with")),
      held_lease_(budget.Reserve(
          MemoryTag::kStore,
          layout_.StoreBytes() - SliceStore::PeakBytes(layout_.slice, layout_.num_stored, settings_.store),
          "the slices that come back")),
      store_(layout_.slice, layout_.first_slice, layout_.num_stored, budget, settings_.store,
             policy_->Describe()),
      local_(new SpanContext(shape, settings, policy_, budget, this)) {
  MakeBuffers();
  Follow();
}

RecallContext::RecallContext(const RecallContext& origin)
    : shape_(origin.shape_),
      settings_(origin.settings_),
      policy_(origin.policy_),
      options_(origin.options_),
      layout_(origin.layout_),
      budget_(origin.budget_),
      scratch_lease_(budget_.Reserve(MemoryTag::kScratch, origin.scratch_lease_.bytes(),
                                     "the queries of a turn, and what a choice is made with")),
      held_lease_(
          budget_.Reserve(MemoryTag::kStore, origin.held_lease_.bytes(), "the slices that come back")),
      store_(origin.store_.Share()),
      local_(origin.local_->ForkSpans(this)),
      turn_begin_(origin.turn_begin_),
      choices_(origin.choices_) {
  MNEME_CHECK(origin.chunk_tokens_ == 0);
  MakeBuffers();
  Follow();
  std::copy_n(origin.queries_.get(), static_cast<size_t>(layout_.num_rows) * layout_.row_floats,
              queries_.get());
  std::copy_n(origin.held_memory_.get(), origin.held_.slices.size() * layout_.slice.record_bytes,
              held_memory_.get());
  held_.slices = origin.held_.slices;
  held_ids_ = origin.held_ids_;
  MakeHeldTables();
}

void RecallContext::MakeBuffers() {
  const auto chunk = static_cast<size_t>(settings_.max_chunk);
  const auto held = static_cast<size_t>(layout_.num_held);
  const size_t num_queries = static_cast<size_t>(layout_.num_rows) * layout_.row_floats;
  queries_ = MakeAligned<float>(num_queries);
  std::fill_n(queries_.get(), num_queries, 0.0f);
  pending_ = MakeAligned<uint8_t>(static_cast<size_t>(layout_.num_pending) * layout_.slice.slice_bytes());
  held_memory_ = MakeAligned<uint8_t>(held * layout_.slice.record_bytes);
  held_ids_.resize(held * kBlockTokens);
  begins_.resize(held * chunk);
  ends_.resize(held * chunk);
  distances_.resize((held + 1) * chunk);
  token_keys_.resize(layout_.key_floats);
  slice_keys_.resize(layout_.key_floats * kBlockTokens);
  for (const Rope* rope : layout_.ropes) table_.resize(std::max(table_.size(), rope->rotary_dim));
}

void RecallContext::Follow() {
  num_tokens_ = local_->num_tokens();
  start_position_ = local_->start_position();
}

// ---- a chunk

void RecallContext::Begin(std::span<const TokenId> tokens) {
  local_->Begin(tokens);
  chunk_tokens_ = static_cast<int64_t>(tokens.size());
  FillEnds();
}

// What each row sees of each slice: nothing of what is a sink, or still in its window.
void RecallContext::FillEnds() {
  const auto chunk = static_cast<size_t>(settings_.max_chunk);
  SpanList spans;
  for (int64_t row = 0; row < chunk_tokens_ && !held_.slices.empty(); ++row) {
    spans.Clear();
    policy_->View(num_tokens_ + row, &spans);
    const int64_t window_begin = spans[spans.size() - 1].begin;
    for (size_t i = 0; i < held_.slices.size(); ++i) {
      const int64_t begin = held_.slices[i].number * kSlice;
      const size_t at = i * chunk + static_cast<size_t>(row);
      begins_[at] = static_cast<int32_t>(std::clamp<int64_t>(options_.sinks - begin, 0, kSlice));
      ends_[at] = static_cast<int32_t>(std::clamp<int64_t>(window_begin - begin, 0, kSlice));
    }
  }
}

AttendCall RecallContext::Plan(size_t layer, const float* q, const float* k, const float* v, float* out) {
  AttendCall call = local_->Plan(layer, q, k, v, out);
  KeepQueries(layer, q);
  const LayerAttention& spec = shape_.layers[layer];
  const size_t source = spec.kv_source >= 0 ? static_cast<size_t>(spec.kv_source) : layer;
  const auto found = std::lower_bound(layout_.layers.begin(), layout_.layers.end(), source);
  if (held_.slices.empty() || found == layout_.layers.end() || *found != source) return call;
  // The sinks' span is there as soon as a row of the chunk has lost something.
  const KvSpan* const far = call.spans.size() > 1 ? &call.spans[0] : nullptr;
  spans_.clear();
  AddSpans(static_cast<size_t>(found - layout_.layers.begin()), spec, q, far);
  spans_.push_back(call.spans.back());
  call.spans = spans_;
  return call;
}

// Sinks, farther away by what came back, and that.
void RecallContext::AddSpans(size_t place, const LayerAttention& spec, const float* q, const KvSpan* far) {
  const auto chunk = static_cast<size_t>(settings_.max_chunk);
  const size_t num_slices = held_.slices.size();
  const auto same = [&spec](const Rope* known) { return *known == spec.rope; };
  const auto rope = static_cast<size_t>(std::find_if(layout_.ropes.begin(), layout_.ropes.end(), same) -
                                        layout_.ropes.begin());
  const auto rows = [&](size_t slice) -> const float* const* {
    return spec.rope.rotary_dim == 0 ? nullptr : held_.rows[slice * layout_.ropes.size() + rope].data();
  };
  if (far != nullptr) {
    spans_.push_back(*far);
    spans_.back().rope = rows(num_slices);
    spans_.back().distance = distances_.data() + num_slices * chunk;
  }
  for (size_t i = 0; i < num_slices; ++i) {
    const int64_t distance = distances_[i * chunk];
    // Where all layers have windows of their own, those end with a whole slice.
    if (spec.layer_window > 0 && distance >= spec.layer_window) continue;
    spans_.push_back({.blocks = held_.pointers.data() + place * num_slices + i,
                      .first_block_number = held_.slices[i].number,
                      .begin = begins_.data() + i * chunk,
                      .end = ends_.data() + i * chunk,
                      .q = q,
                      .rope = rows(i),
                      .distance = distances_.data() + i * chunk,
                      .distance_step = 1,
                      .bias = held_.slices[i].bias});
  }
}

void RecallContext::KeepQueries(size_t layer, const float* q) {
  const LayerAttention& spec = shape_.layers[layer];
  for (const Chooser& chooser : layout_.choosers) {
    if (chooser.head.layer != layer) continue;
    for (int64_t row = 0; row < chunk_tokens_; ++row) {
      const float* const from =
          q + (static_cast<size_t>(row) * spec.num_heads + chooser.head.head) * spec.key_dim;
      std::copy_n(from, spec.key_dim, queries_.get() + RowOf(num_tokens_ + row) + chooser.offset);
    }
  }
}

void RecallContext::Commit() {
  local_->Commit();
  chunk_tokens_ = 0;
  Follow();
  // A choice that no rewind can undo is the only one that counts.
  const int64_t oldest = num_tokens_ - settings_.max_rewind - RewindSlack(settings_);
  while (choices_.size() > 1 && choices_[1].from_row <= oldest) choices_.erase(choices_.begin());
}

void RecallContext::Abort() {
  local_->Abort();
  chunk_tokens_ = 0;
}

// ---- slices

void RecallContext::Evict(const EvictedSlice& slice) {
  MNEME_CHECK(slice.block == store_.end());
  const SliceStore::Slice to = store_.Append();
  std::copy(slice.tokens.begin(), slice.tokens.end(), to.tokens);
  Fill(
      slice.block,
      [&](size_t layer) {
        const auto at = std::lower_bound(layout_.evicting.begin(), layout_.evicting.end(), layer);
        return static_cast<const uint8_t*>(
            slice.layers[static_cast<size_t>(at - layout_.evicting.begin())].get());
      },
      to);
  store_.Commit();
}

template <typename BlockOf>
void RecallContext::Fill(int64_t number, const BlockOf& block_of, const SliceStore::Slice& to) {
  for (size_t i = 0; i < layout_.layers.size(); ++i) {
    std::memcpy(to.record + layout_.layer_offsets[i], block_of(layout_.layers[i]),
                layout_.layouts[i].block_bytes());
  }
  for (const KeySet& set : layout_.key_sets) {
    UnrotateKeys(set, number, block_of(set.layer), to.keys + set.offset);
  }
}

// The keys of one KV head as they were before they were rotated, but for what a rotation multiplies them
// with.
void RecallContext::UnrotateKeys(const KeySet& set, int64_t number, const uint8_t* block, uint8_t* out) {
  const LayerAttention& spec = shape_.layers[set.layer];
  const size_t place = static_cast<size_t>(
      std::lower_bound(layout_.layers.begin(), layout_.layers.end(), set.layer) - layout_.layers.begin());
  const size_t rotary_dim = spec.rope.rotary_dim;
  for (size_t slot = 0; slot < kBlockTokens; ++slot) {
    KvLoad(layout_.layouts[place], block, slot, token_keys_.data(), nullptr);
    const float* const key = token_keys_.data() + set.kv_head * set.key_dim;
    float* const to = slice_keys_.data() + slot * set.key_dim;
    if (rotary_dim == 0) {
      std::copy_n(key, set.key_dim, to);
      continue;
    }
    RopeTable(spec.rope, -(start_position_ + number * kSlice + static_cast<int64_t>(slot)), table_.data());
    Rotate(spec.rope, table_.data(), key, 1, set.key_dim, to);
    for (size_t i = 0; i < rotary_dim; ++i) to[i] /= spec.rope.magnitude;
  }
  PackChoiceKeys(slice_keys_.data(), set.key_dim, set.key_dim, out);
}

int64_t RecallContext::NumLeft(int64_t index) const {
  SpanList spans;
  policy_->View(index, &spans);
  return std::max(spans[spans.size() - 1].begin / kSlice, layout_.first_slice);
}

// Slices that are not in the store, as they will be there.
void RecallContext::FillPending(int64_t end) {
  pending_begin_ = store_.end();
  for (pending_end_ = pending_begin_; pending_end_ < end; ++pending_end_) {
    MNEME_CHECK(pending_end_ - pending_begin_ < layout_.num_pending);
    uint8_t* const record =
        pending_.get() + static_cast<size_t>(pending_end_ - pending_begin_) * layout_.slice.slice_bytes();
    uint8_t* const keys = record + layout_.slice.record_bytes;
    const SliceStore::Slice to{
        .tokens = reinterpret_cast<TokenId*>(keys + layout_.slice.key_bytes), .record = record, .keys = keys};
    const std::span<const TokenId> ids = local_->BlockIds(pending_end_);
    std::copy(ids.begin(), ids.end(), to.tokens);
    Fill(
        pending_end_, [&](size_t layer) { return local_->Block(layer, 0, pending_end_); }, to);
  }
}

SliceStore::Slice RecallContext::Pending(int64_t number) {
  MNEME_CHECK(number >= pending_begin_ && number < pending_end_);
  uint8_t* const record =
      pending_.get() + static_cast<size_t>(number - pending_begin_) * layout_.slice.slice_bytes();
  uint8_t* const keys = record + layout_.slice.record_bytes;
  return {
      .tokens = reinterpret_cast<TokenId*>(keys + layout_.slice.key_bytes), .record = record, .keys = keys};
}

bool RecallContext::IsDamaged(int64_t number) const {
  return number >= store_.begin() && number < store_.end() && store_.IsDamaged(number);
}

// ---- what is held

// The place of the query of a slice, as an index of the stream: its keys are then at the distances that they
// have in a row of all slices in stream order, the window behind them.
int64_t RecallContext::QueryAt(size_t slice) const {
  const auto behind = static_cast<int64_t>(held_.slices.size() - slice);
  return held_.slices[slice].number * kSlice + behind * kSlice + options_.window;
}

// Those that cannot be read, or are forgotten, are left out. Whether all are held.
bool RecallContext::Hold(const std::vector<ChosenSlice>& slices) {
  held_.slices.clear();
  for (const ChosenSlice& slice : slices) {
    const size_t i = held_.slices.size();
    uint8_t* const record = held_memory_.get() + i * layout_.slice.record_bytes;
    TokenId* const ids = held_ids_.data() + i * kBlockTokens;
    if (slice.number < store_.begin()) continue;
    if (slice.number >= store_.end()) {
      const SliceStore::Slice from = Pending(slice.number);
      std::memcpy(record, from.record, layout_.slice.record_bytes);
      std::copy_n(from.tokens, kBlockTokens, ids);
    } else if (!store_.Read(slice.number, record, ids)) {
      continue;
    }
    held_.slices.push_back(slice);
  }
  MakeHeldTables();
  return held_.slices.size() == slices.size();
}

void RecallContext::MakeHeldTables() {
  const auto chunk = static_cast<size_t>(settings_.max_chunk);
  const size_t num_slices = held_.slices.size();
  held_.pointers.resize(layout_.layers.size() * num_slices);
  for (size_t place = 0; place < layout_.layers.size(); ++place) {
    for (size_t i = 0; i < num_slices; ++i) {
      held_.pointers[place * num_slices + i] =
          held_memory_.get() + i * layout_.slice.record_bytes + layout_.layer_offsets[place];
    }
  }
  const size_t num_tables = (num_slices + 1) * layout_.ropes.size();
  held_.tables.resize(num_tables);
  held_.rows.resize(num_tables);
  for (size_t i = 0; i <= num_slices; ++i) {
    const bool is_sinks = i == num_slices;
    const int64_t all = options_.window + static_cast<int64_t>(num_slices) * kSlice;
    const int64_t query_at = is_sinks ? options_.sinks + all : QueryAt(i);
    const int64_t begin = is_sinks ? 0 : held_.slices[i].number * kSlice;
    std::fill_n(distances_.data() + i * chunk, chunk, query_at - begin);
    for (size_t rope = 0; rope < layout_.ropes.size(); ++rope) {
      std::vector<float>& table = held_.tables[i * layout_.ropes.size() + rope];
      table.resize(layout_.ropes[rope]->rotary_dim);
      if (!table.empty()) RopeTable(*layout_.ropes[rope], start_position_ + query_at, table.data());
      held_.rows[i * layout_.ropes.size() + rope].assign(chunk, table.data());
    }
  }
}

}  // namespace mneme
