// The filters that take lists apart, and those that ask for one of their items.
#include <fmt/format.h>

#include <algorithm>

#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

using In = Interpreter;

Value GeneratorOf(In& in, std::vector<Value> items) {
  return Value(std::make_shared<Generator>(std::move(items), "generator", in.meter()));
}

// item.a.0.b for "a.0.b"; the item itself for None.
class Getter {
 public:
  explicit Getter(In& in, const Value& path, std::optional<Value> otherwise = {})
      : in_(in), otherwise_(std::move(otherwise)) {
    if (path.IsIntegral()) {
      parts_.push_back(path);
    } else if (!path.IsNone()) {
      Split(in.Str(path));
    }
  }
  Value operator()(Value item) const {
    for (const Value& part : parts_) {
      item = in_.Item(item, part);
      if (otherwise_ && item.IsUndefined()) item = *otherwise_;
    }
    return item;
  }

 private:
  void Split(const Text& path) {
    size_t begin = 0;
    while (true) {
      const size_t end = std::min(path.bytes().find('.', begin), path.size());
      const Text part = path.Slice(begin, end);
      const bool is_number = !part.empty() && part.size() < 10 &&
                             part.bytes().find_first_not_of("0123456789") == std::string::npos;
      parts_.push_back(is_number ? Value(static_cast<Int>(std::stoll(part.bytes()))) : in_.Make(part));
      if (end == path.size()) return;
      begin = end + 1;
    }
  }

  In& in_;
  std::optional<Value> otherwise_;
  std::vector<Value> parts_;
};

// What items are compared by: their text in lower case, unless case matters.
Value KeyOf(In& in, const Value& item, bool case_matters) {
  return case_matters || !item.IsString() ? item : Mapped(in, item.text(), Case::kLower);
}

template <bool last>
Value End(In& in, const Value& input, Arguments&) {
  if (!IsIterable(input) || (last && input.is(Type::kGenerator))) {
    if (input.IsUndefined()) Raise(input.undefined_message());
    Raise(fmt::format("'{}' object is not {}", TypeName(input), last ? "reversible" : "iterable"));
  }
  if (!last && input.is(Type::kGenerator)) {
    Generator& generator = input.generator();
    if (generator.next < generator.items.size()) return generator.items[generator.next++];
  } else if (const std::vector<Value> items = Iterate(input, in.meter()); !items.empty()) {
    return last ? items.back() : items.front();
  }
  return Value::Undefined(last ? "No last item, sequence was empty." : "No first item, sequence was empty.");
}

Value LengthOf(In&, const Value& input, Arguments&) {
  const std::optional<size_t> length = Length(input);
  if (!length) Raise(fmt::format("object of type '{}' has no len()", TypeName(input)));
  return Value::Size(*length);
}

Value ListOf(In& in, const Value& input, Arguments&) {
  return MakeList(Iterate(input, in.meter()), in.meter(), input.kind());
}

Value Items(In& in, const Value& input, Arguments&) {
  if (input.IsUndefined()) return GeneratorOf(in, {});
  if (!input.is(Type::kDict)) Raise("Can only get item pairs from a mapping.");
  const DictView view{DictView::What::kItems, input.shared_dict()};
  return GeneratorOf(in, Iterate(Value(std::make_shared<const DictView>(view)), in.meter()));
}

Value Default(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("default", arguments, {"default_value", "boolean"});
  if (!input.IsUndefined() && (!parameters.Bool(1) || IsTrue(input))) return input;
  return parameters.has(0) ? parameters[0] : in.Make({});
}

Value Join(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("join", arguments, {"d", "attribute"});
  std::vector<Value> items = Iterate(input, in.meter());
  const Getter getter(in, parameters[1]);
  for (Value& item : items) item = getter(std::move(item));
  return JoinedBy(in, parameters.has(0) ? in.Str(parameters[0]) : Text(), items);
}

Value Reverse(In& in, const Value& input, Arguments&) {
  if (input.IsString()) {
    return Slice(input, Value(), Value(), Value(Int{-1}), in.meter());
  }
  std::vector<Value> items = Iterate(input, in.meter());
  std::reverse(items.begin(), items.end());
  if (input.is(Type::kGenerator)) return MakeList(std::move(items), in.meter());
  return GeneratorOf(in, std::move(items));
}

Value AttributeOf(In& in, const Value& input, Arguments& arguments) {
  const Value name = Parameters("attr", arguments, {"name"}, 1)[0];
  const bool is_key = input.is(Type::kDict) && name.IsString() && !HasMethod(input, name.text().view());
  if (is_key)
    return Value::Undefined(fmt::format("'dict object' has no attribute {}", QuotedRepr(name.text().view())));
  return in.Attribute(input, in.Str(name).view());
}

