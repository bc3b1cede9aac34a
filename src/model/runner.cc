// The forward pass. It reads the configuration and the weights, and knows no family.
#include "model/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "kernels/device.h"
#include "model/weights.h"

namespace mneme {
namespace {

// Logits that are computed at once: enough rows to share the reading of the weights, few enough bytes to stay
// out of the way (a vocabulary of 150,000 times 512 rows would be 300 MB).
constexpr size_t kLogitTileBytes = size_t{4} << 20;
constexpr size_t kMinLogitTileRows = 8;

// Sizes of the activations, in values.
struct Layout {
  size_t max_rows = 0;
  size_t model_dim = 0;
  size_t q = 0, k = 0, v = 0, attended = 0;  // per row, largest over the layers
  size_t write_gate = 0;
  size_t ffn = 0;
  size_t arena = 0;  // per row: q, k, v, attended; later gate and up
  size_t max_cols = 0;
  size_t logit_rows = 0;
  size_t vocab_size = 0;
  size_t attend_bytes = 0;  // scratch
  ActivationForm form;      // all that products of the model read

  Layout(const LoadedModel& model, int64_t rows, size_t num_threads) : max_rows(static_cast<size_t>(rows)) {
    const ModelConfig& c = model.config();
    model_dim = c.model_dim;
    const size_t num_kv_heads = *std::max_element(c.num_kv_heads.begin(), c.num_kv_heads.end());
    q = c.num_heads * c.key_dim;
    k = num_kv_heads * c.key_dim;
    v = num_kv_heads * c.value_dim;
    attended = c.num_heads * c.value_dim;
    ffn = *std::max_element(c.ffn_dim.begin(), c.ffn_dim.end());
    write_gate = c.memory.update == MemoryUpdate::kGatedDelta ? num_kv_heads : 0;
    arena = std::max(q + k + v + attended + write_gate, ffn * (c.gated_ffn ? 2 : 1));
    max_cols = std::max({model_dim, attended, ffn});
    attend_bytes = AttendScratchBytes(max_rows, c.num_heads, c.key_dim, c.value_dim, num_threads);
    vocab_size = c.vocab_size;
    logit_rows = std::clamp(kLogitTileBytes / (vocab_size * sizeof(float)), kMinLogitTileRows,
                            std::max(max_rows, kMinLogitTileRows));
    logit_rows = std::min(logit_rows, max_rows);
    ForEachLinear(model.weights(),
                  [&](const LinearLayer& linear) { form = CommonForm(form, FormFor(linear.weights)); });
  }

  size_t float_count() const {
    // The parts of the arena start at multiples of 16 values.
    return max_rows * (3 * model_dim + arena) + logit_rows * vocab_size + 9 * 16;
  }
  size_t linear_bytes() const { return ActivationRows::Bytes(max_rows, max_cols, form); }
  size_t bytes() const { return float_count() * sizeof(float) + linear_bytes() + attend_bytes; }
};

}  // namespace

struct Runner::Impl {
  Impl(const LoadedModel& from, int64_t rows, Device& on_device, const Budget& budget)
      : model(from),
        config(model.config()),
        weights(model.weights()),
        device(on_device),
        layout(model, rows, device.num_threads()),
        lease(budget.Reserve(MemoryTag::kScratch, layout.bytes(),
                             fmt::format("activations of {} rows", layout.max_rows))),
        floats(device.Allocate(layout.float_count() * sizeof(float), DeviceMemoryUse::kShared)),
        linear_scratch(device.Allocate(layout.linear_bytes(), DeviceMemoryUse::kWork)),
        attend_scratch(device.Allocate(layout.attend_bytes, DeviceMemoryUse::kWork)) {
    float* next = static_cast<float*>(floats.get());
    const auto take = [&](size_t count) {
      float* const part = next;
      next += (count + 15) / 16 * 16;
      return part;
    };
    x = take(layout.max_rows * layout.model_dim);
    normed = take(layout.max_rows * layout.model_dim);
    branch = take(layout.max_rows * layout.model_dim);
    logits = take(layout.logit_rows * layout.vocab_size);
    float* const arena = next;
    q = take(layout.max_rows * layout.q);
    k = take(layout.max_rows * layout.k);
    v = take(layout.max_rows * layout.v);
    attended = take(layout.max_rows * layout.attended);
    write_gate = take(layout.max_rows * layout.write_gate);
    next = arena;
    up = take(layout.max_rows * layout.ffn);
    gate = config.gated_ffn ? take(layout.max_rows * layout.ffn) : nullptr;
    logit_chunk.reserve(layout.logit_rows);
    logit_row.reserve(layout.logit_rows);
  }

