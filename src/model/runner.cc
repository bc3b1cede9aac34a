// The forward pass. It reads the plan and the weights, and knows no family.
#include "model/runner.h"

#include <fmt/format.h>

#include <algorithm>
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
  size_t arena = 0;      // of the block that needs most
  size_t per_layer = 0;  // inputs of the layers, where they have any
  size_t embedding = 0;  // of the tokens, where a layer reads it
  size_t max_cols = 0;
  size_t logit_rows = 0;
  size_t vocab_size = 0;
  size_t attend_bytes = 0;  // scratch
  size_t linear_bytes = 0;
  ActivationForm form;  // all that products of the model read

  Layout(const LoadedModel& model, int64_t rows, size_t num_threads) : max_rows(static_cast<size_t>(rows)) {
    const ModelPlan& plan = model.plan();
    model_dim = plan.model_dim;
    ForEachAttention(plan, [&](const AttentionPlan& a) {
      arena = std::max(arena, AttentionFloats(plan, a, max_rows));
      attend_bytes = std::max(attend_bytes,
                              AttendScratchBytes(max_rows, a.num_heads, a.key_dim, a.value_dim, num_threads));
    });
    for (const LayerPlan& layer : plan.layers) {
      if (const LatentPlan* latent = layer.latent()) {
        arena = std::max(arena, LatentFloats(*latent, max_rows));
      }
      if (const DeltaPlan* delta = layer.delta()) {
        arena = std::max(arena, DeltaFloats(*delta, max_rows, num_threads));
      }
      if (const ChannelDeltaPlan* delta = layer.channel_delta()) {
        arena = std::max(arena, ChannelDeltaFloats(*delta, max_rows, num_threads));
      }
      if (const ShortConvPlan* short_conv = layer.short_conv()) {
        arena = std::max(arena, ShortConvFloats(*short_conv, max_rows, num_threads));
      }
      if (const ScanPlan* scan = layer.scan()) {
        arena = std::max(arena, ScanFloats(*scan, max_rows, num_threads));
      }
      if (const SelectivePlan* selective = layer.selective()) {
        arena = std::max(arena, SelectiveFloats(*selective, max_rows, num_threads));
      }
      if (const LruPlan* lru = layer.lru()) arena = std::max(arena, LruFloats(*lru, max_rows, num_threads));
      if (const SharedPlan* shared = layer.shared()) {
        arena = std::max(arena, SharedFloats(plan, *shared, max_rows));
        embedding = Arena::Rounded(max_rows * model_dim);
      }
      if (const TimeMixPlan* mix = layer.time_mix()) {
        arena = std::max(arena, TimeMixFloats(*mix, max_rows, num_threads));
      }
      if (const ChannelMixPlan* mix = layer.channel_mix()) {
        arena = std::max(arena, ChannelMixFloats(*mix, max_rows, num_threads));
      }
    }
    ForEachDense(plan, [&](const DensePlan& d) { arena = std::max(arena, DenseFloats(d, max_rows)); });
    for (const LayerPlan& layer : plan.layers) {
      if (const ExpertsPlan* experts = layer.experts()) {
        arena = std::max(arena, ExpertsFloats(plan, *experts, max_rows));
      }
      if (const auto* mixed = std::get_if<MixedPlan>(&layer.feed_forward)) {
        arena = std::max(arena, MixedFloats(plan, *mixed, max_rows));
      }
    }
    if (plan.per_layer_dim > 0) {
      per_layer = PerLayerFloats(plan, max_rows);
      arena = std::max(arena, per_layer);
    }
    vocab_size = plan.vocab_size;
    logit_rows = std::clamp(kLogitTileBytes / (vocab_size * sizeof(float)), kMinLogitTileRows,
                            std::max(max_rows, kMinLogitTileRows));
    logit_rows = std::min(logit_rows, max_rows);
    ForEachLinear(model.weights(), [&](const LinearLayer& linear) {
      form = CommonForm(form, FormFor(linear.weights));
      max_cols = std::max(max_cols, linear.weights.num_cols());
    });
    linear_bytes = ActivationRows::Bytes(max_rows, max_cols, form);
    for (const LayerPlan& layer : plan.layers) {
      if (const LatentPlan* latent = layer.latent()) {
        linear_bytes = std::max(linear_bytes, LatentLinearBytes(*latent, max_rows, form, num_threads));
      }
    }
  }

  size_t float_count() const {
    return 3 * Arena::Rounded(max_rows * model_dim) + Arena::Rounded(logit_rows * vocab_size) + per_layer +
           embedding + arena;
  }
  size_t bytes() const { return float_count() * sizeof(float) + linear_bytes + attend_bytes; }
};

}  // namespace

