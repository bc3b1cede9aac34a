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
  uint64_t num_values() const;
};

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
  // Of all its files: what of them may be resident.
  virtual size_t mapped_bytes() const = 0;
  // File order. Tensors of U8 and BOOL are left out.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // Null if absent.
  const TensorInfo* Find(std::string_view name) const;
  // Throws Error(kFile) naming the tensor and the file if absent.
  const TensorInfo& Require(std::string_view name) const;

  // Throws Error(kFile), naming the file, if one was written to or cut short since it was opened: what was
  // read from its tensors in the meantime cannot be trusted (MappedFile::CheckUnchanged).
  virtual void CheckUnchanged() const = 0;

  // The container, for its metadata; null where it is another kind.
  virtual const GgufFile* gguf() const { return nullptr; }
  virtual const SafetensorsFolder* safetensors() const { return nullptr; }
  virtual const Llama2cFile* llama2c() const { return nullptr; }

 protected:
  TensorSource(Container container, std::string path);
  void Add(TensorInfo info) { tensors_.push_back(std::move(info)); }
  void IndexNames();

 private:
  Container container_;
  std::string path_;
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> by_name_;
};

// Opens a GGUF file, a Hugging Face folder (or a .safetensors file with config.json beside it: the folder is
// meant), or a llama2.c checkpoint, told apart by content. Throws what the container's constructor throws,
// and Error(kFile) for a path that is none of these.
std::unique_ptr<TensorSource> OpenTensorSource(const std::string& path);

}  // namespace mneme
