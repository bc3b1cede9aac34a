// json.dumps.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/text/utf8.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

// The character as JSON has it between quotes.
void AppendEscaped(const Utf8Char& c, std::string_view bytes, bool ensure_ascii, std::string* out) {
  switch (c.code) {
    case '"':
      *out += "\\\"";
      return;
    case '\\':
      *out += "\\\\";
      return;
    case '\n':
      *out += "\\n";
      return;
    case '\r':
      *out += "\\r";
      return;
    case '\t':
      *out += "\\t";
      return;
    case '\f':
      *out += "\\f";
      return;
    case '\b':
      *out += "\\b";
      return;
    default:
      break;
  }
  if (c.code >= ' ' && (!ensure_ascii || c.code < 0x7F)) {
    *out += bytes;
  } else if (c.code < 0x10000) {
    *out += fmt::format("\\u{:04x}", c.code);
  } else {
    const uint32_t rest = c.code - 0x10000;
    *out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
  }
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Meter* meter, Text* out) : style_(style), meter_(meter), out_(out) {}

  void Write(const Value& value, size_t level) {
    CheckSize(out_->size(), *meter_);
    switch (value.type()) {
      case Type::kString:
        WriteText(value.text());
        break;
      case Type::kList:
      case Type::kTuple:
        WriteList(value.list(), level);
        break;
      case Type::kDict:
        WriteDict(value.dict(), level);
        break;
      default:
        out_->Append(Scalar(value), value.kind());
    }
  }

 private:
  static std::string Scalar(const Value& value) {
    switch (value.type()) {
      case Type::kNone:
        return "null";
      case Type::kBool:
        return value.boolean() ? "true" : "false";
      case Type::kInt:
        return fmt::format("{}", value.integer());
      case Type::kFloat: {
        const double number = value.number();
        if (std::isnan(number)) return "NaN";
        if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
        return FloatRepr(number);
      }
      default:
        Raise(fmt::format("Object of type {} is not JSON serializable", TypeName(value)));
    }
  }

  void WriteText(const Text& text) {
    out_->Append("\"", text.KindAt(0));
    text.ForEachRun([&](std::string_view piece, TextKind kind) {
      std::string escaped;
      for (size_t at = 0; at < piece.size();) {
        const Utf8Char c = DecodeUtf8(piece.data() + at, piece.size() - at);
        AppendEscaped(c, piece.substr(at, c.length), style_.ensure_ascii, &escaped);
        at += c.length;
      }
      out_->Append(escaped, kind);
    });
    out_->Append("\"", text.KindAt(text.size()));
  }

  void NewLine(size_t level, TextKind kind) {
    if (!style_.indent) return;
    out_->Append("\n", kind);
    for (size_t i = 0; i < level; ++i) out_->Append(*style_.indent, kind);
  }

  void WriteList(const List& list, size_t level) {
    if (list.items.empty()) {
      out_->Append("[]", list.kind);
      return;
    }
    out_->Append("[", list.kind);
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_->Append(style_.item_separator, list.kind);
      NewLine(level + 1, list.kind);
      Write(list.items[i], level + 1);
    }
    NewLine(level, list.kind);
    out_->Append("]", list.kind);
  }

  void WriteKey(const Value& key) {
    if (key.IsString()) {
      WriteText(key.text());
      return;
    }
    if (!key.IsNumber() && !key.IsNone()) {
      Raise(fmt::format("keys must be str, int, float, bool or None, not {}", TypeName(key)));
    }
    out_->Append("\"" + Scalar(key) + "\"", key.kind());
  }

  void WriteDict(const Dict& dict, size_t level) {
    if (dict.entries.empty()) {
      out_->Append("{}", dict.kind);
      return;
    }
    std::vector<const Dict::Entry*> entries;
    for (const Dict::Entry& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [this](const Dict::Entry* a, const Dict::Entry* b) {
        return Compare("<", a->key, b->key, meter_);
      });
    }
    out_->Append("{", dict.kind);
    bool first = true;
    for (const Dict::Entry* entry : entries) {
      if (!first) out_->Append(style_.item_separator, dict.kind);
      first = false;
      NewLine(level + 1, dict.kind);
      WriteKey(entry->key);
      out_->Append(style_.key_separator, dict.kind);
      Write(entry->value, level + 1);
    }
    NewLine(level, dict.kind);
    out_->Append("}", dict.kind);
  }

  const JsonStyle& style_;
  Meter* meter_;
  Text* out_;
};

}  // namespace

Text ToJson(const Value& value, const JsonStyle& style, Meter* meter) {
  Text out;
  JsonWriter(style, meter, &out).Write(value, 0);
  return out;
}

}  // namespace mneme::jinja