struct Runner::Impl {
  Impl(const LoadedModel& from, int64_t rows, Device& on_device, const Budget& budget)
      : model(from),
        plan(model.plan()),
        weights(model.weights()),
        device(on_device),
        layout(model, rows, device.num_threads()),
        lease(budget.Reserve(MemoryTag::kScratch, layout.bytes(),
                             fmt::format("activations of {} rows", layout.max_rows))),
        floats(device.Allocate(layout.float_count() * sizeof(float), DeviceMemoryUse::kShared)),
        linear_scratch(device.Allocate(layout.linear_bytes, DeviceMemoryUse::kWork)),
        attend_scratch(device.Allocate(layout.attend_bytes, DeviceMemoryUse::kWork)),
        pass{.plan = plan, .device = device} {
    Arena arena(static_cast<float*>(floats.get()));
    pass.x = arena.Take(layout.max_rows * layout.model_dim);
    normed = arena.Take(layout.max_rows * layout.model_dim);
    pass.branch = arena.Take(layout.max_rows * layout.model_dim);
    logits = arena.Take(layout.logit_rows * layout.vocab_size);
    per_layer = arena.Take(layout.per_layer);
    pass.embedding = arena.Take(layout.embedding);
    pass.arena = arena.Take(0);
    pass.linear_scratch = static_cast<uint8_t*>(linear_scratch.get());
    pass.attend_scratch = static_cast<uint8_t*>(attend_scratch.get());
    logit_chunk.reserve(layout.logit_rows);
    logit_row.reserve(layout.logit_rows);
  }

  void Embed();
  // A layer's number among those with attention, and that of its first state.
  struct LayerIndex {
    size_t attention = 0;
    size_t state = 0;
  };
  void RunLayer(size_t layer, const LayerIndex& index);
  void Mix(size_t layer, const LayerIndex& index, const float* input);
  void FeedForward(size_t layer, const LayerIndex& index, const float* input);
  void Logits(const LogitsCallback& on_logits);
  void FlushLogits(const LogitsCallback& on_logits);
  void CheckRows(std::span<const ForwardChunk> chunks) const;
  void Begin(const ForwardChunk& chunk) const;
  void RunBegun(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits);

  const LoadedModel& model;
  const ModelPlan& plan;
  const ModelWeights& weights;
  Device& device;
  Layout layout;
  Lease lease;
  DeviceMemory floats;
  DeviceMemory linear_scratch;
  DeviceMemory attend_scratch;
  float *normed, *logits, *per_layer;  // into floats
  Pass pass;
  std::vector<TokenId> ids;         // of all chunks
  std::vector<Position> places;     // of the ids; only with learned positions
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
    if (token < 0 || static_cast<size_t>(token) >= plan.vocab_size) {
      Fail(ErrorKind::kInput, "token {} is not in the model's vocabulary of {}", token, plan.vocab_size);
    }
  }
  if (plan.position == PositionKind::kLearned) {
    const Position last = chunk.context->next_position() + static_cast<Position>(chunk.tokens.size()) - 1;
    if (chunk.context->next_position() < 0 || last >= plan.trained_length) {
      Fail(ErrorKind::kUnsupported,
           "position {}: this model has learned positions and was made for {} tokens; it cannot go on", last,
           plan.trained_length);
    }
  }
  chunk.context->Begin(chunk.tokens);
}

