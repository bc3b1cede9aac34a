// The decoder as differentiable tensors, built from the engine's ModelPlan: RMS norms, RoPE, grouped-query
// attention, gated SiLU network, tied or own head; biases and head norms where the family has them.
//
// A sequence runs segment by segment through all layers. What a later segment sees of an earlier one is in a
// DecoderState: memories, kept keys and values, cached hidden states. So a trainer can hold the graph of one
// segment at a time and carry gradients across the borders (trainer.cc).
//
// Four kinds of attention (MemorySettings::attention):
//   dense       keys and values of all earlier segments, with gradient
//   xl          hidden states of `previous` segments, cached without gradient (Dai et al. 2019, arXiv
//   1901.02860;
//               rotary positions in place of the paper's)
//   infini      local attention, compressive memory, gate per head (Munkhdalai et al. 2024, arXiv 2404.07143)
//   memorizing  xl, and in one layer the nearest of up to knn_size past keys per head, exact, without
//   gradient,
//               and a gate per head (Wu et al. 2022, arXiv 2203.08913)
#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

#include "model/plan.h"
#include "train/architecture.h"
#include "train/config.h"
#include "train/memory_ops.h"

namespace mneme::train {

enum class ParameterGroup : uint8_t {
  kMatrix,  // with weight decay
  kVector,  // norms, biases: none
  kGate,    // of the memory: own learning rate, no decay
};

struct Parameter {
  std::string name;  // in GGUF: "blk.0.attn_q.weight"
  torch::Tensor value;
  ParameterGroup group = ParameterGroup::kMatrix;
  bool trains = true;
};

// Low-rank adapters of the attention matrices: W + scale * B A.
struct AdapterSettings {
  int64_t rank = 0;  // 0: none
  double scale = 1;
};

struct LayerState {
  MemoryTensors memory;
  torch::Tensor kept_k, kept_v, kept_write;  // [B, K, L, dim], [B, K, L] of the segments before, not rotated
  torch::Tensor left_k;        // [B, K, 0 or 1, dim]: key_shift, the last key that left the window
  torch::Tensor hidden;        // xl: [B, L, model_dim], no gradient
  torch::Tensor knn_k, knn_v;  // memorizing: [B, K, tokens, dim], no gradient
};

struct DecoderState {
  std::vector<LayerState> layers;
  torch::Tensor written;     // [B] 1 where the memory holds something
  torch::Tensor kept_valid;  // [B, L] 1 where a kept token is of the row's present document
  torch::Tensor knn_valid;   // [B, tokens]

  // The tensors that gradients pass through between segments, in a fixed order.
  std::vector<torch::Tensor*> Differentiable();
};

// What a segment shows besides its output.
struct SegmentWatch {
  torch::Tensor write_mean;  // scalar with gradient: mean write gate over layers; undefined without one
};

// Wrong tokens that are tried beside a segment's own and then taken back. An action string "s x BACKSPACE y"
// is mapped to inputs and positions like this: the state after the backspace is that after s, bit for bit, in
// the engine as here, so the slot of the backspace (fed the last token that stays, at its position, seeing
// what it saw) would only repeat the slot of s, whose target is y. It is left out. What remains is x: at the
// position after its parent, seeing the text up to the parent and the wrong tokens before it in its own
// branch, seen by nothing else, never written into a memory. Its target is the backspace; nothing has x for a
// target.
struct BranchTokens {
  torch::Tensor tokens;   // [B, R] int64
  torch::Tensor parents;  // [B, R] index in the segment; parent + depth < N, or it would be of the next one
  torch::Tensor depths;   // [B, R] 1, 2...: place in the branch; slots of a branch follow each other
};

class Decoder {
 public:
  // Throws Error(kUnsupported) for an architecture that this module does not have. Parameters are initialised
  // from the seed; equal on every device.
  Decoder(const Architecture& architecture, const MemorySettings& memory, const AdapterSettings& adapters,
          uint64_t seed, const torch::TensorOptions& options, bool bf16_products = false);

  const ModelPlan& plan() const { return plan_; }
  const MemorySettings& memory() const { return memory_; }
  MemoryUpdate update() const { return update_; }
  const torch::TensorOptions& options() const { return options_; }
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  // Null if there is none.
  Parameter* Find(const std::string& name);

