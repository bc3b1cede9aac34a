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

// A model's shape beside ModelInfo. Vectors are [num_layers].
struct ModelShape {
  int64_t num_heads = 0;
  std::vector<int64_t> num_kv_heads;
  int64_t key_dim = 0;  // of a head
  int64_t value_dim = 0;
  std::vector<int64_t> ffn_dim;
  std::vector<int64_t> layer_window;  // the model's own, in tokens; 0: none
  std::string positions;              // "RoPE", "ALiBi", "learned"
};
MNEME_API ModelShape ShapeOf(const Model& model);

}  // namespace mneme
