// A model family turns what a file says (hyperparameters.h) into a ModelPlan, and says under which names a
// Hugging Face folder keeps the weights. Each has a file in the folder of its kin: llama/
// (RMS norms, gated networks), gpt/ (LayerNorm, plain networks), gemma/, qwen/, deepseek/ (latent attention);
// families.cc lists them.
// Adding one is adding its file, a line of the list and a golden (CONTRIBUTING.md).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "model/hyperparameters.h"
#include "model/plan.h"

namespace mneme {

// A weight's name in GGUF ("attn_q", without "blk.N." and ".weight") and in a folder ("{}" is the layer; a
// leading '/' means outside the prefix; '*' the number of an expert or head). A name may have several rows;
// the first that exists counts. A canonical name with its suffix ("attn_sinks.weight") stands for a folder's
// name without one.
struct TensorName {
  std::string_view canonical;
  std::string_view folder;
};

// How a folder orders the rows of a fused query-key-value matrix. GGUF files always have kConcatenated.
enum class FusedQkv : uint8_t {
  kConcatenated,  // all of Q, all of K, all of V
  kPerKvHead,     // for each KV head: its query heads, its key, its value (gptneox, falcon)
};

struct FamilyInput {
  const Hyperparameters& hyper;
  // Whether a layer has this weight ("ffn_norm").
  std::function<bool(std::string_view canonical, size_t layer)> has_weight;
  std::function<bool(std::string_view canonical, size_t layer)> has_bias;
  // Of a layer's matrix; 0: it has none.
  std::function<uint64_t(std::string_view canonical, size_t layer)> num_rows;
};

struct Family {
  std::string_view name;
  std::span<const std::string_view> gguf_names;    // the first is written
  std::span<const std::string_view> folder_types;  // model_type in config.json
  void (*plan)(const FamilyInput& input, ModelPlan* plan);
  std::span<const TensorName> folder_names;
  std::span<const std::string_view> folder_prefixes;
  std::span<const TensorName> folder_more_names =
      {};  // what folder_names leaves to a table that families share
  FusedQkv folder_qkv = FusedQkv::kConcatenated;
  double folder_rotary_fraction = 1;       // so much of a head rotates, where config.json does not say
  bool folder_norms_minus_one = false;     // gemma stores norm weights minus one; GGUF does not
  bool folder_transposed = false;          // gpt2's Conv1D: [inputs, outputs]
  bool folder_transposed_experts = false;  // as [experts, inputs, outputs] (gpt-oss, llama4)
  // Gate and up of those, output by output (gpt-oss); else one behind the other.
  bool folder_gates_in_turns = false;
  // Names that GGUF files of this family have for others' ("ffn_norm" is "post_attention_norm"); as in
  // folder_names, a canonical name with its suffix stands for one without.
  std::span<const TensorName> gguf_tensors = {};
  // Value heads of layers with a state lie key head by key head in a folder; in this family's GGUF files, one
  // of each key head after the other.
  bool gguf_tiled_value_heads = false;
  // What GGUF readers expect of this family.
  bool gguf_folds_scales = false;  // embedding and head are multiplied with their scales
  bool gguf_fused_qkv = false;
  bool gguf_fused_gate_up = false;
  bool gguf_joins_latent_heads = false;  // what unfolds keys and values of latents, in one matrix (minicpm3)
  // Pairs (2i, 2i + 1), in files of either kind.
  bool gguf_interleaved_rope = false;
  bool folder_interleaved_rope = false;
  // Layers with a window rotate by this base, without scaling, where the file does not give another; 0: like
  // the others.
  double local_rope_base = 0;
  bool has_attention = true;  // false: no layer has, and no size of attention need be told (mamba)
  // Which of several families with a folder type a folder is of; null: any.
  bool (*is_of)(const Hyperparameters& hyper) = nullptr;
  bool rounds_yarn =
      true;  // YaRN's bounds are whole numbers, where the file does not say (gpt-oss: they are not)
  // What this family's GGUF files say in words of their own; null: nothing.
  void (*for_gguf)(const ModelPlan& plan, Hyperparameters* hyper) = nullptr;
};

std::span<const Family* const> FamilyTable();
// Throws Error(kUnsupported), with the known names, for an architecture that is not in the table.
const Family& FindFamily(const Hyperparameters& hyper);

// What the files of families share. Names of folders whose models descend from Llama, and where such folders
// keep the language model.
inline constexpr TensorName kLlamaTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "norm"},
    {"output", "/lm_head"},
    {"output", "/language_model.lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_qkv", "layers.{}.self_attn.qkv_proj"},
    {"attn_q_norm", "layers.{}.self_attn.q_norm"},
    {"attn_k_norm", "layers.{}.self_attn.k_norm"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ffn_norm", "layers.{}.post_attention_layernorm"},
    {"ffn_gate", "layers.{}.mlp.gate_proj"},
    {"ffn_up", "layers.{}.mlp.up_proj"},
    {"ffn_up", "layers.{}.mlp.gate_up_proj"},
    {"ffn_down", "layers.{}.mlp.down_proj"},
    {"ffn_gate_inp", "layers.{}.mlp.gate"},
    {"ffn_gate_exps", "layers.{}.mlp.experts.*.gate_proj"},
    {"ffn_up_exps", "layers.{}.mlp.experts.*.up_proj"},
    {"ffn_down_exps", "layers.{}.mlp.experts.*.down_proj"},
    {"ffn_gate_inp_shexp", "layers.{}.mlp.shared_expert_gate"},
    {"ffn_gate_shexp", "layers.{}.mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "layers.{}.mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "layers.{}.mlp.shared_expert.down_proj"},
};
inline constexpr std::string_view kModelPrefixes[] = {"model.", "", "language_model.model.",
                                                      "model.language_model."};