  DecoderState EmptyState(int64_t batch) const;
  // tokens [B, N] int64, resets [B] (1: the row's state is emptied first). Returns the normed output [B, N,
  // model_dim]; *state becomes what the next segment sees. With branches: [B, N + R, model_dim], theirs last.
  torch::Tensor Segment(const torch::Tensor& tokens, const torch::Tensor& resets, DecoderState* state,
                        SegmentWatch* watch = nullptr, const BranchTokens* branches = nullptr) const;
  torch::Tensor Logits(const torch::Tensor& hidden) const;
  // The matrix with its adapter merged in, for export. Without one: the parameter itself.
  torch::Tensor Merged(const Parameter& parameter) const;

 private:
  struct Layer {
    torch::Tensor attn_norm, ffn_norm, q_norm, k_norm;
    torch::Tensor q, k, v, o, q_bias, k_bias, v_bias, o_bias;
    torch::Tensor q_a, q_b, k_a, k_b, v_a, v_b, o_a, o_b;  // adapters
    torch::Tensor gate, up, down;
    torch::Tensor memory_gate, write, write_bias;
    torch::Tensor knn_gate, knn_scale;
    torch::Tensor sinks;  // [heads] logits in the softmax's denominator
  };
  struct Heads {
    torch::Tensor q, k, v;  // [B, K, G, N, D], [B, K, N, D], [B, K, N, E]
  };

  torch::Tensor Add(const std::string& name, std::vector<int64_t> shape, double deviation,
                    ParameterGroup group, double mean = 0);
  void AddLayer(size_t index, const AdapterSettings& adapters, double out_share);
  void LookBack(int64_t count, Layer* layer) const;
  torch::Tensor Product(const torch::Tensor& x, const torch::Tensor& weight) const;
  torch::Tensor Project(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias,
                        const torch::Tensor& a, const torch::Tensor& b) const;
  torch::Tensor Norm(const torch::Tensor& x, const torch::Tensor& weight) const;
  void GrowRotations(int64_t num_positions) const;
  torch::Tensor Turn(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin) const;
  torch::Tensor Rotate(const torch::Tensor& x, int64_t first_position) const;
  torch::Tensor RotateAt(const torch::Tensor& x, const torch::Tensor& positions) const;
  Heads Project(size_t layer, const torch::Tensor& x) const;
  void ProjectKeys(size_t layer, const torch::Tensor& x, torch::Tensor* k, torch::Tensor* v) const;
  torch::Tensor Mask(int64_t num_tokens, const torch::Tensor& kept_valid) const;
  torch::Tensor BranchMask(const torch::Tensor& mask, const BranchTokens& branches, int64_t num_tokens) const;
  torch::Tensor Weights(const Layer& layer, const torch::Tensor& logits) const;
  torch::Tensor Attention(size_t layer, const torch::Tensor& x, const torch::Tensor& mask, LayerState* state,
                          const DecoderState& shared, SegmentWatch* watch,
                          const BranchTokens* branches) const;
  // The memory after the segment's pairs. Leaves the segment's last key in the state, for shifted keys.
  MemoryTensors WriteSegment(LayerState* state, const DecoderState& shared, const torch::Tensor& k,
                             const torch::Tensor& v, const torch::Tensor& write) const;
  torch::Tensor ShiftKeys(const torch::Tensor& k, const LayerState& state, const DecoderState& shared) const;
  torch::Tensor MixMemory(size_t layer, const torch::Tensor& x, const Heads& heads,
                          const torch::Tensor& local, LayerState* state, const DecoderState& shared,
                          SegmentWatch* watch) const;
  torch::Tensor MixNeighbours(size_t layer, const Heads& heads, const torch::Tensor& local, LayerState* state,
                              const torch::Tensor& valid) const;
  void Reset(const torch::Tensor& resets, DecoderState* state) const;
  void AdvanceShared(int64_t batch, int64_t num_tokens, DecoderState* state) const;
  bool has_neighbours(size_t layer) const;
  int64_t kept_segments() const;  // -1: all

  // CheckTrainable has seen that every layer has one; sizes of heads are the same in all.
  const AttentionPlan& attention(size_t layer) const { return *plan_.layers[layer].attention(); }

  const ModelPlan plan_;
  const bool qkv_bias_;
  const bool sink_logits_;
  const int64_t position_heads_;
  const MemorySettings memory_;
  const MemoryUpdate update_;
  const torch::TensorOptions options_;
  const bool bf16_products_;
  double adapter_scale_ = 0;
  uint64_t seed_;
  std::vector<Parameter> parameters_;
  torch::Tensor embedding_, output_norm_, output_;
  std::vector<Layer> layers_;
  mutable torch::Tensor rope_cos_, rope_sin_;  // [positions, rotary_dim / 2], grown on demand
};

}  // namespace mneme::train
