// Reading characters off a text for the pre-tokenizers, remembering whether its end was looked at. Internal
// to the folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tokenizer/text/unicode.h"

namespace mneme {

constexpr uint32_t Bit(CharClass cls) { return uint32_t{1} << static_cast<uint32_t>(cls); }
constexpr bool Has(uint32_t mask, CharClass cls) { return (mask >> static_cast<uint32_t>(cls) & 1) != 0; }
inline constexpr uint32_t kCasedLetters = Bit(CharClass::kUpper) | Bit(CharClass::kLower);
inline constexpr uint32_t kLetters = kCasedLetters | Bit(CharClass::kOtherLetter);

struct Scanned {
  uint32_t code;
  uint32_t length;  // 0 only at the end
  CharClass cls;
  bool valid;
};

inline bool IsNewline(const Scanned& c) { return c.length != 0 && (c.code == '\r' || c.code == '\n'); }
// $+<=>^~|` : the ASCII symbols that some patterns count as punctuation.
inline bool IsAsciiSign(uint32_t code) {
  return code == '$' || code == '+' || code == '<' || code == '=' || code == '>' || code == '^' ||
         code == '~' || code == '|' || code == '`';
}

// Classes of the ASCII characters, filled once.
struct AsciiClasses {
  CharClass cls[128];
  AsciiClasses() {
    for (uint32_t i = 0; i < 128; ++i) cls[i] = ClassOf(i);
  }
};
extern const AsciiClasses kAsciiClasses;

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  size_t size() const { return text_.size(); }
  // True once anything asked for the character at the end. Every answer of a scan that never did holds for
  // every continuation of the text.
  bool touched() const { return touched_; }
  // Characters for which `stops` holds read as the end from now on, without touching.
  void StopAt(bool (*stops)(const Scanned&)) { stops_ = stops; }

  Scanned At(size_t at) {
    if (at >= text_.size()) {
      touched_ = true;
      return {0, 0, CharClass::kEnd, false};
    }
    const uint8_t byte = static_cast<uint8_t>(text_[at]);
    Scanned c;
    if (byte < 0x80) {
      c = {byte, 1, kAsciiClasses.cls[byte], true};
    } else {
      const Utf8Char decoded = DecodeUtf8(text_.data() + at, text_.size() - at);
      c = {decoded.code, decoded.length, decoded.valid ? ClassOf(decoded.code) : CharClass::kOther,
           decoded.valid};
    }
    if (stops_ != nullptr && stops_(c)) return {0, 0, CharClass::kEnd, false};
    return c;
  }

  // End of the longest run of characters of the classes in `mask` from `at`.
  size_t RunOf(uint32_t mask, size_t at) {
    for (Scanned c = At(at); Has(mask, c.cls); c = At(at)) at += c.length;
    return at;
  }

 private:
  std::string_view text_;
  bool (*stops_)(const Scanned&) = nullptr;
  bool touched_ = false;
};

// \p{N}{1,most} from `at`; `at` if there is none.
size_t NumberRun(Scanner& text, size_t at, size_t most);
// [\r\n]* (or [\r\n/]*) from `at`.
size_t NewlineRun(Scanner& text, size_t at, bool with_slash);
// \s+(?!\S)|\s+ from white space at `at`.
size_t SpaceRun(Scanner& text, size_t at);
// \s*[\r\n]+|\s+(?!\S)|\s+ from white space at `at`.
size_t SpaceRunWithNewlines(Scanner& text, size_t at);

// The first word from position 0; the patterns are above each definition.
size_t Gpt2Word(Scanner& text);
struct Llama3Rules {
  size_t most_digits = 3;
  uint32_t letters = kLetters;   // what words are made of: with marks where a pattern says [\p{L}\p{M}]
  bool has_contractions = true;  // 's, 't, 're ... are words of their own
  bool takes_newlines = true;    // signs take the newlines after them along
};
size_t Llama3Word(Scanner& text, const Llama3Rules& rules);
size_t Gpt4oWord(Scanner& text, size_t most_digits, bool contractions);

}  // namespace mneme
