// text % values, as Python formats it.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "chat/jinja/values/format.h"
#include "chat/jinja/values/operators.h"

namespace mneme::jinja {
namespace {

constexpr int kMaxWidth = 1000;

// %-08.3f: flags, width and precision, as snprintf takes them too.
struct Specification {
  std::string flags;
  int width = 0;
  int precision = -1;
  char conversion = '\0';
};

class Formatter {
 public:
  Formatter(const Text& format, const Value& values, Meter* meter)
      : format_(format), values_(values), meter_(meter) {}

  Text Run() {
    const std::string_view text = format_.view();
    while (at_ < text.size()) {
      const size_t percent = std::min(text.find('%', at_), text.size());
      out_.Append(format_, at_, percent);
      at_ = percent;
      if (at_ < text.size()) One();
      CheckSize(out_.size(), *meter_);
    }
    // What can be looked into may be there for names that the format does not use.
    const bool is_open = values_.is(Type::kDict) || values_.is(Type::kList) || values_.is(Type::kRange) ||
                         values_.IsUndefined();
    const size_t given = values_.is(Type::kTuple) ? values_.list().items.size() : is_open ? 0 : 1;
    if (next_ < given) {
      Raise("not all arguments converted during string formatting");
    }
    return std::move(out_);
  }

 private:
  char Peek() const {
    if (at_ >= format_.size()) Raise("incomplete format");
    return format_.bytes()[at_];
  }

  Value Next() {
    if (!values_.is(Type::kTuple)) {
      if (next_++ > 0) Raise("not enough arguments for format string");
      return values_;
    }
    if (next_ >= values_.list().items.size()) Raise("not enough arguments for format string");
    return values_.list().items[next_++];
  }

  Value Named() {
    const size_t end = format_.bytes().find(')', at_);
    if (end == std::string::npos) Raise("incomplete format key");
    if (!values_.is(Type::kDict)) Raise("format requires a mapping");
    const std::string name = format_.bytes().substr(at_ + 1, end - at_ - 1);
    const Value* found = values_.dict().Find(HashId(name));
    if (found == nullptr) Raise(QuotedRepr(name));
    at_ = end + 1;
    return *found;
  }

  int Number() {
    int number = 0;
    while (Peek() >= '0' && Peek() <= '9') {
      number = number * 10 + (Peek() - '0');
      if (number > kMaxWidth) Raise(fmt::format("a width of more than {} in a format", kMaxWidth));
      ++at_;
    }
    return number;
  }

  void One() {
    ++at_;  // %
    if (Peek() == '%') {
      out_.Append(format_, at_, at_ + 1);
      ++at_;
      return;
    }
    std::optional<Value> value;
    if (Peek() == '(') value = Named();
    Specification spec;
    while (std::string_view("-+ #0").find(Peek()) != std::string_view::npos) {
      if (spec.flags.find(Peek()) == std::string::npos) spec.flags += Peek();
      ++at_;
    }
    spec.width = Number();
    if (Peek() == '.') {
      ++at_;
      spec.precision = Number();
    }
    spec.conversion = Peek();
    ++at_;
    Convert(spec, value ? *value : Next());
  }

  void Convert(const Specification& spec, const Value& value) {
    if (spec.conversion == 's' || spec.conversion == 'r') {
      Text text = spec.conversion == 's' ? ToText(value, *meter_) : Repr(value, *meter_);
      if (spec.precision >= 0) {
        text = text.Slice(0, CharacterOffset(text.view(), static_cast<size_t>(spec.precision)));
      }
      Pad(spec, text);
      return;
    }
    if (value.IsUndefined()) Raise(value.undefined_message());
    std::string number;
    if (std::string_view("diuxXo").find(spec.conversion) != std::string_view::npos) {
      if (!value.IsNumber()) {
        Raise(fmt::format("%{} format: a number is required, not {}", spec.conversion, TypeName(value)));
      }
      number = Whole(spec, value.IsIntegral() ? value.integer() : static_cast<Int>(value.number()));
    } else if (std::string_view("feEgGF").find(spec.conversion) != std::string_view::npos) {
      if (!value.IsNumber()) Raise(fmt::format("must be real number, not {}", TypeName(value)));
      const bool has_plus = spec.flags.find('+') != std::string::npos;
      const bool has_space = spec.flags.find(' ') != std::string::npos;
      const std::string pattern = fmt::format("{{:{}{}.{}{}}}",
                                              has_plus    ? "+"
                                              : has_space ? " "
                                                          : "",
                                              spec.flags.find('#') != std::string::npos ? "#" : "",
                                              spec.precision < 0 ? 6 : spec.precision, spec.conversion);
      number = fmt::format(fmt::runtime(pattern), value.number());
    } else {
      Raise(fmt::format("unsupported format character {}", QuotedRepr({&spec.conversion, 1})));
    }
    Pad(spec, Text(number, value.kind()));
  }

  static std::string Whole(const Specification& spec, Int value) {
    const bool is_negative = value < 0;
    const Int magnitude = is_negative ? -value : value;
    std::string digits = spec.conversion == 'x'   ? fmt::format("{:x}", magnitude)
                         : spec.conversion == 'X' ? fmt::format("{:X}", magnitude)
                         : spec.conversion == 'o' ? fmt::format("{:o}", magnitude)
                                                  : fmt::format("{}", magnitude);
    if (spec.flags.find('#') != std::string::npos && spec.conversion != 'd') {
      digits = std::string("0") + spec.conversion + digits;
    }
    if (is_negative) return "-" + digits;
    if (spec.flags.find('+') != std::string::npos) return "+" + digits;
    return spec.flags.find(' ') != std::string::npos ? " " + digits : digits;
  }

  void Pad(const Specification& spec, const Text& text) {
    const auto width = static_cast<size_t>(spec.width);
    const size_t size = CountCharacters(text.view());
    const size_t space = width > size ? width - size : 0;
    const bool is_left = spec.flags.find('-') != std::string::npos;
    const bool with_zeros = !is_left && spec.flags.find('0') != std::string::npos && spec.conversion != 's' &&
                            spec.conversion != 'r';
    const size_t sign = with_zeros && !text.empty() &&
                        std::string_view("+- ").find(text.bytes()[0]) != std::string_view::npos;
    out_.Append(text, 0, sign);
    if (!is_left) out_.Append(std::string(space, with_zeros ? '0' : ' '), TextKind::kFormat);
    out_.Append(text, sign, text.size());
    if (is_left) out_.Append(std::string(space, ' '), TextKind::kFormat);
  }

  const Text& format_;
  const Value& values_;
  Meter* meter_;
  Text out_;
  size_t at_ = 0;
  size_t next_ = 0;
};

}  // namespace

Value FormatPercent(const Text& format, const Value& values, Meter* meter) {
  return MakeText(Formatter(format, values, meter).Run(), meter);
}

}  // namespace mneme::jinja
