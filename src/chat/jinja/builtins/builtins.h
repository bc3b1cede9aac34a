// What templates can call: filters, tests, functions, and the methods of strings, lists and dicts.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "chat/jinja/interpreter.h"

namespace mneme::jinja {

using FilterFunction = Value (*)(Interpreter& interpreter, const Value& input, Arguments& arguments);
using TestFunction = bool (*)(Interpreter& interpreter, const Value& input, Arguments& arguments);
using TextMethod = Value (*)(Interpreter& interpreter, const Text& self, Arguments& arguments);

// Null for a name that is not known.
FilterFunction FindFilter(std::string_view name);
FilterFunction FindTextFilter(std::string_view name);
FilterFunction FindListFilter(std::string_view name);
TestFunction FindTest(std::string_view name);
const Function* FindFunction(std::string_view name);
TextMethod FindTextMethod(std::string_view name);
TextMethod FindSplitMethod(std::string_view name);

bool HasMethod(const Value& value, std::string_view name);
// A method that the sandbox forbids, because it would change its list or dict.
bool ChangesItsObject(const Value& value, std::string_view name);
Value CallMethod(Interpreter& interpreter, const Method& method, Arguments& arguments);

// The arguments of one call by the names of its parameters, as Python binds them. Throws TemplateError for
// too many, unknown names, and where one of the first `num_required` is missing.
class Parameters {
 public:
  Parameters(std::string_view function, Arguments& arguments, std::initializer_list<std::string_view> names,
             size_t num_required = 0);
  bool has(size_t i) const { return values_[i].has_value(); }
  // None where it was not given.
  Value operator[](size_t i) const { return values_[i].value_or(Value()); }
  bool Bool(size_t i, bool otherwise = false) const;
  Int Integer(size_t i, Int otherwise) const;
  // Throws for what is no string.
  Text String(size_t i) const;

 private:
  std::string_view function_;
  std::vector<std::optional<Value>> values_;
};

class DictBuilder {
 public:
  explicit DictBuilder(TextKind kind = TextKind::kFormat) : kind_(kind) {}
  void Set(const Value& key, Value value);
  void SetIfNew(const Value& key, Value value);
  Value Make(Meter* meter);

 private:
  TextKind kind_;
  std::vector<Dict::Entry> entries_;
  std::unordered_map<std::string, size_t> places_;
};

// Looked up in a table of {name, function}.
template <typename Table>
auto FindIn(const Table& table, std::string_view name) -> decltype(table[0].function) {
  for (const auto& row : table)
    if (row.name == name) return row.function;
  return nullptr;
}

// Shared between filters and methods.
Value Mapped(Interpreter& interpreter, const Text& text, Case to);
Value Capitalized(Interpreter& interpreter, const Text& text);
// `sides`: 1 left, 2 right, 3 both; without characters to cut, white space.
Value Stripped(Interpreter& interpreter, const Text& text, const Value& characters, int sides);
Value Replaced(Interpreter& interpreter, const Text& text, const Text& old, const Text& with, Int count);
Value Centered(Interpreter& interpreter, const Text& text, Int width, const Text& fill, int sides);
std::vector<Value> Lines(Interpreter& interpreter, const Text& text, bool keep_ends);
Value JoinedBy(Interpreter& interpreter, const Text& separator, const std::vector<Value>& items);

}  // namespace mneme::jinja