Value Map(In& in, const Value& input, Arguments& arguments) {
  if (!IsTrue(input)) return GeneratorOf(in, {});
  std::vector<Value> mapped;
  if (arguments.positional.empty()) {
    const Parameters parameters("map", arguments, {"attribute", "default"});
    if (!parameters.has(0)) Raise("map requires a filter argument");
    const Getter getter(in, parameters[0], parameters.has(1) ? std::optional(parameters[1]) : std::nullopt);
    for (Value& item : Iterate(input, in.meter())) mapped.push_back(getter(std::move(item)));
    return GeneratorOf(in, std::move(mapped));
  }
  const std::string name = in.Str(arguments.positional[0]).bytes();
  arguments.positional.erase(arguments.positional.begin());
  for (const Value& item : Iterate(input, in.meter())) {
    Arguments copy = arguments;
    mapped.push_back(in.CallFilter(name, item, copy));
  }
  return GeneratorOf(in, std::move(mapped));
}

// select, reject, selectattr, rejectattr.
template <bool keep, bool by_attribute>
Value Select(In& in, const Value& input, Arguments& arguments) {
  if (!IsTrue(input)) return GeneratorOf(in, {});
  auto& positional = arguments.positional;
  Value path;
  if (by_attribute) {
    if (positional.empty()) Raise("Missing parameter for attribute name");
    path = positional[0];
    positional.erase(positional.begin());
  }
  const Getter getter(in, path);
  std::optional<std::string> test;
  if (!positional.empty()) {
    test = in.Str(positional[0]).bytes();
    positional.erase(positional.begin());
  }
  std::vector<Value> kept;
  for (const Value& item : Iterate(input, in.meter())) {
    const Value asked = getter(item);
    Arguments copy = arguments;
    const bool passes = test ? in.CallTest(*test, asked, copy) : IsTrue(asked);
    if (passes == keep) kept.push_back(item);
  }
  return GeneratorOf(in, std::move(kept));
}

// Items with the keys that they are ordered by, in that order. Equal ones stay as they were.
std::vector<Value> Sorted(In& in, std::vector<Value> items, const std::function<Value(const Value&)>& key,
                          bool reverse) {
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : items) keyed.emplace_back(key(item), std::move(item));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    in.meter()->Step();
    return reverse ? Compare("<", b.first, a.first, in.meter()) : Compare("<", a.first, b.first, in.meter());
  });
  items.clear();
  for (auto& [unused, item] : keyed) items.push_back(std::move(item));
  return items;
}

Value Sort(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const bool case_matters = parameters.Bool(1);
  std::vector<Getter> getters;  // "a,b" orders by a, then b
  if (parameters[2].IsString()) {
    Arguments comma{{in.Make(Text(",", TextKind::kFormat))}, {}};
    const Value paths = FindTextMethod("split")(in, parameters[2].text(), comma);
    for (const Value& path : paths.list().items) getters.emplace_back(in, path);
  } else {
    getters.emplace_back(in, parameters[2]);
  }
  const auto key = [&](const Value& item) {
    std::vector<Value> keys;
    for (const Getter& getter : getters) keys.push_back(KeyOf(in, getter(item), case_matters));
    return MakeList(std::move(keys), in.meter());
  };
  return MakeList(Sorted(in, Iterate(input, in.meter()), key, parameters.Bool(0)), in.meter(), input.kind());
}

Value DictSort(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  if (!input.is(Type::kDict)) Raise(fmt::format("'{}' object has no attribute 'items'", TypeName(input)));
  const std::string by = parameters.has(1) ? in.Str(parameters[1]).bytes() : "key";
  if (by != "key" && by != "value") Raise("You can only sort by either \"key\" or \"value\"");
  const auto key = [&](const Value& pair) {
    return KeyOf(in, pair.list().items[by == "key" ? 0 : 1], parameters.Bool(0));
  };
  Arguments none;
  std::vector<Value> pairs = Iterate(Items(in, input, none), in.meter());
  return MakeList(Sorted(in, std::move(pairs), key, parameters.Bool(2)), in.meter(), input.kind());
}

Value Unique(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("unique", arguments, {"case_sensitive", "attribute"});
  const Getter getter(in, parameters[1]);
  DictBuilder seen;
  for (const Value& item : Iterate(input, in.meter())) {
    seen.SetIfNew(KeyOf(in, getter(item), parameters.Bool(0)), item);
  }
  const Value unique = seen.Make(in.meter());
  std::vector<Value> items;
  for (const Dict::Entry& entry : unique.dict().entries) items.push_back(entry.value);
  return GeneratorOf(in, std::move(items));
}

