// The weights of a model as the forward pass takes them. Immutable after loading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/aligned.h"
#include "base/hash.h"
#include "formats/tensor_source.h"
#include "kernels/device.h"
#include "kernels/linear/linear.h"
#include "model/blocks/attention.h"
#include "model/blocks/dense.h"
#include "model/blocks/experts.h"
#include "model/blocks/hybrid.h"
#include "model/blocks/latent.h"
#include "model/blocks/mixed.h"
#include "model/blocks/per_layer.h"
#include "model/blocks/shared.h"
#include "model/blocks/state/channel_delta.h"
#include "model/blocks/state/delta.h"
#include "model/blocks/state/lru.h"
#include "model/blocks/state/rwkv_mix.h"
#include "model/blocks/state/scan.h"
#include "model/blocks/state/selective.h"
#include "model/blocks/state/short_conv.h"
#include "model/families/family.h"
#include "model/loaded_model.h"
#include "model/pack_cache.h"

namespace mneme {

struct LayerWeights {
  NormWeights attn_norm;  // before the mixer; empty for Wiring::kPostNormOnly
  std::variant<AttentionWeights, LatentWeights, DeltaWeights, ChannelDeltaWeights, ShortConvWeights,
               ScanWeights, HybridWeights, SelectiveWeights, LruWeights, TimeMixWeights, SharedWeights,
               std::monostate>
      mixer;
  NormWeights post_attn_norm;  // after it, before the residual sum
  NormWeights ffn_norm;        // empty: the feed-forward network reads what the mixer reads
  std::variant<DenseWeights, ExpertsWeights, MixedWeights, ChannelMixWeights, std::monostate> feed_forward;
  NormWeights post_ffn_norm;
  PerLayerWeights per_layer;
  std::vector<float> output_scale;  // one number, or empty

