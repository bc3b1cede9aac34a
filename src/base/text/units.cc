#include "base/text/units.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "base/error.h"

namespace mneme {
namespace {

constexpr uint64_t kMost = uint64_t{1} << 62;

// A decimal number taken apart: digits * 10^exponent, and what stands behind it.
struct Decimal {
  bool ok = false;
  bool negative = false;
  bool too_large = false;
  uint64_t digits = 0;
  int exponent = 0;
  std::string_view rest;
};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

Decimal TakeApart(std::string_view text) {
  Decimal number;
  size_t at = 0;
  if (at < text.size() && text[at] == '-') number.negative = ++at > 0;
  bool in_fraction = false;
  for (; at < text.size() && (IsDigit(text[at]) || (text[at] == '.' && !in_fraction)); ++at) {
    if (text[at] == '.') {
      in_fraction = true;
      continue;
    }
    number.ok = true;
    number.too_large |= __builtin_mul_overflow(number.digits, 10u, &number.digits);
    number.too_large |=
        __builtin_add_overflow(number.digits, static_cast<unsigned>(text[at] - '0'), &number.digits);
    number.exponent -= in_fraction;
  }
  number.ok = number.ok && text[at - 1] != '.';
  // "1e6" as scripts print it; an E that is followed by no digits is none of ours.
  if (number.ok && at + 1 < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    int exponent = 0;
    const char* begin = text.data() + at + 1 + (text[at + 1] == '+');
    const auto [end, error] = std::from_chars(begin, text.data() + text.size(), exponent);
    number.ok = error == std::errc() && exponent >= -100 && exponent <= 100;
    number.exponent += exponent;
    at = static_cast<size_t>(end - text.data());
  }
  number.rest = text.substr(at);
  return number;
}

bool EqualNoCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::toupper(static_cast<unsigned char>(x)) == std::toupper(static_cast<unsigned char>(y));
  });
}

// The factor that a suffix stands for; 0 for one that is not known.
uint64_t Factor(std::string_view suffix, Unit unit) {
  if (unit == Unit::kBytes && suffix.starts_with(' ')) suffix.remove_prefix(1);  // as FormatBytes prints
  uint64_t factor = 1;
  if (!suffix.empty() && unit != Unit::kNone) {
    const size_t power =
        std::string_view("KMGT").find(static_cast<char>(std::toupper(static_cast<unsigned char>(suffix[0]))));
    if (power != std::string_view::npos) {
      for (size_t i = 0; i <= power; ++i) factor *= 1024;
      suffix.remove_prefix(1);
    }
  }
  if (unit == Unit::kBytes && (EqualNoCase(suffix, "iB") || EqualNoCase(suffix, "B"))) suffix = {};
  return suffix.empty() ? factor : 0;
}

// The value if it is a whole number below 2^64. `problem` says why not.
uint64_t WholeValue(const Decimal& number, Unit unit, const char** problem) {
  const uint64_t factor = number.ok ? Factor(number.rest, unit) : 0;
  *problem = factor == 0 ? "is not a number" : number.too_large ? "has too many digits" : nullptr;
  if (*problem != nullptr || number.digits == 0) return 0;
  uint64_t value = number.digits;
  bool too_large = __builtin_mul_overflow(value, factor, &value);
  for (int i = 0; i < number.exponent; ++i)
    too_large = too_large || __builtin_mul_overflow(value, 10u, &value);
  bool is_whole = true;
  for (int i = 0; i > number.exponent && !too_large; --i) {
    is_whole = is_whole && value % 10 == 0;
    value /= 10;
  }
  if (too_large) *problem = "is too large";
  // A file or a cap of 1.7G is meant to the byte below; 1.5 bytes are a mistake.
  if (!too_large && !is_whole && (unit != Unit::kBytes || factor == 1)) *problem = "is not a whole number";
  return value;
}

