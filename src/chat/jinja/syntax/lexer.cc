#include "chat/jinja/syntax/lexer.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text/utf8.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/text.h"

namespace mneme::jinja {
namespace {

std::string WithPlainNewlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      text += '\n';
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
// Names may have letters of other scripts, which Jinja2 allows too.
bool IsNameByte(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(WithPlainNewlines(source)), rest_(source_) {}

  std::vector<Token> Run() {
    while (at_ < rest_.size()) ReadRoot();
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void Fail(std::string message) const { throw SyntaxError{line_, std::move(message)}; }
  void Add(Token::Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }
  bool StartsWith(std::string_view text) const { return rest_.substr(at_).starts_with(text); }
  // Moves on, and keeps count of lines.
  void Advance(size_t to) {
    if (to > at_) at_line_start_ = rest_[to - 1] == '\n';
    line_ += static_cast<int>(std::count(rest_.begin() + static_cast<ptrdiff_t>(at_),
                                         rest_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  size_t AfterSpace(size_t from) const { return from + WithoutSpace(rest_.substr(from)).begin; }

  // Text up to the next tag, and the tag's first marks.
  void ReadRoot();
  // The text before a tag at `end` as far as the tag leaves it.
  void AddText(size_t end, char sign, bool strips_line);
  bool ReadRawBegin(size_t begin);
  void ReadRaw();
  void ReadComment();
  void ReadTag(bool is_output);
  bool ReadTagEnd(bool is_output);
  // Behind the close of a tag at `at`, what its marks take along.
  size_t AfterClose(size_t close, char sign, bool trims) const;
  void ReadToken();
  void ReadNumber();
  void ReadString();
  void ReadOperator();
  std::string Unescape(std::string_view text) const;
  size_t UnescapeCode(std::string_view text, size_t at, size_t digits, std::string* out) const;

  std::string source_;
  std::string_view rest_;
  size_t at_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::string open_;  // brackets that are open in this tag
  std::vector<Token> tokens_;
};

void Lexer::AddText(size_t end, char sign, bool strips_line) {
  std::string_view text = rest_.substr(at_, end - at_);
  if (sign == '-') {
    text = text.substr(0, WithoutSpace(text).end);
    if (WithoutSpace(text).begin == text.size()) text = {};
  } else if (sign != '+' && strips_line) {
    const size_t line = text.rfind('\n') + 1;  // 0 if there is none
    if ((line > 0 || at_line_start_) && WithoutSpace(text.substr(line)).begin == text.size() - line) {
      text = text.substr(0, line);
    }
  }
  if (!text.empty()) Add(Token::Kind::kText, std::string(text));
  Advance(end);
}

void Lexer::ReadRoot() {
  size_t tag = at_;
  do {
    tag = rest_.find('{', tag);
    if (tag == std::string_view::npos || tag + 1 >= rest_.size()) {
      AddText(rest_.size(), '+', false);
      return;
    }
    ++tag;
  } while (rest_[tag] != '%' && rest_[tag] != '{' && rest_[tag] != '#');
  const char mark = rest_[tag];
  const char sign = tag + 1 < rest_.size() ? rest_[tag + 1] : '\0';
  const bool has_sign = sign == '-' || sign == '+';
  AddText(tag - 1, has_sign ? sign : '\0', mark != '{');
  const size_t begin = tag + 1 + (has_sign ? 1 : 0);
  if (mark == '%' && ReadRawBegin(begin)) {
    ReadRaw();
    return;
  }
  Advance(begin);
  if (mark == '#') {
    ReadComment();
  } else {
    ReadTag(mark == '{');
  }
}

size_t Lexer::AfterClose(size_t close, char sign, bool trims) const {
  const size_t end = close + 2;
  if (sign == '-') return AfterSpace(end);
  return trims && sign != '+' && end < rest_.size() && rest_[end] == '\n' ? end + 1 : end;
}

bool Lexer::ReadRawBegin(size_t begin) {
  size_t at = AfterSpace(begin);
  if (!rest_.substr(at).starts_with("raw")) return false;
  at = AfterSpace(at + 3);
  if (rest_.substr(at).starts_with("-%}")) {
    Advance(AfterSpace(at + 3));
  } else if (rest_.substr(at).starts_with("%}")) {
    Advance(at + 2);
  } else {
    return false;
  }
  return true;
}

void Lexer::ReadRaw() {
  for (size_t begin = rest_.find("{%", at_); begin != std::string_view::npos;
       begin = rest_.find("{%", begin + 1)) {
    size_t at = begin + 2;
    const char sign = at < rest_.size() ? rest_[at] : '\0';
    at = AfterSpace(sign == '-' || sign == '+' ? at + 1 : at);
    if (!rest_.substr(at).starts_with("endraw")) continue;
    at = AfterSpace(at + 6);
    char close_sign = '\0';
    if (at < rest_.size() && (rest_[at] == '-' || rest_[at] == '+')) close_sign = rest_[at++];
    if (!rest_.substr(at).starts_with("%}")) continue;
    AddText(begin, sign, true);
    Advance(AfterClose(at, close_sign, true));
    return;
  }
  Fail("Missing end of raw directive");
}

void Lexer::ReadComment() {
  const size_t close = rest_.find("#}", at_);
  if (close == std::string_view::npos) Fail("Missing end of comment tag");
  const char before = close > at_ ? rest_[close - 1] : '\0';
  Advance(AfterClose(close, before, true));
}

void Lexer::ReadTag(bool is_output) {
  Add(is_output ? Token::Kind::kOutputBegin : Token::Kind::kBlockBegin, "");
  open_.clear();
  while (true) {
    if (open_.empty() && ReadTagEnd(is_output)) return;
    if (at_ >= rest_.size()) Fail("unexpected end of template");
    const size_t space = AfterSpace(at_);
    if (space > at_) {
      Advance(space);
    } else {
      ReadToken();
    }
  }
}

bool Lexer::ReadTagEnd(bool is_output) {
  const std::string_view mark = is_output ? "}}" : "%}";
  size_t close = at_;
  char sign = '\0';
  if (close < rest_.size() && (rest_[close] == '-' || (rest_[close] == '+' && !is_output)))
    sign = rest_[close++];
  if (!rest_.substr(close).starts_with(mark)) return false;
  Add(is_output ? Token::Kind::kOutputEnd : Token::Kind::kBlockEnd, "");
  Advance(AfterClose(close, sign, !is_output));
  return true;
}

void Lexer::ReadToken() {
  const char c = rest_[at_];
  if (IsDigit(c)) {
    ReadNumber();
  } else if (IsNameByte(c)) {
    size_t end = at_;
    while (end < rest_.size() && IsNameByte(rest_[end])) ++end;
    Add(Token::Kind::kName, std::string(rest_.substr(at_, end - at_)));
    Advance(end);
  } else if (c == '\'' || c == '"') {
    ReadString();
  } else {
    ReadOperator();
  }
}

// 12, 1_000, 0x1f, 1.5, 1e-3. Underscores are dropped.
void Lexer::ReadNumber() {
  size_t end = at_;
  const auto digits = [&](auto is_digit) {
    const size_t begin = end;
    while (end < rest_.size() && (is_digit(rest_[end]) || (rest_[end] == '_' && end + 1 < rest_.size() &&
                                                           is_digit(rest_[end + 1])))) {
      ++end;
    }
    return end > begin;
  };
  const auto peek = [&](size_t at) { return at < rest_.size() ? rest_[at] : '\0'; };
  const char base = static_cast<char>(peek(at_ + 1) | 0x20);
  bool is_float = false;
  if (rest_[at_] == '0' && (base == 'x' || base == 'o' || base == 'b')) {
    end += 2;
    if (!digits([&](char c) {
          return base == 'x' ? HexDigit(c) >= 0 : c >= '0' && c < (base == 'o' ? '8' : '2');
        })) {
      end -= 1;
    }
  } else {
    digits(IsDigit);
    const bool after_dot = at_ > 0 && rest_[at_ - 1] == '.';  // x.0.1 is two items
    if (!after_dot && peek(end) == '.' && IsDigit(peek(end + 1))) {
      ++end;
      is_float = digits(IsDigit);
    }
    const size_t sign = peek(end + 1) == '+' || peek(end + 1) == '-' ? 1 : 0;
    if (!after_dot && (peek(end) | 0x20) == 'e' && IsDigit(peek(end + 1 + sign))) {
      end += 1 + sign;
      is_float = digits(IsDigit);
    }
  }
  std::string text(rest_.substr(at_, end - at_));
  std::erase(text, '_');
  Add(is_float ? Token::Kind::kFloat : Token::Kind::kInteger, text);
  Advance(end);
}

void Lexer::ReadString() {
  const char quote = rest_[at_];
  size_t end = at_ + 1;
  while (end < rest_.size() && rest_[end] != quote) end += rest_[end] == '\\' ? 2 : 1;
  if (end >= rest_.size()) Fail(fmt::format("a string that begins with {} has no end", quote));
  Add(Token::Kind::kString, Unescape(rest_.substr(at_ + 1, end - at_ - 1)));
  Advance(end + 1);
}

void Lexer::ReadOperator() {
  constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
  constexpr std::string_view kOne = "+-/*%~[](){}<>=.:|,;";
  for (const std::string_view two : kTwo) {
    if (!StartsWith(two)) continue;
    Add(Token::Kind::kOperator, std::string(two));
    Advance(at_ + 2);
    return;
  }
  const char c = rest_[at_];
  if (kOne.find(c) == std::string_view::npos) {
    Fail(fmt::format("unexpected char {}", QuotedRepr({&c, 1})));
  }
  if (c == '(') open_ += ')';
  if (c == '[') open_ += ']';
  if (c == '{') open_ += '}';
  if (c == ')' || c == ']' || c == '}') {
    if (open_.empty()) Fail(fmt::format("unexpected '{}'", c));
    if (open_.back() != c) Fail(fmt::format("unexpected '{}', expected '{}'", c, open_.back()));
    open_.pop_back();
  }
  Add(Token::Kind::kOperator, {c});
  Advance(at_ + 1);
}

// \x41, \u00e9, \U0001f600: appends the character, returns the offset behind.
size_t Lexer::UnescapeCode(std::string_view text, size_t at, size_t digits, std::string* out) const {
  const auto read = [&](size_t from) -> int64_t {
    if (from + digits > text.size()) return -1;
    int64_t code = 0;
    for (size_t i = from; i < from + digits; ++i) {
      if (HexDigit(text[i]) < 0) return -1;
      code = code * 16 + HexDigit(text[i]);
    }
    return code;
  };
  int64_t code = read(at);
  if (code < 0 || code > 0x10FFFF) Fail("a string has an escape that is cut short or names no character");
  at += digits;
  if (code >= 0xD800 && code < 0xDC00 && digits == 4 && text.substr(at).starts_with("\\u")) {
    const int64_t low = read(at + 2);
    if (low >= 0xDC00 && low < 0xE000) {
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      at += 2 + digits;
    }
  }
  AppendUtf8(code >= 0xD800 && code < 0xE000 ? 0xFFFD : static_cast<uint32_t>(code), out);
  return at;
}

// As Python reads the escapes of a string; one that it does not know stays as it is.
std::string Lexer::Unescape(std::string_view text) const {
  constexpr std::string_view kNames = "\\'\"abfnrtv";
  constexpr std::string_view kCodes = "\\'\"\a\b\f\n\r\t\v";
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '\\' || at + 1 >= text.size()) {
      out += text[at++];
      continue;
    }
    const char c = text[at + 1];
    at += 2;
    if (const size_t known = kNames.find(c); known != std::string_view::npos) {
      out += kCodes[known];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      at = UnescapeCode(text, at, c == 'x' ? 2 : c == 'u' ? 4 : 8, &out);
    } else if (c >= '0' && c <= '7') {
      uint32_t code = 0;
      size_t end = at - 1;
      while (end < text.size() && end < at + 2 && text[end] >= '0' && text[end] <= '7')
        code = code * 8 + static_cast<uint32_t>(text[end++] - '0');
      AppendUtf8(code, &out);
      at = end;
    } else if (c == 'N') {
      Fail("characters by name (\\N{...}) are not known here");
    } else if (c != '\n') {
      out += '\\';
      out += c;
    }
  }
  return out;
}

}  // namespace

std::vector<Token> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace mneme::jinja
