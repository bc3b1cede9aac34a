// Frequencies of rotary embeddings from what model files say about them.
#pragma once

#include "kernels/attend/rope.h"
#include "model/hyperparameters.h"

namespace mneme {

// The length that the file's rotations are made for, where longer streams need others (longrope, dynamic
// NTK); 0: they are the same for all.
int64_t RopeLength(const Hyperparameters& hyper);

// The rotation of layers with this base. scaled: whether the file's scaling applies (gemma3's local layers
// have none). Linear scaling (Chen et al. 2023, arXiv 2306.15595), YaRN (Peng et al. 2023, arXiv 2309.00071),
// per-frequency divisors (Llama 3), longrope (Ding et al. 2024, arXiv 2402.13753) by its short or long
// factors, dynamic NTK scaling, Gemma 4's proportional rotation. length: tokens that a query sees; matters
// where it is above RopeLength. rounds_yarn: YaRN's bounds are whole numbers, where the file does not say.
// Throws Error(kUnsupported) for another scaling (named), Error(kFile) for divisors of the wrong number or
// value.
Rope MakeRope(const Hyperparameters& hyper, RopeLayout layout, size_t rotary_dim, double base, bool scaled,
              int64_t length = 0, bool rounds_yarn = true);

}  // namespace mneme
