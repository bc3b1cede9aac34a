#include "base/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/message.h"
#include "base/text/units.h"

namespace mneme {
namespace {

size_t TerminalColumns(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
  return 80;
}

}  // namespace

ConsoleProgress::ConsoleProgress(std::string label, std::FILE* out)
    : label_(std::move(label)),
      out_(out),
      is_terminal_(isatty(fileno(out)) != 0),
      start_(Clock::now()),
      last_(start_ - std::chrono::hours(1)) {
  if (!is_terminal_) last_ = start_;
}

ConsoleProgress::~ConsoleProgress() {
  if (line_open_) WriteMessage("\n", out_);
}

void ConsoleProgress::Update(int64_t done, int64_t total, std::string_view note) {
  if (first_done_ < 0) first_done_ = done;
  const auto now = Clock::now();
  const auto interval = is_terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
  if (now - last_ < interval) return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  std::string line;
  if (total > 0) {
    const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    const double own = static_cast<double>(done - first_done_) / static_cast<double>(total);
    const std::string left = own > 0.002 ? FormatSeconds(elapsed * (1 - share) / own) + " left" : "";
    if (is_terminal_) {
      constexpr int kWidth = 24;
      const int filled = static_cast<int>(share * kWidth);
      std::string bar;
      for (int i = 0; i < kWidth; ++i) bar += i < filled ? "█" : "░";
      line = fmt::format("{} {} {:3.0f}%  {}  {}", label_, bar, share * 100, note, left);
    } else {
      line = fmt::format("{} {:.0f}%  {}  {}", label_, share * 100, note, left);
    }
  } else {
    line = fmt::format("{} {}  {}", label_, note, FormatSeconds(elapsed));
  }
  if (is_terminal_) {
    // Cut by columns: continuation bytes of UTF-8 take no column of their own.
    const size_t columns = TerminalColumns(out_) - 1;
    size_t used = 0;
    size_t end = 0;
    while (end < line.size() && (used < columns || (line[end] & 0xC0) == 0x80)) {
      if ((line[end] & 0xC0) != 0x80) ++used;
      ++end;
    }
    WriteMessage("\r\x1b[K" + line.substr(0, end), out_);
    line_open_ = true;
  } else {
    WriteMessage(line + "\n", out_);
  }
}

void ConsoleProgress::Finish(std::string_view note) {
  const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
  WriteMessage(fmt::format("{}{} done in {}{}{}\n", is_terminal_ ? "\r\x1b[K" : "", label_,
                           FormatSeconds(elapsed), note.empty() ? "" : ": ", note),
               out_);
  line_open_ = false;
}

}  // namespace mneme
