// The methods of strings that make strings, and those that ask something of one.
#include <fmt/format.h>

#include <algorithm>

#include "base/text/utf8.h"
#include "chat/jinja/builtins/builtins.h"
#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"
#include "tokenizer/text/unicode.h"

namespace mneme::jinja {
namespace {

using In = Interpreter;

template <Case to>
Value Change(In& in, const Text& self, Arguments& arguments) {
  const Parameters parameters("case", arguments, {});
  return Mapped(in, self, to);
}

Value Capitalize(In& in, const Text& self, Arguments&) { return Capitalized(in, self); }

// A word begins behind whatever has no case.
Value Title(In& in, const Text& self, Arguments&) {
  Text out;
  bool in_word = false;
  for (size_t at = 0; at < self.size();) {
    const Utf8Char c = DecodeUtf8(self.view().data() + at, self.size() - at);
    std::string changed;
    AppendCase(self.view().substr(at, c.length), in_word ? Case::kLower : Case::kTitle, &changed);
    out.Append(changed, self.KindAt(at));
    in_word = IsUpper(c.code) || IsLower(c.code);
    at += c.length;
  }
  return in.Make(std::move(out));
}

Value SwapCase(In& in, const Text& self, Arguments&) {
  Text out;
  for (size_t at = 0; at < self.size();) {
    const Utf8Char c = DecodeUtf8(self.view().data() + at, self.size() - at);
    std::string changed;
    AppendCase(self.view().substr(at, c.length), IsUpper(c.code) ? Case::kLower : Case::kUpper, &changed);
    out.Append(changed, self.KindAt(at));
    at += c.length;
  }
  return in.Make(std::move(out));
}

template <int sides>
Value Strip(In& in, const Text& self, Arguments& arguments) {
  return Stripped(in, self, Parameters("strip", arguments, {"chars"})[0], sides);
}

Value Replace(In& in, const Text& self, Arguments& arguments) {
  const Parameters parameters("replace", arguments, {"old", "new", "count"}, 2);
  return Replaced(in, self, parameters.String(0), parameters.String(1), parameters.Integer(2, -1));
}

template <int sides>
Value Justify(In& in, const Text& self, Arguments& arguments) {
  const Parameters parameters("justify", arguments, {"width", "fillchar"}, 1);
  const Text fill = parameters.has(1) ? parameters.String(1) : Text(" ", TextKind::kFormat);
  return Centered(in, self, parameters.Integer(0, 0), fill, sides);
}

Value ZeroFill(In& in, const Text& self, Arguments& arguments) {
  const Int width = Parameters("zfill", arguments, {"width"}, 1).Integer(0, 0);
  const bool has_sign = self.view().starts_with('-') || self.view().starts_with('+');
  Text out = self.Slice(0, has_sign ? 1 : 0);
  const Text zero("0", TextKind::kFormat);
  out.Append(
      Centered(in, self.Slice(has_sign ? 1 : 0, self.size()), width - (has_sign ? 1 : 0), zero, 1).text());
  return in.Make(std::move(out));
}

template <bool at_start>
Value RemoveAffix(In& in, const Text& self, Arguments& arguments) {
  const Text affix = Parameters("removeprefix", arguments, {"affix"}, 1).String(0);
  if (at_start && self.view().starts_with(affix.view()))
    return in.Make(self.Slice(affix.size(), self.size()));
  if (!at_start && self.view().ends_with(affix.view()))
    return in.Make(self.Slice(0, self.size() - affix.size()));
  return in.Make(self);
}

// The part between two indices, which startswith and its like may take.
Text Part(In& in, const Text& self, const Parameters& parameters) {
  if (!parameters.has(1) && !parameters.has(2)) return self;
  return Slice(in.Make(self), parameters[1], parameters[2], Value(), in.meter()).text();
}

template <bool at_start>
Value HasAffix(In& in, const Text& self, Arguments& arguments) {
  const Parameters parameters(at_start ? "startswith" : "endswith", arguments, {"affix", "start", "end"}, 1);
  const Text part = Part(in, self, parameters);
  in.meter()->Step(part.size() / 16);
  const auto has = [&](const Value& affix) {
    if (affix.IsUndefined()) Raise(affix.undefined_message());
    if (!affix.IsString()) {
      Raise(fmt::format("{} first arg must be str or a tuple of str, not {}",
                        at_start ? "startswith" : "endswith", TypeName(affix)));
    }
    return at_start ? part.view().starts_with(affix.text().view())
                    : part.view().ends_with(affix.text().view());
  };
  const Value affix = parameters[0];
  if (!affix.is(Type::kTuple)) return Value(has(affix));
  const std::vector<Value>& all = affix.list().items;
  return Value(std::any_of(all.begin(), all.end(), has));
}

// find, rfind, index, rindex.
template <bool from_end, bool must_be_there>
Value Find(In& in, const Text& self, Arguments& arguments) {
  const Parameters parameters("find", arguments, {"sub", "start", "end"}, 1);
  const Text sub = parameters.String(0);
  const Text part = Part(in, self, parameters);
  in.meter()->Step(self.size() / 16);
  const size_t found = from_end ? part.bytes().rfind(sub.bytes()) : part.bytes().find(sub.bytes());
  if (found == std::string::npos) {
    if (must_be_there) Raise("substring not found");
    return Value(Int{-1});
  }
  Int start = parameters.Integer(1, 0);
  if (start < 0) start = std::max<Int>(0, start + static_cast<Int>(CountCharacters(self.view())));
  return Value(start + static_cast<Int>(CountCharacters(part.view().substr(0, found))));
}

Value Count(In& in, const Text& self, Arguments& arguments) {
  const Parameters parameters("count", arguments, {"sub", "start", "end"}, 1);
  const Text sub = parameters.String(0);
  const Text part = Part(in, self, parameters);
  in.meter()->Step(self.size() / 16);
  if (sub.empty()) return Value::Size(CountCharacters(part.view()) + 1);
  size_t count = 0;
  for (size_t at = part.bytes().find(sub.bytes()); at != std::string::npos;
       at = part.bytes().find(sub.bytes(), at + sub.size())) {
    ++count;
  }
  return Value::Size(count);
}

bool IsLetter(CharClass c) { return c >= CharClass::kUpper && c <= CharClass::kOtherLetter; }
bool IsNumber(CharClass c) { return c == CharClass::kNumber; }

enum class Is { kAlpha, kDigit, kAlnum, kSpace, kAscii, kPrintable, kIdentifier };

bool HasAll(std::string_view text, Is what) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text.data() + at, text.size() - at);
    const CharClass cls = ClassOf(c.code);
    bool is = false;
    switch (what) {
      case Is::kAlpha:
        is = IsLetter(cls);
        break;
      case Is::kDigit:
        is = IsNumber(cls);
        break;
      case Is::kAlnum:
        is = IsLetter(cls) || IsNumber(cls);
        break;
      case Is::kSpace:
        is = IsSpace(c.code);
        break;
      case Is::kAscii:
        is = c.code < 0x80;
        break;
      case Is::kPrintable:
        is = IsPrintable(c.code);
        break;
      case Is::kIdentifier:
        is = c.code == '_' || IsLetter(cls) || (at > 0 && (IsNumber(cls) || cls == CharClass::kMark));
        break;
    }
    if (!is) return false;
    at += c.length;
  }
  return !text.empty() || what == Is::kAscii || what == Is::kPrintable;
}