  NormCall NormOf(const NormWeights& norm) const {
    return {.kind = config.norm,
            .epsilon = config.norm_epsilon,
            .weight = norm.weight.data(),
            .bias = norm.bias.empty() ? nullptr : norm.bias.data()};
  }

  // Rows of the model's width.
  void Norm(const NormWeights& norm, const float* from, size_t count, float* out) {
    NormCall call = NormOf(norm);
    call.num_rows = count;
    call.num_cols = layout.model_dim;
    call.x = from;
    call.out = out;
    device.Norm(call);
  }

  // Norms of queries or keys, in place: of each head, or of all heads of a row together.
  void HeadNorm(const NormWeights& norm, size_t num_heads, float* heads) {
    NormCall call = NormOf(norm);
    call.num_rows = num_rows;
    call.num_parts = config.qk_norm_whole ? 1 : num_heads;
    call.num_cols = num_heads * config.key_dim / call.num_parts;
    call.has_weights_per_part = norm.weight.size() != call.num_cols;
    call.x = call.out = heads;
    device.Norm(call);
  }

  static MatMulJob Job(const LinearLayer& linear, float* out, bool accumulate) {
    return {&linear.weights, linear.bias_or_null(), out, linear.weights.num_rows(), accumulate};
  }

  // The product of `count` rows of x with each job's matrix.
  void Linear(std::string_view label, const float* from, size_t count, std::span<const MatMulJob> jobs,
              std::optional<ThenActivate> then = std::nullopt) {
    device.Linear({.label = label,
                   .x = from,
                   .num_rows = count,
                   .num_cols = jobs.front().weights->num_cols(),
                   .jobs = jobs,
                   .then = then,
                   .scratch = static_cast<uint8_t*>(linear_scratch.get())});
  }

  void Clamp(float* values, size_t row) {
    device.Pointwise({.kind = PointwiseCall::Kind::kClamp,
                      .x = values,
                      .value = config.clamp_qkv,
                      .count = num_rows * row});
  }

  void Embed(std::span<const ForwardChunk> chunks);
  void RunLayer(size_t layer, std::span<const ForwardChunk> chunks);
  void Attention(size_t layer, const float* input, std::span<const ForwardChunk> chunks);
  // x += the sub-layer's product with `from`, through its norm where it has one.
  void AddProduct(std::string_view label, const LinearLayer& linear, const float* from,
                  const NormWeights& post_norm);
  void FeedForward(const LayerWeights& w, const float* input);
  void Logits(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits);
  void FlushLogits(const LogitsCallback& on_logits);
  void CheckRows(std::span<const ForwardChunk> chunks) const;
  void Begin(const ForwardChunk& chunk) const;
  void RunBegun(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits);

  const LoadedModel& model;
  const ModelConfig& config;
  const ModelWeights& weights;
  Device& device;
  Layout layout;
  Lease lease;
  DeviceMemory floats;
  DeviceMemory linear_scratch;
  DeviceMemory attend_scratch;
  float *x, *normed, *branch, *logits;  // into floats
  float *q, *k, *v, *attended, *write_gate;
  float *up, *gate;  // over q, k, v and attended, which are done with by then
  size_t num_rows = 0;
  std::vector<TokenId> ids;              // of all chunks
  std::vector<Position> places;          // of the ids; only with learned positions
  std::vector<AttendCall> attend_calls;  // of all chunks, in one layer
  std::vector<size_t> logit_chunk;       // of the rows gathered in `normed`
  std::vector<size_t> logit_row;
};

void Runner::Impl::CheckRows(std::span<const ForwardChunk> chunks) const {
  size_t total = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    MNEME_CHECK(chunks[i].context != nullptr && !chunks[i].tokens.empty());
    for (size_t j = 0; j < i; ++j) MNEME_CHECK(chunks[j].context != chunks[i].context);
    total += chunks[i].tokens.size();
  }
  if (total > layout.max_rows) {
    Fail(ErrorKind::kInput, "{} rows in one call; the runner was made for {}", total, layout.max_rows);
  }
}

void Runner::Impl::Begin(const ForwardChunk& chunk) const {
  for (const TokenId token : chunk.tokens) {
    if (token < 0 || static_cast<size_t>(token) >= config.vocab_size) {
      Fail(ErrorKind::kInput, "token {} is not in the model's vocabulary of {}", token, config.vocab_size);
    }
  }
  if (config.position == PositionKind::kLearned) {
    const Position last = chunk.context->next_position() + static_cast<Position>(chunk.tokens.size()) - 1;
    if (chunk.context->next_position() < 0 ||
        last >= static_cast<Position>(weights.position_embedding.num_rows)) {
      Fail(ErrorKind::kUnsupported,
           "position {}: this model has learned positions and was made for {} tokens; it cannot go on", last,
           weights.position_embedding.num_rows);
    }
  }
  chunk.context->Begin(chunk.tokens);
}

