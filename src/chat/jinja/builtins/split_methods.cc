// The methods of strings that take strings apart and put them together; those of lists, dicts and loops.
#include <fmt/format.h>

#include <algorithm>

#include "base/text/utf8.h"
#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

using In = Interpreter;

Value ListOf(In& in, std::vector<Value> items) { return MakeList(std::move(items), in.meter()); }

// Words between white space, at most so many cuts.
std::vector<Value> SplitAtSpace(In& in, const Text& text, Int cuts) {
  std::vector<Value> words;
  size_t at = WithoutSpace(text.view()).begin;
  while (at < text.size()) {
    if (cuts == 0) {
      words.push_back(in.Make(text.Slice(at, text.size())));
      break;
    }
    size_t end = at;
    while (end < text.size()) {
      const Utf8Char c = DecodeUtf8(text.view().data() + end, text.size() - end);
      if (IsSpace(c.code)) break;
      end += c.length;
    }
    words.push_back(in.Make(text.Slice(at, end)));
    --cuts;
    at = end + WithoutSpace(text.view().substr(end)).begin;
  }
  return words;
}

std::vector<Value> SplitAtSpaceFromEnd(In& in, const Text& text, Int cuts) {
  std::vector<Value> all = SplitAtSpace(in, text, -1);
  if (cuts < 0 || static_cast<Int>(all.size()) <= cuts) return all;
  size_t end = WithoutSpace(text.view()).end;
  std::vector<Value> words;
  for (Int i = 0; i < cuts; ++i) {
    end -= all[all.size() - 1 - static_cast<size_t>(i)].text().size();
    end = WithoutSpace(text.view().substr(0, end)).end;
    words.push_back(all[all.size() - 1 - static_cast<size_t>(i)]);
  }
  words.push_back(in.Make(text.Slice(0, end)));
  std::reverse(words.begin(), words.end());
  return words;
}

std::vector<Value> SplitAt(In& in, const Text& text, const Text& separator, Int cuts) {
  if (separator.empty()) Raise("empty separator");
  std::vector<Value> parts;
  size_t at = 0;
  while (cuts != 0) {
    const size_t found = text.bytes().find(separator.bytes(), at);
    if (found == std::string::npos) break;
    parts.push_back(in.Make(text.Slice(at, found)));
    at = found + separator.size();
    --cuts;
  }
  parts.push_back(in.Make(text.Slice(at, text.size())));
  return parts;
}

std::vector<Value> SplitAtFromEnd(In& in, const Text& text, const Text& separator, Int cuts) {
  if (separator.empty()) Raise("empty separator");
  std::vector<Value> parts;
  size_t end = text.size();
  while (cuts != 0 && end >= separator.size()) {
    const size_t found = text.bytes().rfind(separator.bytes(), end - separator.size());
    if (found == std::string::npos) break;
    parts.push_back(in.Make(text.Slice(found + separator.size(), end)));
    end = found;
    --cuts;
  }
  parts.push_back(in.Make(text.Slice(0, end)));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool from_end>
Value Split(In& in, const Text& self, Arguments& arguments) {
  const Parameters parameters("split", arguments, {"sep", "maxsplit"});
  const Int cuts = parameters.Integer(1, -1);
  if (parameters[0].IsNone()) {
    return ListOf(in, from_end ? SplitAtSpaceFromEnd(in, self, cuts) : SplitAtSpace(in, self, cuts));
  }
  const Text separator = parameters.String(0);
  return ListOf(in,
                from_end ? SplitAtFromEnd(in, self, separator, cuts) : SplitAt(in, self, separator, cuts));
}

Value SplitLines(In& in, const Text& self, Arguments& arguments) {
  return ListOf(in, Lines(in, self, Parameters("splitlines", arguments, {"keepends"}).Bool(0)));
}

template <bool from_end>
Value Partition(In& in, const Text& self, Arguments& arguments) {
  const Text separator = Parameters("partition", arguments, {"sep"}, 1).String(0);
  if (separator.empty()) Raise("empty separator");
  const size_t found =
      from_end ? self.bytes().rfind(separator.bytes()) : self.bytes().find(separator.bytes());
  std::vector<Value> parts(3, in.Make({}));
  if (found == std::string::npos) {
    parts[from_end ? 2 : 0] = in.Make(self);
  } else {
    parts[0] = in.Make(self.Slice(0, found));
    parts[1] = in.Make(self.Slice(found, found + separator.size()));
    parts[2] = in.Make(self.Slice(found + separator.size(), self.size()));
  }
  return MakeTuple(std::move(parts), in.meter());
}

Value Join(In& in, const Text& self, Arguments& arguments) {
  const std::vector<Value> items = Iterate(Parameters("join", arguments, {"iterable"}, 1)[0], in.meter());
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].IsString()) {
      Raise(fmt::format("sequence item {}: expected str instance, {} found", i, TypeName(items[i])));
    }
  }
  return JoinedBy(in, self, items);
}

