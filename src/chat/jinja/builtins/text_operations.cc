// What filters and methods of strings share.
#include <algorithm>

#include "base/text/utf8.h"
#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

// Whether a character of `set` begins at text[at].
bool HoldsCharacter(std::string_view set, std::string_view text, size_t at) {
  return set.find(text.substr(at, CharacterLength(text[at]))) != std::string_view::npos;
}

Extent WithoutCharacters(std::string_view text, std::string_view set) {
  size_t begin = 0, end = text.size();
  while (begin < end && HoldsCharacter(set, text, begin)) begin += CharacterLength(text[begin]);
  while (end > begin) {
    size_t start = end - 1;
    while ((static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    if (!HoldsCharacter(set, text, start)) break;
    end = start;
  }
  return {begin, end};
}

// Bytes of the line break that begins there; 0 if none does.
size_t LineBreak(std::string_view text, size_t at) {
  if (text[at] == '\r') return at + 1 < text.size() && text[at + 1] == '\n' ? 2 : 1;
  const Utf8Char c = DecodeUtf8(text.data() + at, text.size() - at);
  const bool is_break = (c.code >= 10 && c.code <= 13) || (c.code >= 0x1C && c.code <= 0x1E) ||
                        c.code == 0x85 || c.code == 0x2028 || c.code == 0x2029;
  return is_break ? c.length : 0;
}

}  // namespace

Value Mapped(Interpreter& in, const Text& text, Case to) {
  Text out;
  text.ForEachRun([&](std::string_view piece, TextKind kind) {
    std::string changed;
    AppendCase(piece, to, &changed);
    out.Append(changed, kind);
  });
  return in.Make(std::move(out));
}

Value Capitalized(Interpreter& in, const Text& text) {
  if (text.empty()) return in.Make({});
  const size_t first = CharacterLength(text.bytes()[0]);
  Text out = Mapped(in, text.Slice(0, first), Case::kTitle).text();
  out.Append(Mapped(in, text.Slice(first, text.size()), Case::kLower).text());
  return in.Make(std::move(out));
}

Value Stripped(Interpreter& in, const Text& text, const Value& characters, int sides) {
  if (characters.IsUndefined()) Raise(characters.undefined_message());
  if (!characters.IsNone() && !characters.IsString()) Raise("strip arg must be None or str");
  Extent extent = characters.IsNone() ? WithoutSpace(text.view())
                                      : WithoutCharacters(text.view(), characters.text().view());
  if ((sides & 1) == 0) extent.begin = 0;
  if ((sides & 2) == 0) extent.end = text.size();
  return in.Make(text.Slice(std::min(extent.begin, extent.end), extent.end));
}

// Negative count: all.
Value Replaced(Interpreter& in, const Text& text, const Text& old, const Text& with, Int count) {
  Text out;
  size_t at = 0;
  const auto take = [&](size_t end) {
    out.Append(text, at, end);
    CheckSize(out.size() + with.size(), *in.meter());
    in.meter()->Step();
  };
  if (old.empty()) {  // between all characters, and at both ends
    while (count != 0 && at <= text.size()) {
      out.Append(with);
      --count;
      if (at == text.size()) break;
      const size_t end = at + CharacterLength(text.bytes()[at]);
      take(end);
      at = end;
    }
  } else {
    while (count != 0) {
      const size_t found = text.bytes().find(old.bytes(), at);
      if (found == std::string::npos) break;
      take(found);
      out.Append(with);
      at = found + old.size();
      --count;
    }
  }
  out.Append(text, at, text.size());
  return in.Make(std::move(out));
}

// sides: where the fill goes, 1 left, 2 right, 3 both.
Value Centered(Interpreter& in, const Text& text, Int width, const Text& fill, int sides) {
  if (CountCharacters(fill.view()) != 1) Raise("The fill character must be exactly one character long");
  const Int space = width - static_cast<Int>(CountCharacters(text.view()));
  if (space <= 0) return in.Make(text);
  CheckSize(space > static_cast<Int>(SIZE_MAX / 8) ? SIZE_MAX : static_cast<size_t>(space) * 4, *in.meter());
  // As Python divides an odd space.
  const Int left = sides == 1 ? space : sides == 2 ? 0 : space / 2 + (space & width & 1);
  Text out;
  for (Int i = 0; i < left; ++i) out.Append(fill);
  out.Append(text);
  for (Int i = left; i < space; ++i) out.Append(fill);
  return in.Make(std::move(out));
}

std::vector<Value> Lines(Interpreter& in, const Text& text, bool keep_ends) {
  std::vector<Value> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t length = LineBreak(text.view(), at);
    if (length == 0) {
      at += CharacterLength(text.bytes()[at]);
      continue;
    }
    lines.push_back(in.Make(text.Slice(begin, keep_ends ? at + length : at)));
    begin = at += length;
  }
  if (begin < text.size()) lines.push_back(in.Make(text.Slice(begin, text.size())));
  return lines;
}

Value JoinedBy(Interpreter& in, const Text& separator, const std::vector<Value>& items) {
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.Append(separator);
    out.Append(in.Str(items[i]));
    CheckSize(out.size(), *in.meter());
    in.meter()->Step();
  }
  return in.Make(std::move(out));
}

}  // namespace mneme::jinja
