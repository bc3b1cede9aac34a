#include "context/infini.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "context/policy.h"

namespace mneme {
namespace {

MemoryShape ShapeOf(const LayerAttention& layer, const InfiniOptions& options) {
  return {.num_heads = layer.num_heads,
          .num_kv_heads = layer.num_kv_heads,
          .key_dim = layer.key_dim,
          .value_dim = layer.value_dim,
          .update = options.update};
}

KvLayout KeptLayout(const LayerAttention& layer) {
  return {.num_kv_heads = layer.num_kv_heads,
          .key_dim = layer.key_dim,
          .value_dim = layer.value_dim,
          .key_encoding = Encoding::kF32,
          .value_encoding = Encoding::kF32};
}

// Rows that a chunk and what may be taken back come to.
int64_t RowsBack(const ContextSettings& settings) {
  return std::max(settings.max_chunk, RewindSlack(settings)) + settings.max_rewind;
}

// Tokens not in the memory yet, those of a chunk, and those that a rewind takes out of it again.
int64_t KeptTokens(const ContextSettings& settings, const InfiniOptions& options) {
  const int64_t slack = RowsBack(settings);
  // Shifted keys reach one token further back.
  const int64_t spare = options.key_shift ? 2 : 1;
  return (options.previous + 1 + (slack + options.segment - 1) / options.segment + spare) * options.segment;
}

// Memories at the borders that the chunk crosses or a rewind can bring back.
int64_t NumSnapshots(const ContextSettings& settings, const InfiniOptions& options) {
  return RowsBack(settings) / options.segment + 3;
}

struct Sizes {
  size_t kept_bytes = 0;
  size_t memory_bytes = 0;  // memories and write gates
  size_t scratch_floats = 0;
  size_t segment_k = 0, segment_v = 0, segment_gate = 0, write = 0, out = 0, shifted_k = 0;
};

Sizes SizesOf(const ContextShape& shape, const ContextSettings& settings, const InfiniOptions& options,
              size_t num_threads) {
  Sizes sizes;
  const auto segment = static_cast<size_t>(options.segment);
  const auto kept = static_cast<size_t>(KeptTokens(settings, options));
  for (const LayerAttention& layer : shape.layers) {
    const MemoryShape memory = ShapeOf(layer, options);
    const auto add = [&sizes](size_t bytes) {
      sizes.memory_bytes = SaturatingAdd(sizes.memory_bytes, bytes);
    };
    const auto num_blocks = static_cast<size_t>(BlockTable::NumBlocks(0, static_cast<int64_t>(kept)));
    sizes.kept_bytes =
        SaturatingAdd(sizes.kept_bytes, SaturatingMultiply(num_blocks, KeptLayout(layer).block_bytes()));
    add(SaturatingMultiply(static_cast<size_t>(NumSnapshots(settings, options)),
                           memory.num_floats() * sizeof(float)));
    if (options.update == MemoryUpdate::kGatedDelta)
      add(SaturatingMultiply(kept, layer.num_kv_heads * sizeof(float)));
    sizes.segment_k = std::max(sizes.segment_k, segment * layer.num_kv_heads * layer.key_dim);
    sizes.segment_v = std::max(sizes.segment_v, segment * layer.num_kv_heads * layer.value_dim);
    sizes.segment_gate = std::max(sizes.segment_gate, segment * layer.num_kv_heads);
    sizes.write = std::max(sizes.write, MemoryScratchFloats(memory, num_threads));
    sizes.out =
        std::max(sizes.out, static_cast<size_t>(settings.max_chunk) * layer.num_heads * layer.value_dim);
    if (options.key_shift) {
      sizes.shifted_k = std::max(
          sizes.shifted_k, static_cast<size_t>(settings.max_chunk) * layer.num_kv_heads * layer.key_dim);
    }
  }
  sizes.scratch_floats =
      sizes.segment_k + sizes.segment_v + sizes.segment_gate + sizes.write + sizes.out + sizes.shifted_k;
  return sizes;
}

}  // namespace

ContextBytes InfiniContext::PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                      const Policy& policy, size_t num_threads) {
  ContextBytes bytes = SpanContext::PeakBytes(shape, settings, policy, -1);
  const Sizes sizes = SizesOf(shape, settings, *policy.memory(), num_threads);
  bytes.kv_bytes = SaturatingAdd(bytes.kv_bytes, SaturatingAdd(sizes.kept_bytes, sizes.memory_bytes));
  bytes.scratch_bytes =
      SaturatingAdd(bytes.scratch_bytes, SaturatingMultiply(sizes.scratch_floats, sizeof(float)));
  return bytes;
}

