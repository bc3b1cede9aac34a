#include "formats/tensor_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "formats/quant.h"

namespace mneme {
namespace {

// A GGUF, or all parts of one.
class GgufSource : public TensorSource {
 public:
  explicit GgufSource(GgufFile file) : TensorSource(Container::kGguf, file.path()) {
    const uint64_t count = file.GetUint("split.count").value_or(1);
    files_.push_back(std::move(file));
    if (count > 1) OpenParts(count);
    for (const GgufFile& part : files_) {
      for (const GgufTensor& tensor : part.tensors()) {
        std::vector<uint64_t> shape(tensor.shape.rbegin(), tensor.shape.rend());
        Add({tensor.name, tensor.encoding, std::move(shape), tensor.data, tensor.bytes});
      }
    }
    IndexNames();
    if (files_.size() > 1) CheckParts();
  }
  const GgufFile* gguf() const override { return files_.data(); }

 private:
  std::vector<const MappedFile*> Files() const override {
    std::vector<const MappedFile*> files;
    for (const GgufFile& file : files_) files.push_back(&file.mapping());
    return files;
  }

  static std::string PartName(std::string_view stem, uint64_t index, uint64_t count) {
    return fmt::format("{}-{:05}-of-{:05}.gguf", stem, index + 1, count);
  }

  void OpenParts(uint64_t count) {
    const uint64_t index = files_[0].GetUint("split.no").value_or(0);
    const std::string ending = PartName("", index, count);
    if (index >= count || !path().ends_with(ending)) {
      Fail(ErrorKind::kFile,
           "{}: says that it is part {} of {}, but its name does not end in {}, so the other parts cannot be "
           "found; give the parts their names back",
           path(), index + 1, count, ending);
    }
    const std::string stem = path().substr(0, path().size() - ending.size());
    if (index > 0) {
      Fail(ErrorKind::kFile, "{}: is part {} of {}; the first opens them all: {}", path(), index + 1, count,
           PartName(stem, 0, count));
    }
    files_.reserve(count);
    for (uint64_t i = 1; i < count; ++i) {
      const std::string name = PartName(stem, i, count);
      if (!FileExists(name)) {
        Fail(ErrorKind::kFile, "{}: has {} parts, and part {} is missing: {}", path(), count, i + 1, name);
      }
      files_.emplace_back(name);
      const GgufFile& part = files_.back();
      if (part.GetUint("split.no") != i || part.GetUint("split.count") != count) {
        Fail(ErrorKind::kFile, "{}: does not say that it is part {} of {}; it belongs to another model", name,
             i + 1, count);
      }
    }
  }

  void CheckParts() const {
    for (const TensorInfo& tensor : tensors()) {
      if (Find(tensor.name) != &tensor) {
        Fail(ErrorKind::kFile, "{}: tensor {} occurs in two parts", path(), tensor.name);
      }
    }
    const auto expected = files_[0].GetUint("split.tensors.count");
    if (expected && *expected != tensors().size()) {
      Fail(ErrorKind::kFile,
           "{}: its parts have {} tensors together and should have {}; they are of two models", path(),
           tensors().size(), *expected);
    }
  }

  std::vector<GgufFile> files_;
};

class SafetensorsSource : public TensorSource {
 public:
  explicit SafetensorsSource(SafetensorsFolder folder)
      : TensorSource(Container::kSafetensors, folder.path()), folder_(std::move(folder)) {
    for (const SafetensorsTensor* tensor : folder_.tensors()) {
      if (IsOfTernary(*tensor)) continue;
      if (tensor->encoding) {
        Add({tensor->name, *tensor->encoding, tensor->shape, tensor->data, tensor->bytes});
      } else {
        AddMxfp4(*tensor);
        AddTernary(*tensor);
      }
    }
    IndexNames();
  }
  const SafetensorsFolder* safetensors() const override { return &folder_; }

 private:
  std::vector<const MappedFile*> Files() const override {
    std::vector<const MappedFile*> files;
    for (const SafetensorsFile& file : folder_.files()) files.push_back(&file.mapping());
    return files;
  }

  // blocks [.., count, 16] with scales [.., count], bytes both, as one tensor [.., 32 * count].
  void AddMxfp4(const SafetensorsTensor& blocks) {
    constexpr std::string_view kBlocks = "_blocks";
    if (!blocks.name.ends_with(kBlocks) || blocks.dtype != "U8" || blocks.shape.size() < 2) return;
    const std::string stem = blocks.name.substr(0, blocks.name.size() - kBlocks.size());
    const SafetensorsTensor* scales = folder_.FindTensor(stem + "_scales");
    std::vector<uint64_t> shape = blocks.shape;
    const uint64_t block_bytes = shape.back();
    shape.pop_back();
    if (scales == nullptr || scales->dtype != "U8" || block_bytes != 16 || scales->shape != shape) {
      Fail(ErrorKind::kFile, "{}: tensor {} has no scales ({}_scales) that fit its blocks", path(),
           blocks.name, stem);
    }
    shape.back() *= 32;
    Add({stem, Encoding::kMXFP4, std::move(shape), blocks.data, blocks.bytes + scales->bytes, scales->data});
  }

