// Reads lines from a person at a terminal, with editing and history, or from a pipe, plainly.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/budget.h"

namespace mneme::cli {

class LineEditor {
 public:
  // A line of up to this many bytes takes no more than this.
  static constexpr size_t kSmallLineBytes = size_t{1} << 16;

  // The prompt is shown on a terminal only, on standard error. Longer lines take more from the lease, which
  // keeps the size that it has now between them.
  LineEditor(std::string prompt, Lease& lease);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  bool is_terminal() const { return is_terminal_; }
  // The next line without its end; empty at the end of input or after an interrupt. A line that ends in a
  // backslash goes on in the next. Throws Error(kBudget), with the cap that would do, for a line that does
  // not fit under it; all of that line has been read then, and the next call gives the next.
  std::optional<std::string> Read();

 private:
  struct Editor;
  // One line of the terminal or the pipe behind what line_ holds; false at the end or after an interrupt.
  bool ReadOne();
  void Append(std::string_view text);

  std::string prompt_;
  bool is_terminal_;
  std::unique_ptr<Editor> editor_;
  Lease& lease_;
  const size_t least_bytes_;  // of the lease
  // The line that is being read. One that does not fit is only counted.
  std::string line_;
  size_t num_bytes_ = 0;
  char last_ = '\0';  // but for line ends
  bool is_too_long_ = false;
};

}  // namespace mneme::cli