InfiniContext::InfiniContext(const ContextShape& shape, const ContextSettings& settings,
                             std::shared_ptr<const Policy> policy, const Budget& budget, size_t num_threads)
    : shape_(shape),
      settings_(settings),
      options_(*policy->memory()),
      kept_tokens_(KeptTokens(settings, options_)),
      num_snapshots_(NumSnapshots(settings, options_)),
      budget_(budget),
      num_threads_(num_threads) {
  start_position_ = settings.start_position;
  const Sizes sizes = SizesOf(shape_, settings_, options_, num_threads_);
  const std::string what = "the memories of context " + policy->Describe();
  // Refused with the number of all of it, not of the part that did not fit.
  budget_.Reserve(MemoryTag::kMemory, SaturatingAdd(sizes.kept_bytes, sizes.memory_bytes), what);
  Reserve();
  local_ = std::make_unique<SpanContext>(shape_, settings_, std::move(policy), budget_);
  const int64_t num_blocks = BlockTable::NumBlocks(0, kept_tokens_);
  std::vector<BlockTable> tables;
  for (const LayerAttention& layer : shape_.layers) {
    KeptPool& pool = KeptPoolOf(KeptLayout(layer));
    pool.quota.Grow(num_blocks, what);
    tables.emplace_back(pool.blocks, 0);
  }
  for (KeptPool& pool : pools_) pool.blocks->Populate(pool.quota.num_blocks());
  for (size_t i = 0; i < shape_.layers.size(); ++i) {
    layers_.push_back(MakeLayer(shape_.layers[i], std::move(tables[i])));
  }
  MakeScratch();
}

InfiniContext::InfiniContext(const InfiniContext& origin)
    : shape_(origin.shape_),
      settings_(origin.settings_),
      options_(origin.options_),
      kept_tokens_(origin.kept_tokens_),
      num_snapshots_(origin.num_snapshots_),
      budget_(origin.budget_),
      num_threads_(origin.num_threads_),
      oldest_snapshot_(origin.oldest_snapshot_) {
  start_position_ = origin.start_position_;
  num_tokens_ = origin.num_tokens_;
  Reserve();
  local_ = origin.local_->ForkSpans();
  for (const KeptPool& pool : origin.pools_) {
    pools_.push_back({pool.blocks, pool.blocks->Reserve(pool.quota.num_blocks(), "a copy of kept tokens")});
  }
  for (size_t i = 0; i < shape_.layers.size(); ++i) {
    const Layer& from = origin.layers_[i];
    Layer layer = MakeLayer(shape_.layers[i], from.kept.Share());
    std::memcpy(layer.memories.get(), from.memories.get(),
                static_cast<size_t>(num_snapshots_) * from.shape.num_floats() * sizeof(float));
    if (from.write_gates != nullptr) {
      std::memcpy(layer.write_gates.get(), from.write_gates.get(),
                  static_cast<size_t>(kept_tokens_) * from.shape.num_kv_heads * sizeof(float));
    }
    layers_.push_back(std::move(layer));
  }
  MakeScratch();
}

std::unique_ptr<Context> InfiniContext::Fork() const {
  MNEME_CHECK(chunk_tokens_ == 0);
  return std::unique_ptr<Context>(new InfiniContext(*this));
}

void InfiniContext::Reserve() {
  const Sizes sizes = SizesOf(shape_, settings_, options_, num_threads_);
  memory_lease_ = budget_.Reserve(MemoryTag::kMemory, sizes.memory_bytes, "the memories of the context");
  scratch_lease_ = budget_.Reserve(MemoryTag::kScratch, sizes.scratch_floats * sizeof(float),
                                   "the memory buffers of the context");
}

InfiniContext::KeptPool& InfiniContext::KeptPoolOf(const KvLayout& layout) {
  for (KeptPool& pool : pools_) {
    if (pool.blocks->layout() == layout) return pool;
  }
  auto blocks = std::make_shared<BlockPool>(layout, budget_, MemoryTag::kMemory);
  BlockPool::Quota quota = blocks->Reserve(0, "kept tokens");
  pools_.push_back({std::move(blocks), std::move(quota)});
  return pools_.back();
}

