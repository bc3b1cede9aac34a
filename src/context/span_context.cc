#include "context/span_context.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"

namespace mneme {
namespace {

// Rows of a chunk that one task rotates and stores.
constexpr size_t kRowsPerTask = 16;

KvLayout LayoutOf(const LayerAttention& layer, const ContextSettings& settings) {
  return {.num_kv_heads = layer.num_kv_heads,
          .key_dim = layer.key_dim,
          .value_dim = layer.value_dim,
          .key_encoding = settings.key_encoding,
          .value_encoding = settings.value_encoding};
}

// Tokens of the window ring: what one row sees, the other rows of a chunk, and what a rewind may bring back.
// -1: grows.
int64_t RingTokens(const LayerAttention& layer, const ContextSettings& settings, const Policy& policy) {
  int64_t visible = policy.window_tokens();
  if (layer.layer_window > 0) visible = std::min(visible, layer.layer_window);
  if (visible == kUnbounded) return -1;
  return visible + settings.max_chunk - 1 + settings.max_rewind;
}

bool HasMiddle(size_t layer, const Policy& policy) {
  return policy.middle_top_k() > 0 && static_cast<int64_t>(layer) >= policy.middle_from_layer();
}

// Tokens are stored in the middle ring when they arrive and are candidates once they have left the window.
int64_t MiddleTokens(const ContextSettings& settings, const Policy& policy) {
  return policy.middle_tokens() + policy.window_tokens() + settings.max_chunk - 1 + settings.max_rewind;
}

struct ScratchSizes {
  size_t query_values = 0;  // [rows, num_heads, key_dim]
  size_t key_values = 0;    // [threads, num_kv_heads, key_dim]
  size_t attend_bytes = 0;
  size_t lse_values = 0;
  size_t table_values = 0;
  size_t middle_bytes = 0;
  size_t row_bytes = 0;  // views, ranges and distances
  bool far = false;

  size_t Bytes() const {
    return ((far ? 2 : 1) * query_values + key_values + lse_values + table_values) * sizeof(float) +
           attend_bytes + middle_bytes + row_bytes;
  }
};

ScratchSizes ScratchOf(const ContextShape& shape, const ContextSettings& settings, const Policy& policy,
                       int64_t num_tokens, size_t num_threads) {
  ScratchSizes sizes;
  const auto rows = static_cast<size_t>(settings.max_chunk);
  sizes.far = policy.far_tokens() > 0;
  sizes.row_bytes = rows * (sizeof(RowView) + 4 * sizeof(int32_t) + 2 * sizeof(int64_t));
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const LayerAttention& layer = shape.layers[i];
    sizes.query_values = std::max(sizes.query_values, rows * layer.num_heads * layer.key_dim);
    sizes.key_values = std::max(sizes.key_values, num_threads * layer.num_kv_heads * layer.key_dim);
    int64_t keys = policy.window_tokens() == kUnbounded ? num_tokens : RingTokens(layer, settings, policy);
    keys += policy.far_tokens();
    sizes.attend_bytes =
        std::max(sizes.attend_bytes, AttendScratchBytes(rows, layer.num_heads, layer.key_dim, layer.value_dim,
                                                        static_cast<size_t>(keys), num_threads));
    if (HasMiddle(i, policy)) {
      sizes.lse_values = std::max(sizes.lse_values, rows * layer.num_heads);
      sizes.middle_bytes =
          std::max(sizes.middle_bytes, MiddleReader::Bytes(policy.middle_top_k(), policy.middle_tokens(),
                                                           LayoutOf(layer, settings), num_threads));
    }
  }
  std::vector<const Rope*> ropes;
  for (const LayerAttention& layer : shape.layers) {
    const bool known =
        std::any_of(ropes.begin(), ropes.end(), [&](const Rope* rope) { return *rope == layer.rope; });
    if (known) continue;
    ropes.push_back(&layer.rope);
    sizes.table_values += (2 * rows + 1) * layer.rope.rotary_dim;
  }
  return sizes;
}

}  // namespace

