#include <fmt/format.h>

#include <algorithm>

#include "chat/jinja/builtins/builtins.h"

namespace mneme::jinja {

Parameters::Parameters(std::string_view function, Arguments& arguments,
                       std::initializer_list<std::string_view> names, size_t num_required)
    : function_(function), values_(names.size()) {
  if (arguments.positional.size() > names.size()) {
    Raise(fmt::format("{}() takes at most {} argument(s), {} were given", function, names.size(),
                      arguments.positional.size()));
  }
  std::move(arguments.positional.begin(), arguments.positional.end(), values_.begin());
  for (auto& [name, value] : arguments.named) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      Raise(fmt::format("{}() got an unexpected keyword argument '{}'", function, name));
    }
    std::optional<Value>& place = values_[static_cast<size_t>(found - names.begin())];
    if (place) Raise(fmt::format("{}() got multiple values for argument '{}'", function, name));
    place = std::move(value);
  }
  for (size_t i = 0; i < num_required; ++i) {
    if (!values_[i]) Raise(fmt::format("{}() misses its argument '{}'", function, names.begin()[i]));
  }
}

bool Parameters::Bool(size_t i, bool otherwise) const { return values_[i] ? IsTrue(*values_[i]) : otherwise; }

Int Parameters::Integer(size_t i, Int otherwise) const {
  if (!values_[i] || values_[i]->IsNone()) return otherwise;
  if (!values_[i]->IsIntegral()) {
    Raise(fmt::format("{}(): '{}' object cannot be interpreted as an integer", function_,
                      TypeName(*values_[i])));
  }
  return values_[i]->integer();
}

Text Parameters::String(size_t i) const {
  const Value value = (*this)[i];
  if (value.IsUndefined()) Raise(value.undefined_message());
  if (!value.IsString()) {
    Raise(fmt::format("{}(): an argument must be str, not {}", function_, TypeName(value)));
  }
  return value.text();
}

void DictBuilder::Set(const Value& key, Value value) {
  std::string id = HashId(key);
  const auto [place, is_new] = places_.try_emplace(id, entries_.size());
  if (is_new) {
    entries_.push_back({std::move(id), key, std::move(value)});
  } else {
    entries_[place->second].value = std::move(value);
  }
}

void DictBuilder::SetIfNew(const Value& key, Value value) {
  if (!places_.contains(HashId(key))) Set(key, std::move(value));
}

Value DictBuilder::Make(Meter* meter) {
  return Value(std::make_shared<const Dict>(std::move(entries_), kind_, meter));
}

}  // namespace mneme::jinja
