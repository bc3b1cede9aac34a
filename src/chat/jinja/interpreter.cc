#include "chat/jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "chat/jinja/nest.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {

// A scope that no macro closes over is used again.
class Interpreter::ScopeHold {
 public:
  ScopeHold(Interpreter* interpreter, const Scope* parent) : interpreter_(interpreter), parent_(parent) {
    Take();
  }
  ~ScopeHold() { Release(); }
  ScopeHold(const ScopeHold&) = delete;
  ScopeHold& operator=(const ScopeHold&) = delete;
  Scope* get() const { return scope_; }
  // A fresh one, for the next turn of a loop.
  void Renew() {
    if (!scope_->is_captured) {
      scope_->variables.clear();
      return;
    }
    Take();
  }

 private:
  void Take() {
    auto& free = interpreter_->free_scopes_;
    if (free.empty()) {
      interpreter_->scopes_.push_back(std::make_unique<Scope>());
      free.push_back(interpreter_->scopes_.back().get());
    }
    scope_ = free.back();
    free.pop_back();
    scope_->parent = parent_;
  }
  void Release() {
    if (scope_->is_captured) return;
    scope_->variables.clear();
    interpreter_->free_scopes_.push_back(scope_);
  }

  Interpreter* interpreter_;
  const Scope* parent_;
  Scope* scope_ = nullptr;
};

// Variables may hold each other in circles; they are cut first.
Interpreter::~Interpreter() {
  for (const auto& scope : scopes_) scope->variables.clear();
  for (const auto& space : namespaces_) space->attributes.clear();
  variables_.variables.clear();
}

Text Interpreter::Run(const Body& body) {
  return Capture([&] {
    const ScopeHold scope(this, &variables_);
    Exec(body, scope.get());
  });
}

Text Interpreter::Capture(const std::function<void()>& run) {
  Text text;
  struct Restore {
    Interpreter* interpreter;
    Text* outside;
    ~Restore() {
      interpreter->meter_.Give(interpreter->out_->size());
      interpreter->out_ = outside;
    }
  };
  {
    const Restore restore{this, std::exchange(out_, &text)};
    run();
  }
  return text;
}

void Interpreter::Write(const Text& text) {
  if (out_->size() + text.size() > meter_.limits().max_output_bytes) {
    throw TemplateError{ErrorKind::kBudget,
                        fmt::format("it writes more than {} MiB", meter_.limits().max_output_bytes >> 20)};
  }
  meter_.Take(text.size());
  out_->Append(text);
}