  // Null for another kind.
  const AttentionWeights* attention() const { return const_cast<LayerWeights*>(this)->attention(); }
  AttentionWeights* attention() {
    if (auto* hybrid = std::get_if<HybridWeights>(&mixer)) return &hybrid->attention;
    if (auto* shared = std::get_if<SharedWeights>(&mixer)) return &shared->attention;
    return std::get_if<AttentionWeights>(&mixer);
  }
  const LatentWeights* latent() const { return std::get_if<LatentWeights>(&mixer); }
  const DeltaWeights* delta() const { return std::get_if<DeltaWeights>(&mixer); }
  const ChannelDeltaWeights* channel_delta() const { return std::get_if<ChannelDeltaWeights>(&mixer); }
  const ShortConvWeights* short_conv() const { return std::get_if<ShortConvWeights>(&mixer); }
  const ScanWeights* scan() const {
    if (const auto* hybrid = std::get_if<HybridWeights>(&mixer)) return &hybrid->scan;
    if (const auto* shared = std::get_if<SharedWeights>(&mixer)) return &shared->scan;
    return std::get_if<ScanWeights>(&mixer);
  }
  const SelectiveWeights* selective() const { return std::get_if<SelectiveWeights>(&mixer); }
  const SharedWeights* shared() const { return std::get_if<SharedWeights>(&mixer); }
  const LruWeights* lru() const { return std::get_if<LruWeights>(&mixer); }
  const TimeMixWeights* time_mix() const { return std::get_if<TimeMixWeights>(&mixer); }
  const ChannelMixWeights* channel_mix() const { return std::get_if<ChannelMixWeights>(&feed_forward); }
  const DenseWeights* dense() const {
    return mixed() != nullptr ? &mixed()->dense : std::get_if<DenseWeights>(&feed_forward);
  }
  const ExpertsWeights* experts() const {
    return mixed() != nullptr ? &mixed()->experts : std::get_if<ExpertsWeights>(&feed_forward);
  }
  const MixedWeights* mixed() const { return std::get_if<MixedWeights>(&feed_forward); }
};

// Goes through the norms, the mixer and the feed-forward part of one layer.
void VisitLayer(const ModelPlan& model, const LayerPlan& plan, WeightVisitor& visitor, LayerWeights* weights);

struct ModelWeights {
  WeightView token_embedding;     // [vocab_size, model_dim]
  WeightView position_embedding;  // [positions, model_dim]; empty without learned positions
  NormWeights embedding_norm;     // empty: none
  PerLayerTables per_layer;
  std::vector<LayerWeights> layers;
  NormWeights output_norm;
  LinearLayer output;  // [vocab_size, model_dim]; the token embedding where the file has no other
  // The repacked matrices, about in the order in which a token reads them. They point into it: none may
  // outlive it.
  DeviceMemory packed;
  std::optional<PackedCopy> packed_copy;  // in its place
  size_t packed_bytes = 0;
  std::vector<std::string> pack_notes;       // PackCache::notes
  size_t owned_bytes = 0;                    // transposed and gathered matrices
  std::vector<AlignedArray<uint8_t>> owned;  // the memory behind those
};

// Checks every tensor's shape against the plan and makes the weights. Touches matrices only to pack
// them. beside(), which must not throw, is called once if all is well: while they are packed, on one of the
// device's threads. Throws as TensorMap does. The source must outlive the result.
ModelWeights LoadWeights(const TensorSource& source, const Family& family, const ModelPlan& plan,
                         bool tied_head, const ModelOptions& options, Device& device,
                         const std::function<void()>& beside);

// Samples of the bytes: the ends and places between, a page each at most.
void HashSamples(const WeightView& view, Hasher* hash);

// Calls fn(LinearLayer&, bool is_expert), const where the weights are, for every matrix of a layer, in about
// the order in which a token reads them. is_expert: one of many of which a token reads some.
template <typename Weights, typename Fn>
void ForEachLinearOfLayer(Weights& layer, const Fn& fn) {
  const auto plain = [&](auto& linear) { fn(linear, false); };
  if (auto* shared = std::get_if<SharedWeights>(&layer.mixer)) {
    ForEachLinearOfShared(*shared, plain);
  } else if (auto* attention = layer.attention()) {
    ForEachLinearOfAttention(*attention, plain);
  }
  if (auto* latent = std::get_if<LatentWeights>(&layer.mixer)) ForEachLinearOfLatent(*latent, plain);
  if (auto* delta = std::get_if<DeltaWeights>(&layer.mixer)) ForEachLinearOfDelta(*delta, plain);
  if (auto* delta = std::get_if<ChannelDeltaWeights>(&layer.mixer)) {
    ForEachLinearOfChannelDelta(*delta, plain);
  }
  if (auto* conv = std::get_if<ShortConvWeights>(&layer.mixer)) ForEachLinearOfShortConv(*conv, plain);
  if (auto* scan = std::get_if<ScanWeights>(&layer.mixer)) ForEachLinearOfScan(*scan, plain);
  if (auto* hybrid = std::get_if<HybridWeights>(&layer.mixer)) ForEachLinearOfScan(hybrid->scan, plain);
  if (auto* selective = std::get_if<SelectiveWeights>(&layer.mixer)) {
    ForEachLinearOfSelective(*selective, plain);
  }
  if (auto* lru = std::get_if<LruWeights>(&layer.mixer)) ForEachLinearOfLru(*lru, plain);
  if (auto* mix = std::get_if<TimeMixWeights>(&layer.mixer)) ForEachLinearOfTimeMix(*mix, plain);
  if (auto* mix = std::get_if<ChannelMixWeights>(&layer.feed_forward)) ForEachLinearOfChannelMix(*mix, plain);
  if (auto* dense = std::get_if<DenseWeights>(&layer.feed_forward)) ForEachLinearOfDense(*dense, plain);
  if (auto* experts = std::get_if<ExpertsWeights>(&layer.feed_forward)) ForEachLinearOfExperts(*experts, fn);
  if (auto* mixed = std::get_if<MixedWeights>(&layer.feed_forward)) ForEachLinearOfMixed(*mixed, fn);
  for (auto* linear : {&layer.per_layer.gate, &layer.per_layer.projection}) {
    if (!linear->empty()) plain(*linear);
  }
}

// Calls fn(LinearLayer&), const where the weights are, for every matrix that multiplies activations, in a
// fixed order.
template <typename Weights, typename Fn>
void ForEachLinear(Weights& weights, const Fn& fn) {
  for (auto& layer : weights.layers) {
    ForEachLinearOfLayer(layer, [&](auto& linear, bool) { fn(linear); });
  }
  if (!weights.per_layer.projection.empty()) fn(weights.per_layer.projection);
  fn(weights.output);
}

// Multiply-adds of all products with weights for one token, without the output matrix. Of experts those that
// a token goes through.
double ProductsPerToken(const ModelPlan& plan, const ModelWeights& weights);

}  // namespace mneme
