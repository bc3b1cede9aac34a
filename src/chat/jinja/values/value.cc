#include "chat/jinja/values/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "chat/jinja/loop.h"
#include "chat/jinja/values/format.h"

namespace mneme::jinja {
namespace {

constexpr size_t kIndexedEntries = 16;

int DepthOf(const Value& value) {
  if (value.IsSequence()) return value.list().depth;
  return value.is(Type::kDict) ? value.dict().depth : 0;
}

int Deeper(int depth) {
  if (depth >= kMaxValueDepth) {
    throw TemplateError{ErrorKind::kBudget, "its lists and dicts are nested too deeply"};
  }
  return depth + 1;
}

bool SequencesEqual(const std::vector<Value>& a, const std::vector<Value>& b, Meter* meter) {
  const auto equals = [meter](const Value& x, const Value& y) { return Equals(x, y, meter); };
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), equals);
}

bool DictsEqual(const Dict& a, const Dict& b, Meter* meter) {
  if (a.entries.size() != b.entries.size()) return false;
  return std::all_of(a.entries.begin(), a.entries.end(), [&](const Dict::Entry& entry) {
    const Value* other = b.Find(entry.id);
    return other != nullptr && Equals(entry.value, *other, meter);
  });
}

bool RangesEqual(const Range& a, const Range& b) {
  return a.size == b.size && (a.size == 0 || (a.start == b.start && (a.size == 1 || a.step == b.step)));
}

}  // namespace

void Raise(std::string message) { throw TemplateError{ErrorKind::kInput, std::move(message)}; }

Value::Value(std::shared_ptr<const List> list) : data_(std::move(list)) { kind_ = this->list().kind; }
Value::Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) { kind_ = this->dict().kind; }

Value Value::Undefined(std::string message) {
  Value value;
  value.data_ = Missing{std::make_shared<const std::string>(std::move(message))};
  return value;
}

Type Value::type() const {
  constexpr Type kTypes[] = {
      Type::kNone,     Type::kUndefined, Type::kBool,  Type::kInt,      Type::kFloat,     Type::kString,
      Type::kList,     Type::kDict,      Type::kRange, Type::kDictView, Type::kGenerator, Type::kMethod,
      Type::kFunction, Type::kNamespace, Type::kMacro, Type::kLoop,     Type::kCycler,    Type::kJoiner};
  const Type type = kTypes[data_.index()];
  return type == Type::kList && list().is_tuple ? Type::kTuple : type;
}

const std::string& Value::undefined_message() const { return *std::get<Missing>(data_).message; }

Int Value::integer() const {
  if (const bool* value = std::get_if<bool>(&data_)) return *value ? 1 : 0;
  return std::get<Int>(data_);
}

double Value::number() const {
  if (const double* value = std::get_if<double>(&data_)) return *value;
  return static_cast<double>(integer());
}

const Text& Value::text() const { return std::get<std::shared_ptr<const String>>(data_)->text; }

const void* Value::Address() const {
  return std::visit(
      [](const auto& data) -> const void* {
        using T = std::decay_t<decltype(data)>;
        if constexpr (std::is_pointer_v<T>) {
          return data;
        } else if constexpr (requires { data.get(); }) {
          return data.get();
        } else {
          return nullptr;
        }
      },
      data_);
}

List::List(std::vector<Value> values, bool is_a_tuple, TextKind origin, Meter* meter)
    : charge(meter, values.size() * sizeof(Value) + sizeof(List)),
      items(std::move(values)),
      is_tuple(is_a_tuple),
      kind(origin) {
  int deepest = 0;
  for (const Value& item : items) deepest = std::max(deepest, DepthOf(item));
  depth = Deeper(deepest);
}

Dict::Dict(std::vector<Entry> values, TextKind origin, Meter* meter)
    : charge(meter, values.size() * 2 * sizeof(Entry) + sizeof(Dict)),
      entries(std::move(values)),
      kind(origin) {
  int deepest = 0;
  for (const Entry& entry : entries) deepest = std::max({deepest, DepthOf(entry.value), DepthOf(entry.key)});
  depth = Deeper(deepest);
  if (entries.size() <= kIndexedEntries) return;
  for (size_t i = 0; i < entries.size(); ++i) index_.emplace(entries[i].id, i);
}

