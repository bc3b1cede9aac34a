// Safetensors files, and Hugging Face model folders made of them.
// Format: github.com/huggingface/safetensors, README: u64 header length, JSON header, tensor data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files/file.h"
#include "base/types.h"

namespace mneme {

struct SafetensorsTensor {
  std::string name;
  std::string dtype;                 // as in the file: "F32", "BF16", "U8", ...
  std::optional<Encoding> encoding;  // empty for U8 and BOOL, which are listed but never weights
  std::vector<uint64_t> shape;       // row-major: the last dimension varies fastest
  const uint8_t* data;               // no alignment is promised by the format
  size_t bytes;
};

// One file. Immutable after construction: any number of threads may use one at once. Movable; tensors point
// into the mapping and stay valid as long as the object that came out of the last move lives.
class SafetensorsFile {
 public:
  // Maps the file and checks its header: size at most 100 MB (the reference library's limit), JSON, known
  // dtypes, bytes of each tensor equal to its shape, and tensors that cover the data exactly, without gap,
  // overlap or trailing bytes, as the reference library demands. Throws Error(kFile) naming path and cause.
  // Does not touch tensor data.
  explicit SafetensorsFile(const std::string& path);
  // The same over memory that the caller keeps alive; `name` stands for the path in messages.
  static SafetensorsFile FromBytes(std::span<const uint8_t> bytes, std::string name = "memory");

  const std::string& path() const { return path_; }
  // By offset in the file.
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  // Null if there is no such tensor.
  const SafetensorsTensor* FindTensor(std::string_view name) const;
  // The __metadata__ entries.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const MappedFile& mapping() const { return mapping_; }  // empty where the file came from memory

 private:
  SafetensorsFile() = default;
  void Parse(std::span<const uint8_t> bytes);

  MappedFile mapping_;
  std::string path_;
  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

// A Hugging Face folder: config.json, and either model.safetensors or shards named by
// model.safetensors.index.json. Same thread and lifetime rules.
class SafetensorsFolder {
 public:
  // Throws Error(kFile): no config.json or no weights (pytorch_model.bin alone gets its own hint), a shard
  // that is missing or named with a path out of the folder, a weight_map that names a tensor its shard lacks,
  // or a tensor in two shards.
  explicit SafetensorsFolder(const std::string& folder);

  const std::string& path() const { return path_; }
  // The text of config.json, and of any other file in the folder (nullopt if it is absent; names with a
  // directory part are refused with Error(kInput)).
  const std::string& config_text() const { return config_text_; }
  std::optional<std::string> ReadFile(std::string_view name) const;

  const std::vector<SafetensorsFile>& files() const { return files_; }
  std::vector<const SafetensorsTensor*> tensors() const;
  const SafetensorsTensor* FindTensor(std::string_view name) const;

 private:
  void OpenShards(const std::string& index_path);
  std::string path_;
  std::string config_text_;
  std::vector<SafetensorsFile> files_;
};

// Writes one safetensors file. The data given to Add must stay alive until Write returns. One thread at a
// time.
class SafetensorsWriter {
 public:
  // `encoding` F32, F16, BF16, F64 or I8..I64 (else Error(kUnsupported)); `shape` row-major. Throws
  // Error(kInput) for a duplicate or reserved name.
  void Add(std::string name, Encoding encoding, std::vector<uint64_t> shape, const void* data);
  void SetMetadata(std::string key, std::string value);
  // Atomic: on Error(kFile) the path is as it was before.
  void Write(const std::string& path) const;

 private:
  struct Tensor {
    std::string name;
    Encoding encoding;
    std::vector<uint64_t> shape;
    const void* data;
    size_t bytes;
  };
  std::vector<Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace mneme
