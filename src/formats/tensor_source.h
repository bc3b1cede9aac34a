// One view of the tensors of any supported container, for code that loads weights and does not care which.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "formats/gguf.h"
#include "formats/llama2c.h"
#include "formats/safetensors.h"

namespace mneme {

struct TensorInfo {
  std::string name;  // the container's own: "blk.0.attn_q.weight" or "model.layers.0.self_attn.q_proj.weight"
  Encoding encoding;
  std::vector<uint64_t> shape;  // row-major, slowest first, whatever the container's order: [rows, cols]
  const uint8_t*
      data;  // in the mapping; aligned at least 4 for GGUF and llama2.c, unpromised for safetensors
  size_t bytes;
  // MXFP4 of a Hugging Face folder only, which keeps blocks [.., 16] and scales apart ("X_blocks",
  // "X_scales", listed here as X): the exponents, one byte per block. `data` then is no blocks of GGUF: byte
  // i of a block has values 2i and 2i + 1.
  const uint8_t* mxfp4_scales = nullptr;
  // Not 0 for weights that are -1, 0 or 1 of a Hugging Face folder, four in a byte, which are given as Q4_0
  // with this in the place of its scale, or this as what divides them. `data` then is no blocks: bits 2i and
  // 2i + 1 of byte [row, column] are the value of row i * rows / 4 + row, plus one.
  float ternary_scale = 0;
  uint64_t num_values() const;
};

// The block in GGUF's order of nibbles out of the 16 bytes of a folder's.
void JoinMxfp4Block(const uint8_t* folder_block, uint8_t scale, uint8_t* out);

enum class Container { kGguf, kSafetensors, kLlama2c };

// Owns the open container. Immutable: any number of threads may use one at once. TensorInfo pointers stay
// valid as long as the source lives.
class TensorSource {
 public:
  virtual ~TensorSource();
  TensorSource(const TensorSource&) = delete;
  TensorSource& operator=(const TensorSource&) = delete;

  Container container() const { return container_; }
  const std::string& path() const { return path_; }
  // Files that the weights lie in: parts of a GGUF, shards of a folder.
  size_t num_files() const { return Files().size(); }
  // Of all its files: what of them may be resident.
  size_t mapped_bytes() const;
  // Of the sizes of all its files and the times at which they were last written to.
  uint64_t stamp() const;
  // File order. Tensors of U8 and BOOL are left out, but for those that together are MXFP4 and for ternary
  // weights.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // Null if absent.
  const TensorInfo* Find(std::string_view name) const;
  // Throws Error(kFile) naming the tensor and the file if absent.
  const TensorInfo& Require(std::string_view name) const;

  // Throws Error(kFile), naming the file, if one was written to or cut short since it was opened: what was
  // read from its tensors in the meantime cannot be trusted (MappedFile::CheckUnchanged).
  void CheckUnchanged() const;

  // The container, for its metadata; null where it is another kind. Of a GGUF in parts the first, which has
  // all of it.
  virtual const GgufFile* gguf() const { return nullptr; }
  virtual const SafetensorsFolder* safetensors() const { return nullptr; }
  virtual const Llama2cFile* llama2c() const { return nullptr; }

 protected:
  TensorSource(Container container, std::string path);
  virtual std::vector<const MappedFile*> Files() const = 0;
  void Add(TensorInfo info) { tensors_.push_back(std::move(info)); }
  void IndexNames();

 private:
  Container container_;
  std::string path_;
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> by_name_;
};

// Opens a GGUF file (of one in parts the first, NAME-00001-of-0000N.gguf, with the others beside it: all are
// opened and checked), a Hugging Face folder (or a .safetensors file with config.json beside it: the folder
// is meant), or a llama2.c checkpoint, told apart by content. Throws what the container's constructor throws,
// and Error(kFile) for a path that is none of these, for a part that is missing or does not fit its name, and
// for a part that is not the first.
std::unique_ptr<TensorSource> OpenTensorSource(const std::string& path);

}  // namespace mneme
