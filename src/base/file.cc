#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace mneme {
namespace {

constexpr size_t kWriteBufferBytes = size_t{1} << 20;

[[noreturn]] void FailErrno(const std::string& path, const char* what) {
  const int code = errno;
  Fail(ErrorKind::kFile, "{}: {}: {}", path, what, std::strerror(code));
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) FailErrno(path, "cannot be opened");
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    ::close(fd);
    FailErrno(path, "cannot be examined");
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    Fail(ErrorKind::kFile, "{}: is not a regular file", path);
  }
  if (info.st_size == 0) {
    ::close(fd);
    Fail(ErrorKind::kFile, "{}: is empty", path);
  }
  size_ = static_cast<size_t>(info.st_size);
  modified_ns_ =
      static_cast<uint64_t>(info.st_mtim.tv_sec) * 1000000000u + static_cast<uint64_t>(info.st_mtim.tv_nsec);
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  const int code = errno;
  ::close(fd);
  if (data == MAP_FAILED) {
    errno = code;
    FailErrno(path, "cannot be mapped");
  }
  data_ = static_cast<const uint8_t*>(data);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      modified_ns_(other.modified_ns_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

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

AtomicFileWriter::AtomicFileWriter(std::string path)
    : path_(std::move(path)),
      temporary_path_(path_ + ".tmp." + std::to_string(::getpid())),
      buffer_(std::make_unique<char[]>(kWriteBufferBytes)) {
  fd_ = ::open(temporary_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) FailErrno(temporary_path_, "cannot be created");
}

AtomicFileWriter::~AtomicFileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_path_.c_str());
}

void AtomicFileWriter::Write(const void* data, size_t bytes) {
  position_bytes_ += static_cast<int64_t>(bytes);
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const size_t part = std::min(bytes, kWriteBufferBytes - buffered_);
    std::memcpy(buffer_.get() + buffered_, from, part);
    buffered_ += part;
    from += part;
    bytes -= part;
    if (buffered_ == kWriteBufferBytes) Flush();
  }
}

void AtomicFileWriter::Flush() {
  size_t done = 0;
  while (done < buffered_) {
    const ssize_t count = ::write(fd_, buffer_.get() + done, buffered_ - done);
    if (count < 0) {
      if (errno == EINTR) continue;
      FailErrno(path_, "cannot be written, and is left as it was");
    }
    done += static_cast<size_t>(count);
  }
  buffered_ = 0;
}

void AtomicFileWriter::Commit() {
  Flush();
  if (::fsync(fd_) != 0) FailErrno(path_, "cannot be flushed to disk, and is left as it was");
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) FailErrno(path_, "cannot be replaced");
  ::close(std::exchange(fd_, -1));
}

}  // namespace mneme