void Runner::Impl::Embed() {
  const bool is_learned = plan.position == PositionKind::kLearned;
  ids.clear();
  places.clear();
  for (const ForwardChunk& chunk : pass.chunks) {
    ids.insert(ids.end(), chunk.tokens.begin(), chunk.tokens.end());
    const Position first = chunk.context->next_position();
    for (size_t i = 0; is_learned && i < chunk.tokens.size(); ++i) {
      places.push_back(first + static_cast<Position>(i + plan.position_offset));
    }
  }
  device.Embed({.tokens = weights.token_embedding,
                .ids = ids,
                .scale = plan.embedding_scale,
                .positions = is_learned ? weights.position_embedding : WeightView(),
                .places = places.data(),
                .out = pass.x,
                .scratch = pass.branch});
  if (plan.has_embedding_norm) pass.Norm(weights.embedding_norm, pass.x, pass.num_rows, pass.x);
  if (layout.embedding > 0) {
    device.Pointwise({.kind = PointwiseCall::Kind::kCopy,
                      .x = pass.embedding,
                      .y = pass.x,
                      .count = pass.num_rows * layout.model_dim});
  }
  if (plan.per_layer_dim > 0) MakePerLayerInputs(weights.per_layer, ids, per_layer, pass);
}

void Runner::Impl::Mix(size_t layer, const LayerIndex& index, const float* input) {
  const LayerPlan& mixed = plan.layers[layer];
  const LayerWeights& w = weights.layers[layer];
  const NormWeights& post_norm = w.post_attn_norm;
  if (const LatentPlan* latent = mixed.latent()) {
    RunLatent(*latent, *w.latent(), post_norm, index.attention, input, pass);
  } else if (const AttentionPlan* attention = mixed.attention()) {
    RunAttention(*attention, *w.attention(), post_norm, index.attention, input, pass);
  }
  if (const ScanPlan* scan = mixed.scan()) RunScan(*scan, *w.scan(), post_norm, index.state, input, pass);
  if (const DeltaPlan* delta = mixed.delta()) {
    RunDelta(*delta, *w.delta(), post_norm, index.state, input, pass);
  }
  if (const ChannelDeltaPlan* delta = mixed.channel_delta()) {
    RunChannelDelta(*delta, *w.channel_delta(), post_norm, index.state, input, pass);
  }
  if (const ShortConvPlan* short_conv = mixed.short_conv()) {
    RunShortConv(*short_conv, *w.short_conv(), post_norm, index.state, input, pass);
  }
  if (const SelectivePlan* selective = mixed.selective()) {
    RunSelective(*selective, *w.selective(), post_norm, index.state, input, pass);
  }
  if (const LruPlan* lru = mixed.lru()) RunLru(*lru, *w.lru(), post_norm, index.state, input, pass);
  if (const TimeMixPlan* time_mix = mixed.time_mix()) {
    RunTimeMix(*time_mix, *w.time_mix(), post_norm, index.state, input, pass);
  }
}

void Runner::Impl::FeedForward(size_t layer, const LayerIndex& index, const float* input) {
  const LayerWeights& w = weights.layers[layer];
  const auto& feed_forward = plan.layers[layer].feed_forward;
  if (const auto* dense = std::get_if<DensePlan>(&feed_forward)) {
    RunDense(*dense, *w.dense(), w.post_ffn_norm, input, pass);
  } else if (const auto* mixed = std::get_if<MixedPlan>(&feed_forward)) {
    RunMixed(*mixed, *w.mixed(), w.post_ffn_norm, input, pass);
  } else if (const ExpertsPlan* experts = plan.layers[layer].experts()) {
    RunExperts(*experts, *w.experts(), w.post_ffn_norm, input, pass);
  } else if (const ChannelMixPlan* channel_mix = plan.layers[layer].channel_mix()) {
    const size_t first_state = index.state + plan.layers[layer].num_mixer_states();
    RunChannelMix(*channel_mix, *w.channel_mix(), w.post_ffn_norm, first_state, input, pass);
  }
}

