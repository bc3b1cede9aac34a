// Expressions, and how values are looked into and called.
#include <fmt/format.h>

#include <algorithm>

#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/interpreter.h"
#include "chat/jinja/nest.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

// "'list object' has no attribute 'strip'", "dict object has no element 5".
Value Missing(const Value& value, const Value& key, const Meter& meter) {
  std::string type(TypeName(value));
  if (value.is(Type::kNamespace)) type = "jinja2.utils.Namespace";
  if (value.is(Type::kLoop) || value.is(Type::kMacro)) type = "jinja2.runtime." + type;
  type = value.IsNone() ? "None" : type + " object";
  if (key.IsString()) {
    return Value::Undefined(fmt::format("'{}' has no attribute {}", type, QuotedRepr(key.text().view())));
  }
  return Value::Undefined(fmt::format("{} has no element {}", type, Repr(key, meter).bytes()));
}

std::optional<Value> MacroAttribute(const Macro& macro, std::string_view name, Meter* meter) {
  const Statement& statement = *macro.statement;
  if (name == "name") return MakeText(Text(macro.name, TextKind::kFormat), meter);
  if (name == "catch_kwargs") return Value(statement.uses_kwargs);
  if (name == "catch_varargs") return Value(statement.uses_varargs);
  if (name == "caller") return Value(statement.uses_caller);
  if (name != "arguments") return std::nullopt;
  std::vector<Value> names;
  for (const Statement::Parameter& parameter : statement.parameters) {
    names.push_back(MakeText(Text(parameter.name, TextKind::kFormat), meter));
  }
  return MakeTuple(std::move(names), meter);
}

// What Python's getattr finds: methods, and what our own objects have.
std::optional<Value> ObjectAttribute(const Value& value, std::string_view name, Meter* meter) {
  switch (value.type()) {
    case Type::kNamespace: {
      const Value* found = value.space().Find(name);
      return found == nullptr ? std::nullopt : std::optional(*found);
    }
    case Type::kLoop:
      if (name != "cycle" && name != "changed") return value.loop().Attribute(name);
      return Value(std::make_shared<const Method>(Method{value, std::string(name)}));
    case Type::kMacro:
      return MacroAttribute(value.macro(), name, meter);
    case Type::kCycler:
      if (name == "current") return value.cycler().items[value.cycler().next];
      break;
    default:
      break;
  }
  if (!HasMethod(value, name)) return std::nullopt;
  return Value(std::make_shared<const Method>(Method{value, std::string(name)}));
}

// What the sandbox keeps from templates: an error for whoever uses it.
std::optional<Value> UnsafeAttribute(const Value& value, std::string_view name) {
  if (!name.starts_with("__") && !ChangesItsObject(value, name)) return std::nullopt;
  return Value::Undefined(
      fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, TypeName(value)));
}

// value[key] where the key is looked up, not an attribute.
std::optional<Value> Element(const Value& value, const Value& key, Meter* meter) {
  if (value.is(Type::kDict)) {
    const Value* found = value.dict().Find(HashId(key));
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  return key.IsIntegral() ? ItemAt(value, key.integer(), meter) : std::nullopt;
}

}  // namespace

// As Jinja2: an attribute first, then an element of the name.
Value Interpreter::Attribute(const Value& value, std::string_view name) {
  if (value.IsUndefined()) Raise(value.undefined_message());
  if (std::optional<Value> found = ObjectAttribute(value, name, &meter_)) return *found;
  if (std::optional<Value> unsafe = UnsafeAttribute(value, name)) return *unsafe;
  if (value.is(Type::kDict)) {
    if (const Value* found = value.dict().Find(HashId(name))) return *found;
  }
  return Missing(value, Make(Text(name, TextKind::kFormat)), meter_);
}

// The other way round.
Value Interpreter::Item(const Value& value, const Value& key) {
  if (value.IsUndefined()) Raise(value.undefined_message());
  const bool is_hashable = !key.is(Type::kList) && !key.is(Type::kDict);
  if (is_hashable) {
    if (std::optional<Value> found = Element(value, key, &meter_)) return *found;
  }
  if (key.IsString()) {
    if (std::optional<Value> found = ObjectAttribute(value, key.text().view(), &meter_)) return *found;
    if (std::optional<Value> unsafe = UnsafeAttribute(value, key.text().view())) return *unsafe;
  }
  return Missing(value, key, meter_);
}

