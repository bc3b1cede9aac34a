// Tensors in checkpoints: their bytes, with the number of them in front.
#pragma once

#include <torch/types.h>

#include <string>

#include "base/files/serial.h"

namespace mneme::train {

void PutTensor(const torch::Tensor& tensor, StateWriter& writer);
// Into a tensor of the right shape. Throws Error(kMismatch) naming `name` if the stored one has another size;
// the tensor is then as it was.
void GetTensor(const std::string& name, torch::Tensor* tensor, StateReader& reader);

}  // namespace mneme::train
