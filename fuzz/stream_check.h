// What a tokenizer promises for every text: piecewise encoding gives the ids of the whole, piecewise decoding
// gives the text of the whole, and decoded text is UTF-8.
#pragma once

#include <cstdint>
#include <string_view>

#include "mneme/tokenizer.h"

namespace mneme::fuzz {

// Stops the process (a finding) if a promise is broken. `splits` seeds where the text is cut, and where the
// encoder is saved and restored.
void CheckStreams(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options, uint64_t splits);
bool IsUtf8(std::string_view text);

}  // namespace mneme::fuzz
