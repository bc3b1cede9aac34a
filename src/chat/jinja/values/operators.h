// Operators between values, as Python has them. All throw TemplateError where Python raises.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "chat/jinja/values/value.h"

namespace mneme::jinja {

// name: + - * / // % **
Value Binary(std::string_view name, const Value& a, const Value& b, Meter* meter);
// name: - +
Value Unary(std::string_view name, const Value& a);
// name: == != < <= > >=
bool Compare(std::string_view name, const Value& a, const Value& b, Meter* meter);
bool Contains(const Value& container, const Value& item, Meter* meter);
// text % values
Value FormatPercent(const Text& format, const Value& values, Meter* meter);

// Makers.
Value MakeText(Text text, Meter* meter);
Value MakeList(std::vector<Value> items, Meter* meter, TextKind kind = TextKind::kFormat);
Value MakeTuple(std::vector<Value> items, Meter* meter, TextKind kind = TextKind::kFormat);

// The items of anything that can be iterated over. A generator is empty afterwards.
std::vector<Value> Iterate(const Value& value, Meter* meter);
bool IsIterable(const Value& value);
// As len(); nothing for what has no length.
std::optional<size_t> Length(const Value& value);
// value[index] for an integer index, counted from the end where it is negative; nothing outside, or if it has
// none.
std::optional<Value> ItemAt(const Value& value, Int index, Meter* meter);
// value[start:stop:step]; the three are None or integers.
Value Slice(const Value& value, const Value& start, const Value& stop, const Value& step, Meter* meter);

}  // namespace mneme::jinja
