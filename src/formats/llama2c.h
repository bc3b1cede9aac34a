// Checkpoints and vocabularies of llama2.c (github.com/karpathy/llama2.c): version 0, which has no magic
// number, and version 1 ("ak42"), both in F32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files/file.h"
#include "base/types.h"

namespace mneme {

struct Llama2cConfig {
  int version = 0;
  int64_t model_dim = 0;
  int64_t ffn_dim = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;       // the length it was trained on
  bool shared_classifier = false;  // output weights are the token embedding
};

struct Llama2cTensor {
  std::string name;  // GGUF's: "token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight" ...
  std::vector<uint64_t> shape;  // row-major: [rows, cols] or [n]
  const uint8_t* data;          // F32, aligned to 4 relative to the file's start
  size_t bytes;
};

// Immutable after construction; movable; tensors point into the mapping. RoPE pairs are interleaved
// (2i, 2i + 1), as in GGUF files of the llama architecture. There is no "output.weight" if shared_classifier.
class Llama2cFile {
 public:
  // Throws Error(kFile) for a header out of range or a file whose size is not exactly what the header
  // implies; Error(kUnsupported) for version 2 (quantised) and unknown versions.
  explicit Llama2cFile(const std::string& path);
  static Llama2cFile FromBytes(std::span<const uint8_t> bytes, std::string name = "memory");
  // Whether bytes could be such a file: the magic number, or a plausible version 0 header whose size fits.
  static bool Recognize(std::span<const uint8_t> bytes);

  const std::string& path() const { return path_; }
  const Llama2cConfig& config() const { return config_; }
  const std::vector<Llama2cTensor>& tensors() const { return tensors_; }
  const Llama2cTensor* FindTensor(std::string_view name) const;  // null if absent
  const MappedFile& mapping() const { return mapping_; }         // empty where the file came from memory

 private:
  Llama2cFile() = default;
  void Parse(std::span<const uint8_t> bytes);

  MappedFile mapping_;
  std::string path_;
  Llama2cConfig config_;
  std::vector<Llama2cTensor> tensors_;
  std::vector<uint32_t> by_name_;
};

struct Llama2cVocabulary {
  int max_piece_bytes = 0;
  std::vector<std::string> pieces;  // raw bytes, id order
  std::vector<float> scores;
};

// Reads tokenizer.bin: int32 longest piece, then per piece float score, int32 length, bytes, to the end of
// the file. expected_pieces 0 takes as many as there are. Throws Error(kFile) if truncated, a length is out
// of range, or the count differs.
Llama2cVocabulary ReadLlama2cVocabulary(const std::string& path, size_t expected_pieces = 0);
Llama2cVocabulary ParseLlama2cVocabulary(std::span<const uint8_t> bytes, const std::string& name,
                                         size_t expected_pieces = 0);

}  // namespace mneme
