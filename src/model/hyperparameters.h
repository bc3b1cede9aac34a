// What a model file says about its architecture, before any family gives it a meaning: one struct for GGUF
// metadata, Hugging Face config.json and llama2.c headers. One table (hyperparameters.cc) holds the key of
// each field in both vocabularies, so reading and writing cannot drift apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"
#include "formats/tensor_source.h"
#include "model/settings.h"

namespace mneme {

struct Hyperparameters {
  Container container = Container::kGguf;
  std::string path;          // for messages
  std::string architecture;  // general.architecture, or model_type
  std::string name;

  std::optional<uint64_t> num_layers;
  std::optional<uint64_t> model_dim;
  std::optional<uint64_t> vocab_size;
  std::optional<uint64_t> trained_length;
  std::optional<uint64_t> num_heads;
  std::vector<uint64_t> layer_heads;   // those of each layer, where layers differ in it
  std::vector<uint64_t> num_kv_heads;  // one, or one per layer
  std::vector<uint64_t> ffn_dim;       // one, or one per layer
  std::optional<uint64_t> key_dim;
  std::optional<uint64_t> value_dim;
  std::optional<double> layer_norm_epsilon;
  std::optional<double> rms_norm_epsilon;
  std::string activation;  // Hugging Face's name; empty: the family's usual one

  std::optional<uint64_t> rotary_dim;
  std::optional<double> rotary_fraction;
  std::optional<double> rope_base;
  std::optional<double> rope_base_local;
  std::string scaling_type;
  std::optional<double> scaling_factor;
  std::optional<uint64_t> original_length;
  std::optional<double>
      attention_factor;  // on q and k, besides what YaRN gives by itself (GGUF) or in its place
  std::optional<double> beta_fast;
  std::optional<double> beta_slow;
  std::optional<double> dynamic_factor;     // of a GGUF: dynamic NTK scaling, for which GGUF has no name
  std::vector<uint64_t> rope_sections;      // of the rotated pairs, by axis; text has one position for all
  std::optional<bool> yarn_truncates;       // YaRN's bounds are whole numbers (unless said: they are)
  std::optional<double> rotary_proportion;  // "proportional": of a head's frequencies, so many rotate
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  std::optional<double> low_freq_factor;
  std::optional<double> high_freq_factor;
  std::vector<float> frequency_divisors;  // Llama-3: "rope_freqs.weight"
  std::vector<float> short_divisors;      // longrope
  std::vector<float> long_divisors;

  std::optional<uint64_t> sliding_window;
  std::optional<bool> use_sliding_window;
  std::optional<uint64_t> max_window_layers;
  std::optional<uint64_t> window_pattern;  // every so-many-th layer is global
  std::vector<bool> layer_is_local;        // where the file says it per layer
  std::vector<bool> layer_rotates;         // for GGUF: "attention.rope_pattern"
  std::vector<std::string> layer_types;    // config.json: what each layer is ("full_attention")

  std::optional<double> attention_scale;
  std::optional<double> query_pre_attn_scalar;
  std::optional<double> attention_soft_cap;
  std::optional<double> final_soft_cap;
  std::optional<double> max_alibi_bias;
  std::optional<double> clamp_qkv;
  std::optional<bool> parallel_residual;
  std::optional<bool> alibi;
  std::optional<bool> tied_head;
  std::optional<bool> multi_query;
  std::optional<bool> new_decoder_architecture;
  std::optional<bool> qk_layer_norm;
  std::optional<double> expansion_ratio;

  // What only some families ask for.
  Settings settings;
};

// Reads what the file says and checks the types. Throws Error(kFile) naming the key.
Hyperparameters ReadHyperparameters(const TensorSource& source);

// Writes every field that is set as GGUF metadata, "ARCHITECTURE.key".
void WriteHyperparameters(const Hyperparameters& hyper, std::string_view architecture, GgufWriter* writer);

}  // namespace mneme
