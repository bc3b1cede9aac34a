// The architecture of a model as data: what its forward pass computes, layer by layer. A family (families.h)
// turns what a file says into this; the forward pass knows no family (docs/architecture.md, "Architecture is
// data").
//
// A layer is a mixer, which carries something from token to token, and a feed-forward part. Both are closed
// sets: each kind has its plan here, and its weights and its computation in a file of blocks/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/types.h"
#include "context/context.h"
#include "kernels/attend/rope.h"
#include "kernels/experts/experts.h"
#include "kernels/pointwise/elementwise.h"
#include "kernels/recur/recur.h"

namespace mneme {

// How position enters.
enum class PositionKind : uint8_t {
  kRope,
  kAlibi,
  kLearned,
  kNone,  // only through what layers carry along (nemotron_h), or there is no attention (mamba2)
};

// How a layer's two parts are put together.
enum class Wiring : uint8_t {
  kSequential,    // x += mixer(norm(x)); x += ffn(norm(x))
  kParallel,      // x += mixer(norm1(x)) + ffn(norm2(x)), norm2 may be norm1 (gptneox, gptj, falcon)
  kPostNormOnly,  // x += norm(mixer(x)); x += norm(ffn(x)) (olmo2)
};

// Norms of queries and keys.
enum class HeadNorm : uint8_t {
  kNone,
  kPerHead,  // of each head (qwen3, gemma3; stablelm by LayerNorm)
  kWhole,    // over all heads together (olmo2)
  kRotated,  // of each head, after its rotation (hunyuan)
  kPlain,    // of each head, without weights (llama4)
};

// How a layer rotates, where it is not as the file says for all.
struct Rotation {
  bool is_none = false;   // no positions at all (SmolLM3, EXAONE 4: every so-many-th layer)
  bool is_plain = false;  // without the file's scaling
  double base = 0;        // 0: the file's
  size_t dim = 0;         // rotated dimensions; 0: as the file says
  float magnitude = 0;    // of what is rotated; 0: as the scaling has it
};

struct AttentionPlan {
  size_t input_dim = 0;  // of the rows that it reads; 0: the model's
  size_t num_heads = 0;
  size_t num_kv_heads = 0;
  size_t key_dim = 0;  // per head
  size_t value_dim = 0;
  Rotation rotation = {};
  size_t rope = 0;          // what comes of it: an index into ModelPlan::ropes
  int64_t window = 0;       // 0: none
  bool is_chunked = false;  // in place of a window: what begins at a multiple of so many positions (llama4)
  float scale = 0.0f;       // multiplies q.k
  float soft_cap = 0.0f;    // 0: none
  float clamp_qkv = 0.0f;   // 0: none (mpt)
  bool clamps_normed = false;  // the clamp comes after the norms (olmoe)
  HeadNorm qk_norm = HeadNorm::kNone;
  // Queries grow with their position: times 1 + growth ln(1 + floor((position + growth_offset) /
  // growth_length)) (mistral3; llama4 counts from 1).
  float query_growth = 0.0f;
  int64_t query_growth_length = 0;
  int64_t query_growth_offset = 0;
  // Each head's output times the sigmoid of a gate, which the query matrix gives beside the head's query
  // (qwen3next).
  bool has_output_gate = false;
  bool has_head_gate = false;   // or of one number, which a matrix of its own gives (lfm3)
  bool has_value_gate = false;  // or of each value, as a matrix of its own gives it (laguna)
  bool softplus_gates = false;  // log(1 + exp) in the sigmoid's place (laguna)
  float value_scale = 1.0f;     // of v (mimo2)
  bool has_sub_norm = false;    // of all outputs together, before the output matrix (bitnet)
  bool value_norm = false;      // RMS norm of each head of v, without weights (gemma4)
  bool value_is_key = false;    // v is k, before norm and rotation (gemma4)
  // Reads the keys and values of this layer, and has none of its own (gemma4 E2B); -1: its own.
  int64_t kv_source = -1;
};

// Latent attention (MLA, DeepSeek-V2, arXiv 2405.04434): the keys and values of all heads are products with
// one latent of each token, beside a rotated key that all heads share. Here only the latent and that key are
// kept: instead of unfolding every token, each head's query is taken to the latent, and what it sees from
// there.
struct LatentPlan {
  // As contexts see it: one KV head, whose key is the rotated part and then the latent, and whose value is
  // the latent.
  AttentionPlan attention;
  size_t query_rank = 0;      // of what queries are made of; 0: the row itself
  size_t plain_dim = 0;       // of a head's query: what is not rotated, and comes first
  size_t head_value_dim = 0;  // of what a head gives
  // Of the norms of latents: what the code of these models has, whatever their settings say of other norms.
  float norm_epsilon = 1e-6f;

