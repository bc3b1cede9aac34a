// Messages to people, on standard error. They may be lost (a full disk under the log, a reader that left, a
// closed descriptor); the work that they speak of may not: nothing here throws because of where they go.
#pragma once

#include <fmt/core.h>

#include <cstdio>
#include <string_view>
#include <utility>

namespace mneme {

// Writes text (PrintableLines of it: it may quote names out of files) at once, and forgets what cannot be
// written.
void WriteMessage(std::string_view text, std::FILE* out = stderr) noexcept;

// Call first in main. A standard stream that was closed (`2>&-`) is opened again, so that no file opened
// later gets its number and messages or results in it: messages are lost then, results fail when they are
// written.
void OpenClosedStreams();

template <typename... Args>
void PrintMessage(fmt::format_string<Args...> format, Args&&... args) {
  WriteMessage(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace mneme