ContextBytes SpanContext::PeakBytes(const ContextShape& shape, const ContextSettings& settings,
                                    const Policy& policy, int64_t num_tokens, size_t num_threads) {
  ContextBytes bytes;
  bytes.is_bounded = true;
  const auto add = [&bytes](size_t more) { bytes.kv_bytes = SaturatingAdd(bytes.kv_bytes, more); };
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const LayerAttention& layer = shape.layers[i];
    const KvLayout layout = LayoutOf(layer, settings);
    const int64_t ring_tokens = RingTokens(layer, settings, policy);
    if (ring_tokens >= 0) {
      add(KvRing::Bytes(layout, ring_tokens));
    } else {
      bytes.is_bounded = false;
      const auto tokens = static_cast<size_t>(std::max<int64_t>(num_tokens, 0));
      add(SaturatingMultiply(tokens / kBlockTokens + (tokens % kBlockTokens != 0), layout.block_bytes()));
    }
    if (policy.far_tokens() > 0) add(KvRing::Bytes(layout, policy.far_tokens()));
    if (HasMiddle(i, policy)) add(KvRing::Bytes(layout, MiddleTokens(settings, policy)));
  }
  if (!bytes.is_bounded && num_tokens < 0) bytes.kv_bytes = SIZE_MAX;
  const int64_t known_tokens = num_tokens < 0 ? settings.max_chunk : num_tokens;
  bytes.scratch_bytes = ScratchOf(shape, settings, policy, known_tokens, num_threads).Bytes();
  return bytes;
}

SpanContext::SpanContext(const ContextShape& shape, const ContextSettings& settings,
                         std::shared_ptr<const Policy> policy, Budget& budget, size_t num_threads)
    : shape_(shape), settings_(settings), policy_(std::move(policy)), num_threads_(num_threads) {
  start_position_ = settings_.start_position;
  const ContextBytes bytes = PeakBytes(shape_, settings_, *policy_, 0, num_threads);
  kv_lease_ =
      budget.Reserve(MemoryTag::kKv, bytes.kv_bytes, "the keys and values of context " + policy_->Describe());
  // An unbounded context's partials grow with depth; Grow reserves them with the blocks.
  const ScratchSizes sizes = ScratchOf(shape_, settings_, *policy_, settings_.max_chunk, num_threads);
  scratch_lease_ = budget.Reserve(MemoryTag::kScratch, sizes.Bytes(), "the attention buffers of the context");

  const auto rows = static_cast<size_t>(settings_.max_chunk);
  views_.resize(rows);
  for (auto* list : {&window_begin_, &window_end_, &far_begin_, &far_end_}) list->resize(rows);
  for (auto* list : {&window_distance_, &far_distance_}) list->resize(rows);
  layers_.reserve(shape_.layers.size());
  for (size_t i = 0; i < shape_.layers.size(); ++i) {
    const LayerAttention& layer = shape_.layers[i];
    const KvLayout layout = LayoutOf(layer, settings_);
    CheckKvLayout(layout);
    size_t rope = 0;
    while (rope < ropes_.size() && !(*ropes_[rope] == layer.rope)) ++rope;
    if (rope == ropes_.size()) ropes_.push_back(&layer.rope);
    Layer made{.rope = rope,
               .window = KvRing(layout, RingTokens(layer, settings_, *policy_)),
               .far = nullptr,
               .middle = nullptr};
    if (policy_->far_tokens() > 0) made.far = std::make_unique<KvRing>(layout, policy_->far_tokens());
    if (HasMiddle(i, *policy_))
      made.middle = std::make_unique<KvRing>(layout, MiddleTokens(settings_, *policy_));
    layers_.push_back(std::move(made));
  }
  for (const Rope* rope : ropes_) {
    true_tables_.emplace_back(rows * rope->rotary_dim);
    far_tables_.emplace_back(sizes.far ? rows * rope->rotary_dim : 0);
    middle_table_stride_ = std::max(middle_table_stride_, rope->rotary_dim);
  }
  q_true_ = MakeAligned<float>(sizes.query_values);
  if (sizes.far) q_far_ = MakeAligned<float>(sizes.query_values);
  k_rotated_ = MakeAligned<float>(sizes.key_values);
  attend_scratch_ = MakeAligned<uint8_t>(sizes.attend_bytes);
  attend_scratch_bytes_ = sizes.attend_bytes;
  if (sizes.lse_values > 0) {
    log_sum_exp_ = MakeAligned<float>(sizes.lse_values);
    size_t with_middle = 0;
    while (!HasMiddle(with_middle, *policy_)) ++with_middle;
    middle_reader_ =
        std::make_unique<MiddleReader>(policy_->middle_top_k(), policy_->middle_tokens(),
                                       LayoutOf(shape_.layers[with_middle], settings_), num_threads);
    middle_tables_.resize(ropes_.size() * middle_table_stride_);
    for (size_t rope = 0; rope < ropes_.size(); ++rope) {
      RopeTable(*ropes_[rope], policy_->middle_distance(),
                middle_tables_.data() + rope * middle_table_stride_);
    }
  }
}

