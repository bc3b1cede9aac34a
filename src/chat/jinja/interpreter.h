// Runs a template's tree on variables.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "chat/jinja/loop.h"
#include "chat/jinja/macro.h"
#include "chat/jinja/syntax/ast.h"
#include "chat/jinja/values/value.h"

namespace mneme::jinja {

// One rendering. One thread.
class Interpreter {
 public:
  // The moment that strftime_now tells.
  Interpreter(const Limits& limits, const std::tm& now) : meter_(limits), now_(now) {}
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  Meter* meter() { return &meter_; }
  const std::tm& now() const { return now_; }
  // Of what runs, for messages.
  int line() const { return line_; }
  void Define(std::string_view name, Value value) { variables_.Set(name, std::move(value)); }
  // Throws TemplateError; line() says where.
  Text Run(const Body& body);

  // What filters and functions need. value.name, and value[key], as templates mean them.
  Value Attribute(const Value& value, std::string_view name);
  Value Item(const Value& value, const Value& key);
  Value Call(const Value& callee, Arguments& arguments);
  Value CallFilter(const std::string& name, const Value& input, Arguments& arguments);
  bool CallTest(const std::string& name, const Value& input, Arguments& arguments);
  Namespace* NewNamespace();
  Text Str(const Value& value) { return ToTextOf(value); }
  Value Make(Text text);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // Statements. interpreter.cc
  Flow Exec(const Body& body, Scope* scope);
  Flow ExecOne(const Statement& statement, Scope* scope);
  Flow ExecIf(const Statement& statement, Scope* scope);
  Flow ExecFor(const Statement& statement, Scope* scope);
  void RunLoop(const Statement& statement, std::vector<Value> items, const Scope* scope, int depth0);
  bool Passes(const Statement& statement, const Value& item, const Scope* scope);
  void ExecSetBlock(const Statement& statement, Scope* scope);
  void ExecMacro(const Statement& statement, Scope* scope);
  void ExecCall(const Statement& statement, Scope* scope);
  void ExecFilterBlock(const Statement& statement, Scope* scope);
  Flow ExecWith(const Statement& statement, Scope* scope);
  void Assign(const Target& target, const Value& value, Scope* scope);
  Macro* NewMacro(const Statement& statement, Scope* scope);
  Value CallMacro(const Macro& macro, Arguments& arguments);
  void BindParameters(const Macro& macro, Arguments& arguments, Scope* scope);
  Value CallLoop(Loop& loop, Arguments& arguments);
  void Write(const Text& text);
  // What `run` writes.
  Text Capture(const std::function<void()>& run);

  // Expressions. evaluate.cc
  Value Eval(const Expression& node, const Scope* scope);
  Value EvalNode(const Expression& node, const Scope* scope);
  Value EvalName(const Expression& node, const Scope* scope);
  Value EvalParts(const Expression& node, const Scope* scope);
  Value EvalDict(const Expression& node, const Scope* scope);
  Value EvalSlice(const Expression& node, const Scope* scope);
  Value EvalCompare(const Expression& node, const Scope* scope);
  Value EvalConcat(const Expression& node, const Scope* scope);
  Value EvalConditional(const Expression& node, const Scope* scope);
  // Applies the filter, and those that stand before it, to the input of a filter block.
  Value EvalFilter(const Expression& node, const Value* input, const Scope* scope);
  Arguments EvalArguments(const Expression::Call& call, const Scope* scope);
  Text ToTextOf(const Value& value);

  class Nest;       // counts what is open
  class ScopeHold;  // a scope for as long as it lives

  Meter meter_;  // first: everything below gives back to it
  std::tm now_;
  int line_ = 1;
  int depth_ = 0;
  Scope variables_;  // the conversation's
  std::vector<std::unique_ptr<Scope>> scopes_;
  std::vector<Scope*> free_scopes_;
  std::vector<std::unique_ptr<Namespace>> namespaces_;
  std::vector<std::unique_ptr<Macro>> macros_;
  std::vector<std::unique_ptr<Charge>> charges_;  // of what stays until the end
  Text* out_ = nullptr;
};

}  // namespace mneme::jinja
