// Rotary position embedding (Su et al. 2021, arXiv 2104.09864), with the scalings that models ship with.
//
// Angles are position * frequency in double with the product's rounding error carried along and reduced
// modulo 2 pi, so that position 2^33 is as good as position 33. The tables hold float32 cosines and sines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/types.h"

namespace mneme {

enum class RopeLayout : uint8_t {
  kHalves,       // pairs (f, f + rotary_dim / 2): Hugging Face LLaMA, NeoX, GGUF "neox" families
  kInterleaved,  // pairs (2f, 2f + 1): Meta's LLaMA, GPT-J, GGUF "llama" family
};

// What rotates one kind of layer. Empty frequencies: no rotation (ALiBi, learned positions).
struct Rope {
  RopeLayout layout = RopeLayout::kHalves;
  size_t rotary_dim = 0;            // entries rotated at the front of each head; the rest pass through
  std::vector<double> frequencies;  // [rotary_dim / 2], radians per position, scaling already applied
  float magnitude = 1.0f;           // both q and k are multiplied by this (YaRN)

  bool operator==(const Rope&) const = default;
};

// cos then sin of one position: table[0 .. rotary_dim/2) and table[rotary_dim/2 .. rotary_dim), magnitude
// included. Exact to 1e-7 for |position| <= 2^40.
void RopeTable(const Rope& rope, Position position, float* table);

// out[h, :] = R(table) x[h, :] for every head; heads are head_dim apart in both. In-place allowed. Exact to 2
// ulp of |x|. A null table copies.
void Rotate(const Rope& rope, const float* table, const float* x, size_t num_heads, size_t head_dim,
            float* out);

}  // namespace mneme