void Runner::Impl::RunLayer(size_t layer, const LayerIndex& index) {
  const LayerWeights& w = weights.layers[layer];
  const Wiring wiring = plan.layers[layer].wiring;
  if (wiring == Wiring::kPostNormOnly) {
    // The mixer adds to x only through `branch`, so x can be its input.
    Mix(layer, index, pass.x);
    FeedForward(layer, index, pass.x);
    return;
  }
  if (const SharedPlan* shared = plan.layers[layer].shared()) {
    // The scan reads more than x, but adds to x alone.
    RunShared(*shared, *w.shared(), *weights.layers[shared->source].shared(), index.attention, normed, pass);
    pass.Norm(w.attn_norm, normed, pass.num_rows, normed);
    RunScan(shared->scan, w.shared()->scan, w.post_attn_norm, index.state, normed, pass);
    return;
  }
  pass.Norm(w.attn_norm, pass.x, pass.num_rows, normed);
  if (wiring == Wiring::kParallel) {
    // The feed-forward network reads x as it was before the mixer added to it.
    const float* ffn_input = normed;
    if (!w.ffn_norm.empty()) {
      pass.Norm(w.ffn_norm, pass.x, pass.num_rows, pass.branch);
      ffn_input = pass.branch;
    }
    Mix(layer, index, normed);
    FeedForward(layer, index, ffn_input);
    return;
  }
  Mix(layer, index, normed);
  if (!plan.layers[layer].has_feed_forward()) return;
  // A layer without a mixer has one norm.
  if (plan.layers[layer].has_mixer()) pass.Norm(w.ffn_norm, pass.x, pass.num_rows, normed);
  FeedForward(layer, index, normed);
}

void Runner::Impl::FlushLogits(const LogitsCallback& on_logits) {
  const size_t count = logit_chunk.size();
  if (count == 0) return;
  const MatMulJob job = Pass::Job(weights.output, logits, false);
  pass.Linear("output", normed, count, {&job, 1});
  if (plan.logit_scale != 1.0f) {
    device.Pointwise({.kind = PointwiseCall::Kind::kScale,
                      .x = logits,
                      .value = plan.logit_scale,
                      .count = count * layout.vocab_size});
  }
  if (plan.final_soft_cap > 0) {
    device.Pointwise({.kind = PointwiseCall::Kind::kSoftCap,
                      .x = logits,
                      .value = plan.final_soft_cap,
                      .count = count * layout.vocab_size});
  }
  device.Wait();
  for (size_t i = 0; i < count; ++i) {
    on_logits(logit_chunk[i], logit_row[i], {logits + i * layout.vocab_size, layout.vocab_size});
  }
  logit_chunk.clear();
  logit_row.clear();
}

void Runner::Impl::Logits(const LogitsCallback& on_logits) {
  const std::span<const ForwardChunk> chunks = pass.chunks;
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
      pass.Norm(weights.output_norm, pass.x + (first + row) * dim, num_norms, normed + num_gathered * dim);
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
  pass.chunks = chunks;
  pass.num_rows = 0;
  for (const ForwardChunk& chunk : chunks) pass.num_rows += chunk.tokens.size();
  Embed();
  // Contexts count attention layers and states apart.
  LayerIndex index;
  for (size_t layer = 0; layer < plan.num_layers(); ++layer) {
    RunLayer(layer, index);
    if (plan.layers[layer].attention() != nullptr) ++index.attention;
    index.state += plan.layers[layer].num_states();
    if (plan.per_layer_dim > 0) RunPerLayer(weights.layers[layer].per_layer, layer, per_layer, pass);
    if (const auto& scale = weights.layers[layer].output_scale; !scale.empty()) {
      device.Pointwise({.kind = PointwiseCall::Kind::kScale,
                        .x = pass.x,
                        .value = scale[0],
                        .count = pass.num_rows * plan.model_dim});
    }
  }
  Logits(on_logits);
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
