#include "base/message.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <string>

#include "base/text/utf8.h"

namespace mneme {

void WriteMessage(std::string_view text, std::FILE* out) noexcept {
  constexpr std::string_view kClearLine = "\r\x1b[K";  // how progress begins on a terminal
  const std::string_view head = text.substr(0, text.starts_with(kClearLine) ? kClearLine.size() : 0);
  std::string shown;
  try {
    shown = head;
    shown += PrintableLines(text.substr(head.size()));
  } catch (const std::bad_alloc&) {
    return;
  }
  // A stream that has failed once must not hold what is written later back: the disk may have room again.
  if (std::fwrite(shown.data(), 1, shown.size(), out) != shown.size() || std::fflush(out) != 0) {
    std::clearerr(out);
  }
}

void OpenClosedStreams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // The wrong way round for input and results: to read or write them is an error, not silence.
    const int flags = fd == STDOUT_FILENO ? O_RDONLY : O_WRONLY;
    if (::open("/dev/null", flags) != fd) return;  // the lowest free number is `fd`, unless there is no /dev
  }
}

}  // namespace mneme
