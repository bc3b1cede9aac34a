// What one session contributes to a forward call.
#pragma once

#include <span>

#include "base/types.h"
#include "context/context.h"

namespace mneme {

struct ForwardChunk {
  Context* context = nullptr;
  std::span<const TokenId> tokens;  // 1 .. the context's max_chunk; each < vocab_size
  bool all_logits = false;          // logits of every row; else of the last row only
  bool no_logits = false;           // none at all (prefill)
};

}  // namespace mneme