// The value that a field of str.format names: "", "0", "name", with .attributes and [items] behind.
Value Field(In& in, std::string_view name, const Arguments& arguments, size_t* next) {
  size_t end = std::min(name.find_first_of(".["), name.size());
  const std::string first(name.substr(0, end));
  const bool is_number = first.find_first_not_of("0123456789") == std::string::npos && first.size() < 6;
  Value value;
  if (is_number) {
    const size_t index = first.empty() ? (*next)++ : static_cast<size_t>(std::stoi(first));
    if (index >= arguments.positional.size())
      Raise("Replacement index out of range for positional args tuple");
    value = arguments.positional[index];
  } else {
    const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                    [&](const auto& argument) { return argument.first == first; });
    if (found == arguments.named.end()) Raise(fmt::format("format() has no argument {}", QuotedRepr(first)));
    value = found->second;
  }
  while (end < name.size()) {
    const bool is_item = name[end] == '[';
    const size_t stop =
        is_item ? name.find(']', end) : std::min(name.find_first_of(".[", end + 1), name.size());
    if (stop == std::string_view::npos) Raise("format(): a field has no end");
    const std::string_view part = name.substr(end + 1, stop - end - 1);
    value = is_item ? in.Item(value, in.Make(Text(part, TextKind::kFormat))) : in.Attribute(value, part);
    end = stop + (is_item ? 1 : 0);
  }
  return value;
}

Value Format(In& in, const Text& self, Arguments& arguments) {
  Text out;
  size_t next = 0;
  const std::string_view text = self.view();
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if ((c == '{' || c == '}') && at + 1 < text.size() && text[at + 1] == c) {
      out.Append(self, at, at + 1);
      at += 2;
    } else if (c == '}') {
      Raise("Single '}' encountered in format string");
    } else if (c == '{') {
      const size_t end = text.find('}', at);
      if (end == std::string_view::npos) Raise("Single '{' encountered in format string");
      std::string_view field = text.substr(at + 1, end - at - 1);
      if (field.find(':') != std::string_view::npos) {
        throw TemplateError{ErrorKind::kUnsupported,
                            "format specifications of str.format are not known here"};
      }
      const bool as_repr = field.ends_with("!r");
      if (as_repr || field.ends_with("!s")) field.remove_suffix(2);
      const Value value = Field(in, field, arguments, &next);
      out.Append(as_repr ? Repr(value, *in.meter()) : in.Str(value));
      CheckSize(out.size(), *in.meter());
      at = end + 1;
    } else {
      const size_t end = std::min(text.find_first_of("{}", at), text.size());
      out.Append(self, at, end);
      at = end;
    }
  }
  return in.Make(std::move(out));
}

struct Row {
  std::string_view name;
  TextMethod function;
};
constexpr Row kMethods[] = {{"split", Split<false>},
                            {"rsplit", Split<true>},
                            {"splitlines", SplitLines},
                            {"partition", Partition<false>},
                            {"rpartition", Partition<true>},
                            {"join", Join},
                            {"format", Format}};

