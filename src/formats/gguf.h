// GGUF files: typed metadata and a table of tensors. Reader for versions 1, 2 and 3 (little-endian), writer
// for version 3. Format: github.com/ggml-org/ggml, docs/gguf.md.
//
// The reader checks everything that the header says before it is used, allocates in proportion to the header
// alone, and never touches tensor data, so that opening a file of many gigabytes takes milliseconds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/files/file.h"
#include "base/types.h"

namespace mneme {

// Type tags of metadata values; the numbers are the file's.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
// "u32", "string", "array" ...
std::string_view GgufTypeName(GgufType type);

// An array in the file. `data` points at its first element in the mapping, unaligned; strings are
// length-prefixed. Use GgufFile::Get*Array for the content.
struct GgufArray {
  GgufType type;  // of the elements; never kArray
  uint64_t count;
  const uint8_t* data;
  size_t bytes;
};

// One metadata entry. `value` holds uint64_t for the unsigned types, int64_t for the signed, double for both
// floats. Views point into the mapping.
struct GgufValue {
  std::string_view key;
  GgufType type;
  std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray> value;
  const uint8_t* data;  // where the value's own bytes lie in the file, and how many, unless it is an array
  size_t bytes;
  uint8_t string_length_bytes;  // length prefix of strings: 4 in version 1, else 8
  // The first max_count strings of an array of strings.
  std::vector<std::string_view> Strings(uint64_t max_count) const;
  // The value as a person reads it: numbers, strings in full, arrays as "[u32 x 3: 1, 2, 3]" cut after
  // max_elements elements. Bytes of strings are given as they are.
  std::string ToString(size_t max_elements = 8) const;
};

struct GgufTensor {
  std::string name;
  Encoding encoding;
  std::vector<uint64_t> shape;  // in GGUF order: shape[0] varies fastest (the row length)
  const uint8_t* data;          // aligned to the file's alignment (8 or more) relative to its start
  size_t bytes;
  uint64_t num_values() const;  // product of shape; 1 for a scalar
};

// Read-only and immutable after construction: any number of threads may use one at once. Movable; tensors and
// views stay valid as long as the file object that came out of the last move lives.
class GgufFile {
 public:
  // Maps and checks the file. Throws Error(kFile) if it cannot be read or is not a well-formed GGUF file
  // (the message names the path, what is wrong and where), Error(kUnsupported) for a big-endian file, an
  // unknown version, or a tensor type that this library does not decode (named).
  explicit GgufFile(const std::string& path);
  // The same over memory that the caller keeps alive and unchanged; `name` stands for the path in messages.
  static GgufFile FromBytes(std::span<const uint8_t> bytes, std::string name = "memory");

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }

  // All metadata in file order.
  const std::vector<GgufValue>& metadata() const { return metadata_; }
  // Null if there is no such key. O(log n).
  const GgufValue* FindValue(std::string_view key) const;

  // Typed access: nullopt where the key is absent, Error(kFile) where it is present with a type or value that
  // does not convert without loss. Integers convert among all integer types; GetFloat also takes integers.
  std::optional<uint64_t> GetUint(std::string_view key) const;
  std::optional<int64_t> GetInt(std::string_view key) const;
  std::optional<double> GetFloat(std::string_view key) const;
  std::optional<bool> GetBool(std::string_view key) const;
  std::optional<std::string_view> GetString(std::string_view key) const;
  std::optional<std::vector<std::string_view>> GetStringArray(std::string_view key) const;
  std::optional<std::vector<float>> GetFloatArray(std::string_view key) const;  // of f32, f64 or integers
  std::optional<std::vector<int64_t>> GetIntArray(std::string_view key) const;  // of any integers, or bool

  // All tensors in file order.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // Null if there is no such tensor. O(log n).
  const GgufTensor* FindTensor(std::string_view name) const;
  // Empty where the file came from memory.
  const MappedFile& mapping() const { return mapping_; }

 private:
  GgufFile() = default;
  void Parse(std::span<const uint8_t> bytes);
  friend class GgufParser;

  MappedFile mapping_;
  std::string path_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  std::vector<GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
  std::vector<uint32_t> metadata_by_key_;  // indices, sorted
  std::vector<uint32_t> tensors_by_name_;
};

// The number that GGUF gives the encoding, and back (nullopt: unknown or not decoded here).
uint32_t GgufTensorTypeNumber(Encoding encoding);
std::optional<Encoding> EncodingOfGgufTensorType(uint32_t type);

// Where a tensor's producer puts its bytes, in as many pieces as it likes.
using GgufSink = std::function<void(const void* data, size_t bytes)>;
using GgufProducer = std::function<void(const GgufSink& sink)>;

using GgufScalar = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, uint64_t, int64_t,
                                float, double, bool, std::string>;

// Collects metadata and tensor descriptions, then writes a version 3 file in one pass. Tensor data streams
// through: memory used is the metadata plus whatever the producers hold. One thread at a time.
class GgufWriter {
 public:
  // Stored with exactly the alternative's type: pass uint32_t{...} where readers expect a u32. Setting a key
  // again replaces its value in place. Throws Error(kInput) for an empty or overlong key.
  void Set(std::string_view key, GgufScalar value);
  // T: an alternative of GgufScalar except bool, or std::string_view.
  template <typename T>
  void SetArray(std::string_view key, std::span<const T> values);
  template <typename T>
  void SetArray(std::string_view key, const std::vector<T>& values) {
    SetArray(key, std::span<const T>(values));
  }
  void SetBoolArray(std::string_view key, const std::vector<bool>& values);
  // Takes over one entry of an open file, with its type, or all of them (general.alignment is left out: the
  // writer always uses 32 and refuses that key). Entries already set here win over those of CopyAllMetadata.
  void CopyValue(const GgufValue& value);
  void CopyAllMetadata(const GgufFile& source);
  bool Has(std::string_view key) const;
  void Remove(std::string_view key);

  // Describes a tensor; `shape` in GGUF order (fastest first), at most four dimensions. The producer is
  // called once, during Write, and must give exactly the encoded bytes. Throws Error(kInput) for a duplicate
  // or empty name, a shape that does not fit, or an encoding without a GGUF number.
  void AddTensor(std::string name, Encoding encoding, std::vector<uint64_t> shape, GgufProducer producer);
  // The data must stay alive until Write returns.
  void AddTensor(std::string name, Encoding encoding, std::vector<uint64_t> shape, const void* data);

  // Writes the file atomically: on any Error (kFile from the disk, kInput if a producer gives too few or too
  // many bytes, or whatever a producer throws) the path is as it was before.
  void Write(const std::string& path) const;

 private:
  struct Entry {
    std::string key;
    std::string encoded;  // type tag and value
  };
  struct Tensor {
    std::string name;
    Encoding encoding;
    std::vector<uint64_t> shape;
    size_t bytes;
    GgufProducer producer;
  };
  void SetEncoded(std::string_view key, std::string encoded);
  std::vector<Entry> entries_;
  std::vector<Tensor> tensors_;
};

}  // namespace mneme