void SpanContext::Grow(int64_t num_tokens) {
  const int64_t end = num_tokens_ + num_tokens;
  size_t kv_bytes = 0;
  size_t scratch_bytes = 0;
  bool grows = false;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const KvRing& ring = layers_[i].window;
    if (!ring.grows()) continue;
    const LayerAttention& layer = shape_.layers[i];
    grows = true;
    kv_bytes += ring.BlocksToAdd(end) * ring.block_bytes();
    scratch_bytes =
        std::max(scratch_bytes, AttendScratchBytes(views_.size(), layer.num_heads, layer.key_dim,
                                                   layer.value_dim, static_cast<size_t>(end), num_threads_));
  }
  if (!grows) return;
  try {
    kv_lease_.Resize(kv_lease_.bytes() + kv_bytes, "more keys and values");
    if (scratch_bytes > attend_scratch_bytes_) {
      // Doubling keeps the number of moves small.
      const size_t wanted = std::max(scratch_bytes, 2 * attend_scratch_bytes_);
      scratch_lease_.Resize(scratch_lease_.bytes() + wanted - attend_scratch_bytes_,
                            "larger attention buffers");
      attend_scratch_ = MakeAligned<uint8_t>(wanted);
      attend_scratch_bytes_ = wanted;
    }
  } catch (const Error& error) {
    Fail(ErrorKind::kBudget,
         "context {} is full at token {}: {}. A bounded context goes on without an end: --context sinks (or "
         "lambda, xl)",
         Describe(), FormatCount(num_tokens_), error.what());
  }
  for (Layer& layer : layers_) layer.window.AddBlocks(layer.window.BlocksToAdd(end));
}

void SpanContext::Begin(int64_t num_tokens) {
  MNEME_CHECK(chunk_tokens_ == 0 && num_tokens > 0 && num_tokens <= settings_.max_chunk);
  if (shape_.learned_positions && next_position() + num_tokens > shape_.trained_length) {
    Fail(ErrorKind::kUnsupported,
         "this model has learned positions for {} tokens and cannot read token {}: give it a shorter text, "
         "or use a model "
         "with rotary or ALiBi positions",
         FormatCount(shape_.trained_length), FormatCount(shape_.trained_length));
  }
  if (next_position() > kMostPosition - num_tokens)
    Fail(ErrorKind::kInput, "the stream's position is beyond 2^61");
  Grow(num_tokens);
  chunk_tokens_ = num_tokens;
  chunk_has_far_ = false;
  for (int64_t row = 0; row < num_tokens; ++row) {
    RowView view = policy_->View(num_tokens_ + row);
    MNEME_DCHECK(view.num_far <= view.window_begin && view.window_begin <= num_tokens_ + row);
    chunk_has_far_ |= view.num_far > 0;
    views_[static_cast<size_t>(row)] = view;
  }
  for (Layer& layer : layers_) {
    layer.window.NoteStored(num_tokens_ + num_tokens);
    if (layer.middle != nullptr) layer.middle->NoteStored(num_tokens_ + num_tokens);
  }
  FillTables();
}

