// A template as a tree.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chat/jinja/values/value.h"

namespace mneme::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kConstant,     // value
    kName,         // name
    kList,         // parts
    kTuple,        // parts
    kDict,         // parts: key, value, key, value, ...
    kAttribute,    // parts[0].name
    kItem,         // parts[0][parts[1]]
    kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], any of the three may be null
    kCall,         // parts[0](call)
    kFilter,       // parts[0] | name(call); parts[0] is null at the head of a filter block
    kTest,         // parts[0] is name(call)
    kNot,          // not parts[0]
    kUnary,        // name parts[0]
    kBinary,       // parts[0] name parts[1], with name one of + - * / // % **
    kCompare,      // parts[0] operators[0] parts[1] operators[1] parts[2] ...
    kConcat,       // parts joined by ~
    kAnd,          // parts[0] and parts[1]
    kOr,           // parts[0] or parts[1]
    kConditional,  // parts[1] if parts[0] else parts[2]; parts[2] may be null
  };
  // Of a call, filter or test.
  struct Call {
    std::vector<ExpressionPtr> positional;
    std::vector<std::pair<std::string, ExpressionPtr>> named;
    ExpressionPtr list;  // *list; may be null
    ExpressionPtr dict;  // **dict; may be null
  };

  Kind kind;
  int line;
  int depth = 1;
  std::string name = {};
  Value value = {};
  std::vector<ExpressionPtr> parts = {};
  std::vector<std::string> operators = {};
  Call call = {};
};

// What is assigned to: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  std::string name;
  std::string attribute;      // not empty: name.attribute
  std::vector<Target> parts;  // of a tuple; name is empty then
  bool is_tuple = false;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // {{ expressions }}
    kIf,        // branches, otherwise
    kFor,       // for target in expressions[0] if condition: body, otherwise; is_recursive
    kSet,       // target = expressions[0]
    kSetBlock,  // target = body through the filters of expressions[0], which may be null
    kMacro,     // name, parameters, body
    kCall,      // expressions[0] (a call) with the body as `caller`, which has parameters
    kFilter,    // body through the filters of expressions[0]
    kWith,      // targets[i] = expressions[i]: body. Without targets: a scope
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;
    Body body;
  };
  struct Parameter {
    std::string name;
    ExpressionPtr standard;  // may be null
  };

  Kind kind;
  int line;
  std::string text = {};
  std::string name = {};
  std::vector<Target> targets = {};
  std::vector<ExpressionPtr> expressions = {};
  ExpressionPtr condition = {};
  std::vector<Branch> branches = {};
  std::vector<Parameter> parameters = {};
  Body body = {};
  Body otherwise = {};
  bool is_recursive = false;
  // Of a macro: which of the special names its body mentions.
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

}  // namespace mneme::jinja