InfiniContext::Layer InfiniContext::MakeLayer(const LayerAttention& spec, BlockTable kept) const {
  MNEME_CHECK(spec.memory_gate.size() == spec.num_heads);
  Layer made{
      .shape = ShapeOf(spec, options_), .kept = std::move(kept), .write_gates = nullptr, .memories = nullptr};
  if (options_.update == MemoryUpdate::kGatedDelta) {
    const size_t gates = static_cast<size_t>(kept_tokens_) * spec.num_kv_heads;
    made.write_gates = MakeAligned<float>(gates);
    std::memset(made.write_gates.get(), 0, gates * sizeof(float));
  }
  const size_t floats = static_cast<size_t>(num_snapshots_) * made.shape.num_floats();
  made.memories = MakeAligned<float>(floats);
  std::memset(made.memories.get(), 0, floats * sizeof(float));
  return made;
}

void InfiniContext::MakeScratch() {
  const Sizes sizes = SizesOf(shape_, settings_, options_, num_threads_);
  segment_k_ = MakeAligned<float>(sizes.segment_k);
  segment_v_ = MakeAligned<float>(sizes.segment_v);
  segment_gate_ = MakeAligned<float>(sizes.segment_gate);
  write_scratch_ = MakeAligned<float>(sizes.write);
  memory_out_ = MakeAligned<float>(sizes.out);
  shifted_k_ = MakeAligned<float>(sizes.shifted_k);
}

float* InfiniContext::MemoryAt(Layer& layer, int64_t num_committed) const {
  return layer.memories.get() +
         static_cast<size_t>(num_committed % num_snapshots_) * layer.shape.num_floats();
}

const float* InfiniContext::memory(size_t layer) const {
  return MemoryAt(const_cast<Layer&>(layers_[layer]), NumCommitted(num_tokens_));
}

void InfiniContext::Begin(std::span<const TokenId> tokens) {
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  local_->Begin(tokens);
  try {
    for (Layer& layer : layers_) {
      layer.kept.DropBefore(std::min(num_tokens_, NeedKept(local_->oldest_row())));
      layer.kept.Extend(num_tokens_ + num_tokens);
    }
  } catch (...) {
    local_->Abort();
    CutKept(num_tokens_);
    throw;
  }
  chunk_tokens_ = num_tokens;
  write_gate_ = nullptr;
  // The memory after the chunk's last border takes the place of the oldest one.
  const int64_t newest = NumCommitted(num_tokens_ + num_tokens);
  oldest_snapshot_ = std::max(oldest_snapshot_, newest - num_snapshots_ + 1);
}

void InfiniContext::CutKept(int64_t num_tokens) {
  for (Layer& layer : layers_) layer.kept.Cut(num_tokens);
}

void InfiniContext::SetWriteGate(size_t layer, const float* write_gate) {
  write_gate_ = write_gate;
  write_gate_layer_ = layer;
}

void InfiniContext::StoreKept(size_t layer_index, const float* k, const float* v) {
  Layer& layer = layers_[layer_index];
  const MemoryShape& shape = layer.shape;
  const bool gated = options_.update == MemoryUpdate::kGatedDelta;
  MNEME_CHECK(!gated || (write_gate_ != nullptr && write_gate_layer_ == layer_index));
  for (int64_t row = 0; row < chunk_tokens_; ++row) {
    const int64_t index = num_tokens_ + row;
    const auto r = static_cast<size_t>(row);
    layer.kept.Store(index, k + r * shape.num_kv_heads * shape.key_dim,
                     v + r * shape.num_kv_heads * shape.value_dim);
    if (!gated) continue;
    std::memcpy(layer.write_gates.get() + static_cast<size_t>(index % kept_tokens_) * shape.num_kv_heads,
                write_gate_ + r * shape.num_kv_heads, shape.num_kv_heads * sizeof(float));
  }
}

