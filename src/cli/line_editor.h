// Reads lines from a person at a terminal, with editing and history, or from a pipe, plainly.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace mneme::cli {

class LineEditor {
 public:
  // The prompt is shown on a terminal only, on standard error.
  explicit LineEditor(std::string prompt);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  bool is_terminal() const { return is_terminal_; }
  // The next line without its end; empty at the end of input or after an interrupt. A line that ends in a
  // backslash goes on in the next. Throws Error(kInput) for a line of more than 64 MiB.
  std::optional<std::string> Read();

 private:
  struct Editor;
  std::optional<std::string> ReadOne();
  std::string prompt_;
  bool is_terminal_;
  std::unique_ptr<Editor> editor_;
};

}  // namespace mneme::cli
