// Character classes and NFC. Tables come from ICU at build time (tables/generate_unicode_tables.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/text/utf8.h"

namespace mneme {

// Disjoint classes, as the pre-tokenizer patterns need them.
enum class CharClass : uint8_t {
  kOther = 0,        // controls, unassigned, bytes that are not UTF-8
  kSpace = 1,        // White_Space: \s
  kUpper = 2,        // Lu, Lt
  kLower = 3,        // Ll
  kOtherLetter = 4,  // Lm, Lo
  kMark = 5,         // M
  kNumber = 6,       // N
  kPunctuation = 7,  // P
  kSymbol = 8,       // S
  kEnd = 9,          // the end of the text; no character has it
};

CharClass ClassOf(uint32_t code);
// True if NFC may be computed separately before and from this character on.
bool IsNormalizationBoundary(uint32_t code);

// Appends NFC of the text to *out; bytes that are not UTF-8 are kept and separate what is around them.
void AppendNfc(std::string_view text, std::string* out);

}  // namespace mneme