void Runner::Impl::Embed(std::span<const ForwardChunk> chunks) {
  const bool is_learned = config.position == PositionKind::kLearned;
  ids.clear();
  places.clear();
  for (const ForwardChunk& chunk : chunks) {
    ids.insert(ids.end(), chunk.tokens.begin(), chunk.tokens.end());
    const Position first = chunk.context->next_position();
    for (size_t i = 0; is_learned && i < chunk.tokens.size(); ++i) {
      places.push_back(first + static_cast<Position>(i));
    }
  }
  device.Embed({.tokens = weights.token_embedding,
                .ids = ids,
                .scale = config.embedding_scale,
                .positions = is_learned ? weights.position_embedding : WeightView(),
                .places = places.data(),
                .out = x,
                .scratch = branch});
}

void Runner::Impl::Attention(size_t layer, const float* input, std::span<const ForwardChunk> chunks) {
  const LayerWeights& w = weights.layers[layer];
  const bool has_write_gate = !w.memory_write.empty();
  const std::array<MatMulJob, 4> jobs = {
      Job(w.q, q, false), Job(w.k, k, false), Job(w.v, v, false),
      has_write_gate ? Job(w.memory_write, write_gate, false) : MatMulJob{}};
  Linear("q, k, v", input, num_rows, {jobs.data(), has_write_gate ? size_t{4} : size_t{3}});
  const size_t num_kv_heads = config.num_kv_heads[layer];
  if (has_write_gate) {
    device.Pointwise({.kind = PointwiseCall::Kind::kWriteGate,
                      .x = write_gate,
                      .value = config.memory.write_floor,
                      .count = num_rows * num_kv_heads});
  }
  const size_t q_row = config.num_heads * config.key_dim;
  const size_t k_row = num_kv_heads * config.key_dim;
  const size_t v_row = num_kv_heads * config.value_dim;
  const size_t out_row = config.num_heads * config.value_dim;
  if (config.clamp_qkv > 0) {
    Clamp(q, q_row);
    Clamp(k, k_row);
    Clamp(v, v_row);
  }
  if (!w.q_norm.empty()) HeadNorm(w.q_norm, config.num_heads, q);
  if (!w.k_norm.empty()) HeadNorm(w.k_norm, num_kv_heads, k);
  attend_calls.clear();
  size_t row = 0;
  for (const ForwardChunk& chunk : chunks) {
    if (has_write_gate) chunk.context->SetWriteGate(layer, write_gate + row * num_kv_heads);
    attend_calls.push_back(chunk.context->Plan(layer, q + row * q_row, k + row * k_row, v + row * v_row,
                                               attended + row * out_row));
    row += chunk.tokens.size();
  }
  device.Attend(attend_calls, static_cast<uint8_t*>(attend_scratch.get()));
  for (const ForwardChunk& chunk : chunks) chunk.context->Finish(layer, device);
  AddProduct("attention output", w.o, attended, w.post_attn_norm);
}

void Runner::Impl::AddProduct(std::string_view label, const LinearLayer& linear, const float* from,
                              const NormWeights& post_norm) {
  const bool is_plain = post_norm.empty();
  const MatMulJob job = Job(linear, is_plain ? x : branch, is_plain);
  Linear(label, from, num_rows, {&job, 1});
  if (is_plain) return;
  Norm(post_norm, branch, num_rows, branch);
  device.Pointwise(
      {.kind = PointwiseCall::Kind::kAdd, .x = x, .y = branch, .count = num_rows * layout.model_dim});
}

void Runner::Impl::FeedForward(const LayerWeights& w, const float* input) {
  // In the order in which they lie in memory.
  std::array<MatMulJob, 2> jobs;
  size_t num_jobs = 0;
  if (!w.gate.empty()) jobs[num_jobs++] = Job(w.gate, gate, false);
  jobs[num_jobs++] = Job(w.up, up, false);
  Linear(w.gate.empty() ? "up" : "gate, up", input, num_rows, {jobs.data(), num_jobs},
         ThenActivate{.activation = config.activation, .rounds_to_half = config.half_gelu});
  AddProduct("down", w.down, jobs[0].out, w.post_ffn_norm);
}

void Runner::Impl::RunLayer(size_t layer, std::span<const ForwardChunk> chunks) {
  const LayerWeights& w = weights.layers[layer];
  if (config.block == BlockKind::kPostNormOnly) {
    // Attention adds to x only through `branch`, so x can be its input.
    Attention(layer, x, chunks);
    FeedForward(w, x);
    return;
  }
  Norm(w.attn_norm, x, num_rows, normed);
  if (config.block == BlockKind::kParallel) {
    // The feed-forward network reads x as it was before attention added to it.
    const float* ffn_input = normed;
    if (!w.ffn_norm.empty()) {
      Norm(w.ffn_norm, x, num_rows, branch);
      ffn_input = branch;
    }
    Attention(layer, normed, chunks);
    FeedForward(w, ffn_input);
    return;
  }
  Attention(layer, normed, chunks);
  Norm(w.ffn_norm, x, num_rows, normed);
  FeedForward(w, normed);
}

