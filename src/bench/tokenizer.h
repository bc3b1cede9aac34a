// Speed of a tokenizer on a text: one thread, streaming.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "bench/timing.h"
#include "mneme/stop.h"
#include "mneme/tokenizer.h"

namespace mneme {

inline constexpr size_t kTokenizerPieceBytes = 65536;  // fed at once

struct TokenizerSpeed {
  size_t num_tokens = 0;
  Timing encode;  // of the whole text
  Timing decode;
};
// The median of num_repeats runs; of fewer after a stop, but of one.
TokenizerSpeed MeasureTokenizer(const Tokenizer& tokenizer, std::string_view text, int64_t num_repeats,
                                StopToken stop = {});

}  // namespace mneme