bool IsFolder(const FamilyInput& input);
// LayerNorm, and a feed-forward network without a gate.
void UseLayerNorm(ModelPlan* plan);
void SetActivation(Activation activation, ModelPlan* plan);
void SetWiring(Wiring wiring, ModelPlan* plan);
void SetHeadNorm(HeadNorm norm, ModelPlan* plan);
// Every pattern-th layer sees all, the others only the window, unless the file says it layer by layer.
void UseWindows(const FamilyInput& input, uint64_t window, uint64_t pattern, ModelPlan* plan);
// The experts that the file tells of, in every layer that has a router. renormalise: unless the file says.
// Error(kFile) for numbers that make no sense.
void UseExperts(const FamilyInput& input, bool renormalise, ModelPlan* plan);
// In the layers with experts: a network of this width besides, scaled by a sigmoid where has_gate.
void UseSharedExpert(const FamilyInput& input, std::optional<uint64_t> dim, bool has_gate, ModelPlan* plan);
void SetRouterScore(RouterScore score, ModelPlan* plan);
// A setting that a family cannot do without, between 1 and `most`: Error(kFile) else. Names as Settings has
// them.
size_t NeededSize(const FamilyInput& input, std::string_view gguf, std::string_view json, uint64_t most);
// The most heads of a layer with a state, and the most values of one.
inline constexpr uint64_t kMostStateHeads = 1 << 16;
inline constexpr uint64_t kMostStateDim = 1 << 12;
// The scan of Mamba 2 that the file tells of, the same in every layer that has one.
ScanPlan ReadScan(const FamilyInput& input, const ModelPlan& plan);
// Channels as value heads, which only say how threads share them.
void ShareChannels(size_t num_channels, RecurShape* shape);
// The selective scan of Mamba that the file tells of, and what GGUF files say of it.
SelectivePlan ReadSelective(const FamilyInput& input, const ModelPlan& plan);
void WriteSelective(const ModelPlan& plan, Hyperparameters* hyper);
// The gated delta rule that the file tells of.
RecurShape ReadDelta(const FamilyInput& input);
void WriteDelta(const ModelPlan& plan, Hyperparameters* hyper);
// What GGUF files say of the scans of a model, and of which layers have attention: KV heads, 0 for the
// others.
void WriteScan(const ModelPlan& plan, Hyperparameters* hyper);
void WriteKvHeadsByLayer(const ModelPlan& plan, Hyperparameters* hyper);
// Where only a part of each head's frequencies rotates, in layers that see everything: divisors, which GGUF
// has for it.
void WriteProportion(const ModelPlan& plan, Hyperparameters* hyper);
// In the layers with experts: so many more, in one network, that every row goes through (DeepSeek-MoE).
void UseSharedExperts(const FamilyInput& input, ModelPlan* plan);
// In the layers with experts: in how many groups they stand, and how many of these are looked at.
void UseExpertGroups(const FamilyInput& input, ModelPlan* plan);
// What GGUF files call a router's score, and how many layers have a network of their own before those with
// experts.
void WriteExperts(const ModelPlan& plan, Hyperparameters* hyper);
// Queries that grow with their position, where the file says so (mistral3).
void UseQueryGrowth(const FamilyInput& input, ModelPlan* plan);
// Every so-many-th layer has no positions (NoPE, arXiv 2501.18795): those that the folder lists, else every
// fourth.
void UseUnrotatedLayers(const FamilyInput& input, ModelPlan* plan);
// Only a part of each head rotates, in a folder another part in layers with a window; `usual` where it does
// not say.
void UsePartialRotations(const FamilyInput& input, double usual, ModelPlan* plan);
// What GGUF files say of layers with a window, and of experts behind dense layers.
void WriteLocalLayers(const ModelPlan& plan, Hyperparameters* hyper);
// ALiBi (arXiv 2108.12409) with slopes from max_bias on.
void UseAlibi(double max_bias, ModelPlan* plan);
// Every layer also reads an embedding of its own of the token, with so many values; 0: none (gemma4 E2B).
void UsePerLayerInputs(const FamilyInput& input, uint64_t dim, ModelPlan* plan);
// For families whose window, if the file has one, holds in all layers.
void UseOptionalWindow(const FamilyInput& input, ModelPlan* plan);

// The plan of a model. Everything is checked: Error(kFile) names the key that is missing, absurd or
// contradictory; Error(kUnsupported) a feature that the family allows and this library does not have.
// length: of the streams that rotations are made for; matters above ModelPlan::rope_length.
ModelPlan MakePlan(const Family& family, const FamilyInput& input, int64_t length = 0);

// The hyperparameters as the family's GGUF file states them, with every value resolved.
Hyperparameters HyperparametersForGguf(const Family& family, const Hyperparameters& hyper,
                                       const ModelPlan& plan);

}  // namespace mneme
