// Frequencies of rotary embeddings from what model files say about them.
#pragma once

#include "kernels/attend/rope.h"
#include "model/hyperparameters.h"

namespace mneme {

// The rotation of layers with this base. scaled: whether the file's scaling applies (gemma3's local layers
// have none). Linear scaling (Chen et al. 2023, arXiv 2306.15595), YaRN (Peng et al. 2023, arXiv 2309.00071),
// per-frequency divisors (Llama 3), longrope (Ding et al. 2024, arXiv 2402.13753) by its short or long
// factors. Throws Error(kUnsupported) for another scaling (named), Error(kFile) for divisors of the wrong
// number or value.
Rope MakeRope(const Hyperparameters& hyper, RopeLayout layout, size_t rotary_dim, double base, bool scaled,
              bool long_rope);

}  // namespace mneme
