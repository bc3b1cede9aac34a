// Items, lengths and slices.
#include <fmt/format.h>

#include <algorithm>

#include "chat/jinja/loop.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

std::vector<Value> Characters(const Text& text, Meter* meter) {
  std::vector<Value> characters;
  const std::vector<size_t> offsets = CharacterOffsets(text.view());
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    characters.push_back(MakeText(text.Slice(offsets[i], offsets[i + 1]), meter));
  }
  return characters;
}

std::vector<Value> ViewItems(const DictView& view, Meter* meter) {
  std::vector<Value> items;
  for (const Dict::Entry& entry : view.dict->entries) {
    if (view.what == DictView::What::kItems) {
      items.push_back(MakeTuple({entry.key, entry.value}, meter, view.dict->kind));
    } else {
      items.push_back(view.what == DictView::What::kKeys ? entry.key : entry.value);
    }
  }
  return items;
}

std::vector<Value> Rest(Generator* generator) {
  std::vector<Value> items(generator->items.begin() + static_cast<ptrdiff_t>(generator->next),
                           generator->items.end());
  generator->next = generator->items.size();
  return items;
}

// What Python's slice.indices makes of the three.
struct Indices {
  Int start, stop, step;
};

Int SliceNumber(const Value& value, const char* what) {
  if (!value.IsIntegral()) {
    Raise(fmt::format("slice indices must be integers or None, not {} ({})", TypeName(value), what));
  }
  return value.integer();
}

Indices SliceIndices(const Value& start, const Value& stop, const Value& step, Int size) {
  Indices indices{};
  indices.step = step.IsNone() ? 1 : SliceNumber(step, "step");
  if (indices.step == 0) Raise("slice step cannot be zero");
  const bool is_back = indices.step < 0;
  const Int lowest = is_back ? -1 : 0, highest = is_back ? size - 1 : size;
  const auto clip = [&](const Value& value, Int otherwise, const char* what) {
    if (value.IsNone()) return otherwise;
    Int index = SliceNumber(value, what);
    if (index < 0) index += size;
    return std::clamp(index, lowest, highest);
  };
  indices.start = clip(start, is_back ? highest : lowest, "start");
  indices.stop = clip(stop, is_back ? lowest : highest, "stop");
  return indices;
}

// Calls fn(index) for each index of the slice.
template <typename Fn>
void ForEachIndex(const Indices& indices, const Fn& fn) {
  for (Int i = indices.start; indices.step > 0 ? i < indices.stop : i > indices.stop; i += indices.step) {
    fn(static_cast<size_t>(i));
  }
}

Value SliceText(const Text& text, const Value& start, const Value& stop, const Value& step, Meter* meter) {
  const size_t size = CountCharacters(text.view());
  const Indices indices = SliceIndices(start, stop, step, static_cast<Int>(size));
  if (indices.step == 1) {
    const size_t begin = CharacterOffset(text.view(), static_cast<size_t>(indices.start));
    const Int length = std::max<Int>(0, indices.stop - indices.start);
    const size_t end = begin + CharacterOffset(text.view().substr(begin), static_cast<size_t>(length));
    return MakeText(text.Slice(begin, end), meter);
  }
  const std::vector<size_t> offsets = CharacterOffsets(text.view());
  Text slice;
  ForEachIndex(indices, [&](size_t i) { slice.Append(text, offsets[i], offsets[i + 1]); });
  return MakeText(std::move(slice), meter);
}

Value SliceRange(const Range& range, const Value& start, const Value& stop, const Value& step) {
  const Indices indices = SliceIndices(start, stop, step, static_cast<Int>(range.size));
  Range slice{range.start + indices.start * range.step, range.start + indices.stop * range.step,
              range.step * indices.step, 0};
  ForEachIndex(indices, [&](size_t) { ++slice.size; });
  return Value(std::make_shared<const Range>(slice));
}

}  // namespace

std::vector<Value> Iterate(const Value& value, Meter* meter) {
  if (meter != nullptr) meter->Step(Length(value).value_or(1));
  switch (value.type()) {
    case Type::kUndefined:
      return {};
    case Type::kString:
      return Characters(value.text(), meter);
    case Type::kList:
    case Type::kTuple:
      return value.list().items;
    case Type::kDict:
      return ViewItems({DictView::What::kKeys, value.shared_dict()}, meter);
    case Type::kDictView:
      return ViewItems(value.view(), meter);
    case Type::kRange: {
      std::vector<Value> items;
      for (size_t i = 0; i < value.range().size; ++i) items.push_back(value.range().At(i));
      return items;
    }
    case Type::kGenerator:
      return Rest(&value.generator());
    default:
      Raise(fmt::format("'{}' object is not iterable", TypeName(value)));
  }
}

bool IsIterable(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
    case Type::kString:
    case Type::kList:
    case Type::kTuple:
    case Type::kDict:
    case Type::kDictView:
    case Type::kRange:
    case Type::kGenerator:
    case Type::kLoop:
      return true;
    default:
      return false;
  }
}

std::optional<size_t> Length(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return 0;
    case Type::kString:
      return CountCharacters(value.text().view());
    case Type::kList:
    case Type::kTuple:
      return value.list().items.size();
    case Type::kDict:
      return value.dict().entries.size();
    case Type::kDictView:
      return value.view().dict->entries.size();
    case Type::kRange:
      return value.range().size;
    case Type::kLoop:
      return value.loop().Length();
    default:
      return std::nullopt;
  }
}

std::optional<Value> ItemAt(const Value& value, Int index, Meter* meter) {
  if (!value.IsString() && !value.IsSequence() && !value.is(Type::kRange)) return std::nullopt;
  const size_t size = *Length(value);
  if (index < 0) index += static_cast<Int>(size);
  if (index < 0 || index >= static_cast<Int>(size)) return std::nullopt;
  const auto at = static_cast<size_t>(index);
  if (value.is(Type::kRange)) return value.range().At(at);
  if (value.IsSequence()) return value.list().items[at];
  const std::string_view text = value.text().view();
  meter->Step(text.size() / 16);
  const size_t begin = CharacterOffset(text, at);
  return MakeText(value.text().Slice(begin, begin + CharacterLength(text[begin])), meter);
}

Value Slice(const Value& value, const Value& start, const Value& stop, const Value& step, Meter* meter) {
  if (value.IsUndefined()) Raise(value.undefined_message());
  meter->Step(Length(value).value_or(0) / 16);
  if (value.IsString()) return SliceText(value.text(), start, stop, step, meter);
  if (!value.IsSequence() && !value.is(Type::kRange)) {
    Raise(fmt::format("'{}' object is not subscriptable", TypeName(value)));
  }
  if (value.is(Type::kRange)) return SliceRange(value.range(), start, stop, step);
  const std::vector<Value> all = Iterate(value, meter);
  std::vector<Value> items;
  ForEachIndex(SliceIndices(start, stop, step, static_cast<Int>(all.size())),
               [&](size_t i) { items.push_back(all[i]); });
  return value.is(Type::kTuple) ? MakeTuple(std::move(items), meter, value.kind())
                                : MakeList(std::move(items), meter, value.kind());
}

}  // namespace mneme::jinja
