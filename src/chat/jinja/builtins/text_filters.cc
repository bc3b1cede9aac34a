// The filters that give text or a number.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/text/utf8.h"
#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"
#include "tokenizer/text/unicode.h"

namespace mneme::jinja {
namespace {

using In = Interpreter;

Text Ascii(std::string_view text) { return Text(text, TextKind::kFormat); }

template <Case to>
Value Change(In& in, const Value& input, Arguments&) {
  return Mapped(in, in.Str(input), to);
}

Value Capitalize(In& in, const Value& input, Arguments&) { return Capitalized(in, in.Str(input)); }

// Words begin behind white space and opening brackets, and nowhere else.
Value Title(In& in, const Value& input, Arguments&) {
  const Text text = in.Str(input);
  Text out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text.view().data() + at, text.size() - at);
    const bool splits = IsSpace(c.code) ||
                        (c.code < 0x80 &&
                         std::string_view("-({[<").find(static_cast<char>(c.code)) != std::string_view::npos);
    std::string changed;
    AppendCase(text.view().substr(at, c.length), in_word ? Case::kLower : Case::kUpper, &changed);
    out.Append(changed, text.KindAt(at));
    in_word = !splits;
    at += c.length;
  }
  return in.Make(std::move(out));
}

Value Trim(In& in, const Value& input, Arguments& arguments) {
  return Stripped(in, in.Str(input), Parameters("trim", arguments, {"chars"})[0], 3);
}

Value StringOf(In& in, const Value& input, Arguments&) { return in.Make(in.Str(input)); }

Value Replace(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("replace", arguments, {"old", "new", "count"}, 2);
  return Replaced(in, in.Str(input), in.Str(parameters[0]), in.Str(parameters[1]), parameters.Integer(2, -1));
}

Value Center(In& in, const Value& input, Arguments& arguments) {
  return Centered(in, in.Str(input), Parameters("center", arguments, {"width"}).Integer(0, 80), Ascii(" "),
                  3);
}

Value Indent(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("indent", arguments, {"width", "first", "blank"});
  if (input.IsUndefined()) Raise(input.undefined_message());
  if (!input.IsString()) Raise(fmt::format("'{}' object has no attribute 'splitlines'", TypeName(input)));
  Text text = input.text();
  const Value width = parameters[0];
  if (width.IsIntegral() && width.integer() > 10000) Raise("indent(): more than 10000 spaces");
  const Text indention =
      width.IsString()
          ? width.text()
          : Ascii(std::string(static_cast<size_t>(std::max<Int>(0, parameters.Integer(0, 4))), ' '));
  text.Append("\n", TextKind::kFormat);
  const std::vector<Value> lines = Lines(in, text, false);
  Text out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n", TextKind::kFormat);
    const Text& line = lines[i].text();
    const bool is_indented = i == 0 ? parameters.Bool(1) : parameters.Bool(2) || !line.empty();
    if (is_indented) out.Append(indention);
    out.Append(line);
    CheckSize(out.size(), *in.meter());
  }
  return in.Make(std::move(out));
}

Value Truncate(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("truncate", arguments, {"length", "killwords", "end", "leeway"});
  const std::optional<size_t> size = Length(input);
  if (!size) Raise(fmt::format("object of type '{}' has no len()", TypeName(input)));
  const Text text = in.Str(input);
  const Text end = parameters.has(2) ? parameters.String(2) : Ascii("...");
  const Int length = parameters.Integer(0, 255), leeway = parameters.Integer(3, 5);
  const Int end_length = static_cast<Int>(CountCharacters(end.view()));
  if (length < end_length || leeway < 0)
    Raise("truncate(): the length is below that of the end, or the leeway below 0");
  if (static_cast<Int>(*size) <= length + leeway) return input;
  if (!input.IsString()) Raise(fmt::format("truncate(): {} is not str", TypeName(input)));
  Text out = text.Slice(0, CharacterOffset(text.view(), static_cast<size_t>(length - end_length)));
  const size_t space = parameters.Bool(1) ? std::string::npos : out.bytes().rfind(' ');
  if (space != std::string::npos) out = out.Slice(0, space);
  out.Append(end);
  return in.Make(std::move(out));
}

Value WordCount(In& in, const Value& input, Arguments&) {
  const Text text = in.Str(input);
  size_t count = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text.view().data() + at, text.size() - at);
    const CharClass cls = ClassOf(c.code);
    const bool is_word = c.code == '_' || cls == CharClass::kNumber ||
                         (cls >= CharClass::kUpper && cls <= CharClass::kOtherLetter);
    count += is_word && !in_word ? 1 : 0;
    in_word = is_word;
    at += c.length;
  }
  return Value::Size(count);
}

