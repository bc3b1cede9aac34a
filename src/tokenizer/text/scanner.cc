#include "tokenizer/text/scanner.h"

namespace mneme {

const AsciiClasses kAsciiClasses;

namespace {

constexpr uint32_t kSpaceBit = Bit(CharClass::kSpace);
constexpr uint32_t kNumberBit = Bit(CharClass::kNumber);
constexpr uint32_t kEndBit = Bit(CharClass::kEnd);
// [^\s\p{L}\p{N}], the end excluded.
constexpr uint32_t kRest = ~(kSpaceBit | kLetters | kNumberBit | kEndBit) & 0x3FF;

// ASCII lower case; also U+017F, the one character outside ASCII that folds to a letter used here (s).
uint32_t Fold(uint32_t code) {
  if (code >= 'A' && code <= 'Z') return code + ('a' - 'A');
  return code == 0x17F ? 's' : code;
}

// 's|'t|'re|'ve|'m|'ll|'d from an apostrophe at `at`; `at` if none matches.
size_t Contraction(Scanner& text, size_t at, bool any_case) {
  const Scanned first = text.At(at + 1);
  if (first.length == 0 || !first.valid) return at;
  const uint32_t a = any_case ? Fold(first.code) : first.code;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 1 + first.length;
  if (a != 'r' && a != 'v' && a != 'l') return at;
  const Scanned second = text.At(at + 1 + first.length);
  if (second.length == 0) return at;
  const uint32_t b = any_case ? Fold(second.code) : second.code;
  return b == (a == 'l' ? 'l' : 'e') ? at + 1 + first.length + second.length : at;
}

}  // namespace

size_t NumberRun(Scanner& text, size_t at, size_t most) {
  for (size_t i = 0; i < most; ++i) {
    const Scanned c = text.At(at);
    if (c.cls != CharClass::kNumber) break;
    at += c.length;
  }
  return at;
}

size_t NewlineRun(Scanner& text, size_t at, bool with_slash) {
  for (Scanned c = text.At(at); IsNewline(c) || (with_slash && c.length != 0 && c.code == '/');
       c = text.At(at))
    ++at;
  return at;
}

size_t SpaceRun(Scanner& text, size_t at) {
  size_t end = at, last = at;
  for (Scanned c = text.At(end); c.cls == CharClass::kSpace; c = text.At(end)) {
    last = end;
    end += c.length;
  }
  if (text.At(end).cls == CharClass::kEnd || last == at) return end;
  return last;
}

size_t SpaceRunWithNewlines(Scanner& text, size_t at) {
  size_t end = at, last = at, after_newline = at;
  for (Scanned c = text.At(end); c.cls == CharClass::kSpace; c = text.At(end)) {
    last = end;
    end += c.length;
    if (IsNewline(c)) after_newline = end;
  }
  if (after_newline > at) return after_newline;
  if (text.At(end).cls == CharClass::kEnd || last == at) return end;
  return last;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t Gpt2Word(Scanner& text) {
  Scanned c = text.At(0);
  size_t at = 0;
  if (c.code == '\'') {
    if (const size_t end = Contraction(text, 0, false); end > 0) return end;
  } else if (c.code == ' ') {
    const Scanned next = text.At(1);
    if (!Has(kSpaceBit | kEndBit, next.cls)) {
      at = 1;
      c = next;
    }
  }
  if (Has(kLetters, c.cls)) return text.RunOf(kLetters, at);
  if (c.cls == CharClass::kNumber) return text.RunOf(kNumberBit, at);
  if (c.cls == CharClass::kSpace) return SpaceRun(text, at);
  return text.RunOf(kRest, at);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
// \s*[\r\n]+|\s+(?!\S)|\s+
size_t Llama3Word(Scanner& text, const Llama3Rules& rules) {
  const uint32_t rest_mask = kRest & ~rules.letters;
  const auto rest = [&](size_t from) {
    const size_t end = text.RunOf(rest_mask, from);
    return rules.takes_newlines ? NewlineRun(text, end, false) : end;
  };
  const Scanned c = text.At(0);
  if (Has(rules.letters, c.cls)) {
    // A mark may itself be what stands before a word; both readings end at the same place.
    return text.RunOf(rules.letters, 0);
  }
  if (c.cls == CharClass::kNumber) return NumberRun(text, 0, rules.most_digits);
  if (c.code == '\'' && rules.has_contractions) {
    if (const size_t end = Contraction(text, 0, true); end > 0) return end;
  }
  const Scanned next = IsNewline(c) ? Scanned{0, 0, CharClass::kSpace, true} : text.At(c.length);
  if (Has(rules.letters, next.cls)) return text.RunOf(rules.letters, c.length);
  if (c.code == ' ' && Has(rest_mask, next.cls)) return rest(1);
  if (c.cls == CharClass::kSpace) return SpaceRunWithNewlines(text, 0);
  return rest(0);
}

// With A = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], B = [\p{Ll}\p{Lm}\p{Lo}\p{M}], C the contractions (or nothing):
// [^\r\n\p{L}\p{N}]?A*B+C?|[^\r\n\p{L}\p{N}]?A+B*C?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|
// \s+(?!\S)|\s+
size_t Gpt4oWord(Scanner& text, size_t most_digits, bool contractions) {
  constexpr uint32_t kBoth = Bit(CharClass::kOtherLetter) | Bit(CharClass::kMark);
  constexpr uint32_t kA = Bit(CharClass::kUpper) | kBoth;
  constexpr uint32_t kB = Bit(CharClass::kLower) | kBoth;
  const Scanned c = text.At(0);
  if (c.cls == CharClass::kNumber) return NumberRun(text, 0, most_digits);

  const auto with_contraction = [&](size_t end) {
    return contractions && text.At(end).code == '\'' ? Contraction(text, end, true) : end;
  };
  // A*B+ from `from`: A* takes its whole run and gives back characters until B+ has one. 0 if there is none.
  const auto mixed = [&](size_t from) -> size_t {
    size_t end = from, after_both = 0;
    for (Scanned a = text.At(end); Has(kA, a.cls); a = text.At(end)) {
      end += a.length;
      if (Has(kBoth, a.cls)) after_both = end;
    }
    if (Has(kB, text.At(end).cls)) return text.RunOf(kB, end);
    return after_both;
  };
  const bool leads = !Has(kLetters, c.cls) && !IsNewline(c);
  if (leads) {
    if (const size_t end = mixed(c.length); end > 0) return with_contraction(end);
  }
  if (Has(kA | kB, c.cls)) {
    if (const size_t end = mixed(0); end > 0) return with_contraction(end);
  }
  if (leads) {
    if (const size_t end = text.RunOf(kA, c.length); end > c.length)
      return with_contraction(text.RunOf(kB, end));
  }
  if (Has(kA, c.cls)) return with_contraction(text.RunOf(kB, text.RunOf(kA, 0)));

  if (c.code == ' ' && Has(kRest, text.At(1).cls)) return NewlineRun(text, text.RunOf(kRest, 1), true);
  if (c.cls == CharClass::kSpace) return SpaceRunWithNewlines(text, 0);
  return NewlineRun(text, text.RunOf(kRest, 0), true);
}

}  // namespace mneme
