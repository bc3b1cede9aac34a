// Which tokens a chat template writes. Internal to the folder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mneme {

// The text that a Jinja template can write: what stands outside its blocks, and the string literals inside
// them. Comments are left out. Nothing is run.
class TemplateText {
 public:
  explicit TemplateText(std::string_view jinja_text);

  // Whether the template writes this token: spelled out, or put together around a role ('<|' + role + '|>').
  // Only for pieces that look like marks of a format: three bytes at least, ASCII punctuation at both ends.
  // Runs of spaces, words and line feeds, which vocabularies also hold as tokens of their own, are none.
  bool Writes(std::string_view piece) const;

 private:
  bool AnyEndsWith(std::string_view suffix) const;
  bool AnyStartsWith(std::string_view prefix) const;
  std::vector<std::string> parts_;
};

}  // namespace mneme