// Marks of HTML become their names. The rest of a template is text, never HTML, so what is marked as safe is
// as it was.
Value Escape(In& in, const Value& input, Arguments&) {
  Text text = in.Str(input);
  constexpr std::string_view kMarks[][2] = {
      {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
  Text out;
  text.ForEachRun([&](std::string_view piece, TextKind kind) {
    for (const char& c : piece) {
      std::string_view written(&c, 1);
      for (const auto& mark : kMarks)
        if (mark[0] == written) written = mark[1];
      out.Append(written, kind);
    }
  });
  return in.Make(std::move(out));
}

Value UrlEncode(In& in, const Value& input, Arguments&) {
  if (!input.IsString() && IsIterable(input)) {
    throw TemplateError{ErrorKind::kUnsupported, "urlencode of anything but a string is not known here"};
  }
  const Text text = in.Str(input);
  Text out;
  text.ForEachRun([&](std::string_view piece, TextKind kind) {
    std::string encoded;
    for (const char c : piece) {
      const auto byte = static_cast<uint8_t>(c);
      const bool is_plain = std::isalnum(byte) != 0 && byte < 0x80;
      if (is_plain || std::string_view("_.-~/").find(c) != std::string_view::npos) {
        encoded += c;
      } else {
        encoded += fmt::format("%{:02X}", byte);
      }
    }
    out.Append(encoded, kind);
  });
  return in.Make(std::move(out));
}

Value Format(In& in, const Value& input, Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    Raise("can't handle positional and keyword arguments at the same time");
  }
  if (arguments.named.empty()) {
    return FormatPercent(in.Str(input), MakeTuple(std::move(arguments.positional), in.meter()), in.meter());
  }
  DictBuilder dict;
  for (auto& [name, value] : arguments.named) dict.Set(in.Make(Ascii(name)), std::move(value));
  return FormatPercent(in.Str(input), dict.Make(in.meter()), in.meter());
}

Value ToJsonText(In& in, const Value& input, Arguments& arguments) {
  // The order of transformers' own filter.
  const Parameters parameters("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = parameters.Bool(0);
  style.sort_keys = parameters.Bool(3);
  if (!parameters[1].IsNone()) {
    style.item_separator = ",";
    if (parameters[1].IsString()) {
      style.indent = parameters[1].text().bytes();
    } else {
      const Int width = parameters.Integer(1, 0);
      if (width > 100) Raise("tojson(): more than 100 spaces of indent");
      style.indent = std::string(static_cast<size_t>(std::max<Int>(0, width)), ' ');
    }
    if (style.indent->size() > 100) Raise("tojson(): more than 100 bytes of indent");
  }
  if (!parameters[2].IsNone()) {
    const std::vector<Value> separators = Iterate(parameters[2], in.meter());
    if (separators.size() != 2) Raise("tojson(): separators are a pair");
    style.item_separator = in.Str(separators[0]).bytes();
    style.key_separator = in.Str(separators[1]).bytes();
  }
  return in.Make(ToJson(input, style, in.meter()));
}

// Python's int(text) and float(text): white space around, underscores between digits.
std::optional<std::string> NumberText(const Value& value) {
  const std::string_view all = value.text().view();
  const Extent extent = WithoutSpace(all);
  std::string text(all.substr(extent.begin, extent.end - extent.begin));
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between = i > 0 && i + 1 < text.size() &&
                         std::isdigit(static_cast<uint8_t>(text[i - 1])) != 0 &&
                         std::isdigit(static_cast<uint8_t>(text[i + 1])) != 0;
    if (text[i] == '_' && !between) return std::nullopt;
  }
  std::erase(text, '_');
  if (text.empty() || text.size() > 400) return std::nullopt;
  return text;
}

std::optional<double> ReadFloat(const Value& value) {
  if (value.IsNumber()) return value.number();
  if (!value.IsString()) return std::nullopt;
  const std::optional<std::string> text = NumberText(value);
  if (!text || text->find_first_of("xXpP") != std::string::npos) return std::nullopt;
  double number = 0;
  const size_t sign = (*text)[0] == '+' ? 1 : 0;
  const char* end = text->data() + text->size();
  const auto result = std::from_chars(text->data() + sign, end, number);
  if (result.ptr != end || result.ec == std::errc::invalid_argument) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) {
    const bool is_tiny = text->find("e-") != std::string::npos || text->find("E-") != std::string::npos;
    number = is_tiny ? 0 : HUGE_VAL;
    if ((*text)[0] == '-') number = -number;
  }
  return number;
}

