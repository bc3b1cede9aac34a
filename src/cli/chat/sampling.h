// How `run` and `chat` sample: as was typed, else as the model's files say, else by a default.
#pragma once

#include <string>

#include "cli/stream.h"

namespace mneme::cli {

// Where the model's files say nothing.
SamplerOptions DefaultSampler();

// Puts into settings->options.sampler what was not typed. draws: a seed that was not typed is drawn; else it
// is 0, so that states of the same input are the same.
void ChooseSampling(const Model& model, bool draws, StreamSettings* settings);

// "temperature 0.8, top-k 40, top-p 0.95, min-p 0.05; --seed 123 gives the same again", and where it is from.
std::string SamplingText(const Stream& stream);

}  // namespace mneme::cli
