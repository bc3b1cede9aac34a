#include "formats/tensor_source.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace mneme {
namespace {

class GgufSource : public TensorSource {
 public:
  explicit GgufSource(GgufFile file) : TensorSource(Container::kGguf, file.path()), file_(std::move(file)) {
    for (const GgufTensor& tensor : file_.tensors()) {
      std::vector<uint64_t> shape(tensor.shape.rbegin(), tensor.shape.rend());
      Add({tensor.name, tensor.encoding, std::move(shape), tensor.data, tensor.bytes});
    }
    IndexNames();
  }
  size_t mapped_bytes() const override { return file_.mapping().bytes().size(); }
  void CheckUnchanged() const override { file_.mapping().CheckUnchanged(); }
  const GgufFile* gguf() const override { return &file_; }

 private:
  GgufFile file_;
};

class SafetensorsSource : public TensorSource {
 public:
  explicit SafetensorsSource(SafetensorsFolder folder)
      : TensorSource(Container::kSafetensors, folder.path()), folder_(std::move(folder)) {
    for (const SafetensorsTensor* tensor : folder_.tensors()) {
      if (!tensor->encoding) continue;
      Add({tensor->name, *tensor->encoding, tensor->shape, tensor->data, tensor->bytes});
    }
    IndexNames();
  }
  size_t mapped_bytes() const override {
    size_t bytes = 0;
    for (const SafetensorsFile& file : folder_.files()) bytes += file.mapping().bytes().size();
    return bytes;
  }
  void CheckUnchanged() const override {
    for (const SafetensorsFile& file : folder_.files()) file.mapping().CheckUnchanged();
  }
  const SafetensorsFolder* safetensors() const override { return &folder_; }

 private:
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
  size_t mapped_bytes() const override { return file_.mapping().bytes().size(); }
  void CheckUnchanged() const override { file_.mapping().CheckUnchanged(); }
  const Llama2cFile* llama2c() const override { return &file_; }

 private:
  Llama2cFile file_;
};

}  // namespace

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
