#include "chat/jinja/builtins/clock.h"

#include <locale.h>

#include <cstdio>
#include <ctime>

#include "base/error.h"
#include "chat/jinja/values/value.h"

namespace mneme::jinja {
namespace {

int DaysOf(int month, int year) {
  constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const bool is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return kDays[month - 1] + (month == 2 && is_leap ? 1 : 0);
}

// The same in every locale.
locale_t English() {
  static const locale_t locale = newlocale(LC_ALL_MASK, "C", nullptr);
  return locale;
}

}  // namespace

std::tm ParseTime(std::string_view iso) {
  const std::string text(iso);
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, end = 0;
  char between = 'T';
  const int count = std::sscanf(text.c_str(), "%4d-%2d-%2d%n%c%2d:%2d%n:%2d%n", &year, &month, &day, &end,
                                &between, &hour, &minute, &end, &second, &end);
  const bool is_whole = (count == 3 || count == 6 || count == 7) && static_cast<size_t>(end) == text.size();
  const bool is_good = is_whole && (between == 'T' || between == ' ') && year >= 1 && month >= 1 &&
                       month <= 12 && day >= 1 && day <= DaysOf(month, year) && hour >= 0 && hour < 24 &&
                       minute >= 0 && minute < 60 && second >= 0 && second < 60;
  if (!is_good) Fail(ErrorKind::kInput, "'{}' is no time; a time is written 2026-01-02T03:04:05", iso);
  std::tm time{};
  time.tm_year = year - 1900;
  time.tm_mon = month - 1;
  time.tm_mday = day;
  time.tm_hour = hour;
  time.tm_min = minute;
  time.tm_sec = second;
  timegm(&time);  // the day of the week and of the year
  return time;
}

std::tm LocalTime() {
  const std::time_t now = std::time(nullptr);
  std::tm time{};
  localtime_r(&now, &time);
  return time;
}

std::string FormatTime(const std::tm& time, const std::string& format) {
  std::string known;  // what strftime would answer otherwise than Python, which knows no zone here
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      known += format[i];
    } else {
      const char c = format[++i];
      if (c == 'f') {
        known += "000000";
      } else if (c != 'z' && c != 'Z') {
        known += {'%', c};
      }
    }
  }
  if (known.empty()) return "";
  std::string text(known.size() * 4 + 1024, '\0');
  if (known.size() > 10000) Raise("strftime_now: the format is too long");
  const size_t size = strftime_l(text.data(), text.size(), known.c_str(), &time, English());
  text.resize(size);
  return text;
}

}  // namespace mneme::jinja
