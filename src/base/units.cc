#include "base/units.h"

#include <cctype>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace mneme {
namespace {

double ParseScaled(std::string_view text, std::string_view what, double step) {
  double value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  bool ok = ec == std::errc() && std::isfinite(value) && value >= 0;
  if (ok && !suffix.empty()) {
    switch (std::toupper(static_cast<unsigned char>(suffix[0]))) {
      case 'K':
        value *= step;
        suffix.remove_prefix(1);
        break;
      case 'M':
        value *= step * step;
        suffix.remove_prefix(1);
        break;
      case 'G':
        value *= step * step * step;
        suffix.remove_prefix(1);
        break;
      case 'T':
        value *= step * step * step * step;
        suffix.remove_prefix(1);
        break;
      default:
        break;
    }
    if (step == 1024 && (suffix == "iB" || suffix == "B" || suffix == "ib" || suffix == "b")) suffix = {};
    ok = suffix.empty();
  }
  if (!ok || value > 0x1p62) {
    Fail(ErrorKind::kInput, "{}: '{}' is not a number such as 4096, 256K, 1.5M or 2G", what, text);
  }
  return value;
}

}  // namespace

size_t ParseBytes(std::string_view text, std::string_view what) {
  return static_cast<size_t>(ParseScaled(text, what, 1024));
}

int64_t ParseCount(std::string_view text, std::string_view what, bool binary) {
  const double value = ParseScaled(text, what, binary ? 1024 : 1000);
  if (value != std::floor(value)) Fail(ErrorKind::kInput, "{}: '{}' is not a whole number", what, text);
  return static_cast<int64_t>(value);
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