void SpanContext::FillTables() {
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const Rope& rope = *ropes_[i];
    if (rope.rotary_dim == 0) continue;
    for (int64_t row = 0; row < chunk_tokens_; ++row) {
      RopeTable(rope, next_position() + row, const_cast<float*>(TrueTable(i, row)));
      if (!chunk_has_far_) continue;
      float* far = const_cast<float*>(FarTable(i, row));
      // Nearly always the distance of the row before.
      if (row > 0 && views_[static_cast<size_t>(row)].far_distance ==
                         views_[static_cast<size_t>(row - 1)].far_distance) {
        std::memcpy(far, FarTable(i, row - 1), rope.rotary_dim * sizeof(float));
      } else {
        // Keys at one distance are not rotated, others to their position.
        const Position origin = policy_->far_is_constant() ? 0 : start_position_;
        RopeTable(rope, origin + views_[static_cast<size_t>(row)].far_distance, far);
      }
    }
  }
}

const float* SpanContext::TrueTable(size_t rope, int64_t row) const {
  if (ropes_[rope]->rotary_dim == 0) return nullptr;
  return true_tables_[rope].data() + static_cast<size_t>(row) * ropes_[rope]->rotary_dim;
}

const float* SpanContext::FarTable(size_t rope, int64_t row) const {
  if (ropes_[rope]->rotary_dim == 0) return nullptr;
  return far_tables_[rope].data() + static_cast<size_t>(row) * ropes_[rope]->rotary_dim;
}

void SpanContext::StoreHeads(size_t layer_index, size_t row, size_t first, size_t last, const float* k,
                             const float* v, float* rotated) {
  Layer& layer = layers_[layer_index];
  const LayerAttention& spec = shape_.layers[layer_index];
  const int64_t index = num_tokens_ + static_cast<int64_t>(row);
  const float* keys = k + row * spec.num_kv_heads * spec.key_dim;
  const float* values = v + row * spec.num_kv_heads * spec.value_dim;
  Rotate(spec.rope, TrueTable(layer.rope, static_cast<int64_t>(row)), keys + first * spec.key_dim,
         last - first, spec.key_dim, rotated + first * spec.key_dim);
  for (size_t head = first; head < last; ++head) {
    const float* value = values + head * spec.value_dim;
    layer.window.StoreHead(index, head, rotated + head * spec.key_dim, value);
    if (layer.middle != nullptr) layer.middle->StoreHead(index, head, keys + head * spec.key_dim, value);
  }
}

void SpanContext::RotateHeads(size_t layer_index, size_t row, size_t first, size_t last, const float* q) {
  const Layer& layer = layers_[layer_index];
  const LayerAttention& spec = shape_.layers[layer_index];
  const size_t at = (row * spec.num_heads + first) * spec.key_dim;
  Rotate(spec.rope, TrueTable(layer.rope, static_cast<int64_t>(row)), q + at, last - first, spec.key_dim,
         q_true_.get() + at);
  if (!chunk_has_far_) return;
  Rotate(spec.rope, FarTable(layer.rope, static_cast<int64_t>(row)), q + at, last - first, spec.key_dim,
         q_far_.get() + at);
}

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