const Value* Dict::Find(std::string_view id) const {
  if (!index_.empty()) {
    const auto found = index_.find(id);
    return found == index_.end() ? nullptr : &entries[found->second].value;
  }
  for (const Entry& entry : entries)
    if (entry.id == id) return &entry.value;
  return nullptr;
}

Value* Namespace::Find(std::string_view name) {
  for (auto& [key, value] : attributes)
    if (key == name) return &value;
  return nullptr;
}

std::string_view TypeName(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return "str";
    case Type::kList:
      return "list";
    case Type::kTuple:
      return "tuple";
    case Type::kDict:
      return "dict";
    case Type::kRange:
      return "range";
    case Type::kDictView:
      return value.view().what == DictView::What::kKeys     ? "dict_keys"
             : value.view().what == DictView::What::kValues ? "dict_values"
                                                            : "dict_items";
    case Type::kGenerator:
      return value.generator().name;
    case Type::kMethod:
      return "builtin_function_or_method";
    case Type::kFunction:
      return "function";
    case Type::kNamespace:
      return "Namespace";
    case Type::kMacro:
      return "Macro";
    case Type::kLoop:
      return "LoopContext";
    case Type::kCycler:
      return "Cycler";
    case Type::kJoiner:
      return "Joiner";
  }
  return "";
}

std::string HashId(std::string_view key) { return "s" + std::string(key); }

std::string HashId(const Value& key) {
  switch (key.type()) {
    case Type::kString:
      return HashId(key.text().view());
    case Type::kNone:
      return "N";
    case Type::kUndefined:
      return "U";
    case Type::kBool:
    case Type::kInt:
      return fmt::format("n{}", key.integer());
    case Type::kFloat: {
      const double number = key.number();
      if (number == std::floor(number) && std::fabs(number) < 1e30)
        return fmt::format("n{}", static_cast<Int>(number));
      return "n" + FloatRepr(number);
    }
    case Type::kTuple: {
      std::string id = "t";
      for (const Value& item : key.list().items) {
        const std::string part = HashId(item);
        id += fmt::format("{}:{}", part.size(), part);
      }
      return id;
    }
    case Type::kList:
    case Type::kDict:
    case Type::kDictView:
      Raise(fmt::format("unhashable type: '{}'", TypeName(key)));
    default:
      return fmt::format("a{}", key.Address());
  }
}

bool IsTrue(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
    case Type::kInt:
      return value.integer() != 0;
    case Type::kFloat:
      return value.number() != 0;
    case Type::kString:
      return !value.text().empty();
    case Type::kList:
    case Type::kTuple:
      return !value.list().items.empty();
    case Type::kDict:
      return !value.dict().entries.empty();
    case Type::kRange:
      return value.range().size != 0;
    case Type::kDictView:
      return !value.view().dict->entries.empty();
    case Type::kLoop:
      return value.loop().Length() != 0;
    default:
      return true;
  }
}

bool Equals(const Value& a, const Value& b, Meter* meter) {
  if (meter != nullptr) meter->Step(a.IsString() && b.IsString() ? 1 + a.text().size() / 16 : 1);
  if (a.IsIntegral() && b.IsIntegral()) return a.integer() == b.integer();
  if (a.IsNumber() && b.IsNumber()) return a.number() == b.number();
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return true;
    case Type::kString:
      return a.text().bytes() == b.text().bytes();
    case Type::kList:
    case Type::kTuple:
      return SequencesEqual(a.list().items, b.list().items, meter);
    case Type::kDict:
      return DictsEqual(a.dict(), b.dict(), meter);
    case Type::kRange:
      return RangesEqual(a.range(), b.range());
    default:
      return a.Address() == b.Address();
  }
}

}  // namespace mneme::jinja