template <bool largest>
Value Extreme(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("min", arguments, {"case_sensitive", "attribute"});
  const std::vector<Value> items = Iterate(input, in.meter());
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  const Getter getter(in, parameters[1]);
  const auto key = [&](const Value& item) { return KeyOf(in, getter(item), parameters.Bool(0)); };
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i)
    if (Compare(largest ? ">" : "<", key(items[i]), key(items[best]), in.meter())) best = i;
  return items[best];
}

Value Sum(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("sum", arguments, {"attribute", "start"});
  const Getter getter(in, parameters[0]);
  Value sum = parameters.has(1) ? parameters[1] : Value(Int{0});
  for (const Value& item : Iterate(input, in.meter())) sum = Binary("+", sum, getter(item), in.meter());
  return sum;
}

Value Batch(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("batch", arguments, {"linecount", "fill_with"}, 1);
  const Int size = parameters.Integer(0, 1);
  if (size < 1 || size > static_cast<Int>(kMaxRange))
    Raise("batch(): linecount must be positive, and not huge");
  std::vector<Value> rows, row;
  for (const Value& item : Iterate(input, in.meter())) {
    if (static_cast<Int>(row.size()) == size) rows.push_back(MakeList(std::exchange(row, {}), in.meter()));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (!parameters[1].IsNone()) row.resize(static_cast<size_t>(size), parameters[1]);
    rows.push_back(MakeList(std::move(row), in.meter()));
  }
  return GeneratorOf(in, std::move(rows));
}

Value SliceInto(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("slice", arguments, {"slices", "fill_with"}, 1);
  const Int count = parameters.Integer(0, 1);
  if (count < 1 || count > static_cast<Int>(kMaxRange))
    Raise("slice(): slices must be positive, and not huge");
  const std::vector<Value> items = Iterate(input, in.meter());
  const auto slices = static_cast<size_t>(count);
  const size_t per_slice = items.size() / slices, num_longer = items.size() % slices;
  std::vector<Value> rows;
  auto at = items.begin();
  for (size_t i = 0; i < slices; ++i) {
    const size_t size = per_slice + (i < num_longer ? 1 : 0);
    std::vector<Value> row(at, at + static_cast<ptrdiff_t>(size));
    at += static_cast<ptrdiff_t>(size);
    if (!parameters[1].IsNone() && i >= num_longer) row.push_back(parameters[1]);
    rows.push_back(MakeList(std::move(row), in.meter()));
  }
  return GeneratorOf(in, std::move(rows));
}

Value GroupBy(In& in, const Value& input, Arguments& arguments) {
  const Parameters parameters("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const Getter getter(in, parameters[0], parameters.has(1) ? std::optional(parameters[1]) : std::nullopt);
  const auto key = [&](const Value& item) { return KeyOf(in, getter(item), parameters.Bool(2)); };
  std::vector<Value> groups, group;
  const auto close = [&] {
    if (group.empty()) return;
    const Value name = getter(group[0]);
    groups.push_back(MakeTuple({name, MakeList(std::exchange(group, {}), in.meter())}, in.meter()));
  };
  for (const Value& item : Sorted(in, Iterate(input, in.meter()), key, false)) {
    if (!group.empty() && !Equals(key(group[0]), key(item), in.meter())) close();
    group.push_back(item);
  }
  close();
  return MakeList(std::move(groups), in.meter());
}

struct Row {
  std::string_view name;
  FilterFunction function;
};
constexpr Row kFilters[] = {
    {"first", End<false>},
    {"last", End<true>},
    {"length", LengthOf},
    {"count", LengthOf},
    {"list", ListOf},
    {"items", Items},
    {"default", Default},
    {"d", Default},
    {"join", Join},
    {"reverse", Reverse},
    {"attr", AttributeOf},
    {"map", Map},
    {"select", Select<true, false>},
    {"reject", Select<false, false>},
    {"selectattr", Select<true, true>},
    {"rejectattr", Select<false, true>},
    {"sort", Sort},
    {"dictsort", DictSort},
    {"unique", Unique},
    {"min", Extreme<false>},
    {"max", Extreme<true>},
    {"sum", Sum},
    {"batch", Batch},
    {"slice", SliceInto},
    {"groupby", GroupBy},
};

}  // namespace

FilterFunction FindListFilter(std::string_view name) { return FindIn(kFilters, name); }

}  // namespace mneme::jinja