  static constexpr std::string_view kScale = "_scale";

  // The scale of ternary weights.
  bool IsOfTernary(const SafetensorsTensor& scale) const {
    if (!scale.name.ends_with(".weight_scale")) return false;
    const SafetensorsTensor* weight =
        folder_.FindTensor(scale.name.substr(0, scale.name.size() - kScale.size()));
    return weight != nullptr && weight->dtype == "U8";
  }

  // Bytes [rows / 4, cols] with a scale as the matrix [rows, cols].
  void AddTernary(const SafetensorsTensor& bytes) {
    if (!bytes.name.ends_with(".weight") || bytes.dtype != "U8") return;
    const SafetensorsTensor* scale = folder_.FindTensor(bytes.name + std::string(kScale));
    float value = 0;
    const bool is_number = scale != nullptr && scale->encoding && CanDecode(*scale->encoding) &&
                           scale->bytes == EncodedBytes(*scale->encoding, 1);
    if (is_number) DecodeBlocks(*scale->encoding, scale->data, 1, &value);
    if (bytes.shape.size() != 2 || !is_number || !(std::abs(value) > 0) || !std::isfinite(value)) {
      Fail(ErrorKind::kFile, "{}: tensor {} has no scale ({}_scale) that fits it", path(), bytes.name,
           bytes.name);
    }
    Add({bytes.name,
         Encoding::kQ4_0,
         {4 * bytes.shape[0], bytes.shape[1]},
         bytes.data,
         bytes.bytes + scale->bytes,
         nullptr,
         value});
  }

  SafetensorsFolder folder_;
};

class Llama2cSource : public TensorSource {
 public:
  explicit Llama2cSource(Llama2cFile file)
      : TensorSource(Container::kLlama2c, file.path()), file_(std::move(file)) {
    for (const Llama2cTensor& tensor : file_.tensors()) {
      Add({tensor.name, Encoding::kF32, tensor.shape, tensor.data, tensor.bytes});
    }
    IndexNames();
  }
  const Llama2cFile* llama2c() const override { return &file_; }

 private:
  std::vector<const MappedFile*> Files() const override { return {&file_.mapping()}; }

  Llama2cFile file_;
};

}  // namespace

void JoinMxfp4Block(const uint8_t* folder_block, uint8_t scale, uint8_t* out) {
  const auto value = [&](int i) { return (folder_block[i / 2] >> (4 * (i % 2))) & 15; };
  out[0] = scale;
  for (int i = 0; i < 16; ++i) out[1 + i] = static_cast<uint8_t>(value(i) | value(i + 16) << 4);
}

uint64_t TensorInfo::num_values() const {
  uint64_t count = 1;
  for (const uint64_t size : shape) count *= size;
  return count;
}

TensorSource::TensorSource(Container container, std::string path)
    : container_(container), path_(std::move(path)) {}

TensorSource::~TensorSource() = default;

void TensorSource::IndexNames() {
  by_name_.resize(tensors_.size());
  for (size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = static_cast<uint32_t>(i);
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return tensors_[a].name < tensors_[b].name; });
}

size_t TensorSource::mapped_bytes() const {
  size_t bytes = 0;
  for (const MappedFile* file : Files()) bytes += file->bytes().size();
  return bytes;
}

uint64_t TensorSource::stamp() const {
  Hasher hash;
  for (const MappedFile* file : Files()) {
    hash.Put<uint64_t>(file->bytes().size());
    hash.Put(file->modified_ns());
  }
  return hash.value();
}

void TensorSource::CheckUnchanged() const {
  for (const MappedFile* file : Files()) file->CheckUnchanged();
}

const TensorInfo* TensorSource::Find(std::string_view name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](uint32_t index, std::string_view wanted) { return tensors_[index].name < wanted; });
  return found == by_name_.end() || tensors_[*found].name != name ? nullptr : &tensors_[*found];
}

const TensorInfo& TensorSource::Require(std::string_view name) const {
  const TensorInfo* info = Find(name);
  if (info == nullptr) Fail(ErrorKind::kFile, "{}: has no tensor {}, which this model needs", path_, name);
  return *info;
}

std::unique_ptr<TensorSource> OpenTensorSource(const std::string& path) {
  if (IsDirectory(path)) return std::make_unique<SafetensorsSource>(SafetensorsFolder(path));
  const std::string_view name = path;
  if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) {
    const size_t slash = name.rfind('/');
    const std::string folder =
        slash == std::string_view::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
    return std::make_unique<SafetensorsSource>(SafetensorsFolder(folder));
  }
  const MappedFile probe(path);
  const std::span<const uint8_t> bytes = probe.bytes();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) {
    return std::make_unique<GgufSource>(GgufFile(path));
  }
  if (Llama2cFile::Recognize(bytes)) return std::make_unique<Llama2cSource>(Llama2cFile(path));
  Fail(ErrorKind::kFile,
       "{}: is neither a GGUF file, nor a Hugging Face folder with safetensors, nor a llama2.c checkpoint",
       path);
}

}  // namespace mneme