Value CallDictMethod(const Value& self, std::string_view name, Arguments& arguments) {
  const auto view = [&](DictView::What what) {
    const Parameters parameters(name, arguments, {});
    return Value(std::make_shared<const DictView>(DictView{what, self.shared_dict()}));
  };
  if (name == "items") return view(DictView::What::kItems);
  if (name == "keys") return view(DictView::What::kKeys);
  if (name == "values") return view(DictView::What::kValues);
  if (name == "copy") return self;
  const Parameters parameters("get", arguments, {"key", "default"}, 1);
  const Value* found = self.dict().Find(HashId(parameters[0]));
  return found != nullptr ? *found : parameters[1];
}

Value CallListMethod(In& in, const Value& self, std::string_view name, Arguments& arguments) {
  if (name == "copy") return self;
  const Value item = Parameters(name, arguments, {"value"}, 1)[0];
  const std::vector<Value> items = Iterate(self, in.meter());
  size_t count = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!Equals(items[i], item, in.meter())) continue;
    if (name == "index") return Value::Size(i);
    ++count;
  }
  if (name == "index") Raise(fmt::format("{} is not in list", Repr(item, *in.meter()).bytes()));
  return Value::Size(count);
}

Value CallLoopMethod(In& in, Loop& loop, std::string_view name, Arguments& arguments) {
  if (name == "changed") return Value(loop.Changed(std::move(arguments.positional), in.meter()));
  if (arguments.positional.empty()) Raise("no items for cycling given");
  return arguments.positional[static_cast<size_t>(loop.index()) % arguments.positional.size()];
}

Value CallCyclerMethod(Cycler& cycler, std::string_view name) {
  if (name == "reset") {
    cycler.next = 0;
    return {};
  }
  const size_t now = cycler.next;
  cycler.next = (now + 1) % cycler.items.size();
  return cycler.items[now];
}

template <size_t n>
bool IsOneOf(std::string_view name, const std::string_view (&names)[n]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get", "copy"};
constexpr std::string_view kListMethods[] = {"index", "count", "copy"};
constexpr std::string_view kTupleMethods[] = {"index", "count"};
constexpr std::string_view kCyclerMethods[] = {"next", "reset"};

}  // namespace

TextMethod FindSplitMethod(std::string_view name) { return FindIn(kMethods, name); }

bool HasMethod(const Value& value, std::string_view name) {
  switch (value.type()) {
    case Type::kString:
      return FindTextMethod(name) != nullptr;
    case Type::kDict:
      return IsOneOf(name, kDictMethods);
    case Type::kList:
      return IsOneOf(name, kListMethods);
    case Type::kTuple:
    case Type::kRange:
      return IsOneOf(name, kTupleMethods);
    case Type::kCycler:
      return IsOneOf(name, kCyclerMethods);
    default:
      return false;
  }
}

bool ChangesItsObject(const Value& value, std::string_view name) {
  constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  constexpr std::string_view kList[] = {"append", "clear", "pop",    "reverse",
                                        "insert", "sort",  "extend", "remove"};
  return (value.is(Type::kDict) && IsOneOf(name, kDict)) || (value.is(Type::kList) && IsOneOf(name, kList));
}

Value CallMethod(Interpreter& in, const Method& method, Arguments& arguments) {
  const Value& self = method.self;
  constexpr std::string_view kWithNames[] = {"split", "rsplit", "splitlines", "format"};
  if (!arguments.named.empty() && !IsOneOf(method.name, kWithNames)) {
    Raise(fmt::format("{}.{}() takes no keyword arguments", TypeName(self), method.name));
  }
  switch (self.type()) {
    case Type::kString:
      return FindTextMethod(method.name)(in, self.text(), arguments);
    case Type::kDict:
      return CallDictMethod(self, method.name, arguments);
    case Type::kLoop:
      return CallLoopMethod(in, self.loop(), method.name, arguments);
    case Type::kCycler:
      return CallCyclerMethod(self.cycler(), method.name);
    default:
      return CallListMethod(in, self, method.name, arguments);
  }
}

}  // namespace mneme::jinja
