// One table per struct of options says all that is to be said of its fields: names, what values they take,
// help, and whether a saved state is bound to them. A table is a function that shows each field to a visitor:
//
//   template <class V> void Visit(V& v, SamplerOptions& s) {
//     v("temperature,temp", s.temperature, Range{0, 1e6}, InState::kFree, "0 always takes the likeliest
//     token");
//   }
//
// The first name is the field's own, others are understood too. From the table come the command line and its
// help, settings given as text, the JSON report, the header of a state and the comparison on restore
// (session/fields.cc): an option is written down once.
#pragma once

#include <fmt/core.h>

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/text/units.h"
#include "mneme/options.h"

namespace mneme {

// ---- rules: what values a field takes

// Numbers from low to high, both included; `unit` says what K, M and G mean.
struct Range {
  double low = 0;
  double high = 0;
  Unit unit = Unit::kNone;
};
// Any text; `type` stands for it in the help.
struct Words {
  std::string_view type = "TEXT";
};
// Yes or no. Inverted: the name says the opposite of the field (ignore_end, stop_at_eog).
struct Switch {
  bool is_inverted = false;
};
// One of these names.
template <typename T>
struct Choice {
  std::string_view name;
  T value;
};
template <typename T>
struct Choices {
  std::span<const Choice<T>> list;
  std::string_view type = "NAME";
};
// Two fields that one name sets alike: "kv" stands for keys and values.
template <typename T>
struct Pair {
  T* first;
  T* second;
};

// ---- values as text

inline std::string FieldText(bool value, const Switch& rule) {
  return value != rule.is_inverted ? "true" : "false";
}
template <typename T>
requires std::is_arithmetic_v<T> std::string FieldText(T value, const Range&) {
  return fmt::format("{}", value);  // the shortest text that reads back as the same number
}
template <typename Rule>
std::string FieldText(const std::string& value, const Rule&) {
  return value;
}
template <typename T>
std::string FieldText(T value, const Choices<T>& rule) {
  for (const Choice<T>& choice : rule.list) {
    if (choice.value == value) return std::string(choice.name);
  }
  return "?";
}
template <typename T, typename Rule>
std::string FieldText(const Pair<T>& pair, const Rule& rule) {
  const std::string first = FieldText(*pair.first, rule), second = FieldText(*pair.second, rule);
  return first == second ? first : first + "," + second;
}
template <typename T, typename Rule>
std::string FieldText(const std::vector<T>& values, const Rule& rule) {
  std::string text;
  for (const T& value : values) text += (text.empty() ? "" : ",") + FieldText(value, rule);
  return text;
}

// ---- text as values. All throw Error(kInput) that names `what` and says what would do; nothing has changed
// then.

inline void ParseField(std::string_view text, std::string_view what, const Switch& rule, bool* value) {
  if (text != "true" && text != "false") {
    Fail(ErrorKind::kInput, "{}: '{}' is neither true nor false", what, text);
  }
  *value = (text == "true") != rule.is_inverted;
}

// A bound of a range as the nearest value of an integer type.
template <typename T>
T BoundOf(double bound) {
  if (bound >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  if (bound <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  return static_cast<T>(bound);
}

template <typename T>
requires std::is_arithmetic_v<T>
void ParseField(std::string_view text, std::string_view what, const Range& rule, T* value) {
  if constexpr (std::is_floating_point_v<T>) {
    const double parsed = ParseReal(text, what, rule.low, rule.high);
    // Once more in its own type: rounded once, so that the text of a number gives the same number again. What
    // is too small for it is zero.
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
    if (error != std::errc()) *value = static_cast<T>(parsed);
  } else if constexpr (std::is_unsigned_v<T>) {
    *value =
        static_cast<T>(ParseUnsigned(text, what, rule.unit, BoundOf<T>(rule.low), BoundOf<T>(rule.high)));
  } else {
    *value = static_cast<T>(ParseWhole(text, what, rule.unit, BoundOf<T>(rule.low), BoundOf<T>(rule.high)));
  }
}

inline void ParseField(std::string_view text, std::string_view, const Words&, std::string* value) {
  *value = text;
}

template <typename T>
void ParseField(std::string_view text, std::string_view what, const Choices<T>& rule, T* value) {
  std::string known;
  for (const Choice<T>& choice : rule.list) {
    if (choice.name == text) {
      *value = choice.value;
      return;
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", choice.name);
  }
  Fail(ErrorKind::kInput, "{}: '{}' is not known; there are: {}", what, text, known);
}

// One value for both, or two with a comma.
template <typename T, typename Rule>
void ParseField(std::string_view text, std::string_view what, const Rule& rule, Pair<T>* pair) {
  const size_t comma = text.find(',');
  T first = *pair->first, second = *pair->second;
  ParseField(text.substr(0, comma), what, rule, &first);
  ParseField(comma == std::string_view::npos ? text : text.substr(comma + 1), what, rule, &second);
  *pair->first = first;
  *pair->second = second;
}

// A list of numbers is given at once, with commas; texts one by one.
template <typename T>
void ParseField(std::string_view text, std::string_view what, const Range& rule, std::vector<T>* values) {
  std::vector<T> parsed;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    ParseField(text.substr(0, comma), what, rule, &parsed.emplace_back());
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
  *values = std::move(parsed);
}
inline void ParseField(std::string_view text, std::string_view, const Words&,
                       std::vector<std::string>* values) {
  values->emplace_back(text);
}

// A value that need not be given.
template <typename T, typename Rule>
void ParseField(std::string_view text, std::string_view what, const Rule& rule, std::optional<T>* value) {
  T given{};
  ParseField(text, what, rule, &given);
  *value = given;
}

// What stands for a value in the help.
inline std::string_view TypeText(const Switch&) { return ""; }
inline std::string_view TypeText(const Words& rule) { return rule.type; }
template <typename T>
std::string_view TypeText(const Choices<T>& rule) {
  return rule.type;
}
inline std::string_view TypeText(const Range& rule) { return rule.unit == Unit::kBytes ? "BYTES" : "N"; }

// ---- names

// "temperature,temp" -> "temperature".
constexpr std::string_view FirstName(std::string_view names) { return names.substr(0, names.find(',')); }
constexpr bool HasName(std::string_view names, std::string_view name) {
  while (!names.empty()) {
    const size_t comma = names.find(',');
    if (names.substr(0, comma) == name) return true;
    names = comma == std::string_view::npos ? std::string_view() : names.substr(comma + 1);
  }
  return false;
}

}  // namespace mneme
