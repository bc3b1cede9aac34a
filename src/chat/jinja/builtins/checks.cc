// The tests: what stands behind `is`.
#include <fmt/format.h>

#include <algorithm>

#include "base/text/utf8.h"
#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

using In = Interpreter;

// Whether value % by == rest.
bool Leaves(In& in, const Value& value, const Value& by, Int rest) {
  return Equals(Binary("%", value, by, in.meter()), Value(rest), in.meter());
}

template <Type type>
bool IsA(In&, const Value& value, Arguments&) {
  return value.is(type);
}

bool Defined(In&, const Value& value, Arguments&) { return !value.IsUndefined(); }
bool Number(In&, const Value& value, Arguments&) { return value.IsNumber(); }
bool True(In&, const Value& value, Arguments&) { return value.is(Type::kBool) && value.boolean(); }
bool False(In&, const Value& value, Arguments&) { return value.is(Type::kBool) && !value.boolean(); }
bool Iterable(In&, const Value& value, Arguments&) { return IsIterable(value); }

// len and an element by number or key. Also dicts; Undefined has its own answers to both.
bool Sequence(In&, const Value& value, Arguments&) {
  return value.IsString() || value.IsSequence() || value.is(Type::kDict) || value.is(Type::kRange) ||
         value.IsUndefined();
}

bool Callable(In&, const Value& value, Arguments&) {
  return value.is(Type::kFunction) || value.is(Type::kMethod) || value.is(Type::kMacro) ||
         value.is(Type::kLoop) || value.is(Type::kJoiner) || value.IsUndefined();
}

bool Odd(In& in, const Value& value, Arguments&) { return Leaves(in, value, Value(Int{2}), 1); }
bool Even(In& in, const Value& value, Arguments&) { return Leaves(in, value, Value(Int{2}), 0); }

bool DivisibleBy(In& in, const Value& value, Arguments& arguments) {
  const Parameters parameters("divisibleby", arguments, {"num"}, 1);
  return Leaves(in, value, parameters[0], 0);
}

bool SameAs(In& in, const Value& value, Arguments& arguments) {
  const Parameters parameters("sameas", arguments, {"other"}, 1);
  const Value other = parameters[0];
  if (value.Address() != nullptr || other.Address() != nullptr) {
    // Python keeps one of each short string that stands in a template.
    return value.Address() == other.Address() ||
           (value.IsString() && other.IsString() && Equals(value, other, in.meter()));
  }
  return value.type() == other.type() && Equals(value, other, in.meter());
}

bool Within(In& in, const Value& value, Arguments& arguments) {
  return Contains(Parameters("in", arguments, {"seq"}, 1)[0], value, in.meter());
}

template <char c, bool or_equal>
bool Ordered(In& in, const Value& value, Arguments& arguments) {
  const std::string name = std::string(1, c) + (or_equal ? "=" : "");
  return Compare(name, value, Parameters(name, arguments, {"b"}, 1)[0], in.meter());
}

// All cased characters of the one case, and one at least.
bool HasCase(In& in, const Value& value, bool upper) {
  const Text text = in.Str(value);
  bool has_one = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text.view().data() + at, text.size() - at);
    if (upper ? IsLower(c.code) : IsUpper(c.code)) return false;
    has_one |= upper ? IsUpper(c.code) : IsLower(c.code);
    at += c.length;
  }
  return has_one;
}
bool Upper(In& in, const Value& value, Arguments&) { return HasCase(in, value, true); }
bool Lower(In& in, const Value& value, Arguments&) { return HasCase(in, value, false); }

bool Filter(In& in, const Value& value, Arguments&) { return FindFilter(in.Str(value).bytes()) != nullptr; }
bool Test(In& in, const Value& value, Arguments&) { return FindTest(in.Str(value).bytes()) != nullptr; }
bool Escaped(In&, const Value&, Arguments&) { return false; }

struct Row {
  std::string_view name;
  TestFunction function;
};
constexpr Row kTests[] = {
    {"defined", Defined},
    {"undefined", IsA<Type::kUndefined>},
    {"none", IsA<Type::kNone>},
    {"boolean", IsA<Type::kBool>},
    {"integer", IsA<Type::kInt>},
    {"float", IsA<Type::kFloat>},
    {"string", IsA<Type::kString>},
    {"mapping", IsA<Type::kDict>},
    {"number", Number},
    {"true", True},
    {"false", False},
    {"iterable", Iterable},
    {"sequence", Sequence},
    {"callable", Callable},
    {"odd", Odd},
    {"even", Even},
    {"divisibleby", DivisibleBy},
    {"sameas", SameAs},
    {"in", Within},
    {"upper", Upper},
    {"lower", Lower},
    {"filter", Filter},
    {"test", Test},
    {"escaped", Escaped},
    {"==", Ordered<'=', true>},
    {"eq", Ordered<'=', true>},
    {"equalto", Ordered<'=', true>},
    {"!=", Ordered<'!', true>},
    {"ne", Ordered<'!', true>},
    {">", Ordered<'>', false>},
    {"gt", Ordered<'>', false>},
    {"greaterthan", Ordered<'>', false>},
    {">=", Ordered<'>', true>},
    {"ge", Ordered<'>', true>},
    {"<", Ordered<'<', false>},
    {"lt", Ordered<'<', false>},
    {"lessthan", Ordered<'<', false>},
    {"<=", Ordered<'<', true>},
    {"le", Ordered<'<', true>},
};

}  // namespace

TestFunction FindTest(std::string_view name) { return FindIn(kTests, name); }

}  // namespace mneme::jinja