Value Interpreter::Call(const Value& callee, Arguments& arguments) {
  meter_.Step();
  switch (callee.type()) {
    case Type::kUndefined:
      Raise(callee.undefined_message());
    case Type::kFunction:
      return callee.function().call(*this, arguments);
    case Type::kMethod:
      return CallMethod(*this, callee.method(), arguments);
    case Type::kMacro:
      return CallMacro(callee.macro(), arguments);
    case Type::kLoop:
      return CallLoop(callee.loop(), arguments);
    case Type::kJoiner: {
      Joiner& joiner = callee.joiner();
      return std::exchange(joiner.was_used, true) ? joiner.separator : Make({});
    }
    default:
      Raise(fmt::format("'{}' object is not callable", TypeName(callee)));
  }
}

Value Interpreter::CallFilter(const std::string& name, const Value& input, Arguments& arguments) {
  const FilterFunction filter = FindFilter(name);
  if (filter == nullptr) {
    throw TemplateError{ErrorKind::kUnsupported, fmt::format("no filter named '{}' is known here", name)};
  }
  meter_.Step();
  return filter(*this, input, arguments);
}

bool Interpreter::CallTest(const std::string& name, const Value& input, Arguments& arguments) {
  const TestFunction test = FindTest(name);
  if (test == nullptr) {
    throw TemplateError{ErrorKind::kUnsupported, fmt::format("no test named '{}' is known here", name)};
  }
  meter_.Step();
  return test(*this, input, arguments);
}

Value Interpreter::Eval(const Expression& node, const Scope* scope) {
  if (node.kind == Expression::Kind::kConstant) return node.value;
  const Nest nest(&depth_, meter_);
  meter_.Step();
  line_ = node.line;
  return EvalNode(node, scope);
}

Value Interpreter::EvalNode(const Expression& node, const Scope* scope) {
  using Kind = Expression::Kind;
  switch (node.kind) {
    case Kind::kConstant:
      return node.value;
    case Kind::kName:
      return EvalName(node, scope);
    case Kind::kList:
    case Kind::kTuple:
      return EvalParts(node, scope);
    case Kind::kDict:
      return EvalDict(node, scope);
    case Kind::kAttribute: {
      const Value value = Eval(*node.parts[0], scope);
      line_ = node.line;
      return Attribute(value, node.name);
    }
    case Kind::kItem: {
      const Value value = Eval(*node.parts[0], scope);
      const Value key = Eval(*node.parts[1], scope);
      line_ = node.line;
      return Item(value, key);
    }
    case Kind::kSlice:
      return EvalSlice(node, scope);
    case Kind::kCall: {
      const Value callee = Eval(*node.parts[0], scope);
      Arguments arguments = EvalArguments(node.call, scope);
      line_ = node.line;
      return Call(callee, arguments);
    }
    case Kind::kFilter:
      return EvalFilter(node, nullptr, scope);
    case Kind::kTest: {
      const Value value = Eval(*node.parts[0], scope);
      Arguments arguments = EvalArguments(node.call, scope);
      line_ = node.line;
      return Value(CallTest(node.name, value, arguments));
    }
    case Kind::kNot:
      return Value(!IsTrue(Eval(*node.parts[0], scope)));
    case Kind::kUnary:
      return Unary(node.name, Eval(*node.parts[0], scope));
    case Kind::kBinary: {
      const Value a = Eval(*node.parts[0], scope);
      const Value b = Eval(*node.parts[1], scope);
      line_ = node.line;
      return Binary(node.name, a, b, &meter_);
    }
    case Kind::kCompare:
      return EvalCompare(node, scope);
    case Kind::kConcat:
      return EvalConcat(node, scope);
    case Kind::kAnd: {
      Value a = Eval(*node.parts[0], scope);
      return IsTrue(a) ? Eval(*node.parts[1], scope) : a;
    }
    case Kind::kOr: {
      Value a = Eval(*node.parts[0], scope);
      return IsTrue(a) ? a : Eval(*node.parts[1], scope);
    }
    case Kind::kConditional:
      return EvalConditional(node, scope);
  }
  return {};
}

