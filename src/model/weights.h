// The weights of a model as the forward pass takes them. Immutable after loading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/aligned.h"
#include "formats/tensor_source.h"
#include "kernels/device.h"
#include "kernels/linear/linear.h"
#include "model/families.h"
#include "model/loaded_model.h"

namespace mneme {

// A norm's vectors; both empty where the model has no such norm.
struct NormWeights {
  std::vector<float> weight;
  std::vector<float> bias;
  bool empty() const { return weight.empty(); }
};

// A matrix and its bias (empty: none). An empty matrix: the model has none.
struct LinearLayer {
  LinearWeights weights;
  WeightView file;  // the rows before repacking
  std::vector<float> bias;
  bool empty() const { return weights.empty(); }
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

struct LayerWeights {
  NormWeights attn_norm;  // empty for BlockKind::kPostNormOnly
  LinearLayer q;          // [num_heads * key_dim, model_dim]
  LinearLayer k;          // [num_kv_heads * key_dim, model_dim]
  LinearLayer v;          // [num_kv_heads * value_dim, model_dim]
  NormWeights q_norm;     // [key_dim], [num_heads * key_dim], or empty
  NormWeights k_norm;
  LinearLayer o;               // [model_dim, num_heads * value_dim]
  NormWeights post_attn_norm;  // after attention, before the residual sum
  NormWeights ffn_norm;        // empty: the feed-forward network reads what attention reads
  LinearLayer gate;            // [ffn_dim, model_dim]; empty without gating
  LinearLayer up;              // [ffn_dim, model_dim]
  LinearLayer down;            // [model_dim, ffn_dim]
  NormWeights post_ffn_norm;
  std::vector<float> sink_logits;  // [num_heads]: a learned logit without a value; empty: none
  // Infini-attention: the gate logits [num_heads], and the write gate [num_kv_heads, model_dim] of
  // gated-delta.
  std::vector<float> memory_gate;
  LinearLayer memory_write;
};

struct ModelWeights {
  WeightView token_embedding;     // [vocab_size, model_dim]
  WeightView position_embedding;  // [positions, model_dim]; empty without learned positions
  std::vector<LayerWeights> layers;
  NormWeights output_norm;
  LinearLayer output;  // [vocab_size, model_dim]; the token embedding where the file has no other
  // The repacked matrices, about in the order in which a token reads them. They point into it: none may
  // outlive it.
  DeviceMemory packed;
  size_t packed_bytes = 0;
  size_t owned_bytes = 0;                    // transposed and gathered matrices
  std::vector<AlignedArray<uint8_t>> owned;  // the memory behind those
};

// Checks every tensor's shape against the configuration and makes the weights. Touches matrices only to pack
// them. Throws as TensorMap does. The source must outlive the result.
ModelWeights LoadWeights(const TensorSource& source, const Family& family, const ModelConfig& config,
                         bool tied_head, PackMode pack, Device& device);

// Calls fn(LinearLayer&), const where the weights are, for every matrix that multiplies activations, in a
// fixed order.
template <typename Weights, typename Fn>
void ForEachLinear(Weights& weights, const Fn& fn) {
  for (auto& layer : weights.layers) {
    for (auto* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down, &layer.memory_write}) {
      if (!linear->empty()) fn(*linear);
    }
  }
  fn(weights.output);
}

}  // namespace mneme
