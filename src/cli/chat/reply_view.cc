#include "cli/chat/reply_view.h"

#include <unistd.h>

#include <algorithm>
#include <string>

#include "cli/console/console.h"

namespace mneme::cli {
namespace {

constexpr ReasoningMarks kNoMarks{"\x01", "\x01"};
constexpr std::string_view kDim = "\x1b[2m", kPlain = "\x1b[0m";

}  // namespace

ReplyView::ReplyView(const Tokenizer& tokenizer, const ReasoningMarks* marks, bool is_open)
    : tokenizer_(tokenizer),
      has_marks_(marks != nullptr),
      dims_(isatty(STDOUT_FILENO) != 0),
      reader_(marks != nullptr ? *marks : kNoMarks, is_open) {}

void ReplyView::Write(std::string_view text, bool is_reasoning) {
  // Where the format ends in a space or a line, some models repeat it.
  if (at_start_) text.remove_prefix(std::min(text.find_first_not_of(" \n"), text.size()));
  at_start_ = at_start_ && text.empty();
  if (text.empty()) return;
  const bool dims = is_reasoning && dims_;
  // The plain state comes back with each piece: a program that is stopped leaves no dim terminal.
  WriteOutNow(dims ? std::string(kDim).append(text).append(kPlain) : std::string(text));
}

void ReplyView::Show(const Piece& piece) {
  if (!has_marks_) return Write(piece.text, false);
  std::string text = piece.text;
  // The marks may be control tokens, which have no text.
  if (piece.token >= 0 && tokenizer_.is_special(piece.token) && !tokenizer_.is_eog(piece.token))
    text += tokenizer_.Piece(piece.token);
  std::vector<ReasoningReader::Part> parts;
  reader_.Feed(text, &parts);
  for (const ReasoningReader::Part& part : parts) Write(part.text, part.is_reasoning);
}

void ReplyView::End() {
  std::vector<ReasoningReader::Part> parts;
  if (has_marks_) reader_.Finish(&parts);
  for (const ReasoningReader::Part& part : parts) Write(part.text, part.is_reasoning);
  WriteOutNow("\n");
}

}  // namespace mneme::cli