Value Interpreter::EvalName(const Expression& node, const Scope* scope) {
  if (const Value* found = scope->Find(node.name)) return *found;
  if (const Function* function = FindFunction(node.name)) return Value(function);
  return Value::Undefined(fmt::format("'{}' is undefined", node.name));
}

Value Interpreter::EvalParts(const Expression& node, const Scope* scope) {
  std::vector<Value> items;
  for (const ExpressionPtr& part : node.parts) items.push_back(Eval(*part, scope));
  if (node.kind == Expression::Kind::kTuple) return MakeTuple(std::move(items), &meter_);
  return MakeList(std::move(items), &meter_);
}

Value Interpreter::EvalDict(const Expression& node, const Scope* scope) {
  DictBuilder dict;
  for (size_t i = 0; i < node.parts.size(); i += 2) {
    const Value key = Eval(*node.parts[i], scope);
    dict.Set(key, Eval(*node.parts[i + 1], scope));
  }
  return dict.Make(&meter_);
}

Value Interpreter::EvalSlice(const Expression& node, const Scope* scope) {
  const Value value = Eval(*node.parts[0], scope);
  const auto part = [&](size_t i) { return node.parts[i] ? Eval(*node.parts[i], scope) : Value(); };
  const Value start = part(1), stop = part(2), step = part(3);
  line_ = node.line;
  return Slice(value, start, stop, step, &meter_);
}

Value Interpreter::EvalCompare(const Expression& node, const Scope* scope) {
  Value a = Eval(*node.parts[0], scope);
  for (size_t i = 0; i < node.operators.size(); ++i) {
    Value b = Eval(*node.parts[i + 1], scope);
    line_ = node.line;
    const std::string& name = node.operators[i];
    const bool holds = name == "in"       ? Contains(b, a, &meter_)
                       : name == "not in" ? !Contains(b, a, &meter_)
                                          : Compare(name, a, b, &meter_);
    if (!holds) return Value(false);
    a = std::move(b);
  }
  return Value(true);
}

Value Interpreter::EvalConcat(const Expression& node, const Scope* scope) {
  Text text;
  for (const ExpressionPtr& part : node.parts) {
    text.Append(ToTextOf(Eval(*part, scope)));
    CheckSize(text.size(), meter_);
  }
  return Make(std::move(text));
}

Value Interpreter::EvalConditional(const Expression& node, const Scope* scope) {
  if (IsTrue(Eval(*node.parts[0], scope))) return Eval(*node.parts[1], scope);
  if (node.parts[2]) return Eval(*node.parts[2], scope);
  return Value::Undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", node.line));
}

Value Interpreter::EvalFilter(const Expression& node, const Value* input, const Scope* scope) {
  const Nest nest(&depth_, meter_);
  const Expression* before = node.parts[0].get();
  Value value;
  if (before == nullptr) {
    value = *input;
  } else if (input != nullptr) {
    value = EvalFilter(*before, input, scope);
  } else {
    value = Eval(*before, scope);
  }
  Arguments arguments = EvalArguments(node.call, scope);
  line_ = node.line;
  return CallFilter(node.name, value, arguments);
}

Arguments Interpreter::EvalArguments(const Expression::Call& call, const Scope* scope) {
  Arguments arguments;
  for (const ExpressionPtr& part : call.positional) arguments.positional.push_back(Eval(*part, scope));
  for (const auto& [name, part] : call.named) arguments.named.emplace_back(name, Eval(*part, scope));
  if (call.list) {
    for (Value& item : Iterate(Eval(*call.list, scope), &meter_))
      arguments.positional.push_back(std::move(item));
  }
  if (call.dict) {
    const Value dict = Eval(*call.dict, scope);
    if (!dict.is(Type::kDict))
      Raise(fmt::format("argument after ** must be a mapping, not {}", TypeName(dict)));
    for (const Dict::Entry& entry : dict.dict().entries) {
      if (!entry.key.IsString()) Raise("keywords must be strings");
      arguments.named.emplace_back(entry.key.text().bytes(), entry.value);
    }
  }
  return arguments;
}

}  // namespace mneme::jinja
