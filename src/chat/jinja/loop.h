// A `for` while it runs: the items, and what `loop` tells of them.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "chat/jinja/macro.h"
#include "chat/jinja/syntax/ast.h"
#include "chat/jinja/values/value.h"

namespace mneme::jinja {

class Loop {
 public:
  // Whether an item passes the loop's `if`; null: all do. Asked in order, and not before the item is needed.
  using Filter = std::function<bool(const Value& item)>;
  Loop(std::vector<Value> items, Filter filter, int depth0, Meter* meter);

  // Moves on to the next item; false at the end.
  bool Next();
  const Value& current() const { return current_; }
  // Number of the item, from 0.
  int64_t index() const { return index_; }
  int depth0() const { return depth0_; }
  size_t Length() const;
  // loop.NAME; nothing if there is no such attribute.
  std::optional<Value> Attribute(std::string_view name) const;
  // Whether this differs from what it was called with last.
  bool Changed(std::vector<Value> values, Meter* meter);
  // Forgets what it holds, and keeps nothing from then on: no loop keeps itself alive.
  void End();

  // To run it again on other items, from within (`recursive`).
  const Statement* statement = nullptr;
  const Scope* scope = nullptr;

 private:
  // The next item that passes, or null at the end.
  const Value* Peek() const;

  Charge charge_;
  mutable std::vector<Value> items_;
  mutable Filter filter_;  // null once all were asked
  mutable size_t next_ = 0;
  mutable bool is_next_known_ = false;  // items_[next_] passes
  int64_t index_ = -1;
  int depth0_;
  bool is_over_ = false;
  Value current_, previous_;
  std::optional<std::vector<Value>> last_changed_;
};

}  // namespace mneme::jinja
