// Variables, and the macros that close over them.
#pragma once

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/jinja/syntax/ast.h"
#include "chat/jinja/values/value.h"

namespace mneme::jinja {

// The variables of a block, a turn of a loop or a call of a macro. The names are the tree's.
struct Scope {
  const Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> variables;
  bool is_captured = false;  // a macro sees it: it stays until the rendering ends

  const Value* Find(std::string_view name) const {
    for (const auto& [key, value] : variables)
      if (key == name) return &value;
    return parent == nullptr ? nullptr : parent->Find(name);
  }
  void Set(std::string_view name, Value value) {
    for (auto& [key, old] : variables) {
      if (key != name) continue;
      old = std::move(value);
      return;
    }
    variables.emplace_back(name, std::move(value));
  }
};

struct Macro {
  const Statement* statement;
  const Scope* scope;  // where it was written
  std::string_view name;
};

}  // namespace mneme::jinja
