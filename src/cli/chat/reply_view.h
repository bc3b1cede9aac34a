// A reply on standard output while it comes: without the white space before it, reasoning dimmed on a
// terminal.
#pragma once

#include <string_view>
#include <vector>

#include "cli/chat/reasoning.h"
#include "mneme/session.h"

namespace mneme::cli {

class ReplyView {
 public:
  // marks: how the model marks its reasoning, or null. is_open: the reply begins inside it.
  ReplyView(const Tokenizer& tokenizer, const ReasoningMarks* marks, bool is_open);

  // Throws OutputError.
  void Show(const Piece& piece);
  // The reply is over: what waits, and the end of its line.
  void End();

 private:
  void Write(std::string_view text, bool is_reasoning);

  const Tokenizer& tokenizer_;
  const bool has_marks_, dims_;
  ReasoningReader reader_;
  bool at_start_ = true;
};

}  // namespace mneme::cli
