#include "context/recurrent/recurrent_state.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/checked.h"
#include "base/error.h"
#include "context/context.h"

namespace mneme {
namespace {

constexpr auto kBlock = static_cast<int64_t>(kRecurBlockTokens);

int64_t CeilDivide(int64_t value, int64_t by) { return (value + by - 1) / by; }

// A slot that neither list uses.
template <typename Places>
int32_t FreeSlot(const Places& a, const Places& b, size_t num_slots) {
  const auto is_used = [&](int32_t slot) {
    const auto has_slot = [slot](const auto& place) { return place.slot == slot; };
    return std::any_of(a.begin(), a.end(), has_slot) || std::any_of(b.begin(), b.end(), has_slot);
  };
  int32_t slot = 0;
  while (is_used(slot)) ++slot;
  MNEME_CHECK(static_cast<size_t>(slot) < num_slots);
  return slot;
}

template <typename Places>
int32_t SlotOf(const Places& places, int64_t number) {
  for (const auto& place : places) {
    if (place.number == number) return place.slot;
  }
  return -1;
}

// Floats of a part, up to a whole line of the cache.
size_t PartFloats(size_t count, size_t floats) {
  constexpr size_t kLine = kAlignment / sizeof(float);
  const size_t all = SaturatingMultiply(count, floats);
  return SaturatingAdd(all, (kLine - all % kLine) % kLine);
}

// What MakeHuge takes: whole pages, which become resident as such.
size_t HugeBytes(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  if (bytes < 2 * kHugePage || bytes > SIZE_MAX - kHugePage) return bytes;
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

}  // namespace

// ---- Memory

// The rows that can be reached, 0 .. max_rewind before the end, lie in so many blocks and after so many
// borders at most. A chunk brings new ones, as many again or fewer, while those before it stay.
RecurrentState::Counts::Counts(const RecurrentShape& shape, const RecurrentSettings& settings) {
  const int64_t new_blocks = CeilDivide(settings.max_chunk, kBlock);
  const int64_t kept_borders = CeilDivide(settings.max_rewind, kBlock) + 1;
  const int64_t kept_blocks = (settings.max_rewind + kBlock - 2) / kBlock + 1;
  borders = static_cast<size_t>(kept_borders + std::min(kept_borders, new_blocks));
  blocks = static_cast<size_t>(kept_blocks + std::min(kept_blocks, new_blocks));
  size_t width = 1;
  for (const RecurShape& layer : shape.layers) width = std::max(width, layer.conv_width);
  kept_inputs = settings.max_rewind + static_cast<int64_t>(width) - 1;
  inputs = static_cast<size_t>(kept_inputs + std::min(kept_inputs, settings.max_chunk));
}

size_t RecurrentState::LayerFloats(const RecurShape& shape, const Counts& counts) {
  size_t floats = PartFloats(counts.borders, shape.state_floats());
  floats = SaturatingAdd(floats, PartFloats(counts.blocks, shape.key_floats()));
  floats = SaturatingAdd(floats, PartFloats(counts.blocks, shape.update_floats()));
  floats = SaturatingAdd(floats, PartFloats(counts.blocks, 2 * shape.sum_doubles()));
  if (shape.is_stepped()) floats = SaturatingAdd(floats, PartFloats(2, shape.state_floats()));
  return SaturatingAdd(floats, PartFloats(counts.inputs, shape.input_channels()));
}

size_t RecurrentState::PeakBytes(const RecurrentShape& shape, const RecurrentSettings& settings) {
  const Counts counts(shape, settings);
  size_t floats = 0;
  for (const RecurShape& layer : shape.layers) floats = SaturatingAdd(floats, LayerFloats(layer, counts));
  return HugeBytes(SaturatingMultiply(floats, sizeof(float)));
}

RecurrentState::RecurrentState(const RecurrentShape& shape, const RecurrentSettings& settings,
                               const Budget& budget)
    : shape_(shape), settings_(settings), budget_(budget), counts_(shape, settings) {
  MNEME_CHECK(settings.max_chunk > 0 && settings.max_rewind >= 0);
  const size_t bytes = PeakBytes(shape, settings);
  lease_ = budget.Reserve(MemoryTag::kKv, bytes,
                          "states of " + std::to_string(shape.layers.size()) + " recurrent layers");
  memory_ = MakeHuge(bytes);  // a decoded token reads all of S
  CutLayers();
  borders_.push_back({0, 0});
  ClearFirstBorder();
}

void RecurrentState::CutLayers() {
  float* at = floats();
  const auto take = [&at](size_t count, size_t floats) {
    float* const part = at;
    at += PartFloats(count, floats);
    return part;
  };
  for (const RecurShape& shape : shape_.layers) {
    Layer layer;
    layer.states = take(counts_.borders, shape.state_floats());
    layer.keys = take(counts_.blocks, shape.key_floats());
    layer.updates = take(counts_.blocks, shape.update_floats());
    layer.sums = reinterpret_cast<double*>(take(counts_.blocks, 2 * shape.sum_doubles()));
    layer.heads = shape.is_stepped() ? take(2, shape.state_floats()) : nullptr;
    layer.inputs = take(counts_.inputs, shape.input_channels());
    layers_.push_back(layer);
  }
}

void RecurrentState::ClearFirstBorder() {
  for (size_t i = 0; i < layers_.size(); ++i) {
    ClearState(shape_.layers[i], layers_[i].states);
  }
}

// ---- A chunk

void RecurrentState::Begin(int64_t num_rows) {
  MNEME_CHECK(chunk_rows_ == 0 && num_rows > 0 && num_rows <= settings_.max_chunk);
  const int64_t end = num_tokens_ + num_rows;
  const int64_t oldest = std::max(oldest_, end - settings_.max_rewind);
  PlanBlocks(end, oldest);
  PlanBorders(end, oldest);
  chunk_rows_ = num_rows;
}

// Blocks that a rewind can reach get a place; those that the chunk only passes have none.
void RecurrentState::PlanBlocks(int64_t end, int64_t oldest) {
  new_blocks_.clear();
  block_slots_.clear();
  for (int64_t block = num_tokens_ / kBlock; block * kBlock < end; ++block) {
    int32_t slot = SlotOf(blocks_, block);
    if (slot < 0 && block >= oldest / kBlock) {
      slot = FreeSlot(blocks_, new_blocks_, counts_.blocks);
      new_blocks_.push_back({block, slot});
    }
    block_slots_.push_back(slot);
  }
}

// Borders that a rewind cannot reach are passed in the place of the first that it can: each is written over
// by the next.
void RecurrentState::PlanBorders(int64_t end, int64_t oldest) {
  new_borders_.clear();
  border_slots_.clear();
  for (int64_t border = num_tokens_ / kBlock + 1; border * kBlock <= end; ++border) {
    if (border > oldest / kBlock || new_borders_.empty()) {
      new_borders_.push_back({border, FreeSlot(borders_, new_borders_, counts_.borders)});
    } else {
      new_borders_.back().number = border;
    }
    border_slots_.push_back(new_borders_.back().slot);
  }
}

RecurCall RecurrentState::Plan(size_t layer, const float* x, const float* log_decay, const float* beta,
                               float* out) {
  MNEME_CHECK(chunk_rows_ > 0 && layer < layers_.size());
  const Layer& at = layers_[layer];
  RecurCall call{.shape = &shape_.layers[layer], .num_rows = static_cast<size_t>(chunk_rows_)};
  call.x = x;
  call.log_decay = log_decay;
  call.beta = beta;
  call.out = out;
  call.stream = {
      .first_index = num_tokens_,
      .states = at.states,
      .state_slot = borders_.back().slot,
      .border_slots = border_slots_.data(),
      .keys = at.keys,
      .updates = at.updates,
      .sums = at.sums,
      .block_slots = block_slots_.data(),
      .inputs = at.inputs,
      .num_input_slots = counts_.inputs,
      .input_slot = input_slot_,
      .first_kept_row = static_cast<size_t>(std::max<int64_t>(0, chunk_rows_ - counts_.kept_inputs))};
  if (at.heads != nullptr) {
    const size_t floats = shape_.layers[layer].state_floats();
    if (has_heads_) call.stream.head = at.heads + head_slot_ * floats;
    call.stream.next_head = at.heads + (1 - head_slot_) * floats;
  }
  return call;
}

void RecurrentState::Commit() {
  MNEME_CHECK(chunk_rows_ > 0);
  const auto kept = static_cast<size_t>(std::min(chunk_rows_, counts_.kept_inputs));
  if (kept > 0) input_slot_ = (input_slot_ + kept) % counts_.inputs;
  num_tokens_ += chunk_rows_;
  has_heads_ = true;
  head_slot_ = 1 - head_slot_;
  oldest_ = std::max(oldest_, num_tokens_ - settings_.max_rewind);
  blocks_.insert(blocks_.end(), new_blocks_.begin(), new_blocks_.end());
  borders_.insert(borders_.end(), new_borders_.begin(), new_borders_.end());
  Forget();
  Abort();
}

void RecurrentState::Abort() {
  chunk_rows_ = 0;
  new_blocks_.clear();
  new_borders_.clear();
}

// Frees the places of what lies outside of the rows that can be reached.
void RecurrentState::Forget() {
  const int64_t first = oldest_ / kBlock;
  std::erase_if(borders_,
                [&](Place place) { return place.number < first || place.number * kBlock > num_tokens_; });
  std::erase_if(blocks_,
                [&](Place place) { return place.number < first || place.number * kBlock >= num_tokens_; });
}

void RecurrentState::Rewind(int64_t count) {
  MNEME_CHECK(chunk_rows_ == 0);
  if (count < 0 || count > MaxRewind()) {
    Fail(ErrorKind::kInput, "cannot take back {} tokens: {} can be taken back here (max_rewind is {})", count,
         MaxRewind(), settings_.max_rewind);
  }
  num_tokens_ -= count;
  if (count > 0) has_heads_ = false;
  if (counts_.inputs > 0) {
    input_slot_ = (input_slot_ + counts_.inputs - static_cast<size_t>(count)) % counts_.inputs;
  }
  Forget();
}

// ---- Save, Restore, Fork

int64_t RecurrentState::TokensOf(int64_t block) const {
  return std::min(kBlock, num_tokens_ - block * kBlock);
}

int64_t RecurrentState::FirstInput() const {
  return std::max<int64_t>(0, oldest_ - (counts_.kept_inputs - settings_.max_rewind));
}

template <typename Fn>
void RecurrentState::ForEachPart(size_t layer, const Fn& fn) const {
  const RecurShape& shape = shape_.layers[layer];
  const Layer& at = layers_[layer];
  if (shape.has_state()) {
    for (const Place& place : borders_) {
      fn(at.states + static_cast<size_t>(place.slot) * shape.state_floats(),
         shape.state_floats() * sizeof(float));
    }
    for (const Place& place : blocks_) {
      const auto slot = static_cast<size_t>(place.slot);
      const auto count = static_cast<size_t>(TokensOf(place.number));
      float* const keys = at.keys + slot * shape.key_floats();
      for (size_t channel = 0; channel < shape.key_channels(); ++channel) {
        fn(keys + channel * kRecurBlockTokens, count * sizeof(float));
      }
      float* const updates = at.updates + slot * shape.update_floats();
      for (size_t panel = 0; panel < shape.update_panels(); ++panel) {
        fn(updates + panel * kRecurBlockTokens * kRecurPanel, count * kRecurPanel * sizeof(float));
      }
      double* const sums = at.sums + slot * shape.sum_doubles();
      for (size_t head = 0; head * kRecurBlockTokens < shape.sum_doubles(); ++head) {
        fn(sums + head * kRecurBlockTokens, count * sizeof(double));
      }
    }
  }
  const auto num_inputs = static_cast<size_t>(num_tokens_ - FirstInput());
  for (size_t back = num_inputs; back > 0; --back) {
    const size_t slot = (input_slot_ + counts_.inputs - back) % counts_.inputs;
    fn(at.inputs + slot * shape.input_channels(), shape.input_channels() * sizeof(float));
  }
}

void RecurrentState::Save(StateWriter& writer) const {
  MNEME_CHECK(chunk_rows_ == 0);
  writer.Put<int64_t>(num_tokens_);
  writer.Put<int64_t>(oldest_);
  writer.Put<uint64_t>(layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const RecurShape& shape = shape_.layers[i];
    for (const size_t size :
         {shape.num_channels(), shape.key_channels(), shape.state_floats(), shape.conv_width}) {
      writer.Put<uint64_t>(size);
    }
    ForEachPart(i, [&writer](const void* data, size_t bytes) { writer.Write(data, bytes); });
  }
}

void RecurrentState::Restore(StateReader& reader) {
  MNEME_CHECK(chunk_rows_ == 0 && num_tokens_ == 0);
  const auto num_tokens = reader.Get<int64_t>();
  const auto oldest = reader.Get<int64_t>();
  const auto num_layers = reader.Get<uint64_t>();
  if (num_layers != layers_.size()) {
    Fail(ErrorKind::kMismatch, "state: {} recurrent layers where the model has {}", num_layers,
         layers_.size());
  }
  if (num_tokens < 0 || num_tokens > kMostPosition || oldest < 0 || oldest > num_tokens ||
      num_tokens - oldest > settings_.max_rewind) {
    Fail(ErrorKind::kFile,
         "state: recurrent layers of {} tokens that can be taken back to {}, where {} may be", num_tokens,
         oldest, settings_.max_rewind);
  }
  num_tokens_ = num_tokens;
  oldest_ = oldest;
  borders_.clear();
  for (int64_t border = oldest / kBlock; border * kBlock <= num_tokens; ++border) {
    borders_.push_back({border, static_cast<int32_t>(borders_.size())});
  }
  for (int64_t block = oldest / kBlock; block * kBlock < num_tokens; ++block) {
    blocks_.push_back({block, static_cast<int32_t>(blocks_.size())});
  }
  if (counts_.inputs > 0) input_slot_ = static_cast<size_t>(num_tokens - FirstInput()) % counts_.inputs;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const RecurShape& shape = shape_.layers[i];
    for (const size_t size :
         {shape.num_channels(), shape.key_channels(), shape.state_floats(), shape.conv_width}) {
      if (reader.Get<uint64_t>() != size) {
        Fail(ErrorKind::kMismatch, "state: recurrent layer {} is of another shape than the model's", i);
      }
    }
    ForEachPart(i, [&reader](void* data, size_t bytes) { reader.Read(data, bytes); });
    CheckSums(i);
    CheckDecays(i);
  }
}

// Sums of decays never rise; e^ of one that does has no bound.
void RecurrentState::CheckSums(size_t layer) const {
  const RecurShape& shape = shape_.layers[layer];
  for (const Place& place : blocks_) {
    const double* const sums = layers_[layer].sums + static_cast<size_t>(place.slot) * shape.sum_doubles();
    for (size_t i = 0; i < shape.sum_doubles(); ++i) {
      const size_t token = i % kRecurBlockTokens;
      if (static_cast<int64_t>(token) >= TokensOf(place.number)) continue;
      if (sums[i] > (token == 0 ? 0.0 : sums[i - 1])) {
        Fail(ErrorKind::kFile, "state: decays of recurrent layer {} grow, which none can", layer);
      }
    }
  }
}

void RecurrentState::CheckDecays(size_t layer) const {
  const RecurShape& shape = shape_.layers[layer];
  if (shape.rule != RecurRule::kDiagonal) return;
  for (const Place& place : blocks_) {
    const float* decays = layers_[layer].updates + static_cast<size_t>(place.slot) * shape.update_floats();
    const auto count = static_cast<size_t>(TokensOf(place.number)) * kRecurPanel;
    for (size_t panel = 0; panel < shape.update_panels() / 2; ++panel) {
      if (std::any_of(decays, decays + count, [](float decay) { return decay > 0; })) {
        Fail(ErrorKind::kFile, "state: decays of recurrent layer {} grow, which none can", layer);
      }
      decays += kRecurBlockTokens * kRecurPanel;
    }
  }
}

std::unique_ptr<RecurrentState> RecurrentState::Fork() const {
  MNEME_CHECK(chunk_rows_ == 0);
  auto fork = std::make_unique<RecurrentState>(shape_, settings_, budget_);
  fork->num_tokens_ = num_tokens_;
  fork->oldest_ = oldest_;
  fork->borders_ = borders_;
  fork->blocks_ = blocks_;
  fork->input_slot_ = input_slot_;
  const float* const from = floats();
  float* const to = fork->floats();
  for (size_t i = 0; i < layers_.size(); ++i) {
    // The same place in the other's memory.
    ForEachPart(i, [from, to](const void* data, size_t bytes) {
      std::memcpy(to + (static_cast<const float*>(data) - from), data, bytes);
    });
  }
  return fork;
}

}  // namespace mneme
