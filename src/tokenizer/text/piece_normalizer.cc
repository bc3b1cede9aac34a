#include "tokenizer/text/piece_normalizer.h"

#include "tokenizer/text/unicode.h"

namespace mneme {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";
constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace

size_t PieceNormalizer::NextPrefix(std::string_view text, std::string_view* result, bool* touched) const {
  if (!model_->inline_symbols.empty()) {
    TokenId id;
    if (const size_t length = model_->inline_symbols.LongestMatch(text, &id, touched); length > 0) {
      *result = text.substr(0, length);
      return length;
    }
  }
  if (!model_->charsmap.empty()) {
    if (const size_t length = model_->charsmap.LongestMatch(text, result, touched); length > 0) return length;
  }
  const Utf8Char c = DecodeUtf8(text.data(), text.size());
  *result = c.valid ? text.substr(0, c.length) : kReplacementCharacter;
  return c.length;
}

void PieceNormalizer::WriteSpace(std::string* out) {
  if (!model_->spec.remove_extra_whitespaces) {
    out->append(kSpaceSymbol);
    return;
  }
  // Only U+2581 in the input itself gets this far; a run so long is no longer dropped at the end of a text.
  if (++state_.held_spaces >= kMaxHeldSpaces) WriteHeldSpaces(out);
}

void PieceNormalizer::WriteHeldSpaces(std::string* out) {
  for (; state_.held_spaces > 0; --state_.held_spaces) out->append(kSpaceSymbol);
}

void PieceNormalizer::Write(std::string_view normalized, std::string* out) {
  for (size_t i = 0; i < normalized.size();) {
    if (normalized[i] == ' ') {
      WriteSpace(out);
      ++i;
      continue;
    }
    if (normalized.compare(i, kSpaceSymbol.size(), kSpaceSymbol) == 0) {
      WriteSpace(out);
      i += kSpaceSymbol.size();
      continue;
    }
    WriteHeldSpaces(out);
    // The rest up to the next candidate goes over in one piece; both candidates are single characters.
    size_t end = i + 1;
    while (end < normalized.size() && normalized[end] != ' ' && normalized[end] != kSpaceSymbol[0]) ++end;
    out->append(normalized.substr(i, end - i));
    i = end;
  }
}

bool PieceNormalizer::Start(std::string_view normalized, std::string* out) {
  const VocabularySpec& spec = model_->spec;
  if (spec.remove_extra_whitespaces && normalized == " ") return false;
  state_.started = 1;
  state_.after_space = spec.remove_extra_whitespaces ? 1 : 0;
  const bool wants_prefix = spec.dummy_prefix == DummyPrefix::kEverySegment ||
                            (spec.dummy_prefix == DummyPrefix::kFirstSegment && state_.first_segment != 0);
  const bool has_space = normalized.starts_with(' ') || normalized.starts_with(kSpaceSymbol);
  if (wants_prefix && !(spec.prefix_unless_space && has_space)) WriteSpace(out);
  return true;
}

void PieceNormalizer::BeforeSymbol(std::string_view symbol, std::string* out) {
  if (!state_.started) Start(symbol, out);
  WriteHeldSpaces(out);
  state_.after_space = 0;
}

size_t PieceNormalizer::Feed(std::string_view text, bool final, std::string* out) {
  const VocabularySpec& spec = model_->spec;
  const bool plain =
      model_->charsmap.empty() && model_->inline_symbols.empty() && !spec.remove_extra_whitespaces;
  // An incomplete character may become a whole one.
  const std::string_view usable = final ? text : text.substr(0, text.size() - IncompleteTail(text));
  size_t taken = 0;
  while (taken < usable.size()) {
    const std::string_view rest = usable.substr(taken);
    bool touched = false;
    std::string_view normalized;
    const size_t length = NextPrefix(rest, &normalized, &touched);
    if (touched && !final) break;
    taken += length;
    if (!state_.started && !Start(normalized, out)) continue;
    while (state_.after_space && normalized.starts_with(' ')) normalized.remove_prefix(1);
    if (!normalized.empty()) {
      Write(normalized, out);
      state_.after_space = spec.remove_extra_whitespaces && normalized.ends_with(' ');
    }
    if (plain) {
      // Nothing spans characters any more: the rest of the ASCII run needs no decoding.
      size_t end = taken;
      while (end < usable.size() && static_cast<uint8_t>(usable[end]) < 0x80) ++end;
      Write(usable.substr(taken, end - taken), out);
      taken = end;
    }
  }
  return taken;
}

void PieceNormalizer::Restart(bool first) {
  state_ = State();
  state_.first_segment = first ? 1 : 0;
}

}  // namespace mneme
