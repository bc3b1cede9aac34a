// Values of the template language, with the meaning that Python gives them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "chat/jinja/limits.h"
#include "chat/jinja/values/text.h"

namespace mneme::jinja {

// Python's integers have no bounds; 128 bits hold whatever a tool's schema names. Beyond is an error.
__extension__ typedef __int128 Int;

enum class Type : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kRange,
  kDictView,
  kGenerator,
  kMethod,
  kFunction,
  kNamespace,
  kMacro,
  kLoop,
  kCycler,
  kJoiner
};

class Interpreter;
class Value;
struct Cycler;
struct Dict;
struct DictView;
struct Function;
struct Generator;
struct Joiner;
struct List;
class Loop;
struct Macro;
struct Method;
struct Namespace;
struct Range;
struct String;

// Small; copies share what is large, which never changes. `kind`: who a value that is no string comes from;
// its text takes it over. Namespaces and macros belong to the interpreter.
class Value {
 public:
  Value() : data_(None{}) {}
  Value(bool value, TextKind kind = TextKind::kFormat) : data_(value), kind_(kind) {}
  Value(Int value, TextKind kind = TextKind::kFormat) : data_(value), kind_(kind) {}
  Value(double value, TextKind kind = TextKind::kFormat) : data_(value), kind_(kind) {}
  Value(std::shared_ptr<const String> string) : data_(std::move(string)) {}
  Value(std::shared_ptr<const List> list);
  Value(std::shared_ptr<const Dict> dict);
  Value(std::shared_ptr<const Range> range) : data_(std::move(range)) {}
  Value(std::shared_ptr<const DictView> view) : data_(std::move(view)) {}
  Value(std::shared_ptr<Generator> generator) : data_(std::move(generator)) {}
  Value(std::shared_ptr<const Method> method) : data_(std::move(method)) {}
  Value(std::shared_ptr<Loop> loop) : data_(std::move(loop)) {}
  Value(std::shared_ptr<Cycler> cycler) : data_(std::move(cycler)) {}
  Value(std::shared_ptr<Joiner> joiner) : data_(std::move(joiner)) {}
  Value(const Function* function) : data_(function) {}
  Value(Namespace* space) : data_(space) {}
  Value(Macro* macro) : data_(macro) {}
  Value(const void*) = delete;
  static Value Undefined(std::string message);
  static Value NoneOf(TextKind kind) {
    Value none;
    none.kind_ = kind;
    return none;
  }
  static Value Size(size_t size, TextKind kind = TextKind::kFormat) { return {static_cast<Int>(size), kind}; }

  Type type() const;
  TextKind kind() const { return kind_; }
  Value WithKind(TextKind kind) const {
    Value value = *this;
    value.kind_ = kind;
    return value;
  }
  bool is(Type other) const { return type() == other; }
  bool IsUndefined() const { return is(Type::kUndefined); }
  bool IsNone() const { return is(Type::kNone); }
  bool IsString() const { return is(Type::kString); }
  // Python's bool is an int.
  bool IsIntegral() const { return is(Type::kInt) || is(Type::kBool); }
  bool IsNumber() const { return IsIntegral() || is(Type::kFloat); }
  bool IsSequence() const { return is(Type::kList) || is(Type::kTuple); }

  const std::string& undefined_message() const;
  bool boolean() const { return std::get<bool>(data_); }
  Int integer() const;    // of an int or bool
  double number() const;  // of any number
  const Text& text() const;
  const List& list() const { return *std::get<std::shared_ptr<const List>>(data_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  const std::shared_ptr<const Dict>& shared_dict() const {
    return std::get<std::shared_ptr<const Dict>>(data_);
  }
  const Range& range() const { return *std::get<std::shared_ptr<const Range>>(data_); }
  const DictView& view() const { return *std::get<std::shared_ptr<const DictView>>(data_); }
  Generator& generator() const { return *std::get<std::shared_ptr<Generator>>(data_); }
  const Method& method() const { return *std::get<std::shared_ptr<const Method>>(data_); }
  const Function& function() const { return *std::get<const Function*>(data_); }
  Namespace& space() const { return *std::get<Namespace*>(data_); }
  Macro& macro() const { return *std::get<Macro*>(data_); }
  Loop& loop() const { return *std::get<std::shared_ptr<Loop>>(data_); }
  Cycler& cycler() const { return *std::get<std::shared_ptr<Cycler>>(data_); }
  Joiner& joiner() const { return *std::get<std::shared_ptr<Joiner>>(data_); }
  // Where what it shares lies, for `is sameas`; null for small values.
  const void* Address() const;

 private:
  struct None {};
  struct Missing {
    std::shared_ptr<const std::string> message;
  };
  std::variant<None, Missing, bool, Int, double, std::shared_ptr<const String>, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, std::shared_ptr<const Range>, std::shared_ptr<const DictView>,
               std::shared_ptr<Generator>, std::shared_ptr<const Method>, const Function*, Namespace*, Macro*,
               std::shared_ptr<Loop>, std::shared_ptr<Cycler>, std::shared_ptr<Joiner>>
      data_;
  TextKind kind_ = TextKind::kFormat;
};

struct String {
  String(Text value, Meter* meter) : charge(meter, value.size() + sizeof(String)), text(std::move(value)) {}
  Charge charge;
  Text text;
};

struct List {
  List(std::vector<Value> values, bool is_a_tuple, TextKind origin, Meter* meter);
  Charge charge;
  std::vector<Value> items;
  bool is_tuple;
  TextKind kind;  // of its brackets and commas
  int depth;      // 1 for a list of small values
};

// In the order of insertion.
struct Dict {
  struct Entry {
    std::string id;  // HashId of the key
    Value key, value;
  };
  Dict(std::vector<Entry> values, TextKind origin, Meter* meter);
  // Null if there is none.
  const Value* Find(std::string_view id) const;
  Charge charge;
  std::vector<Entry> entries;
  TextKind kind;
  int depth;

 private:
  std::unordered_map<std::string_view, size_t> index_;  // of larger ones
};

struct Range {
  Int start, stop, step;
  size_t size;
  Value At(size_t index) const { return {start + static_cast<Int>(index) * step}; }
};

struct DictView {
  enum class What : uint8_t { kKeys, kValues, kItems };
  What what;
  std::shared_ptr<const Dict> dict;
};

// Made at once, read once: what Python's generators look like from outside.
struct Generator {
  Generator(std::vector<Value> values, std::string name_of_it, Meter* meter)
      : charge(meter, values.size() * sizeof(Value)), items(std::move(values)), name(std::move(name_of_it)) {}
  Charge charge;
  std::vector<Value> items;
  size_t next = 0;
  std::string name;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Function {
  std::string_view name;
  Value (*call)(Interpreter& interpreter, Arguments& arguments);
};

// A method of a string, list or dict, not called yet.
struct Method {
  Value self;
  std::string name;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  Value* Find(std::string_view name);
};

struct Cycler {
  std::vector<Value> items;
  size_t next = 0;
};

struct Joiner {
  Value separator;
  bool was_used = false;
};

// "str", "list", ...: Python's name of the type.
std::string_view TypeName(const Value& value);
// A string that is equal for keys that are equal. Throws TemplateError for what cannot be a key.
std::string HashId(const Value& key);
std::string HashId(std::string_view key);
bool IsTrue(const Value& value);
// Counts what it reads, if there is a meter.
bool Equals(const Value& a, const Value& b, Meter* meter);

[[noreturn]] void Raise(std::string message);

}  // namespace mneme::jinja
