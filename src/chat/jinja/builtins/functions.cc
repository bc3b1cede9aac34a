// The functions that a template finds by name: those of Jinja2, and those that transformers adds.
#include <fmt/format.h>

#include <algorithm>

#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/builtins/clock.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

Value RangeOf(Interpreter&, Arguments& arguments) {
  const size_t count = arguments.positional.size();
  if (count < 1 || count > 3 || !arguments.named.empty()) Raise("range() takes one to three arguments");
  const auto number = [&](size_t i) {
    const Value& value = arguments.positional[i];
    if (value.IsUndefined()) Raise(value.undefined_message());
    if (!value.IsIntegral()) {
      Raise(fmt::format("'{}' object cannot be interpreted as an integer", TypeName(value)));
    }
    return value.integer();
  };
  Range range{count > 1 ? number(0) : 0, number(count > 1 ? 1 : 0), count > 2 ? number(2) : 1, 0};
  if (range.step == 0) Raise("range() arg 3 must not be zero");
  const Int distance = range.step > 0 ? range.stop - range.start : range.start - range.stop;
  const Int step = range.step > 0 ? range.step : -range.step;
  if (distance > 0) {
    const Int size = (distance - 1) / step + 1;
    if (size > static_cast<Int>(kMaxRange)) {
      throw TemplateError{ErrorKind::kBudget, fmt::format("a range of more than {} numbers", kMaxRange)};
    }
    range.size = static_cast<size_t>(size);
  }
  return Value(std::make_shared<const Range>(range));
}

// Pairs and names into `set`, as dict() and namespace() take them.
template <typename Set>
void TakePairs(Interpreter& in, Arguments& arguments, const Set& set) {
  if (arguments.positional.size() > 1) Raise("dict expected at most 1 argument");
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.IsUndefined()) Raise(from.undefined_message());
    if (from.is(Type::kDict)) {
      for (const Dict::Entry& entry : from.dict().entries) set(entry.key, entry.value);
    } else {
      for (const Value& pair : Iterate(from, in.meter())) {
        const std::vector<Value> parts = Iterate(pair, in.meter());
        if (parts.size() != 2) Raise("a dict is made of pairs");
        set(parts[0], parts[1]);
      }
    }
  }
  for (auto& [name, value] : arguments.named) set(in.Make(Text(name, TextKind::kFormat)), value);
}

Value DictOf(Interpreter& in, Arguments& arguments) {
  DictBuilder dict;
  TakePairs(in, arguments, [&](const Value& key, const Value& value) { dict.Set(key, value); });
  return dict.Make(in.meter());
}

Value NamespaceOf(Interpreter& in, Arguments& arguments) {
  Namespace* space = in.NewNamespace();
  TakePairs(in, arguments, [&](const Value& key, const Value& value) {
    const std::string name = in.Str(key).bytes();
    Value* old = space->Find(name);
    if (old != nullptr) {
      *old = value;
    } else {
      space->attributes.emplace_back(name, value);
    }
  });
  in.meter()->Step(space->attributes.size());
  return Value(space);
}

Value CyclerOf(Interpreter&, Arguments& arguments) {
  if (arguments.positional.empty() || !arguments.named.empty()) Raise("at least one item has to be provided");
  auto cycler = std::make_shared<Cycler>();
  cycler->items = std::move(arguments.positional);
  return Value(std::move(cycler));
}

Value JoinerOf(Interpreter& in, Arguments& arguments) {
  const Parameters parameters("joiner", arguments, {"sep"});
  auto joiner = std::make_shared<Joiner>();
  joiner->separator = parameters.has(0) ? parameters[0] : in.Make(Text(", ", TextKind::kFormat));
  return Value(std::move(joiner));
}

Value RaiseException(Interpreter& in, Arguments& arguments) {
  const Parameters parameters("raise_exception", arguments, {"message"}, 1);
  Raise(in.Str(parameters[0]).bytes());
}

Value StrftimeNow(Interpreter& in, Arguments& arguments) {
  const Parameters parameters("strftime_now", arguments, {"format"}, 1);
  const Text format = parameters.String(0);
  return in.Make(Text(FormatTime(in.now(), format.bytes()), format.KindAt(0)));
}

constexpr Function kFunctions[] = {{"range", RangeOf},           {"dict", DictOf},
                                   {"namespace", NamespaceOf},   {"cycler", CyclerOf},
                                   {"joiner", JoinerOf},         {"raise_exception", RaiseException},
                                   {"strftime_now", StrftimeNow}};

}  // namespace

const Function* FindFunction(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                   [&](const Function& function) { return function.name == name; });
  return found == std::end(kFunctions) ? nullptr : found;
}

}  // namespace mneme::jinja
