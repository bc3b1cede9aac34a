// The table of model families: one row turns what a file says (hyperparameters.h) into a ModelConfig, and
// says under which names a Hugging Face folder keeps the weights. Adding a family is adding a row
// (families.cc) and a golden file.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "model/config.h"
#include "model/hyperparameters.h"

namespace mneme {

// A weight's name in GGUF ("attn_q", without "blk.N." and ".weight") and in a folder ("{}" is the layer; a
// leading '/' means outside the prefix). A name may have several rows; the first that exists counts.
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
  // Whether layer 0 has this weight ("ffn_norm").
  std::function<bool(std::string_view canonical)> has_weight;
};

struct Family {
  std::string_view name;
  std::span<const std::string_view> gguf_names;    // the first is written
  std::span<const std::string_view> folder_types;  // model_type in config.json
  void (*configure)(const FamilyInput& input, ModelConfig* config);
  std::span<const TensorName> folder_names;
  std::span<const std::string_view> folder_prefixes;
  FusedQkv folder_qkv = FusedQkv::kConcatenated;
  bool folder_norms_minus_one = false;  // gemma stores norm weights minus one; GGUF does not
  bool folder_transposed = false;       // gpt2's Conv1D: [inputs, outputs]
  // What GGUF readers expect of this family.
  bool gguf_fused_qkv = false;
  bool gguf_fused_gate_up = false;
  // Pairs (2i, 2i + 1), in files of either kind.
  bool gguf_interleaved_rope = false;
  bool folder_interleaved_rope = false;
  // Layers with a window rotate by this base, without scaling, where the file does not give another; 0: like
  // the others.
  double local_rope_base = 0;
};

std::span<const Family> FamilyTable();
// Throws Error(kUnsupported), with the known names, for an architecture without a row.
const Family& FindFamily(const Hyperparameters& hyper);

// The configuration of a model. Everything is checked: Error(kFile) names the key that is missing, absurd or
// contradictory; Error(kUnsupported) a feature that the family allows and this library does not have.
// long_rope: use longrope's factors for long streams (config.h).
ModelConfig Configure(const Family& family, const FamilyInput& input, bool long_rope);

// The hyperparameters as the family's GGUF file states them, with every value resolved.
Hyperparameters HyperparametersForGguf(const Family& family, const Hyperparameters& hyper,
                                       const ModelConfig& config);

}  // namespace mneme
