#include "chat/jinja/values/operators.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "chat/jinja/loop.h"
#include "chat/jinja/values/format.h"

namespace mneme::jinja {
namespace {

// A number that was computed from what a user gave is the user's.
TextKind Mix(const Value& a, const Value& b) {
  return a.kind() == TextKind::kPlain || b.kind() == TextKind::kPlain ? TextKind::kPlain : TextKind::kFormat;
}

[[noreturn]] void RaiseUnsupported(std::string_view name, const Value& a, const Value& b) {
  Raise(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", name == "**" ? "** or pow()" : name,
                    TypeName(a), TypeName(b)));
}

[[noreturn]] void RaiseTooLarge() { Raise("a number beyond 128 bits"); }

Int FloorDivide(Int a, Int b) {
  const Int quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

Int Modulo(Int a, Int b) {
  const Int rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

double Modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

Int Power(Int base, Int exponent) {
  Int result = 1;
  while (exponent > 0) {
    if (exponent & 1) {
      if (__builtin_mul_overflow(result, base, &result)) RaiseTooLarge();
    }
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) RaiseTooLarge();
  }
  return result;
}

Value Integers(std::string_view name, Int a, Int b, TextKind kind) {
  Int result = 0;
  bool overflow = false;
  constexpr Int kLowest = Int{1} << 126;  // far from the ends, so that / and % need no care
  if (name == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (name == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (name == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (name == "**") {
    if (b < 0) return {std::pow(static_cast<double>(a), static_cast<double>(b)), kind};
    result = Power(a, b);
  } else {
    if (b == 0) Raise("division by zero");
    if (name == "/") return {static_cast<double>(a) / static_cast<double>(b), kind};
    result = name == "//" ? FloorDivide(a, b) : Modulo(a, b);
  }
  if (overflow || result > kLowest || result < -kLowest) RaiseTooLarge();
  return {result, kind};
}

Value Numbers(std::string_view name, double a, double b, TextKind kind) {
  if (name == "+") return {a + b, kind};
  if (name == "-") return {a - b, kind};
  if (name == "*") return {a * b, kind};
  if (name == "**") return {std::pow(a, b), kind};
  if (b == 0) Raise("float division by zero");
  if (name == "/") return {a / b, kind};
  return {name == "//" ? std::floor(a / b) : Modulo(a, b), kind};
}

Value Repeat(const Value& value, Int times, Meter* meter) {
  const size_t size = value.IsString() ? value.text().size() : value.list().items.size() * sizeof(Value);
  if (times > INT64_MAX || times < INT64_MIN) Raise("cannot fit 'int' into an index-sized integer");
  if (size == 0) times = 0;
  if (times > 0 && times > static_cast<Int>(meter->limits().max_live_bytes / size)) {
    CheckSize(SIZE_MAX, *meter);
  }
  if (value.IsString()) {
    Text text;
    for (Int i = 0; i < times; ++i) text.Append(value.text());
    return MakeText(std::move(text), meter);
  }
  std::vector<Value> items;
  for (Int i = 0; i < times; ++i)
    items.insert(items.end(), value.list().items.begin(), value.list().items.end());
  return value.list().is_tuple ? MakeTuple(std::move(items), meter, value.kind())
                               : MakeList(std::move(items), meter, value.kind());
}

Value Add(const Value& a, const Value& b, Meter* meter) {
  if (a.IsString()) {
    if (!b.IsString()) Raise(fmt::format("can only concatenate str (not \"{}\") to str", TypeName(b)));
    Text text = a.text();
    text.Append(b.text());
    return MakeText(std::move(text), meter);
  }
  if (a.IsSequence()) {
    if (a.type() != b.type()) {
      Raise(fmt::format("can only concatenate {0} (not \"{1}\") to {0}", TypeName(a), TypeName(b)));
    }
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    return a.list().is_tuple ? MakeTuple(std::move(items), meter, Mix(a, b))
                             : MakeList(std::move(items), meter, Mix(a, b));
  }
  RaiseUnsupported("+", a, b);
}

// -1, 0, 1; lists and tuples by their items.
template <typename T>
int Order(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

bool CompareSequences(std::string_view name, const List& a, const List& b, Meter* meter) {
  const size_t size = std::min(a.items.size(), b.items.size());
  for (size_t i = 0; i < size; ++i)
    if (!Equals(a.items[i], b.items[i], meter)) return Compare(name, a.items[i], b.items[i], meter);
  return Compare(name, Value::Size(a.items.size()), Value::Size(b.items.size()), meter);
}

bool Holds(std::string_view name, int order) {
  if (name == "<") return order < 0;
  if (name == "<=") return order <= 0;
  return name == ">" ? order > 0 : order >= 0;
}

}  // namespace

Value MakeText(Text text, Meter* meter) {
  return Value(std::make_shared<const String>(std::move(text), meter));
}
Value MakeList(std::vector<Value> items, Meter* meter, TextKind kind) {
  return Value(std::make_shared<const List>(std::move(items), false, kind, meter));
}
Value MakeTuple(std::vector<Value> items, Meter* meter, TextKind kind) {
  return Value(std::make_shared<const List>(std::move(items), true, kind, meter));
}

Value Binary(std::string_view name, const Value& a, const Value& b, Meter* meter) {
  if (a.IsUndefined()) Raise(a.undefined_message());
  if (name == "%" && a.IsString()) return FormatPercent(a.text(), b, meter);
  if (b.IsUndefined()) Raise(b.undefined_message());
  if (a.IsIntegral() && b.IsIntegral()) return Integers(name, a.integer(), b.integer(), Mix(a, b));
  if (a.IsNumber() && b.IsNumber()) return Numbers(name, a.number(), b.number(), Mix(a, b));
  if (name == "+") return Add(a, b, meter);
  if (name == "*") {
    if ((a.IsString() || a.IsSequence()) && b.IsIntegral()) return Repeat(a, b.integer(), meter);
    if ((b.IsString() || b.IsSequence()) && a.IsIntegral()) return Repeat(b, a.integer(), meter);
  }
  RaiseUnsupported(name, a, b);
}

Value Unary(std::string_view name, const Value& a) {
  if (a.IsUndefined()) Raise(a.undefined_message());
  if (a.IsIntegral()) return {name == "-" ? -a.integer() : a.integer(), a.kind()};
  if (a.IsNumber()) return {name == "-" ? -a.number() : a.number(), a.kind()};
  Raise(fmt::format("bad operand type for unary {}: '{}'", name, TypeName(a)));
}

bool Compare(std::string_view name, const Value& a, const Value& b, Meter* meter) {
  if (name == "==") return Equals(a, b, meter);
  if (name == "!=") return !Equals(a, b, meter);
  if (a.IsUndefined()) Raise(a.undefined_message());
  if (b.IsUndefined()) Raise(b.undefined_message());
  if (a.IsIntegral() && b.IsIntegral()) return Holds(name, Order(a.integer(), b.integer()));
  if (a.IsNumber() && b.IsNumber()) {
    const double x = a.number(), y = b.number();
    return !std::isnan(x) && !std::isnan(y) && Holds(name, Order(x, y));
  }
  meter->Step(a.IsString() ? a.text().size() / 16 : 0);
  if (a.IsString() && b.IsString()) return Holds(name, Order(a.text().bytes(), b.text().bytes()));
  if (a.IsSequence() && a.type() == b.type()) return CompareSequences(name, a.list(), b.list(), meter);
  Raise(fmt::format("'{}' not supported between instances of '{}' and '{}'", name, TypeName(a), TypeName(b)));
}

bool Contains(const Value& container, const Value& item, Meter* meter) {
  meter->Step((container.IsString() ? container.text().size() : 0) / 16 +
              (item.IsString() ? item.text().size() : 0) / 16);
  switch (container.type()) {
    case Type::kString:
      if (!item.IsString()) {
        Raise(fmt::format("'in <string>' requires string as left operand, not {}", TypeName(item)));
      }
      return container.text().bytes().find(item.text().bytes()) != std::string::npos;
    case Type::kDict:
      return container.dict().Find(HashId(item)) != nullptr;
    case Type::kDictView:
      if (container.view().what == DictView::What::kKeys) {
        return container.view().dict->Find(HashId(item)) != nullptr;
      }
      [[fallthrough]];
    case Type::kUndefined:
    case Type::kList:
    case Type::kTuple:
    case Type::kRange:
    case Type::kGenerator: {
      const std::vector<Value> items = Iterate(container, meter);
      return std::any_of(items.begin(), items.end(),
                         [&](const Value& other) { return Equals(item, other, meter); });
    }
    default:
      Raise(fmt::format("argument of type '{}' is not iterable", TypeName(container)));
  }
}

}  // namespace mneme::jinja