// The first tokens of the stream, once in its life.
void SpanContext::StoreFar(size_t layer_index, const float* k, const float* v) {
  Layer& layer = layers_[layer_index];
  if (layer.far == nullptr || num_tokens_ >= policy_->far_tokens()) return;
  const LayerAttention& spec = shape_.layers[layer_index];
  const size_t k_stride = spec.num_kv_heads * spec.key_dim;
  const size_t v_stride = spec.num_kv_heads * spec.value_dim;
  std::vector<float> table(spec.rope.rotary_dim);
  for (int64_t index = num_tokens_; index < std::min(num_tokens_ + chunk_tokens_, policy_->far_tokens());
       ++index) {
    const auto row = static_cast<size_t>(index - num_tokens_);
    const float* key = k + row * k_stride;
    if (!policy_->far_is_constant() && !table.empty()) {
      RopeTable(spec.rope, start_position_ + index, table.data());
      Rotate(spec.rope, table.data(), key, spec.num_kv_heads, spec.key_dim, k_rotated_.get());
      key = k_rotated_.get();
    }
    layer.far->Store(index, key, v + row * v_stride);
  }
}

int64_t SpanContext::WindowBegin(size_t layer, int64_t index) const {
  const int64_t model_window = shape_.layers[layer].layer_window;
  const int64_t begin = policy_->View(index).window_begin;
  return model_window > 0 ? std::max(begin, index - model_window + 1) : begin;
}

bool SpanContext::SetSpans(size_t layer_index) {
  Layer& layer = layers_[layer_index];
  const int64_t model_window = shape_.layers[layer_index].layer_window;
  constexpr int64_t kBlock = static_cast<int64_t>(kBlockTokens);
  // Window begins never decrease from row to row, so the first row's is the span's.
  int64_t base = views_[0].window_begin;
  if (model_window > 0) base = std::max(base, num_tokens_ - model_window + 1);
  base = base / kBlock * kBlock;
  bool any_far = false;
  for (int64_t row = 0; row < chunk_tokens_; ++row) {
    const auto r = static_cast<size_t>(row);
    const RowView& view = views_[r];
    const int64_t index = num_tokens_ + row;
    int64_t begin = view.window_begin;
    if (model_window > 0) begin = std::max(begin, index - model_window + 1);
    window_begin_[r] = static_cast<int32_t>(begin - base);
    window_end_[r] = static_cast<int32_t>(index + 1 - base);
    window_distance_[r] = index - base;
    // The model's own window hides far tokens whose assigned distance it does not reach.
    int64_t far_begin = 0;
    if (model_window > 0) {
      if (policy_->far_is_constant()) {
        if (view.far_distance >= model_window) far_begin = view.num_far;
      } else {
        far_begin = std::clamp<int64_t>(view.far_distance - model_window + 1, 0, view.num_far);
      }
    }
    far_begin_[r] = static_cast<int32_t>(far_begin);
    far_end_[r] = static_cast<int32_t>(view.num_far);
    far_distance_[r] = view.far_distance;
    any_far |= far_begin < view.num_far;
  }
  window_span_.blocks = layer.window.Blocks(base / kBlock);
  window_span_.first_slot = 0;
  window_span_.first_block_number = base / kBlock;
  window_span_.begin = window_begin_.data();
  window_span_.end = window_end_.data();
  window_span_.q = q_true_.get();
  window_span_.distance = window_distance_.data();
  window_span_.distance_step = 1;
  if (!any_far) return false;
  far_span_.blocks = layer.far->Blocks(0);
  far_span_.first_slot = 0;
  far_span_.first_block_number = 0;
  far_span_.begin = far_begin_.data();
  far_span_.end = far_end_.data();
  far_span_.q = q_far_.get();
  far_span_.distance = far_distance_.data();
  far_span_.distance_step = policy_->far_is_constant() ? 0 : 1;
  return true;
}