const float* InfiniContext::ShiftedKeys(const Layer& layer, const float* k) {
  const size_t row_floats = layer.shape.num_kv_heads * layer.shape.key_dim;
  for (int64_t row = 0; row < chunk_tokens_; ++row) {
    const int64_t index = num_tokens_ + row;
    float* to = shifted_k_.get() + static_cast<size_t>(row) * row_floats;
    if (index == 0 || (options_.previous == 0 && index % options_.segment == 0)) {
      std::memset(to, 0, row_floats * sizeof(float));
    } else if (row > 0) {
      std::memcpy(to, k + static_cast<size_t>(row - 1) * row_floats, row_floats * sizeof(float));
    } else {
      layer.kept.Load(index - 1, to, nullptr);
    }
  }
  return shifted_k_.get();
}

int64_t InfiniContext::FirstKept(int64_t segment) const {
  const bool reaches_back = options_.key_shift && segment > 0;
  return segment * options_.segment - (reaches_back ? 1 : 0);
}

void InfiniContext::SetSegment(Layer& layer, int64_t segment, MemoryCall* call) {
  const MemoryShape& shape = layer.shape;
  // Shifted keys: the first token's value lies under the key of the segment before. Where there is none, and
  // under the rules without a write gate, it is left out.
  const bool gated = layer.write_gates != nullptr;
  const int64_t shift = options_.key_shift ? 1 : 0;
  const int64_t left_out = shift == 1 && (segment == 0 || !gated) ? 1 : 0;
  for (int64_t i = left_out; i < options_.segment; ++i) {
    const int64_t index = segment * options_.segment + i;
    const auto at = static_cast<size_t>(i - left_out);
    layer.kept.Load(index - shift, segment_k_.get() + at * shape.num_kv_heads * shape.key_dim, nullptr);
    layer.kept.Load(index, nullptr, segment_v_.get() + at * shape.num_kv_heads * shape.value_dim);
    if (!gated) continue;
    std::memcpy(segment_gate_.get() + at * shape.num_kv_heads,
                layer.write_gates.get() + static_cast<size_t>(index % kept_tokens_) * shape.num_kv_heads,
                shape.num_kv_heads * sizeof(float));
  }
  call->before = MemoryAt(layer, segment);
  call->written = MemoryAt(layer, segment + 1);
  call->is_empty = segment == 0;
  call->k = segment_k_.get();
  call->v = segment_v_.get();
  call->write_gate = gated ? segment_gate_.get() : nullptr;
  call->num_tokens = static_cast<size_t>(options_.segment - left_out);
  call->write_scratch = write_scratch_.get();
}

AttendCall InfiniContext::Plan(size_t layer_index, const float* q, const float* k, const float* v,
                               float* out) {
  MNEME_CHECK(chunk_tokens_ > 0);
  StoreKept(layer_index, k, v);
  q_ = q;
  out_ = out;
  return local_->Plan(layer_index, q, options_.key_shift ? ShiftedKeys(layers_[layer_index], k) : k, v, out);
}

void InfiniContext::Finish(size_t layer_index, Device& device) {
  Layer& layer = layers_[layer_index];
  const LayerAttention& spec = shape_.layers[layer_index];
  // Runs of rows that read the same memory.
  for (int64_t row = 0; row < chunk_tokens_;) {
    const int64_t index = num_tokens_ + row;
    const int64_t run_end =
        std::min(num_tokens_ + chunk_tokens_, (index / options_.segment + 1) * options_.segment);
    const auto r = static_cast<size_t>(row);
    const int64_t committed = NumCommitted(index);
    MemoryCall call{.shape = layer.shape};
    // The first row of a segment pushes the oldest one out of the window, into the memory.
    if (index % options_.segment == 0 && committed > 0) SetSegment(layer, committed - 1, &call);
    if (committed > 0 || options_.literal_first) {
      call.memory = committed > 0 ? MemoryAt(layer, committed) : nullptr;
      call.q = q_ + r * spec.num_heads * spec.key_dim;
      call.num_rows = static_cast<size_t>(run_end - index);
      call.gate = spec.memory_gate.data();
      call.read = memory_out_.get();
      call.out = out_ + r * spec.num_heads * spec.value_dim;
    }
    if (call.num_tokens > 0 || call.num_rows > 0) device.Memory(call);
    row += run_end - index;
  }
}

void InfiniContext::Commit() {
  local_->Commit();
  num_tokens_ += chunk_tokens_;
  chunk_tokens_ = 0;
}

void InfiniContext::Abort() {
  local_->Abort();
  CutKept(num_tokens_);
  chunk_tokens_ = 0;
}