  size_t rank() const { return attention.value_dim; }
  size_t rotated_dim() const { return attention.key_dim - attention.value_dim; }
  size_t query_dim() const { return plain_dim + rotated_dim(); }
};

// The gated delta rule (arXiv 2412.06464) behind a short convolution, its output normed and gated (qwen3next,
// qwen3.5).
struct DeltaPlan {
  RecurShape shape;
  float most_strength = 1.0f;  // 2: a token may turn what is remembered round (olmo-hybrid)
  float norm_epsilon = 0.0f;   // 0: the model's
};

// Kimi Delta Attention (arXiv 2510.26692): the delta rule with a decay for each channel of the key. Decays
// and the gate of the output come out of few values each.
struct ChannelDeltaPlan {
  RecurShape shape;
  size_t gate_rank = 0;
};

// A short convolution of gated values, its result gated again (lfm2): C * conv(B * x).
struct ShortConvPlan {
  RecurShape shape;  // of the convolution
};

// The scan of Mamba 2 (arXiv 2405.21060) behind a short convolution. x, B and C are the values, keys and
// queries of the shape, a group a key head.
struct ScanPlan {
  RecurShape shape;
  bool has_norm = true;       // of the gated outputs, group by group; else they are gated alone (falcon-h1)
  bool gates_normed = false;  // the gate comes after the norm
  // Steps are kept between these.
  float min_step = 0.0f;
  float max_step = std::numeric_limits<float>::infinity();
};

// The selective scan of Mamba (arXiv 2312.00752) behind a short convolution, whose outputs decide how much
// each channel forgets (through few values, step_rank) and what is written and read.
struct SelectivePlan {
  RecurShape convolution;
  RecurShape scan;
  size_t step_rank = 0;
  bool has_norms = false;           // RMS norms of those few values, of keys and of queries (jamba) ...
  bool norms_have_weights = false;  // ... without weights in falcon-mamba
  float norm_epsilon = 0.0f;        // 0: the model's
};

// The RG-LRU of Griffin (arXiv 2402.19427) behind a short convolution, in one of two branches
// (recurrent_gemma).
struct LruPlan {
  RecurShape convolution;
  RecurShape scan;
  size_t num_heads = 0;  // a channel's gates read only the channels of its head

  size_t head_dim() const { return scan.value_channels() / num_heads; }
};

// RWKV-4 (arXiv 2305.13048): keys, values and gates are made of each row mixed with the one before, and the
// values are averaged over all tokens so far.
struct TimeMixPlan {
  RecurShape shift;  // the mixture
  RecurShape scan;   // the mean
};

// Its feed-forward network: what it reads, and what gates its output, are made of such mixtures as well.
struct ChannelMixPlan {
  RecurShape shift;
  size_t dim = 0;
};

// Attention and a scan side by side over the same rows (falcon-h1).
struct HybridPlan {
  AttentionPlan attention;
  ScanPlan scan;
};

// A scan that also reads what a transformer makes of the row, which several layers share (zamba2).
struct SharedPlan {
  AttentionPlan attention;
  ScanPlan scan;
  size_t ffn_dim = 0;
  size_t number = 0;       // of the layer among those with the transformer
  size_t source = 0;       // the layer that has the weights
  bool is_source = false;  // it is this one
  size_t adapter_rank = 0;
  bool has_attention_adapters = false;
};

struct DensePlan {
  size_t dim = 0;
  Activation activation = Activation::kSilu;
  bool is_gated = true;
  bool has_sub_norm = false;  // of the hidden values, before the down matrix (bitnet)
  bool is_xielu = false;  // activated by an xIELU with numbers of the layer's own, without a gate (apertus)
  // GELU as the engines that GGUF files are made for compute it: argument and result rounded to half
  // precision (a table of 65536 entries), 0 below -10, the argument itself above 10. Not of a model that is
  // exact (ModelPlan::is_exact).
  bool half_gelu = false;
};

// A mixture of experts, and perhaps a network besides that every row goes through.
struct ExpertsPlan {
  RouterShape router;
  bool has_correction = false;    // of scores, where experts are chosen (DeepSeek-V3)
  size_t dim = 0;                 // of one expert
  size_t shared_dim = 0;          // 0: no shared expert
  bool has_shared_gate = false;   // a sigmoid of the row's product with a vector scales it (qwen2moe)
  bool has_expert_scale = false;  // each expert's result times a number of its own (gemma4)
  bool has_biases = false;        // (gpt-oss)
  bool weighs_inputs = false;     // ExpertsCall::weighs_inputs
  bool is_gated = true;           // else experts activate what their up matrix gives (nemotron_h)
  float clamp = 0.0f;             // ExpertsCall::clamp
  Activation activation = Activation::kSilu;
};

// A dense network and a mixture of experts side by side, each with norms of its own (gemma4).
struct MixedPlan {
  DensePlan dense;
  ExpertsPlan experts;
};

struct LayerPlan {
  // monostate: the layer has no such part, nor a norm for it (nemotron_h, mamba2).
  std::variant<AttentionPlan, LatentPlan, DeltaPlan, ChannelDeltaPlan, ShortConvPlan, ScanPlan, HybridPlan,
               SelectivePlan, LruPlan, TimeMixPlan, SharedPlan, std::monostate>
      mixer;
  std::variant<DensePlan, ExpertsPlan, MixedPlan, ChannelMixPlan, std::monostate> feed_forward;
  Wiring wiring = Wiring::kSequential;
  // A norm after each part, before the residual sum, besides the one before it (gemma2, gemma3).
  bool has_post_norms = false;
  bool has_output_scale = false;  // the layer's result times a number (gemma4)

