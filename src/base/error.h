// The three kinds of failure (docs/architecture.md): a bug stops at MNEME_CHECK; bad input, file, budget or
// peer throws Error; a warning is returned data. The library never prints, exits or aborts on input.
#pragma once

#include <fmt/core.h>

#include <utility>

#include "mneme/error.h"

namespace mneme {

// Throws Error(kind) with a formatted message.
template <typename... Args>
[[noreturn]] void Fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

// Prints file, line and condition to standard error and aborts. Only reached through a bug in this library.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace mneme

// Always on: cheap conditions whose failure means memory would be corrupted.
#define MNEME_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::mneme::CheckFailed(__FILE__, __LINE__, #condition))

// On in the dev and sanitizer presets: conditions inside loops.
#if defined(MNEME_DEBUG_CHECKS) && MNEME_DEBUG_CHECKS
#define MNEME_DCHECK(condition) MNEME_CHECK(condition)
#else
#define MNEME_DCHECK(condition) static_cast<void>(0)
#endif
