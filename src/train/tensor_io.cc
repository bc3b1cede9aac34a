#include "train/tensor_io.h"

#include "base/error.h"

namespace mneme::train {

using torch::Tensor;

void PutTensor(const Tensor& tensor, StateWriter& writer) {
  const Tensor flat = tensor.detach().to(torch::kCPU).contiguous();
  const auto bytes = static_cast<size_t>(flat.numel()) * static_cast<size_t>(flat.element_size());
  writer.Put<uint64_t>(bytes);
  writer.Write(flat.data_ptr(), bytes);
}

void GetTensor(const std::string& name, Tensor* tensor, StateReader& reader) {
  torch::NoGradGuard no_grad;
  Tensor flat = torch::empty_like(*tensor, tensor->options().device(torch::kCPU)).contiguous();
  const auto bytes = static_cast<size_t>(flat.numel()) * static_cast<size_t>(flat.element_size());
  const auto stored = reader.Get<uint64_t>();
  if (stored != bytes) {
    Fail(ErrorKind::kMismatch, "checkpoint: '{}' has {} bytes, but this model needs {}", name, stored, bytes);
  }
  reader.Read(flat.data_ptr(), bytes);
  tensor->copy_(flat);
}

}  // namespace mneme::train
