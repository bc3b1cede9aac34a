#include "chat/jinja/values/text.h"

#include <algorithm>
#include <iterator>

#include "base/text/utf8.h"

namespace mneme::jinja {
namespace {

struct CaseEntry {
  uint32_t code;
  const char* text;
};
struct CodeRange {
  uint32_t first, last;
};
// kUpperCase, kLowerCase, kTitleCase (where it is not the upper case): what changes, ascending.
// kNotPrintable: ranges.
#include "case_tables.inc"

const char* FindCase(const CaseEntry* begin, const CaseEntry* end, uint32_t code) {
  const auto* found = std::lower_bound(
      begin, end, code, [](const CaseEntry& entry, uint32_t value) { return entry.code < value; });
  return found != end && found->code == code ? found->text : nullptr;
}

const char* FindCase(Case to, uint32_t code) {
  if (to == Case::kLower) return FindCase(std::begin(kLowerCase), std::end(kLowerCase), code);
  if (to == Case::kTitle) {
    const char* title = FindCase(std::begin(kTitleCase), std::end(kTitleCase), code);
    if (title != nullptr) return title;
  }
  return FindCase(std::begin(kUpperCase), std::end(kUpperCase), code);
}

}  // namespace

TextKind Text::KindAt(size_t byte) const {
  if (runs_.empty()) return TextKind::kFormat;
  const auto found = std::upper_bound(runs_.begin(), runs_.end(), byte,
                                      [](size_t at, const Run& run) { return at < run.end; });
  return found == runs_.end() ? runs_.back().kind : found->kind;
}

void Text::Append(std::string_view bytes, TextKind kind) {
  if (bytes.empty()) return;
  bytes_ += bytes;
  if (!runs_.empty() && runs_.back().kind == kind)
    runs_.back().end = bytes_.size();
  else
    runs_.push_back({bytes_.size(), kind});
}

void Text::Append(const Text& other, size_t begin, size_t end) {
  auto run = std::upper_bound(other.runs_.begin(), other.runs_.end(), begin,
                              [](size_t at, const Run& r) { return at < r.end; });
  while (begin < end) {
    const size_t stop = std::min(run->end, end);
    Append(other.view().substr(begin, stop - begin), run->kind);
    begin = stop;
    ++run;
  }
}

Text Text::Slice(size_t begin, size_t end) const {
  Text slice;
  slice.Append(*this, begin, end);
  return slice;
}

size_t CharacterLength(char first) {
  const auto byte = static_cast<uint8_t>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

size_t CountCharacters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(),
                                           [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

size_t CharacterOffset(std::string_view text, size_t index) {
  size_t at = 0;
  while (index > 0 && at < text.size()) {
    at += CharacterLength(text[at]);
    --index;
  }
  return std::min(at, text.size());
}

std::vector<size_t> CharacterOffsets(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size(); at += CharacterLength(text[at])) offsets.push_back(at);
  offsets.push_back(text.size());
  return offsets;
}

bool IsSpace(uint32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x1F);
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

Extent WithoutSpace(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    const Utf8Char c = DecodeUtf8(text.data() + begin, text.size() - begin);
    if (!IsSpace(c.code)) break;
    begin += c.length;
  }
  size_t end = text.size();
  while (end > begin) {
    size_t start = end - 1;
    while (start > begin && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    if (!IsSpace(DecodeUtf8(text.data() + start, end - start).code)) break;
    end = start;
  }
  return {begin, end};
}

bool IsPrintable(uint32_t code) {
  if (code < 0x7F) return code >= ' ';
  const auto* found =
      std::lower_bound(std::begin(kNotPrintable), std::end(kNotPrintable), code,
                       [](const CodeRange& range, uint32_t value) { return range.last < value; });
  return found == std::end(kNotPrintable) || code < found->first;
}

void AppendCase(std::string_view text, Case to, std::string* out) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text.data() + at, text.size() - at);
    if (c.code < 0x80) {
      const bool up = to != Case::kLower;
      const auto byte = static_cast<char>(c.code);
      if (up && byte >= 'a' && byte <= 'z')
        out->push_back(static_cast<char>(byte - 32));
      else if (!up && byte >= 'A' && byte <= 'Z')
        out->push_back(static_cast<char>(byte + 32));
      else
        out->push_back(byte);
    } else if (const char* changed = FindCase(to, c.code)) {
      *out += changed;
    } else {
      *out += text.substr(at, c.length);
    }
    at += c.length;
  }
}

bool IsUpper(uint32_t code) {
  return code < 0x80 ? code >= 'A' && code <= 'Z' : FindCase(Case::kLower, code) != nullptr;
}

bool IsLower(uint32_t code) {
  return code < 0x80 ? code >= 'a' && code <= 'z' : FindCase(Case::kUpper, code) != nullptr && !IsUpper(code);
}

}  // namespace mneme::jinja