Interpreter::Flow Interpreter::Exec(const Body& body, Scope* scope) {
  const Nest nest(&depth_, meter_);
  for (const auto& statement : body) {
    const Flow flow = ExecOne(*statement, scope);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecOne(const Statement& statement, Scope* scope) {
  using Kind = Statement::Kind;
  meter_.Step();
  line_ = statement.line;
  switch (statement.kind) {
    case Kind::kText:
      Write(Text(statement.text, TextKind::kFormat));
      break;
    case Kind::kOutput:
      for (const ExpressionPtr& expression : statement.expressions) Write(ToTextOf(Eval(*expression, scope)));
      break;
    case Kind::kIf:
      return ExecIf(statement, scope);
    case Kind::kFor:
      return ExecFor(statement, scope);
    case Kind::kSet:
      Assign(statement.targets[0], Eval(*statement.expressions[0], scope), scope);
      break;
    case Kind::kSetBlock:
      ExecSetBlock(statement, scope);
      break;
    case Kind::kMacro:
      ExecMacro(statement, scope);
      break;
    case Kind::kCall:
      ExecCall(statement, scope);
      break;
    case Kind::kFilter:
      ExecFilterBlock(statement, scope);
      break;
    case Kind::kWith:
      return ExecWith(statement, scope);
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecIf(const Statement& statement, Scope* scope) {
  for (const Statement::Branch& branch : statement.branches)
    if (IsTrue(Eval(*branch.condition, scope))) return Exec(branch.body, scope);
  return Exec(statement.otherwise, scope);
}

bool Interpreter::Passes(const Statement& statement, const Value& item, const Scope* scope) {
  const ScopeHold inner(this, scope);
  Assign(statement.targets[0], item, inner.get());
  return IsTrue(Eval(*statement.condition, inner.get()));
}

Interpreter::Flow Interpreter::ExecFor(const Statement& statement, Scope* scope) {
  const Value items = Eval(*statement.expressions[0], scope);
  line_ = statement.line;
  RunLoop(statement, Iterate(items, &meter_), scope, 0);
  return Flow::kNext;
}

void Interpreter::RunLoop(const Statement& statement, std::vector<Value> items, const Scope* scope,
                          int depth0) {
  Loop::Filter filter;
  if (statement.condition) {
    filter = [this, &statement, scope](const Value& item) { return Passes(statement, item, scope); };
  }
  const auto loop = std::make_shared<Loop>(std::move(items), std::move(filter), depth0, &meter_);
  struct AtEnd {
    Loop* loop;
    ~AtEnd() { loop->End(); }
  } at_end{loop.get()};
  loop->statement = statement.is_recursive ? &statement : nullptr;
  loop->scope = scope;
  ScopeHold inner(this, scope);
  while (loop->Next()) {
    meter_.Step();
    inner.Renew();
    Assign(statement.targets[0], loop->current(), inner.get());
    inner.get()->Set("loop", Value(loop));
    if (Exec(statement.body, inner.get()) == Flow::kBreak) break;
  }
  if (loop->index() >= 0) return;
  inner.Renew();
  Exec(statement.otherwise, inner.get());
}

void Interpreter::Assign(const Target& target, const Value& value, Scope* scope) {
  if (target.is_tuple) {
    const std::vector<Value> items = Iterate(value, &meter_);
    if (items.size() < target.parts.size()) {
      Raise(fmt::format("not enough values to unpack (expected {}, got {})", target.parts.size(),
                        items.size()));
    }
    if (items.size() > target.parts.size()) {
      Raise(fmt::format("too many values to unpack (expected {})", target.parts.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) Assign(target.parts[i], items[i], scope);
  } else if (target.attribute.empty()) {
    scope->Set(target.name, value);
  } else {
    const Value* space = scope->Find(target.name);
    if (space == nullptr || !space->is(Type::kNamespace)) {
      Raise("cannot assign attribute on non-namespace object");
    }
    Value* old = space->space().Find(target.attribute);
    if (old != nullptr) {
      *old = value;
    } else {
      charges_.push_back(std::make_unique<Charge>(&meter_, sizeof(Value) + target.attribute.size() + 64));
      space->space().attributes.emplace_back(target.attribute, value);
    }
  }
}

void Interpreter::ExecSetBlock(const Statement& statement, Scope* scope) {
  Text text = Capture([&] {
    const ScopeHold inner(this, scope);
    Exec(statement.body, inner.get());
  });
  Value value = Make(std::move(text));
  if (statement.expressions[0]) value = EvalFilter(*statement.expressions[0], &value, scope);
  Assign(statement.targets[0], value, scope);
}

void Interpreter::ExecFilterBlock(const Statement& statement, Scope* scope) {
  Text text = Capture([&] {
    const ScopeHold inner(this, scope);
    Exec(statement.body, inner.get());
  });
  const Value value = Make(std::move(text));
  Write(ToTextOf(EvalFilter(*statement.expressions[0], &value, scope)));
}

Interpreter::Flow Interpreter::ExecWith(const Statement& statement, Scope* scope) {
  const ScopeHold inner(this, scope);
  for (size_t i = 0; i < statement.targets.size(); ++i) {
    Assign(statement.targets[i], Eval(*statement.expressions[i], scope), inner.get());
  }
  return Exec(statement.body, inner.get());
}

Macro* Interpreter::NewMacro(const Statement& statement, Scope* scope) {
  for (Scope* at = scope; at != nullptr && !at->is_captured; at = const_cast<Scope*>(at->parent)) {
    at->is_captured = true;
  }
  charges_.push_back(std::make_unique<Charge>(&meter_, sizeof(Macro) + sizeof(Scope) + 64));
  macros_.push_back(std::make_unique<Macro>(Macro{&statement, scope, statement.name}));
  return macros_.back().get();
}

void Interpreter::ExecMacro(const Statement& statement, Scope* scope) {
  scope->Set(statement.name, Value(NewMacro(statement, scope)));
}

void Interpreter::ExecCall(const Statement& statement, Scope* scope) {
  const Expression& call = *statement.expressions[0];
  const Value callee = Eval(*call.parts[0], scope);
  Arguments arguments = EvalArguments(call.call, scope);
  arguments.named.emplace_back("caller", Value(NewMacro(statement, scope)));
  line_ = statement.line;
  Write(ToTextOf(Call(callee, arguments)));
}

// Parameters from the arguments, the rest as varargs, kwargs and caller, where the body asks for them.
void Interpreter::BindParameters(const Macro& macro, Arguments& arguments, Scope* scope) {
  const Statement& statement = *macro.statement;
  const size_t num_given = std::min(arguments.positional.size(), statement.parameters.size());
  auto& named = arguments.named;
  const auto take = [&](std::string_view name) {
    const auto found =
        std::find_if(named.begin(), named.end(), [&](const auto& arg) { return arg.first == name; });
    std::optional<Value> value;
    if (found == named.end()) return value;
    value = std::move(found->second);
    named.erase(found);
    return value;
  };
  bool has_caller = false;
  for (size_t i = 0; i < statement.parameters.size(); ++i) {
    const Statement::Parameter& parameter = statement.parameters[i];
    has_caller |= parameter.name == "caller";
    std::optional<Value> value;
    if (i < num_given) {
      value = arguments.positional[i];
    } else {
      value = take(parameter.name);
    }
    if (!value && parameter.standard) value = Eval(*parameter.standard, scope);
    if (!value) value = Value::Undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    scope->Set(parameter.name, *value);
  }
  if (statement.uses_caller && !has_caller) {
    scope->Set("caller", take("caller").value_or(Value::Undefined("No caller defined")));
  }
  if (statement.uses_kwargs) {
    std::vector<Dict::Entry> entries;
    for (auto& [name, value] : named) {
      entries.push_back({HashId(name), Make(Text(name, TextKind::kFormat)), std::move(value)});
    }
    scope->Set("kwargs", Value(std::make_shared<const Dict>(std::move(entries), TextKind::kFormat, &meter_)));
  } else if (!named.empty()) {
    Raise(fmt::format("macro '{}' takes no keyword argument '{}'", macro.name, named[0].first));
  }
  std::vector<Value> rest(arguments.positional.begin() + static_cast<ptrdiff_t>(num_given),
                          arguments.positional.end());
  if (statement.uses_varargs) {
    scope->Set("varargs", MakeTuple(std::move(rest), &meter_));
  } else if (!rest.empty()) {
    Raise(fmt::format("macro '{}' takes not more than {} argument(s)", macro.name,
                      statement.parameters.size()));
  }
}

Value Interpreter::CallMacro(const Macro& macro, Arguments& arguments) {
  const Nest nest(&depth_, meter_);
  const ScopeHold scope(this, macro.scope);
  const int line = line_;
  BindParameters(macro, arguments, scope.get());
  Text text = Capture([&] { Exec(macro.statement->body, scope.get()); });
  line_ = line;
  return Make(std::move(text));
}

Value Interpreter::CallLoop(Loop& loop, Arguments& arguments) {
  if (loop.statement == nullptr) {
    Raise("the loop must have the 'recursive' marker to be called recursively");
  }
  if (arguments.positional.size() != 1) Raise("a loop is called with one argument, what it is to run over");
  const Nest nest(&depth_, meter_);
  std::vector<Value> items = Iterate(arguments.positional[0], &meter_);
  return Make(Capture([&] { RunLoop(*loop.statement, std::move(items), loop.scope, loop.depth0() + 1); }));
}

Namespace* Interpreter::NewNamespace() {
  charges_.push_back(std::make_unique<Charge>(&meter_, sizeof(Namespace) + 64));
  namespaces_.push_back(std::make_unique<Namespace>());
  return namespaces_.back().get();
}

Value Interpreter::Make(Text text) { return MakeText(std::move(text), &meter_); }

Text Interpreter::ToTextOf(const Value& value) { return ToText(value, meter_); }

}  // namespace mneme::jinja
