// Models from memory, where the library takes files.
#pragma once

#include <cstddef>
#include <memory>

#include "kernels/device.h"
#include "model/loaded_model.h"

namespace mneme::fuzz {

// Loads bytes as a GGUF file through a file without a name. Throws what Model::Load throws.
std::shared_ptr<const LoadedModel> LoadFromBytes(const void* data, size_t bytes, Device& device);

}  // namespace mneme::fuzz
