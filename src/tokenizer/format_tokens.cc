#include "tokenizer/format_tokens.h"

#include <algorithm>

namespace mneme {
namespace {

constexpr std::string_view kRoles[] = {"system", "user", "assistant", "tool"};

bool IsPunctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

// The string literals of a block ("{{ ... }}", without its marks).
void AddLiterals(std::string_view block, std::vector<std::string>* parts) {
  for (size_t at = 0; at < block.size(); ++at) {
    const char quote = block[at];
    if (quote != '\'' && quote != '"') continue;
    std::string literal;
    for (++at; at < block.size() && block[at] != quote; ++at) {
      if (block[at] == '\\' && at + 1 < block.size()) ++at;
      literal += block[at];
    }
    parts->push_back(std::move(literal));
  }
}

// Where the block that begins at `begin` ends: behind its closing mark, which does not count inside a
// literal.
size_t EndOfBlock(std::string_view text, size_t begin) {
  const char kind = text[begin + 1];
  const std::string_view close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
  char quote = 0;
  for (size_t at = begin + 2; at < text.size(); ++at) {
    if (quote != 0) {
      if (text[at] == '\\')
        ++at;
      else if (text[at] == quote)
        quote = 0;
    } else if (text.substr(at, 2) == close) {
      return at + 2;
    } else if (kind != '#' && (text[at] == '\'' || text[at] == '"')) {
      quote = text[at];
    }
  }
  return text.size();
}

}  // namespace

TemplateText::TemplateText(std::string_view jinja_text) {
  size_t begin = 0;
  for (size_t at = 0; at + 1 < jinja_text.size();) {
    const char next = jinja_text[at + 1];
    if (jinja_text[at] != '{' || (next != '{' && next != '%' && next != '#')) {
      ++at;
      continue;
    }
    const size_t end = EndOfBlock(jinja_text, at);
    parts_.emplace_back(jinja_text.substr(begin, at - begin));
    if (next != '#') AddLiterals(jinja_text.substr(at + 2, end - at - 2), &parts_);
    begin = at = end;
  }
  parts_.emplace_back(jinja_text.substr(begin));
  std::erase(parts_, std::string());
}

bool TemplateText::AnyEndsWith(std::string_view suffix) const {
  return std::any_of(parts_.begin(), parts_.end(),
                     [&](const std::string& part) { return part.ends_with(suffix); });
}

bool TemplateText::AnyStartsWith(std::string_view prefix) const {
  return std::any_of(parts_.begin(), parts_.end(),
                     [&](const std::string& part) { return part.starts_with(prefix); });
}

bool TemplateText::Writes(std::string_view piece) const {
  if (parts_.empty() || piece.size() < 3 || !IsPunctuation(piece.front()) || !IsPunctuation(piece.back()))
    return false;
  for (const std::string& part : parts_)
    if (part.find(piece) != std::string::npos) return true;
  for (const std::string_view role : kRoles) {
    const size_t at = piece.find(role);
    if (at == std::string_view::npos) continue;
    if (AnyEndsWith(piece.substr(0, at)) && AnyStartsWith(piece.substr(at + role.size()))) return true;
  }
  return false;
}

}  // namespace mneme