void Runner::Impl::FlushLogits(const LogitsCallback& on_logits) {
  const size_t count = logit_chunk.size();
  if (count == 0) return;
  const MatMulJob job = Job(weights.output, logits, false);
  Linear("output", normed, count, {&job, 1});
  if (config.final_soft_cap > 0) {
    device.Pointwise({.kind = PointwiseCall::Kind::kSoftCap,
                      .x = logits,
                      .value = config.final_soft_cap,
                      .count = count * layout.vocab_size});
  }
  device.Wait();
  for (size_t i = 0; i < count; ++i) {
    on_logits(logit_chunk[i], logit_row[i], {logits + i * layout.vocab_size, layout.vocab_size});
  }
  logit_chunk.clear();
  logit_row.clear();
}

void Runner::Impl::Logits(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits) {
  const size_t dim = layout.model_dim;
  logit_chunk.clear();
  logit_row.clear();
  size_t first = 0;
  for (size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    const size_t count = chunks[chunk].tokens.size();
    size_t row = chunks[chunk].no_logits ? count : chunks[chunk].all_logits ? 0 : count - 1;
    while (row < count) {
      const size_t num_gathered = logit_chunk.size();
      const size_t num_norms = std::min(count - row, layout.logit_rows - num_gathered);
      Norm(weights.output_norm, x + (first + row) * dim, num_norms, normed + num_gathered * dim);
      for (const size_t end = row + num_norms; row < end; ++row) {
        logit_chunk.push_back(chunk);
        logit_row.push_back(row);
      }
      if (logit_chunk.size() == layout.logit_rows) FlushLogits(on_logits);
    }
    first += count;
  }
  FlushLogits(on_logits);
}

void Runner::Impl::RunBegun(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits) {
  num_rows = 0;
  for (const ForwardChunk& chunk : chunks) num_rows += chunk.tokens.size();
  Embed(chunks);
  for (size_t layer = 0; layer < config.num_layers; ++layer) RunLayer(layer, chunks);
  Logits(chunks, on_logits);
  model.CheckUnchanged();  // else the rows may come from weights that are no longer there
}

Runner::Runner(const LoadedModel& model, int64_t max_rows, Device& device, const Budget& budget) {
  MNEME_CHECK(max_rows > 0);
  impl_ = std::make_unique<Impl>(model, max_rows, device, budget);
}

Runner::~Runner() = default;

size_t Runner::ScratchBytes(const LoadedModel& model, int64_t max_rows, size_t num_threads) {
  return Layout(model, max_rows, num_threads).bytes();
}

size_t Runner::reserved_bytes() const { return impl_->lease.bytes(); }
int64_t Runner::max_rows() const { return static_cast<int64_t>(impl_->layout.max_rows); }

void Runner::Forward(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits) {
  if (chunks.empty()) return;
  impl_->CheckRows(chunks);
  size_t num_begun = 0;
  try {
    for (const ForwardChunk& chunk : chunks) {
      impl_->Begin(chunk);
      ++num_begun;
    }
    impl_->RunBegun(chunks, on_logits);
  } catch (...) {
    for (size_t i = 0; i < num_begun; ++i) chunks[i].context->Abort();
    throw;
  }
  for (const ForwardChunk& chunk : chunks) chunk.context->Commit();
}

void Runner::Forward(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits,
                     std::span<std::optional<Error>> refused) {
  if (chunks.empty()) return;
  impl_->CheckRows(chunks);
  std::vector<ForwardChunk> begun;
  std::vector<size_t> numbers;  // of `begun` in `chunks`
  begun.reserve(chunks.size());
  numbers.reserve(chunks.size());
  try {
    for (size_t i = 0; i < chunks.size(); ++i) {
      try {
        impl_->Begin(chunks[i]);
      } catch (const Error& error) {
        refused[i] = error;
        continue;
      }
      begun.push_back(chunks[i]);
      numbers.push_back(i);
    }
    const auto renumbered = [&](size_t chunk, size_t row, std::span<const float> logits) {
      on_logits(numbers[chunk], row, logits);
    };
    if (!begun.empty()) impl_->RunBegun(begun, renumbered);
  } catch (...) {
    for (const ForwardChunk& chunk : begun) chunk.context->Abort();
    throw;
  }
  for (const ForwardChunk& chunk : begun) chunk.context->Commit();
}

}  // namespace mneme
