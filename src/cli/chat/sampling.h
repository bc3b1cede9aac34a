// How `run` and `chat` sample: as was typed, else as the model's files say, else by a default.
#pragma once

#include <string>

#include "cli/stream.h"

namespace mneme::cli {

// Where the model's files say nothing.
SamplerOptions DefaultSampler();

// Puts into settings->options.sampler what was not typed; a seed that was not typed is drawn. Returns what is
// to be said of it: "temperature 0.8, top-k 40, top-p 0.95, min-p 0.05; --seed 123 gives the same again".
// A restored state keeps its own.
std::string ChooseSampling(const Model& model, StreamSettings* settings);

}  // namespace mneme::cli