void SpanContext::Attend(size_t layer_index, const float* q, const float* k, const float* v, float* out,
                         ThreadPool& pool) {
  MNEME_CHECK(chunk_tokens_ > 0 && layer_index < layers_.size() && pool.num_threads() <= num_threads_);
  Layer& layer = layers_[layer_index];
  const LayerAttention& spec = shape_.layers[layer_index];
  StoreFar(layer_index, k, v);
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
  KvSpan spans[2];
  size_t num_spans = 0;
  if (SetSpans(layer_index)) spans[num_spans++] = far_span_;
  spans[num_spans++] = window_span_;
  const AttendShape attend_shape{
      .num_rows = static_cast<size_t>(chunk_tokens_),
      .num_heads = spec.num_heads,
      .layout = layer.window.layout(),
      .scale = spec.scale,
      .soft_cap = spec.soft_cap,
      .alibi_slopes = spec.alibi_slopes.empty() ? nullptr : spec.alibi_slopes.data(),
      .sink_logits = spec.sink_logits.empty() ? nullptr : spec.sink_logits.data(),
  };
  const bool with_middle = layer.middle != nullptr &&
                           views_[static_cast<size_t>(chunk_tokens_ - 1)].middle_end > policy_->far_tokens();
  mneme::Attend(attend_shape, {spans, num_spans}, out, with_middle ? log_sum_exp_.get() : nullptr,
                attend_scratch_.get(), pool, one_row ? prepare_fn : KvHeadFn{});
  if (with_middle) MergeMiddle(layer_index, attend_shape, q, out, pool);
}

void SpanContext::MergeMiddle(size_t layer_index, const AttendShape& attend_shape, const float* q, float* out,
                              ThreadPool& pool) {
  const Layer& layer = layers_[layer_index];
  const LayerAttention& spec = shape_.layers[layer_index];
  if (spec.layer_window > 0 && policy_->middle_distance() >= spec.layer_window) return;
  const size_t stride = spec.num_heads * spec.key_dim;
  const float* table =
      spec.rope.rotary_dim == 0 ? nullptr : middle_tables_.data() + layer.rope * middle_table_stride_;
  std::vector<MiddleReader::Row> rows(attend_shape.num_rows);
  for (size_t row = 0; row < rows.size(); ++row) {
    rows[row] = {std::max(views_[row].middle_begin, layer.middle->valid_begin()), views_[row].middle_end};
    Rotate(spec.rope, table, q + row * stride, spec.num_heads, spec.key_dim, q_true_.get() + row * stride);
  }
  std::vector<float> bias;
  for (const float slope : spec.alibi_slopes)
    bias.push_back(-slope * static_cast<float>(policy_->middle_distance()));
  middle_reader_->MergeInto(attend_shape, *layer.middle, q_true_.get(), rows.data(),
                            bias.empty() ? nullptr : bias.data(), out, log_sum_exp_.get(), pool);
}

void SpanContext::Commit() {
  MNEME_CHECK(chunk_tokens_ > 0);
  num_tokens_ += chunk_tokens_;
  chunk_tokens_ = 0;
}

