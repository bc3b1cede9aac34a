// UTF-8, byte by byte: what is well formed, where a character ends, and what of foreign text may be shown.
// Thread rule: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mneme {

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

// Text that came from a file (names, metadata, pieces, paths in messages), made fit for a terminal or a page:
// one line of well-formed UTF-8 in which nothing moves the cursor, hides, or turns the direction of what
// stands beside it. Control characters, bytes that are not UTF-8, marks of direction and characters without
// width are written as \x1b or \u{202e}. Beyond `most_bytes` the text is cut and ends in "...".
std::string Printable(std::string_view text, size_t most_bytes = 1000);
// The same for text of several lines: line feeds and tabs stay, and nothing is cut.
std::string PrintableLines(std::string_view text);

}  // namespace mneme
