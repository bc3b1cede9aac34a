// How a model's authors say that its answers are to be sampled.
#pragma once

#include <optional>

#include "formats/gguf.h"
#include "formats/tensor_source.h"
#include "mneme/options.h"

namespace mneme {

// Of generation_config.json in a Hugging Face folder, or of the keys general.sampling.* of a GGUF. None where
// nothing is said. Throws Error(kFile), naming file and key, for what is no such setting.
std::optional<SamplerOptions> SuggestedSampler(const TensorSource& source);

// Writes general.sampling.*, as llama.cpp's converter does.
void WriteSuggestedSampler(const SamplerOptions& sampler, GgufWriter* writer);

}  // namespace mneme
