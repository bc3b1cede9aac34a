// UTF-8, character classes and NFC. Tables come from ICU at build time (tables/generate_unicode_tables.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

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

// One decoded character. valid is false for a byte that starts no well-formed sequence (overlong forms,
// surrogates and values above U+10FFFF are not well formed); length is then 1 and code U+FFFD.
struct Utf8Char {
  uint32_t code;
  uint32_t length;
  bool valid;
};
// At least one byte must be there.
Utf8Char DecodeUtf8(const char* data, size_t available);
// Number of bytes at the end (0..3) that are a proper prefix of a well-formed character.
size_t IncompleteTail(std::string_view text);
void AppendUtf8(uint32_t code, std::string* out);
// Length of the longest prefix of `data` (1 at least) that is one maximal invalid part, as U+FFFD replaces
// it.
size_t InvalidPartLength(const char* data, size_t available);

// Appends NFC of the text to *out; bytes that are not UTF-8 are kept and separate what is around them.
void AppendNfc(std::string_view text, std::string* out);

}  // namespace mneme