std::optional<Int> ReadInteger(const Value& value, Int base) {
  if (value.IsIntegral()) return value.integer();
  if (!value.IsString() || base < 2 || base > 36) return std::nullopt;
  std::optional<std::string> text = NumberText(value);
  if (!text) return std::nullopt;
  size_t at = (*text)[0] == '-' || (*text)[0] == '+' ? 1 : 0;
  const std::string prefix = base == 16 ? "0x" : base == 8 ? "0o" : base == 2 ? "0b" : "";
  if (!prefix.empty() && text->compare(at, 2, prefix) == 0) at += 2;
  int64_t number = 0;
  const char* end = text->data() + text->size();
  const auto result = std::from_chars(text->data() + at, end, number, static_cast<int>(base));
  if (at >= text->size() || (*text)[at] == '-' || result.ptr != end || result.ec != std::errc())
    return std::nullopt;
  return (*text)[0] == '-' ? -Int{number} : Int{number};
}

TextKind KindOf(const Value& value) { return value.IsString() ? value.text().KindAt(0) : value.kind(); }

Value ToInt(In&, const Value& input, Arguments& arguments) {
  const Parameters parameters("int", arguments, {"default", "base"});
  if (input.IsUndefined()) Raise(input.undefined_message());
  const std::optional<Int> whole = ReadInteger(input, parameters.Integer(1, 10));
  if (whole) return Value(*whole, KindOf(input));
  const std::optional<double> number = ReadFloat(input);
  if (number && std::fabs(*number) < 1e37) return Value(static_cast<Int>(*number), KindOf(input));
  return parameters.has(0) ? parameters[0] : Value(Int{0});
}

Value ToFloat(In&, const Value& input, Arguments& arguments) {
  const Parameters parameters("float", arguments, {"default"});
  if (input.IsUndefined()) Raise(input.undefined_message());
  const std::optional<double> number = ReadFloat(input);
  if (number) return Value(*number, KindOf(input));
  return parameters.has(0) ? parameters[0] : Value(0.0);
}

double Number(const Value& input) {
  if (input.IsUndefined()) Raise(input.undefined_message());
  if (!input.IsNumber()) Raise(fmt::format("must be real number, not {}", TypeName(input)));
  return input.number();
}

Value Absolute(In&, const Value& input, Arguments&) {
  if (input.IsIntegral())
    return Value(input.integer() < 0 ? -input.integer() : input.integer(), input.kind());
  return Value(std::fabs(Number(input)), input.kind());
}

Value Round(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("round", arguments, {"precision", "method"});
  const Int precision = parameters.Integer(0, 0);
  const std::string method = parameters.has(1) ? in.Str(parameters[1]).bytes() : "common";
  const double number = Number(input);
  if (precision > 300 || precision < -300) Raise("round(): a precision beyond 300");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value(std::ceil(number * scale) / scale, input.kind());
  if (method == "floor") return Value(std::floor(number * scale) / scale, input.kind());
  if (method != "common") Raise("method must be common, ceil or floor");
  if (input.IsIntegral() && precision >= 0) return Value(input.integer(), input.kind());
  if (precision < 0) {
    const double rounded = std::nearbyint(number * scale) / scale;
    return input.IsIntegral() ? Value(static_cast<Int>(rounded), input.kind()) : Value(rounded, input.kind());
  }
  if (!std::isfinite(number)) return Value(number, input.kind());
  // Digits are rounded as they are: 2.675 is a little less, and becomes 2.67.
  const std::string digits = fmt::format("{:.{}f}", number, static_cast<int>(precision));
  double rounded = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), rounded);
  return Value(rounded, input.kind());
}

struct Row {
  std::string_view name;
  FilterFunction function;
};
constexpr Row kFilters[] = {
    {"upper", Change<Case::kUpper>},
    {"lower", Change<Case::kLower>},
    {"capitalize", Capitalize},
    {"title", Title},
    {"trim", Trim},
    {"string", StringOf},
    {"safe", StringOf},
    {"replace", Replace},
    {"center", Center},
    {"indent", Indent},
    {"truncate", Truncate},
    {"wordcount", WordCount},
    {"e", Escape},
    {"escape", Escape},
    {"forceescape", Escape},
    {"urlencode", UrlEncode},
    {"format", Format},
    {"tojson", ToJsonText},
    {"int", ToInt},
    {"float", ToFloat},
    {"abs", Absolute},
    {"round", Round},
};

}  // namespace

FilterFunction FindTextFilter(std::string_view name) { return FindIn(kFilters, name); }

FilterFunction FindFilter(std::string_view name) {
  const FilterFunction filter = FindTextFilter(name);
  return filter != nullptr ? filter : FindListFilter(name);
}

}  // namespace mneme::jinja
