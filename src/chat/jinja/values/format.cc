#include "chat/jinja/values/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/text/utf8.h"
#include "chat/jinja/loop.h"
#include "chat/jinja/macro.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

void AppendRepr(const Value& value, int depth, const Meter& meter, Text* out);

// The character as repr shows it between quotes.
void AppendEscaped(const Utf8Char& c, std::string_view bytes, char quote, std::string* out) {
  if (c.code == '\\' || c.code == static_cast<uint32_t>(quote)) {
    *out += '\\';
    *out += bytes;
  } else if (c.code == '\n') {
    *out += "\\n";
  } else if (c.code == '\r') {
    *out += "\\r";
  } else if (c.code == '\t') {
    *out += "\\t";
  } else if (IsPrintable(c.code)) {
    *out += bytes;
  } else if (c.code < 0x100) {
    *out += fmt::format("\\x{:02x}", c.code);
  } else if (c.code < 0x10000) {
    *out += fmt::format("\\u{:04x}", c.code);
  } else {
    *out += fmt::format("\\U{:08x}", c.code);
  }
}

char QuoteFor(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  return has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
}

std::string Escaped(std::string_view text, char quote) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text.data() + at, text.size() - at);
    AppendEscaped(c, text.substr(at, c.length), quote, &out);
    at += c.length;
  }
  return out;
}

void AppendTextRepr(const Text& text, Text* out) {
  const char quote = QuoteFor(text.view());
  out->Append({&quote, 1}, text.KindAt(0));
  text.ForEachRun([&](std::string_view piece, TextKind kind) { out->Append(Escaped(piece, quote), kind); });
  out->Append({&quote, 1}, text.KindAt(text.size()));
}

void AppendItems(const std::vector<Value>& items, TextKind kind, int depth, const Meter& meter, Text* out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out->Append(", ", kind);
    AppendRepr(items[i], depth, meter, out);
  }
}

void AppendDictRepr(const Dict& dict, int depth, const Meter& meter, Text* out) {
  out->Append("{", dict.kind);
  bool first = true;
  for (const Dict::Entry& entry : dict.entries) {
    if (!first) out->Append(", ", dict.kind);
    first = false;
    AppendRepr(entry.key, depth, meter, out);
    out->Append(": ", dict.kind);
    AppendRepr(entry.value, depth, meter, out);
  }
  out->Append("}", dict.kind);
}

void AppendViewRepr(const DictView& view, int depth, const Meter& meter, Text* out) {
  const TextKind kind = view.dict->kind;
  constexpr std::string_view kNames[] = {"dict_keys([", "dict_values([", "dict_items(["};
  out->Append(kNames[static_cast<size_t>(view.what)], kind);
  bool first = true;
  for (const Dict::Entry& entry : view.dict->entries) {
    if (!first) out->Append(", ", kind);
    first = false;
    if (view.what == DictView::What::kItems) out->Append("(", kind);
    if (view.what != DictView::What::kValues) AppendRepr(entry.key, depth, meter, out);
    if (view.what == DictView::What::kItems) out->Append(", ", kind);
    if (view.what != DictView::What::kKeys) AppendRepr(entry.value, depth, meter, out);
    if (view.what == DictView::What::kItems) out->Append(")", kind);
  }
  out->Append("])", kind);
}

void AppendNamespaceRepr(const Namespace& space, int depth, const Meter& meter, Text* out) {
  constexpr TextKind kind = TextKind::kFormat;
  out->Append("<Namespace {", kind);
  bool first = true;
  for (const auto& [name, value] : space.attributes) {
    out->Append((first ? "" : ", ") + QuotedRepr(name) + ": ", kind);
    first = false;
    AppendRepr(value, depth, meter, out);
  }
  out->Append("}>", kind);
}

std::string RangeRepr(const Range& range) {
  if (range.step == 1) return fmt::format("range({}, {})", range.start, range.stop);
  return fmt::format("range({}, {}, {})", range.start, range.stop, range.step);
}

// Of what has no parts. Python shows addresses of objects; there are none here.
std::string SmallRepr(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "None";
    case Type::kBool:
      return value.boolean() ? "True" : "False";
    case Type::kInt:
      return fmt::format("{}", value.integer());
    case Type::kFloat:
      return FloatRepr(value.number());
    case Type::kRange:
      return RangeRepr(value.range());
    case Type::kMacro:
      return fmt::format("<Macro {}>", QuotedRepr(value.macro().name));
    case Type::kLoop:
      return fmt::format("<LoopContext {}/{}>", value.loop().index() + 1, value.loop().Length());
    case Type::kMethod:
      return fmt::format("<built-in method {} of {} object>", value.method().name,
                         TypeName(value.method().self));
    default:
      return fmt::format("<{} object>", TypeName(value));
  }
}

void AppendRepr(const Value& value, int depth, const Meter& meter, Text* out) {
  if (depth > 2 * kMaxValueDepth) {
    throw TemplateError{ErrorKind::kBudget, "a value that contains itself cannot be written"};
  }
  CheckSize(out->size(), meter);
  switch (value.type()) {
    case Type::kString:
      AppendTextRepr(value.text(), out);
      break;
    case Type::kList:
    case Type::kTuple: {
      const List& list = value.list();
      out->Append(list.is_tuple ? "(" : "[", list.kind);
      AppendItems(list.items, list.kind, depth + 1, meter, out);
      if (list.is_tuple && list.items.size() == 1) out->Append(",", list.kind);
      out->Append(list.is_tuple ? ")" : "]", list.kind);
      break;
    }
    case Type::kDict:
      AppendDictRepr(value.dict(), depth + 1, meter, out);
      break;
    case Type::kDictView:
      AppendViewRepr(value.view(), depth + 1, meter, out);
      break;
    case Type::kNamespace:
      AppendNamespaceRepr(value.space(), depth + 1, meter, out);
      break;
    default:
      out->Append(SmallRepr(value), value.kind());
  }
}

}  // namespace

void CheckSize(size_t bytes, const Meter& meter) {
  if (bytes <= meter.limits().max_live_bytes) return;
  throw TemplateError{ErrorKind::kBudget, fmt::format("it makes a text of more than {} MiB",
                                                      meter.limits().max_live_bytes >> 20)};
}

std::string FloatRepr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number, std::chars_format::scientific).ptr;
  std::string text(buffer, end);  // "-1.25e-05"
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const auto digits = static_cast<int>(e - (text[0] == '-' ? 1 : 0)) - (text.find('.') < e ? 1 : 0);
  return fmt::format("{:.{}f}", number, std::max(1, digits - 1 - exponent));
}

std::string QuotedRepr(std::string_view text) {
  const char quote = QuoteFor(text);
  return quote + Escaped(text, quote) + quote;
}

Text Repr(const Value& value, const Meter& meter) {
  Text out;
  AppendRepr(value, 0, meter, &out);
  return out;
}

Text ToText(const Value& value, const Meter& meter) {
  if (value.IsString()) return value.text();
  if (value.IsUndefined()) return {};
  return Repr(value, meter);
}

}  // namespace mneme::jinja