  // Null for another kind.
  const AttentionPlan* attention() const { return const_cast<LayerPlan*>(this)->attention(); }
  AttentionPlan* attention() {
    if (auto* plan = std::get_if<LatentPlan>(&mixer)) return &plan->attention;
    if (auto* plan = std::get_if<SharedPlan>(&mixer)) return &plan->attention;
    return Part(this, &HybridPlan::attention, &LayerPlan::mixer);
  }
  const LatentPlan* latent() const { return std::get_if<LatentPlan>(&mixer); }
  const DeltaPlan* delta() const { return std::get_if<DeltaPlan>(&mixer); }
  const ChannelDeltaPlan* channel_delta() const { return std::get_if<ChannelDeltaPlan>(&mixer); }
  const ShortConvPlan* short_conv() const { return std::get_if<ShortConvPlan>(&mixer); }
  const ScanPlan* scan() const {
    return shared() != nullptr ? &shared()->scan : Part(this, &HybridPlan::scan, &LayerPlan::mixer);
  }
  const SharedPlan* shared() const { return std::get_if<SharedPlan>(&mixer); }
  const SelectivePlan* selective() const { return std::get_if<SelectivePlan>(&mixer); }
  const LruPlan* lru() const { return std::get_if<LruPlan>(&mixer); }
  const TimeMixPlan* time_mix() const { return std::get_if<TimeMixPlan>(&mixer); }
  const ChannelMixPlan* channel_mix() const { return std::get_if<ChannelMixPlan>(&feed_forward); }
  // Calls fn(const RecurShape&) for each of the layer's states of fixed size, in the order in which rows go
  // through them.
  template <typename Fn>
  void ForEachState(const Fn& fn) const {
    ForEachMixerState(fn);
    if (const ChannelMixPlan* plan = channel_mix()) {
      for (int i = 0; i < 2; ++i) fn(plan->shift);
    }
  }
  template <typename Fn>
  void ForEachMixerState(const Fn& fn) const {
    if (const DeltaPlan* plan = delta()) fn(plan->shape);
    if (const ChannelDeltaPlan* plan = channel_delta()) fn(plan->shape);
    if (const ShortConvPlan* plan = short_conv()) fn(plan->shape);
    if (const ScanPlan* plan = scan()) fn(plan->shape);
    if (const SelectivePlan* plan = selective()) {
      fn(plan->convolution);
      fn(plan->scan);
    }
    if (const LruPlan* plan = lru()) {
      fn(plan->convolution);
      fn(plan->scan);
    }
    if (const TimeMixPlan* plan = time_mix()) {
      for (int i = 0; i < 3; ++i) fn(plan->shift);
      fn(plan->scan);
    }
  }
  size_t num_states() const {
    size_t count = 0;
    ForEachState([&count](const RecurShape&) { ++count; });
    return count;
  }
  size_t num_mixer_states() const {
    size_t count = 0;
    ForEachMixerState([&count](const RecurShape&) { ++count; });
    return count;
  }
  bool has_mixer() const { return !std::holds_alternative<std::monostate>(mixer); }
  bool has_feed_forward() const { return !std::holds_alternative<std::monostate>(feed_forward); }
  // Of a mixture beside a dense network both.
  const DensePlan* dense() const { return Part(this, &MixedPlan::dense, &LayerPlan::feed_forward); }
  DensePlan* dense() { return Part(this, &MixedPlan::dense, &LayerPlan::feed_forward); }
  const ExpertsPlan* experts() const { return Part(this, &MixedPlan::experts, &LayerPlan::feed_forward); }
  ExpertsPlan* experts() { return Part(this, &MixedPlan::experts, &LayerPlan::feed_forward); }

