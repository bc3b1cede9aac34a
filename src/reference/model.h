// The double-precision twin of the forward pass: the definition of every family in plain loops, dense
// attention, no cache, no SIMD, nothing shared with the kernels. The oracle for quantised files and for
// containers that no other engine reads. For small models: all weights are decoded to double.
#pragma once

#include <span>
#include <vector>

#include "base/types.h"
#include "model/loaded_model.h"

namespace mneme {

// Logits [tokens.size(), vocab_size] of the whole sequence, its first token at start_position. Throws
// Error(kInput) for a token outside the vocabulary.
std::vector<double> ReferenceLogits(const LoadedModel& model, std::span<const TokenId> tokens,
                                    Position start_position = 0);

}  // namespace mneme
