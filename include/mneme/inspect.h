// What is in a model's file, and what a model looks like.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mneme/export.h"
#include "mneme/model.h"
#include "mneme/types.h"

namespace mneme {

struct TensorEntry {
  std::string name;  // the container's own: "blk.0.attn_q.weight" or "model.layers.0.self_attn.q_proj.weight"
  Encoding encoding = Encoding::kF32;
  std::vector<uint64_t> shape;  // row-major, slowest first, whatever the container's order: [rows, cols]
  uint64_t num_values = 0;
  size_t bytes = 0;
};

struct MetadataEntry {
  std::string key;
  std::string text;  // as a person reads it; long arrays are cut. Bytes as the file has them
};

struct FileInfo {
  std::string path;
  std::string container;                     // "GGUF", "safetensors folder", "llama2.c checkpoint"
  int version = 0;                           // of the container; 0: it has none
  std::vector<TensorEntry> tensors = {};     // in the order of the file
  std::vector<MetadataEntry> metadata = {};  // of GGUF; else empty
};

// Reads what a file or folder says of itself, also of families that cannot be run. Throws Error(kFile,
// kUnsupported). Thread-safe.
MNEME_API FileInfo InspectFile(const std::string& path);

// A model's shape beside ModelInfo. Vectors have a number for each layer of their kind.
struct ModelShape {
  // Of the layers with attention; heads of the widest.
  int64_t num_heads = 0;
  std::vector<int64_t> num_kv_heads;
  int64_t key_dim = 0;  // of a head
  int64_t value_dim = 0;
  // Of those layers: with one latent of value_dim values for all heads (MLA), which end the key.
  int64_t num_latent_layers = 0;
  std::vector<int64_t> layer_window;  // the model's own, in tokens; 0: none
  std::vector<int64_t> ffn_dim;       // of the layers with a dense feed-forward network
  // Of the layers with a mixture of experts: how many there are, experts in each, and those of a token.
  int64_t num_expert_layers = 0, num_experts = 0, num_used_experts = 0;
  int64_t expert_dim = 0;
  int64_t num_state_layers = 0;  // with a state of fixed size, most in place of attention
  std::string positions;         // "RoPE", "ALiBi", "learned"
  // Streams that rotations are made for, in tokens, where longer ones need others (longrope); 0: for all.
  int64_t rope_length = 0;
};
MNEME_API ModelShape ShapeOf(const Model& model);

}  // namespace mneme