int64_t InfiniContext::MaxRewind() const {
  int64_t most = local_->MaxRewind();
  // The token after the rewind reads the memory before its own border (written again if it stands on it), and
  // every token since the oldest segment that is not in that memory must still be kept.
  const auto possible = [&](int64_t index) {
    const int64_t base = std::max<int64_t>(0, NumCommitted(index) - 1);
    if (base < oldest_snapshot_) return false;
    for (const Layer& layer : layers_) {
      if (FirstKept(base) < layer.kept.tail_begin()) return false;
    }
    return true;
  };
  while (most > 0 && !possible(num_tokens_ - most)) --most;
  return most;
}

void InfiniContext::Rewind(int64_t count) {
  MNEME_CHECK(chunk_tokens_ == 0);
  const int64_t most = MaxRewind();
  if (count < 0 || count > most) {
    Fail(ErrorKind::kInput, "cannot take back {} tokens: {} can be taken back here", count, most);
  }
  local_->Rewind(count);
  num_tokens_ -= count;
  CutKept(num_tokens_);
}

void InfiniContext::Save(StateWriter& writer) const {
  MNEME_CHECK(chunk_tokens_ == 0);
  local_->Save(writer);
  const int64_t oldest_index = num_tokens_ - MaxRewind();
  const int64_t first = std::max<int64_t>(0, NumCommitted(oldest_index) - 1);
  // A memory is complete once a token after its border was read; the one of a border not yet crossed is
  // written by the next token.
  const int64_t last = num_tokens_ % options_.segment == 0 ? std::max(first, NumCommitted(num_tokens_) - 1)
                                                           : NumCommitted(num_tokens_);
  writer.Put<int64_t>(first);
  writer.Put<int64_t>(last);
  for (const Layer& layer : layers_) {
    for (int64_t c = first; c <= last; ++c) {
      writer.Write(MemoryAt(const_cast<Layer&>(layer), c), layer.shape.num_floats() * sizeof(float));
    }
    const int64_t begin = FirstKept(first);
    layer.kept.Save(writer, begin, num_tokens_);
    if (layer.write_gates == nullptr) continue;
    for (int64_t index = begin; index < num_tokens_; ++index) {
      writer.Write(
          layer.write_gates.get() + static_cast<size_t>(index % kept_tokens_) * layer.shape.num_kv_heads,
          layer.shape.num_kv_heads * sizeof(float));
    }
  }
}

void InfiniContext::Restore(StateReader& reader) {
  local_->Restore(reader);
  const auto first = reader.Get<int64_t>();
  const auto last = reader.Get<int64_t>();
  const int64_t num_tokens = local_->num_tokens();
  if (first < 0 || first > std::max<int64_t>(0, NumCommitted(num_tokens) - 1) || last < first ||
      last - first >= num_snapshots_ || last > NumCommitted(num_tokens) ||
      num_tokens - FirstKept(first) > kept_tokens_) {
    Fail(ErrorKind::kFile, "state: memories {} to {} do not fit a stream of {} tokens", first, last,
         num_tokens);
  }
  for (Layer& layer : layers_) {
    for (int64_t c = first; c <= last; ++c) {
      reader.Read(MemoryAt(layer, c), layer.shape.num_floats() * sizeof(float));
    }
    const int64_t begin = FirstKept(first);
    layer.kept.Restore(reader, begin, num_tokens);
    if (layer.write_gates == nullptr) continue;
    for (int64_t index = begin; index < num_tokens; ++index) {
      reader.Read(
          layer.write_gates.get() + static_cast<size_t>(index % kept_tokens_) * layer.shape.num_kv_heads,
          layer.shape.num_kv_heads * sizeof(float));
    }
  }
  oldest_snapshot_ = first;
  num_tokens_ = num_tokens;
}

std::vector<LedgerRange> InfiniContext::Ledger() const {
  std::vector<LedgerRange> ranges;
  const int64_t border = std::min(num_tokens_, NumCommitted(num_tokens_) * options_.segment);
  if (border > 0) ranges.push_back({start_position_, start_position_ + border, TokenFate::kCompressed});
  if (border < num_tokens_) {
    ranges.push_back({start_position_ + border, start_position_ + num_tokens_, TokenFate::kWindow});
  }
  return ranges;
}

}  // namespace mneme
