#include "base/files/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace mneme {
namespace {

constexpr size_t kMaxDeviceBytes = size_t{1} << 20;

[[noreturn]] void FailErrno(const std::string& path, const char* what) {
  const int code = errno;
  Fail(ErrorKind::kFile, "{}: {}: {}", path, what, std::strerror(code));
}

}  // namespace

bool FileExists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

bool IsDirectory(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::string ReadWholeFile(const std::string& path, size_t max_bytes) {
  ByteSource source(path);
  if (source.is_device()) max_bytes = std::min(max_bytes, kMaxDeviceBytes);
  if (source.size_bytes() > static_cast<int64_t>(max_bytes)) {
    Fail(ErrorKind::kFile, "{}: has {} bytes; at most {} can be read here", path, source.size_bytes(),
         max_bytes);
  }
  std::string text;
  if (source.size_bytes() > 0) text.reserve(static_cast<size_t>(source.size_bytes()));
  char buffer[1 << 16];
  while (const size_t count = source.Read(buffer)) {
    if (text.size() + count > max_bytes) {
      Fail(ErrorKind::kFile, "{}: has more than the {} bytes that can be read here", path, max_bytes);
    }
    text.append(buffer, count);
  }
  return text;
}

ByteSource::ByteSource(const std::string& path, StopToken stop) : path_(path), stop_(stop) {
  if (path == "-") {
    path_ = "standard input";
    fd_ = STDIN_FILENO;
  } else {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) FailErrno(path, "cannot be opened");
  }
  struct stat info {};
  if (::fstat(fd_, &info) == 0) {
    if (S_ISDIR(info.st_mode)) {
      if (fd_ != STDIN_FILENO) ::close(fd_);
      Fail(ErrorKind::kFile, "{}: is a folder, not a file", path_);
    }
    if (S_ISREG(info.st_mode)) size_bytes_ = info.st_size;
    is_device_ = S_ISCHR(info.st_mode);
  }
}

ByteSource::~ByteSource() {
  if (fd_ > STDIN_FILENO) ::close(fd_);
}

size_t ByteSource::Read(std::span<char> buffer) {
  for (;;) {
    if (stop_.stop_requested()) return 0;
    const ssize_t count = ::read(fd_, buffer.data(), buffer.size());
    if (count >= 0) {
      position_bytes_ += count;
      return static_cast<size_t>(count);
    }
    if (errno != EINTR) FailErrno(path_, "cannot be read");
  }
}

}  // namespace mneme
