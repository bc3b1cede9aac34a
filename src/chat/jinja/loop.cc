#include "chat/jinja/loop.h"

#include <algorithm>

namespace mneme::jinja {

Loop::Loop(std::vector<Value> items, Filter filter, int depth0, Meter* meter)
    : charge_(meter, items.size() * sizeof(Value) + sizeof(Loop)),
      items_(std::move(items)),
      filter_(std::move(filter)),
      depth0_(depth0) {}

const Value* Loop::Peek() const {
  while (!is_next_known_ && next_ < items_.size()) {
    if (!filter_ || filter_(items_[next_])) {
      is_next_known_ = true;
    } else {
      ++next_;
    }
  }
  return next_ < items_.size() ? &items_[next_] : nullptr;
}

bool Loop::Next() {
  const Value* next = Peek();
  if (next == nullptr) return false;
  previous_ = std::move(current_);
  current_ = *next;
  ++next_;
  is_next_known_ = false;
  ++index_;
  return true;
}

// Asks for the rest at once, as Jinja2 does.
size_t Loop::Length() const {
  if (filter_) {
    const size_t first = next_ + (is_next_known_ ? 1 : 0);
    size_t kept = first;
    for (size_t i = first; i < items_.size(); ++i)
      if (filter_(items_[i])) items_[kept++] = items_[i];
    items_.resize(kept);
    filter_ = nullptr;
  }
  // Those passed over before are not counted.
  return static_cast<size_t>(index_ + 1) + (items_.size() - next_);
}

std::optional<Value> Loop::Attribute(std::string_view name) const {
  const auto number = [](int64_t value) { return Value(static_cast<Int>(value)); };
  if (name == "index") return number(index_ + 1);
  if (name == "index0") return number(index_);
  if (name == "first") return Value(index_ == 0);
  if (name == "last") return Value(Peek() == nullptr);
  if (name == "length") return number(static_cast<int64_t>(Length()));
  if (name == "revindex") return number(static_cast<int64_t>(Length()) - index_);
  if (name == "revindex0") return number(static_cast<int64_t>(Length()) - index_ - 1);
  if (name == "depth") return number(depth0_ + 1);
  if (name == "depth0") return number(depth0_);
  if (name == "previtem") return index_ == 0 ? Value::Undefined("there is no previous item") : previous_;
  if (name == "nextitem") {
    const Value* next = Peek();
    return next == nullptr ? Value::Undefined("there is no next item") : *next;
  }
  return std::nullopt;
}

bool Loop::Changed(std::vector<Value> values, Meter* meter) {
  const auto equals = [meter](const Value& a, const Value& b) { return Equals(a, b, meter); };
  const bool is_same = last_changed_ && last_changed_->size() == values.size() &&
                       std::equal(values.begin(), values.end(), last_changed_->begin(), equals);
  if (!is_over_) last_changed_ = std::move(values);
  return !is_same;
}

void Loop::End() {
  is_over_ = true;
  last_changed_.reset();
  items_.clear();
  filter_ = nullptr;
  next_ = 0;
  is_next_known_ = false;
}

}  // namespace mneme::jinja
