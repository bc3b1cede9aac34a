#include "chat/jinja/template.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text/utf8.h"
#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/interpreter.h"
#include "chat/jinja/syntax/parser.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kTokenVariables[] = {"bos_token", "eos_token", "pad_token", "unk_token",
                                                "sep_token", "cls_token", "mask_token"};
constexpr std::string_view kRoles[] = {"system", "user", "assistant", "tool"};

template <size_t n>
bool IsOneOf(std::string_view name, const std::string_view (&names)[n]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

void CheckText(std::string_view source, const std::string& name) {
  if (source.size() > kMaxTemplateBytes) {
    Fail(ErrorKind::kFile, "{}: the template has {} bytes; more than {} are refused", name, source.size(),
         kMaxTemplateBytes);
  }
  for (size_t at = 0; at < source.size();) {
    const Utf8Char c = DecodeUtf8(source.data() + at, source.size() - at);
    if (!c.valid) Fail(ErrorKind::kFile, "{}: the template is not UTF-8 from byte {} on", name, at);
    at += c.length;
  }
}

Value MessageValue(const Json& message) {
  if (!message.is_object()) return FromJson(message, TextKind::kPlain);
  DictBuilder dict(TextKind::kPlain);
  for (const auto& [key, value] : message.items()) {
    const bool is_role =
        key == "role" && value.is_string() && IsOneOf(value.get_ref<const std::string&>(), kRoles);
    dict.Set(MakeText(Text(key, TextKind::kPlain), nullptr),
             FromJson(value, is_role ? TextKind::kFormat : TextKind::kPlain));
  }
  return dict.Make(nullptr);
}

}  // namespace

Value FromJson(const Json& json, TextKind kind) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return {json.get<bool>(), kind};
    case Json::value_t::number_integer:
      return {Int{json.get<int64_t>()}, kind};
    case Json::value_t::number_unsigned:
      return {static_cast<Int>(json.get<uint64_t>()), kind};
    case Json::value_t::number_float:
      return {json.get<double>(), kind};
    case Json::value_t::string:
      return MakeText(Text(json.get_ref<const std::string&>(), kind), nullptr);
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(FromJson(item, kind));
      return MakeList(std::move(items), nullptr, kind);
    }
    case Json::value_t::object: {
      DictBuilder dict(kind);
      for (const auto& [key, value] : json.items()) {
        dict.Set(MakeText(Text(key, kind), nullptr), FromJson(value, kind));
      }
      return dict.Make(nullptr);
    }
    default:
      return Value::NoneOf(kind);
  }
}

Variables ConversationVariables(const Json& conversation) {
  Variables variables;
  for (const auto& [key, value] : conversation.items()) {
    if (key == "messages" && value.is_array()) {
      std::vector<Value> messages;
      for (const Json& message : value) messages.push_back(MessageValue(message));
      variables.emplace_back(key, MakeList(std::move(messages), nullptr, TextKind::kPlain));
    } else {
      const bool is_token = value.is_string() && IsOneOf(key, kTokenVariables);
      variables.emplace_back(key, FromJson(value, is_token ? TextKind::kFormat : TextKind::kPlain));
    }
  }
  return variables;
}

Template::Template(std::string_view source, std::string name) : name_(std::move(name)) {
  CheckText(source, name_);
  try {
    body_ = Parse(source);
  } catch (const SyntaxError& error) {
    Fail(ErrorKind::kFile, "{}, line {}: {}", name_, error.line, Printable(error.message));
  }
}

std::vector<Segment> Template::Render(const Variables& variables, const std::tm& now,
                                      const Limits& limits) const {
  Interpreter interpreter(limits, now);
  for (const auto& [name, value] : variables) interpreter.Define(name, value);
  Text text;
  try {
    text = interpreter.Run(body_);
  } catch (const TemplateError& error) {
    Fail(error.kind, "{}, line {}: {}", name_, interpreter.line(), Printable(error.message));
  }
  std::vector<Segment> segments;
  text.ForEachRun([&](std::string_view piece, TextKind kind) {
    segments.push_back({std::string(piece), kind});
  });
  return segments;
}

}  // namespace mneme::jinja
