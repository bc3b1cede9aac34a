// Values as text: what Python's str, repr and json.dumps write.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "chat/jinja/values/value.h"

namespace mneme::jinja {

// Digits that give the same number back: "0.1", "1e-05", "1e+16", "inf".
std::string FloatRepr(double number);
// 'it''s' in quotes, with what is not printable escaped.
std::string QuotedRepr(std::string_view text);

// Text of a value takes the value's kind. Both throw TemplateError where the text would be larger than the
// meter's limit.
Text ToText(const Value& value, const Meter& meter);
Text Repr(const Value& value, const Meter& meter);

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // of one level; without it all is one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
Text ToJson(const Value& value, const JsonStyle& style, Meter* meter);

// Throws TemplateError(kBudget) for a text of so many bytes.
void CheckSize(size_t bytes, const Meter& meter);

}  // namespace mneme::jinja