int64_t SpanContext::MaxRewind() const {
  // Row `index` can be computed again if what it sees is intact in every layer.
  const auto intact = [&](int64_t index) {
    const RowView view = policy_->View(index);
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (WindowBegin(i, index) < layers_[i].window.valid_begin()) return false;
      if (layers_[i].middle != nullptr && view.middle_begin < view.middle_end &&
          view.middle_begin < layers_[i].middle->valid_begin()) {
        return false;
      }
    }
    return true;
  };
  int64_t low = 0, high = std::min(num_tokens_, settings_.max_rewind);
  while (low < high) {  // intact(num_tokens_ - count) holds up to some count
    const int64_t middle = (low + high + 1) / 2;
    if (intact(num_tokens_ - middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

void SpanContext::Rewind(int64_t count) {
  MNEME_CHECK(chunk_tokens_ == 0);
  const int64_t most = MaxRewind();
  if (count < 0 || count > most) {
    Fail(ErrorKind::kInput, "cannot take back {} tokens: {} can be taken back here (max_rewind is {})", count,
         most, settings_.max_rewind);
  }
  num_tokens_ -= count;
}

void SpanContext::Save(StateWriter& writer) const {
  MNEME_CHECK(chunk_tokens_ == 0);
  writer.Put<int64_t>(num_tokens_);
  writer.Put<int64_t>(start_position_);
  writer.Put<uint64_t>(layers_.size());
  // What the next row sees, and what it would see after the longest rewind.
  const int64_t oldest_row = num_tokens_ - MaxRewind();
  const RowView view = policy_->View(oldest_row);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const int64_t begin = std::min(num_tokens_, WindowBegin(i, oldest_row));
    writer.Put<int64_t>(begin);
    layer.window.Save(writer, begin, num_tokens_);
    if (layer.far != nullptr) layer.far->Save(writer, 0, std::min(num_tokens_, policy_->far_tokens()));
    if (layer.middle != nullptr) {
      // Tokens that are still in the window will be candidates later.
      const int64_t middle_begin =
          std::min(num_tokens_, std::max(view.middle_begin, layer.middle->valid_begin()));
      writer.Put<int64_t>(middle_begin);
      layer.middle->Save(writer, middle_begin, num_tokens_);
    }
  }
}

void SpanContext::Restore(StateReader& reader) {
  MNEME_CHECK(chunk_tokens_ == 0 && num_tokens_ == 0);
  const auto num_tokens = reader.Get<int64_t>();
  const auto start = reader.Get<int64_t>();
  const auto num_layers = reader.Get<uint64_t>();
  if (num_tokens < 0 || start != start_position_ || num_layers != layers_.size()) {
    Fail(ErrorKind::kMismatch,
         "state: {} tokens from position {} in {} layers do not fit a context of {} layers from {}",
         num_tokens, start, num_layers, layers_.size(), start_position_);
  }
  // A hostile count must not make an unbounded context allocate more than the file could hold.
  for (const Layer& layer : layers_) {
    if (layer.window.grows() && static_cast<uint64_t>(num_tokens) / kBlockTokens >
                                    reader.remaining_bytes() / layer.window.block_bytes()) {
      Fail(ErrorKind::kFile, "state: {} tokens cannot fit into the {} bytes that are left", num_tokens,
           reader.remaining_bytes());
    }
  }
  if (num_tokens > 0) Grow(num_tokens);
  for (Layer& layer : layers_) {
    const auto begin = reader.Get<int64_t>();
    if (begin < 0 || begin > num_tokens) Fail(ErrorKind::kFile, "state: window begins at token {}", begin);
    layer.window.Restore(reader, begin, num_tokens);
    if (layer.far != nullptr) layer.far->Restore(reader, 0, std::min(num_tokens, policy_->far_tokens()));
    if (layer.middle != nullptr) {
      const auto middle_begin = reader.Get<int64_t>();
      if (middle_begin < 0 || middle_begin > num_tokens) {
        Fail(ErrorKind::kFile, "state: middle begins at token {}", middle_begin);
      }
      layer.middle->Restore(reader, middle_begin, num_tokens);
    }
  }
  num_tokens_ = num_tokens;
}

std::vector<LedgerRange> SpanContext::Ledger() const {
  std::vector<LedgerRange> ranges;
  const auto add = [&](int64_t begin, int64_t end, TokenFate fate) {
    if (begin < end) ranges.push_back({start_position_ + begin, start_position_ + end, fate});
  };
  const RowView view = policy_->View(num_tokens_);  // of the next token
  int64_t window_begin = num_tokens_;
  for (size_t i = 0; i < layers_.size(); ++i) {
    window_begin = std::min(window_begin, WindowBegin(i, num_tokens_));
  }
  const int64_t far_end = std::min(view.num_far, window_begin);
  add(0, far_end, TokenFate::kSink);
  const int64_t middle_begin = std::max(view.middle_begin, far_end);
  if (view.middle_begin < view.middle_end) {
    add(far_end, middle_begin, TokenFate::kDropped);
    add(middle_begin, view.middle_end, TokenFate::kMiddle);
    add(view.middle_end, window_begin, TokenFate::kDropped);
  } else {
    add(far_end, window_begin, TokenFate::kDropped);
  }
  add(window_begin, num_tokens_, TokenFate::kWindow);
  return ranges;
}

}  // namespace mneme
