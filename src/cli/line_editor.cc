#include "cli/line_editor.h"

#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>

#include "base/error.h"
#include "base/message.h"
#include "cli/signals.h"

#ifdef MNEME_HAVE_LIBEDIT
#include <histedit.h>
#endif

namespace mneme::cli {
namespace {

constexpr size_t kMaxLineBytes = size_t{64} << 20;

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

LineEditor::LineEditor(std::string prompt)
    : prompt_(std::move(prompt)), is_terminal_(isatty(STDIN_FILENO) != 0 && isatty(STDERR_FILENO) != 0) {
#ifdef MNEME_HAVE_LIBEDIT
  if (is_terminal_) {
    editor_ = std::make_unique<Editor>(prompt_);
    if (editor_->edit == nullptr || editor_->past == nullptr) editor_.reset();
  }
#endif
}

LineEditor::~LineEditor() = default;

std::optional<std::string> LineEditor::ReadOne() {
#ifdef MNEME_HAVE_LIBEDIT
  if (editor_ != nullptr) {
    int count = 0;
    const char* line = el_gets(editor_->edit, &count);
    if (line == nullptr || count <= 0 || StopRequested()) return std::nullopt;
    std::string text(line, static_cast<size_t>(count));
    if (text.find_first_not_of(" \t\r\n") != std::string::npos) {
      HistEvent event;
      history(editor_->past, &event, H_ENTER, text.c_str());
    }
    return text;
  }
#endif
  if (is_terminal_) {
    WriteMessage(prompt_);
  }
  std::string text;
  int c = 0;
  while ((c = std::getc(stdin)) != EOF) {
    text += static_cast<char>(c);
    if (c == '\n') break;
    if (text.size() > kMaxLineBytes) {
      Fail(ErrorKind::kInput, "a line of more than {} bytes; `mneme run -f -` reads input without lines",
           kMaxLineBytes);
    }
  }
  if (text.empty() || StopRequested()) return std::nullopt;
  return text;
}

std::optional<std::string> LineEditor::Read() {
  std::string whole;
  while (true) {
    std::optional<std::string> line = ReadOne();
    if (!line) return whole.empty() ? std::nullopt : std::optional(whole);
    while (!line->empty() && (line->back() == '\n' || line->back() == '\r')) line->pop_back();
    if (line->empty() || line->back() != '\\') return whole + *line;
    line->back() = '\n';
    whole += *line;
  }
}

}  // namespace mneme::cli
