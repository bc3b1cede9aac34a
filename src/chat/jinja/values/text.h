// Strings that know, byte range by byte range, who wrote them: the template, or the conversation. Every
// operation keeps it, so that a control token spelled by a user is still known as letters when it leaves the
// template.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/tokenizer.h"

namespace mneme::jinja {

// Well-formed UTF-8. Offsets are bytes, unless a name says characters.
class Text {
 public:
  struct Run {
    size_t end;
    TextKind kind;
  };

  Text() = default;
  Text(std::string_view bytes, TextKind kind) { Append(bytes, kind); }

  const std::string& bytes() const { return bytes_; }
  std::string_view view() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  // Neighbours differ in kind; the last one ends at size().
  const std::vector<Run>& runs() const { return runs_; }
  // Of the byte; of the last one behind the end; kFormat in an empty text.
  TextKind KindAt(size_t byte) const;

  void Append(std::string_view bytes, TextKind kind);
  void Append(const Text& other) { Append(other, 0, other.size()); }
  // Bytes [begin, end) of the other.
  void Append(const Text& other, size_t begin, size_t end);
  Text Slice(size_t begin, size_t end) const;

  // Calls fn(piece, kind) for each run, in order.
  template <typename Fn>
  void ForEachRun(const Fn& fn) const {
    size_t begin = 0;
    for (const Run& run : runs_) {
      fn(view().substr(begin, run.end - begin), run.kind);
      begin = run.end;
    }
  }

 private:
  std::string bytes_;
  std::vector<Run> runs_;
};

// Characters of well-formed UTF-8.
size_t CountCharacters(std::string_view text);
// Bytes of the character that begins there.
size_t CharacterLength(char first);
// Where character number `index` begins; size() behind the last.
size_t CharacterOffset(std::string_view text, size_t index);
// Offsets of all characters and of the end.
std::vector<size_t> CharacterOffsets(std::string_view text);

// White space as Python's str.isspace and \s have it.
bool IsSpace(uint32_t code);
// The first byte of `text` that is not white space, and the end of the last one; (size, size) if there is
// none.
struct Extent {
  size_t begin, end;
};
Extent WithoutSpace(std::string_view text);
// As str.isprintable: what repr shows as it is.
bool IsPrintable(uint32_t code);

enum class Case { kUpper, kLower, kTitle };
// As str.upper, str.lower (for kTitle: each character's title form).
void AppendCase(std::string_view text, Case to, std::string* out);
bool IsUpper(uint32_t code);
bool IsLower(uint32_t code);

}  // namespace mneme::jinja