template <Is what>
Value AskAll(In& in, const Text& self, Arguments&) {
  in.meter()->Step(self.size() / 16);
  return Value(HasAll(self.view(), what));
}

template <bool upper>
Value AskCase(In& in, const Text& self, Arguments& arguments) {
  return Value(in.CallTest(upper ? "upper" : "lower", in.Make(self), arguments));
}

Value AskTitle(In& in, const Text& self, Arguments& arguments) {
  const bool has_letter = std::any_of(self.bytes().begin(), self.bytes().end(),
                                      [](char c) { return IsUpper(static_cast<uint8_t>(c)); });
  return Value(has_letter && Title(in, self, arguments).text().bytes() == self.bytes());
}

struct Row {
  std::string_view name;
  TextMethod function;
};
constexpr Row kMethods[] = {
    {"upper", Change<Case::kUpper>},
    {"lower", Change<Case::kLower>},
    {"casefold", Change<Case::kLower>},
    {"capitalize", Capitalize},
    {"title", Title},
    {"swapcase", SwapCase},
    {"strip", Strip<3>},
    {"lstrip", Strip<1>},
    {"rstrip", Strip<2>},
    {"replace", Replace},
    {"center", Justify<3>},
    {"rjust", Justify<1>},
    {"ljust", Justify<2>},
    {"zfill", ZeroFill},
    {"removeprefix", RemoveAffix<true>},
    {"removesuffix", RemoveAffix<false>},
    {"startswith", HasAffix<true>},
    {"endswith", HasAffix<false>},
    {"find", Find<false, false>},
    {"rfind", Find<true, false>},
    {"index", Find<false, true>},
    {"rindex", Find<true, true>},
    {"count", Count},
    {"isalpha", AskAll<Is::kAlpha>},
    {"isdigit", AskAll<Is::kDigit>},
    {"isdecimal", AskAll<Is::kDigit>},
    {"isnumeric", AskAll<Is::kDigit>},
    {"isalnum", AskAll<Is::kAlnum>},
    {"isspace", AskAll<Is::kSpace>},
    {"isascii", AskAll<Is::kAscii>},
    {"isprintable", AskAll<Is::kPrintable>},
    {"isidentifier", AskAll<Is::kIdentifier>},
    {"isupper", AskCase<true>},
    {"islower", AskCase<false>},
    {"istitle", AskTitle},
};

}  // namespace

TextMethod FindTextMethod(std::string_view name) {
  const TextMethod method = FindIn(kMethods, name);
  return method != nullptr ? method : FindSplitMethod(name);
}

}  // namespace mneme::jinja
