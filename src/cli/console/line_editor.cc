#include "cli/console/line_editor.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <utility>

#include "base/error.h"
#include "base/message.h"
#include "base/text/units.h"
#include "cli/console/signals.h"

#ifdef MNEME_HAVE_LIBEDIT
#include <histedit.h>
#endif

namespace mneme::cli {
namespace {

constexpr size_t kReadBytes = 4096;

// A string that grows doubles its room and copies itself: the old room and the new one at once.
size_t BytesToHold(size_t line_bytes) {
  if (line_bytes <= LineEditor::kSmallLineBytes) return LineEditor::kSmallLineBytes;
  size_t room = LineEditor::kSmallLineBytes;
  while (room < line_bytes) room *= 2;
  return room + room / 2;
}

}  // namespace

#ifdef MNEME_HAVE_LIBEDIT
struct LineEditor::Editor {
  explicit Editor(const std::string& prompt) : prompt(prompt) {
    std::setlocale(LC_CTYPE, "");  // libedit reads characters, not bytes
    edit = el_init("mneme", stdin, stderr, stderr);
    past = history_init();
    if (edit == nullptr || past == nullptr) return;
    HistEvent event;
    history(past, &event, H_SETSIZE, 1000);
    history(past, &event, H_SETUNIQUE, 1);
    el_set(edit, EL_CLIENTDATA, this);
    el_set(edit, EL_PROMPT, &Editor::Prompt);
    el_set(edit, EL_EDITOR, "emacs");
    el_set(edit, EL_HIST, history, past);
  }
  ~Editor() {
    if (past != nullptr) history_end(past);
    if (edit != nullptr) el_end(edit);
  }
  static char* Prompt(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<Editor*>(self)->prompt.data();
  }
  std::string prompt;
  EditLine* edit = nullptr;
  History* past = nullptr;
};
#else
struct LineEditor::Editor {};
#endif

LineEditor::LineEditor(std::string prompt, Lease& lease)
    : prompt_(std::move(prompt)),
      is_terminal_(isatty(STDIN_FILENO) != 0 && isatty(STDERR_FILENO) != 0),
      lease_(lease),
      least_bytes_(lease.bytes()) {
#ifdef MNEME_HAVE_LIBEDIT
  if (is_terminal_) {
    editor_ = std::make_unique<Editor>(prompt_);
    if (editor_->edit == nullptr || editor_->past == nullptr) editor_.reset();
  }
#endif
}

LineEditor::~LineEditor() = default;

void LineEditor::Append(std::string_view text) {
  num_bytes_ += text.size();
  for (const char c : text) {
    if (c != '\n' && c != '\r') last_ = c;
  }
  if (is_too_long_) return;
  if (line_.size() + text.size() > line_.capacity()) {
    size_t room = kSmallLineBytes;
    while (room < line_.size() + text.size()) room *= 2;
    try {
      lease_.Resize(std::max(least_bytes_, BytesToHold(room)), "the line that is being read");
    } catch (const Error&) {
      is_too_long_ = true;  // Read says so when it knows how long
      std::string().swap(line_);
      lease_.Resize(least_bytes_, "the lines of the input");
      return;
    }
    line_.reserve(room);
    lease_.Resize(std::max(least_bytes_, room), "the line that is being read");
  }
  line_ += text;
}

bool LineEditor::ReadOne() {
#ifdef MNEME_HAVE_LIBEDIT
  if (editor_ != nullptr) {
    int count = 0;
    const char* const text = el_gets(editor_->edit, &count);
    if (text == nullptr || count <= 0 || StopRequested()) return false;
    const std::string_view line(text, static_cast<size_t>(count));
    if (line.size() <= kSmallLineBytes && line.find_first_not_of(" \t\r\n") != std::string_view::npos) {
      HistEvent event;
      history(editor_->past, &event, H_ENTER, std::string(line).c_str());
    }
    Append(line);
    return true;
  }
#endif
  if (is_terminal_) {
    WriteMessage(prompt_);
  }
  const size_t before = num_bytes_;
  std::string piece;
  int c = 0;
  while (c != '\n' && (c = std::getc(stdin)) != EOF) {
    piece += static_cast<char>(c);
    if (piece.size() < kReadBytes && c != '\n') continue;
    if (StopRequested()) break;
    Append(piece);
    piece.clear();
  }
  Append(piece);
  return num_bytes_ > before && !StopRequested();
}

std::optional<std::string> LineEditor::Read() {
  std::string().swap(line_);
  lease_.Resize(least_bytes_, "the lines of the input");
  num_bytes_ = 0;
  is_too_long_ = false;
  bool goes_on = true;
  while (goes_on) {
    const size_t begin = line_.size();
    last_ = '\0';
    if (!ReadOne()) {
      if (num_bytes_ == 0 || StopRequested()) return std::nullopt;
      break;
    }
    while (line_.size() > begin && (line_.back() == '\n' || line_.back() == '\r')) line_.pop_back();
    goes_on = last_ == '\\';
    if (goes_on && !is_too_long_) line_.back() = '\n';
  }
  if (is_too_long_) {
    // Refused before for a part of it, so it is refused again.
    lease_.Resize(std::max(least_bytes_, BytesToHold(num_bytes_)),
                  fmt::format("{} bytes in one line", FormatCount(static_cast<int64_t>(num_bytes_))));
  }
  return std::move(line_);
}

}  // namespace mneme::cli