const char* Examples(Unit unit) {
  switch (unit) {
    case Unit::kNone:
      return "";
    case Unit::kCount:
      return "; such as 4096, 32K (32,768) or 1.5M";
    case Unit::kBytes:
      return "; such as 4096, 256K, 1.5M or 2G";
  }
  return "";
}

[[noreturn]] void FailNumber(std::string_view text, std::string_view what, std::string_view problem,
                             std::string_view wanted, Unit unit) {
  Fail(ErrorKind::kInput, "{}: '{}' {}; it takes {}{}", what, text, problem, wanted, Examples(unit));
}

template <typename T>
std::string RangeText(T low, T high) {
  // Above the largest count only seeds go.
  const bool is_open = std::is_signed_v<T> ? high >= static_cast<T>(kMost) : high == static_cast<T>(kMost);
  return is_open ? fmt::format("a whole number from {} up", low) : fmt::format("{} to {}", low, high);
}

}  // namespace

int64_t ParseWhole(std::string_view text, std::string_view what, Unit unit, int64_t low, int64_t high) {
  const Decimal number = TakeApart(text);
  const char* problem = nullptr;
  const uint64_t magnitude = WholeValue(number, unit, &problem);
  const std::string wanted = RangeText(low, high);
  if (problem != nullptr) FailNumber(text, what, problem, wanted, unit);
  const int64_t value = magnitude > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX
                        : number.negative                            ? -static_cast<int64_t>(magnitude)
                                                                     : static_cast<int64_t>(magnitude);
  if (value < low || value > high || magnitude > static_cast<uint64_t>(INT64_MAX)) {
    FailNumber(text, what, "is out of range", wanted, unit);
  }
  return value;
}

uint64_t ParseUnsigned(std::string_view text, std::string_view what, Unit unit, uint64_t low, uint64_t high) {
  const Decimal number = TakeApart(text);
  const char* problem = nullptr;
  const uint64_t value = WholeValue(number, unit, &problem);
  const bool is_outside = value < low || value > high || (number.negative && value > 0);
  if (problem == nullptr && is_outside) problem = "is out of range";
  if (problem != nullptr) FailNumber(text, what, problem, RangeText(low, high), unit);
  return value;
}

double ParseReal(std::string_view text, std::string_view what, double low, double high) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool ok = error == std::errc() && end == text.data() + text.size() && std::isfinite(value);
  if (!ok || value < low || value > high) {
    FailNumber(text, what, ok ? "is out of range" : "is not a number", fmt::format("{} to {}", low, high),
               Unit::kNone);
  }
  return value;
}

size_t ParseBytes(std::string_view text, std::string_view what) {
  return static_cast<size_t>(ParseUnsigned(text, what, Unit::kBytes, 0, kMost));
}

int64_t ParseCount(std::string_view text, std::string_view what) {
  return ParseWhole(text, what, Unit::kCount, 0, static_cast<int64_t>(kMost));
}

std::string FormatBytes(size_t bytes) {
  if (bytes == SIZE_MAX) return "no limit";
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 6) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value >= 100 ? 0 : value >= 10 ? 1 : 2, kUnits[unit]);
}

std::string FormatBytesUp(size_t bytes) {
  if (bytes >= (size_t{64} << 20)) return fmt::format("{}M", (bytes + (size_t{1} << 20) - 1) >> 20);
  return fmt::format("{}K", (bytes + 1023) >> 10);
}

std::string FormatCount(int64_t count) {
  const std::string digits = std::to_string(count);
  const size_t first = digits[0] == '-' ? 1 : 0;
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string FormatSeconds(double seconds) {
  if (!(seconds >= 0) || !std::isfinite(seconds)) return "unknown";
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1000);
  if (seconds < 99.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{} min {:02d} s", whole / 60, whole % 60);
  if (whole < 48 * 3600) return fmt::format("{} h {:02d} min", whole / 3600, whole / 60 % 60);
  return fmt::format("{:.1f} days", seconds / 86400);
}

}  // namespace mneme
