// The forward pass. It reads the configuration and the weights, and knows no family.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "base/error.h"
#include "kernels/pointwise/elementwise.h"
#include "kernels/linear/linear.h"
#include "model/model.h"
#include "model/weights.h"

namespace mneme {
namespace {

// Values below which a pass over rows is not worth waking other threads for.
constexpr size_t kMinSharedValues = size_t{1} << 15;
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
  ActivationForm form;  // all that products of the model read

  Layout(const Model& model, int64_t rows) : max_rows(static_cast<size_t>(rows)) {
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
  size_t bytes() const {
    return float_count() * sizeof(float) + ActivationRows::Bytes(max_rows, max_cols, form);
  }
};

ActivationForm FormOf(std::initializer_list<const LinearLayer*> linears) {
  ActivationForm form = ActivationForm::kFloat;
  for (const LinearLayer* linear : linears) {
    if (!linear->empty()) form = CommonForm(form, FormFor(linear->weights));
  }
  return form;
}

// The nearest half-precision value, for |x| < 65520; written so that compilers vectorise it.
float RoundToHalf(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const float normal = std::bit_cast<float>((bits + 0xFFFu + ((bits >> 13) & 1u)) & ~0x1FFFu);
  const float subnormal = (x + 0.75f) - 0.75f;  // multiples of 2^-24, by the addition's rounding
  return magnitude >= 0x38800000u ? normal : subnormal;
}

// x[i] = GELU(x[i]), times up[i] unless up is null, as ModelConfig::half_gelu has it.
void HalfGelu(float* x, const float* up, size_t count) {
  constexpr size_t kStep = 256;
  std::array<float, kStep> y;
  for (size_t first = 0; first < count; first += kStep) {
    const size_t num = std::min(kStep, count - first);
    float* const part = x + first;
    for (size_t i = 0; i < num; ++i) y[i] = RoundToHalf(std::clamp(part[i], -10.0f, 10.0f));
    Activate(Activation::kGeluTanh, y.data(), num);
    for (size_t i = 0; i < num; ++i) {
      const float inside = part[i] <= -10.0f ? 0.0f : RoundToHalf(y[i]);
      part[i] = part[i] >= 10.0f ? part[i] : inside;
    }
    if (up == nullptr) continue;
    for (size_t i = 0; i < num; ++i) part[i] *= up[first + i];
  }
}

}  // namespace

struct Runner::Impl {
  Impl(const Model& from, int64_t rows, ThreadPool& thread_pool, Budget& budget)
      : model(from),
        config(model.config()),
        weights(model.weights()),
        pool(thread_pool),
        layout(model, rows),
        lease(budget.Reserve(MemoryTag::kScratch, layout.bytes(),
                             fmt::format("activations of {} rows", layout.max_rows))),
        activations(layout.max_rows, layout.max_cols, layout.form),
        floats(MakeAligned<float>(layout.float_count())) {
    float* next = floats.get();
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

  // Calls fn(first, last) on ranges of rows that cover [0, num_rows).
  template <typename Fn>
  void ForRows(size_t num_cols, const Fn& fn) {
    if (pool.num_threads() == 1 || num_rows < 2 || num_rows * num_cols < kMinSharedValues) {
      fn(size_t{0}, num_rows);
      return;
    }
    const size_t num_tasks = std::min(num_rows, pool.num_threads() * 4);
    pool.Run(num_tasks, [&](size_t task, size_t) {
      fn(num_rows * task / num_tasks, num_rows * (task + 1) / num_tasks);
    });
  }

  void NormRows(const NormWeights& norm, const float* from, size_t count, size_t num_cols, size_t stride,
                float* out) {
    if (config.norm == NormKind::kRms) {
      RmsNorm(from, norm.weight.data(), config.norm_epsilon, count, num_cols, stride, out);
    } else {
      LayerNorm(from, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(), config.norm_epsilon,
                count, num_cols, stride, out);
    }
  }

  void Norm(const NormWeights& norm, const float* from, float* out) {
    const size_t dim = layout.model_dim;
    ForRows(dim, [&](size_t first, size_t last) {
      NormRows(norm, from + first * dim, last - first, dim, dim, out + first * dim);
    });
  }

  // Norms of queries or keys, in place: of each head, or of all heads of a row together.
  void HeadNorm(const NormWeights& norm, size_t num_heads, float* heads) {
    const size_t row = num_heads * config.key_dim;
    const size_t dim = config.key_dim;
    ForRows(row, [&](size_t first, size_t last) {
      float* const begin = heads + first * row;
      if (config.qk_norm_whole) {
        NormRows(norm, begin, last - first, row, row, begin);
      } else if (norm.weight.size() == dim) {
        NormRows(norm, begin, (last - first) * num_heads, dim, dim, begin);
      } else {
        for (size_t head = 0; head < num_heads; ++head) NormOneHead(norm, head, last - first, row, begin);
      }
    });
  }

  // One head of several rows, where every head has weights of its own.
  void NormOneHead(const NormWeights& norm, size_t head, size_t count, size_t stride, float* rows) {
    const size_t dim = config.key_dim;
    const float* const weight = norm.weight.data() + head * dim;
    const float* const bias = norm.bias.empty() ? nullptr : norm.bias.data() + head * dim;
    float* const at = rows + head * dim;
    if (config.norm == NormKind::kRms) {
      RmsNorm(at, weight, config.norm_epsilon, count, dim, stride, at);
    } else {
      LayerNorm(at, weight, bias, config.norm_epsilon, count, dim, stride, at);
    }
  }

  void SetActivations(const float* from, size_t num_cols, ActivationForm form) {
    activations.Set(from, num_rows, num_cols, num_cols, form, pool);
  }

  static MatMulJob Job(const LinearLayer& linear, float* out, bool accumulate) {
    return {&linear.weights, linear.bias_or_null(), out, linear.weights.num_rows(), accumulate};
  }

  void AddBranch() {
    ForRows(layout.model_dim, [&](size_t first, size_t last) {
      AddInPlace(x + first * layout.model_dim, branch + first * layout.model_dim,
                 (last - first) * layout.model_dim);
    });
  }

  void Embed(std::span<const ForwardChunk> chunks);
  void RunLayer(size_t layer, std::span<const ForwardChunk> chunks);
  void Attention(size_t layer, const float* input, std::span<const ForwardChunk> chunks);
  // x += the sub-layer's product, through its norm where it has one.
  void AddProduct(const LinearLayer& linear, const NormWeights& post_norm);
  void FeedForward(const LayerWeights& w, const float* input);
  void Logits(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits);
  void FlushLogits(const LogitsCallback& on_logits);
  void CheckRows(std::span<const ForwardChunk> chunks) const;
  void Begin(const ForwardChunk& chunk) const;
  void RunBegun(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits);

  const Model& model;
  const ModelConfig& config;
  const ModelWeights& weights;
  ThreadPool& pool;
  Layout layout;
  Lease lease;
  ActivationRows activations;
  AlignedArray<float> floats;
  float *x, *normed, *branch, *logits;  // into floats
  float *q, *k, *v, *attended, *write_gate;
  float *up, *gate;  // over q, k, v and attended, which are done with by then
  size_t num_rows = 0;
  std::vector<size_t> logit_chunk;  // of the rows gathered in `normed`
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
  const size_t dim = layout.model_dim;
  size_t row = 0;
  for (const ForwardChunk& chunk : chunks) {
    Position position = chunk.context->next_position();
    for (const TokenId token : chunk.tokens) {
      float* const out = x + row * dim;
      DecodeRow(weights.token_embedding, static_cast<size_t>(token), out);
      if (config.embedding_scale != 1.0f) ScaleInPlace(out, config.embedding_scale, dim);
      if (config.position == PositionKind::kLearned) {
        DecodeRow(weights.position_embedding, static_cast<size_t>(position), branch);
        AddInPlace(out, branch, dim);
      }
      ++row;
      ++position;
    }
  }
}

void Runner::Impl::Attention(size_t layer, const float* input, std::span<const ForwardChunk> chunks) {
  const LayerWeights& w = weights.layers[layer];
  SetActivations(input, layout.model_dim, FormOf({&w.q, &w.k, &w.v, &w.memory_write}));
  const bool has_write_gate = !w.memory_write.empty();
  const std::array<MatMulJob, 4> jobs = {
      Job(w.q, q, false), Job(w.k, k, false), Job(w.v, v, false),
      has_write_gate ? Job(w.memory_write, write_gate, false) : MatMulJob{}};
  MatMul(activations, {jobs.data(), has_write_gate ? size_t{4} : size_t{3}}, pool);
  const size_t num_kv_heads = config.num_kv_heads[layer];
  for (size_t i = 0; i < num_rows * num_kv_heads && has_write_gate; ++i) {
    const float open = 1.0f / (1.0f + std::exp(-write_gate[i]));
    write_gate[i] = std::max(0.0f, (open - config.memory.write_floor) / (1.0f - config.memory.write_floor));
  }
  const size_t q_row = config.num_heads * config.key_dim;
  const size_t k_row = num_kv_heads * config.key_dim;
  const size_t v_row = num_kv_heads * config.value_dim;
  const size_t out_row = config.num_heads * config.value_dim;
  if (config.clamp_qkv > 0) {
    ClampInPlace(q, config.clamp_qkv, num_rows * q_row);
    ClampInPlace(k, config.clamp_qkv, num_rows * k_row);
    ClampInPlace(v, config.clamp_qkv, num_rows * v_row);
  }
  if (!w.q_norm.empty()) HeadNorm(w.q_norm, config.num_heads, q);
  if (!w.k_norm.empty()) HeadNorm(w.k_norm, num_kv_heads, k);
  size_t row = 0;
  for (const ForwardChunk& chunk : chunks) {
    if (has_write_gate) chunk.context->SetWriteGate(layer, write_gate + row * num_kv_heads);
    chunk.context->Attend(layer, q + row * q_row, k + row * k_row, v + row * v_row, attended + row * out_row,
                          pool);
    row += chunk.tokens.size();
  }
  SetActivations(attended, out_row, FormOf({&w.o}));
  AddProduct(w.o, w.post_attn_norm);
}

void Runner::Impl::AddProduct(const LinearLayer& linear, const NormWeights& post_norm) {
  if (post_norm.empty()) {
    const MatMulJob job = Job(linear, x, true);
    MatMul(activations, {&job, 1}, pool);
    return;
  }
  const MatMulJob job = Job(linear, branch, false);
  MatMul(activations, {&job, 1}, pool);
  Norm(post_norm, branch, branch);
  AddBranch();
}

void Runner::Impl::FeedForward(const LayerWeights& w, const float* input) {
  SetActivations(input, layout.model_dim, FormOf({&w.gate, &w.up}));
  const size_t ffn = w.up.weights.num_rows();
  // In the order in which they lie in memory.
  std::array<MatMulJob, 2> jobs;
  size_t num_jobs = 0;
  if (!w.gate.empty()) jobs[num_jobs++] = Job(w.gate, gate, false);
  jobs[num_jobs++] = Job(w.up, up, false);
  float* const hidden = w.gate.empty() ? up : gate;
  MatMulThen(activations, {jobs.data(), num_jobs}, pool, [&](size_t first, size_t last) {
    for (size_t row = 0; row < num_rows; ++row) {
      const size_t at = row * ffn + first;
      if (config.half_gelu) {
        HalfGelu(hidden + at, w.gate.empty() ? nullptr : up + at, last - first);
      } else if (w.gate.empty()) {
        Activate(config.activation, up + at, last - first);
      } else {
        ActivateGated(config.activation, gate + at, up + at, last - first);
      }
    }
  });
  SetActivations(hidden, ffn, FormOf({&w.down}));
  AddProduct(w.down, w.post_ffn_norm);
}

void Runner::Impl::RunLayer(size_t layer, std::span<const ForwardChunk> chunks) {
  const LayerWeights& w = weights.layers[layer];
  if (config.block == BlockKind::kPostNormOnly) {
    // Attention adds to x only through `branch`, so x can be its input.
    Attention(layer, x, chunks);
    FeedForward(w, x);
    return;
  }
  Norm(w.attn_norm, x, normed);
  if (config.block == BlockKind::kParallel) {
    // The feed-forward network reads x as it was before attention added to it.
    const float* ffn_input = normed;
    if (!w.ffn_norm.empty()) {
      Norm(w.ffn_norm, x, branch);
      ffn_input = branch;
    }
    Attention(layer, normed, chunks);
    FeedForward(w, ffn_input);
    return;
  }
  Attention(layer, normed, chunks);
  Norm(w.ffn_norm, x, normed);
  FeedForward(w, normed);
}

void Runner::Impl::FlushLogits(const LogitsCallback& on_logits) {
  const size_t count = logit_chunk.size();
  if (count == 0) return;
  activations.Set(normed, count, layout.model_dim, layout.model_dim, FormOf({&weights.output}), pool);
  const MatMulJob job = Job(weights.output, logits, false);
  MatMul(activations, {&job, 1}, pool);
  for (size_t i = 0; i < count; ++i) {
    float* const row = logits + i * layout.vocab_size;
    if (config.final_soft_cap > 0) SoftCapInPlace(row, config.final_soft_cap, layout.vocab_size);
    on_logits(logit_chunk[i], logit_row[i], {row, layout.vocab_size});
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
    if (!chunks[chunk].no_logits) {
      for (size_t row = chunks[chunk].all_logits ? 0 : count - 1; row < count; ++row) {
        NormRows(weights.output_norm, x + (first + row) * dim, 1, dim, dim,
                 normed + logit_chunk.size() * dim);
        logit_chunk.push_back(chunk);
        logit_row.push_back(row);
        if (logit_chunk.size() == layout.logit_rows) FlushLogits(on_logits);
      }
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

Runner::Runner(const Model& model, int64_t max_rows, ThreadPool& pool, Budget& budget) {
  MNEME_CHECK(max_rows > 0);
  impl_ = std::make_unique<Impl>(model, max_rows, pool, budget);
}

Runner::~Runner() = default;

size_t Runner::ScratchBytes(const Model& model, int64_t max_rows) { return Layout(model, max_rows).bytes(); }

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