 private:
  // A plan that stands alone, or is a part of one of two.
  template <typename Layer, typename T, typename Both, typename Variant>
  static auto Part(Layer* layer, T Both::*part, Variant LayerPlan::*variant)
      -> decltype(std::get_if<T>(&(layer->*variant))) {
    if (auto* both = std::get_if<Both>(&(layer->*variant))) return &(both->*part);
    return std::get_if<T>(&(layer->*variant));
  }
};

// Tokens that a model was trained to act with; -1: it was not.
struct ActionTokens {
  TokenId pause = -1;      // time to compute before an answer (arXiv 2310.02226)
  TokenId backspace = -1;  // takes the last token back (arXiv 2306.05426)
  TokenId sink = -1;       // stands first in every stream (arXiv 2309.17453, section 3.3)
};

// Factors of the rows of a folder's matrix: so many rows each, in order.
struct FolderFactors {
  std::string_view canonical;
  std::vector<std::pair<size_t, float>> rows;
};

struct ModelPlan {
  std::string family;  // "llama", "qwen2", ...
  std::string name;    // from the file, for people
  size_t model_dim = 0;
  size_t vocab_size = 0;
  int64_t trained_length = 0;
  bool is_exact = false;  // loaded to round nothing (PackMode::kExact)
  // Rotations are made for streams up to this length; longer ones need others (longrope). 0: for all.
  int64_t rope_length = 0;
  std::vector<LayerPlan> layers;
  // Layers of the file behind those, which predict further tokens and are not run.
  size_t num_skipped_layers = 0;

  NormKind norm = NormKind::kRms;
  float norm_epsilon = 1e-5f;
  float embedding_scale = 1.0f;  // gemma: sqrt(model_dim)
  float residual_scale = 1.0f;   // of what each part adds (granite)
  float logit_scale = 1.0f;
  float final_soft_cap = 0.0f;      // of the logits; 0: none
  bool norms_have_weights = true;   // (olmo: they have none)
  bool has_embedding_norm = false;  // (bloom)
  // Values of the token's embedding that each layer reads besides (blocks/per_layer.h); 0: none.
  size_t per_layer_dim = 0;

  PositionKind position = PositionKind::kRope;
  size_t position_offset = 0;       // of learned positions: the first row that stands for one (opt: 2)
  std::vector<Rope> ropes;          // distinct ones
  std::vector<float> alibi_slopes;  // [num_heads], or empty

  // Ternary weights of a folder are divided by their scale, not multiplied with it.
  bool ternary_divides = false;
  // What a folder's matrices are multiplied with, which GGUF files have in them (falcon-h1).
  std::vector<FolderFactors> folder_factors;

  MemoryRules memory;  // Infini-attention; segment 0: none
  ActionTokens actions;
  bool softmax_off_by_one = false;  // a sink logit of 0 in every head

  size_t num_layers() const { return layers.size(); }
};

// Calls fn(AttentionPlan&) for every layer that has one; const where the plan is.
template <typename Plan, typename Fn>
void ForEachAttention(Plan& plan, const Fn& fn) {
  for (auto& layer : plan.layers) {
    if (auto* attention = layer.attention()) fn(*attention);
  }
}
template <typename Plan, typename Fn>
void ForEachDense(Plan& plan, const Fn& fn) {
  for (auto& layer : plan.layers) {
    if (auto* dense = layer.dense()) fn(*dense);
  }
}

class GgufFile;

// The keys mneme.infini.*, mneme.*_token_id and mneme.attention.softmax_off_by_one, where the file has them.
// vocab_size of *plan is known. Throws Error(kFile) for a value that makes no sense, naming the key.
void ReadMemoryMetadata(const GgufFile& file, ModelPlan* plan);

}  // namespace mneme
