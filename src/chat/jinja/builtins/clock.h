// The moment that a template may ask for.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

namespace mneme::jinja {

// "2026-01-02T03:04:05", also with a space, without seconds, or only the date. Throws Error(kInput) for
// another text.
std::tm ParseTime(std::string_view iso);
// Of this machine's clock and time zone.
std::tm LocalTime();
// As datetime.strftime, in English. Throws TemplateError.
std::string FormatTime(const std::tm& time, const std::string& format);

}  // namespace mneme::jinja
