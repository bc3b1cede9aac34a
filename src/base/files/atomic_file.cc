#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"

namespace mneme {
namespace {

constexpr size_t kWriteBufferBytes = size_t{1} << 20;
constexpr int kMaxLinks = 40;          // as the kernel
constexpr size_t kMaxNameBytes = 200;  // of the file's name in the temporary one: NAME_MAX is 255
constexpr std::string_view kTemporary = ".tmp-";
constexpr size_t kRandomDigits = 16;

[[noreturn]] void FailErrno(const std::string& path, const char* what) {
  const int code = errno;
  Fail(ErrorKind::kFile, "{}: {}: {}", path, what, std::strerror(code));
}

// A file descriptor of ours that the path names. Opening such a path again would start at the file's
// beginning.
std::optional<int> DescriptorNamed(const std::string& path) {
  if (path == "/dev/stdout") return STDOUT_FILENO;
  if (path == "/dev/stderr") return STDERR_FILENO;
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    if (!path.starts_with(folder)) continue;
    int number = -1;
    const char* end = path.data() + path.size();
    const auto [stop, error] = std::from_chars(path.data() + folder.size(), end, number);
    if (error == std::errc() && stop == end && number >= 0) return number;
  }
  return std::nullopt;
}

// What a path leads to.
struct Target {
  std::string path;     // without links in its last part
  int descriptor = -1;  // of ours, if that is what it names
  bool exists = false;
  struct stat info {};  // if it exists
  bool is_replaced() const { return descriptor < 0 && (!exists || S_ISREG(info.st_mode)); }
};

// Follows links by hand: one may point to what does not exist yet. Throws Error(kFile).
Target Follow(const std::string& path) {
  if (path.empty()) Fail(ErrorKind::kFile, "the name of a file to write is empty");
  Target target{.path = path};
  for (int num_links = 0;; ++num_links) {
    if (const auto descriptor = DescriptorNamed(target.path)) {
      target.descriptor = *descriptor;
      return target;
    }
    char link[PATH_MAX];
    const ssize_t size = ::readlink(target.path.c_str(), link, sizeof(link));
    if (size < 0) break;  // no link, or nothing there
    if (num_links == kMaxLinks) Fail(ErrorKind::kFile, "{}: is a link that leads in a circle", path);
    const size_t slash = target.path.rfind('/');
    const bool is_relative = link[0] != '/' && slash != std::string::npos;
    target.path =
        (is_relative ? target.path.substr(0, slash + 1) : "") + std::string(link, static_cast<size_t>(size));
  }
  target.exists = ::stat(target.path.c_str(), &target.info) == 0;
  if (target.exists && S_ISDIR(target.info.st_mode)) {
    Fail(ErrorKind::kFile, "{}: is a folder; a file is written here", path);
  }
  if (target.exists && ::faccessat(AT_FDCWD, target.path.c_str(), W_OK, AT_EACCESS) != 0) {
    FailErrno(path, "cannot be written");
  }
  return target;
}

// Gives the new file mode, owner and group of the old. What a group may do is not given to another group.
void CopyAttributes(int fd, const struct stat& old) {
  mode_t mode = old.st_mode & 07777;
  struct stat made {};
  if (::fstat(fd, &made) != 0) return;
  if ((made.st_uid != old.st_uid || made.st_gid != old.st_gid) && ::fchown(fd, old.st_uid, old.st_gid) != 0) {
    mode &= static_cast<mode_t>(~(S_ISUID | S_ISGID));
    if (::fchown(fd, static_cast<uid_t>(-1), old.st_gid) != 0) mode &= static_cast<mode_t>(~S_IRWXG);
  }
  // A file system without modes refuses; the file is then as private as it was created.
  [[maybe_unused]] const int refused = ::fchmod(fd, mode);
}

std::string TemporaryPrefix(const std::string& name) {
  return name.substr(0, kMaxNameBytes) + std::string(kTemporary);
}

// Removes what writers of the same name left when they were killed. Does what it can: leftovers do no harm.
void RemoveLeftovers(int folder, const std::string& name) {
  const int listed = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* entries = listed < 0 ? nullptr : ::fdopendir(listed);
  if (entries == nullptr) {
    if (listed >= 0) ::close(listed);
    return;
  }
  const std::string prefix = TemporaryPrefix(name);
  while (const dirent* entry = ::readdir(entries)) {
    const std::string_view found = entry->d_name;
    if (found.size() != prefix.size() + kRandomDigits || !found.starts_with(prefix)) continue;
    if (found.find_first_not_of("0123456789abcdef", prefix.size()) != std::string_view::npos) continue;
    const int fd = ::openat(folder, entry->d_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) continue;
    struct stat info {};
    const bool is_file = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    if (is_file && ::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlinkat(folder, entry->d_name, 0);
    ::close(fd);
  }
  ::closedir(entries);
}

int OpenFolder(const std::string& path, const std::string& target, std::string* name) {
  const size_t slash = target.rfind('/');
  *name = slash == std::string::npos ? target : target.substr(slash + 1);
  const std::string folder = slash == std::string::npos ? "." : target.substr(0, slash + 1);
  if (name->empty()) Fail(ErrorKind::kFile, "{}: is no name of a file", path);
  const int fd = ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) return fd;
  if (errno == ENOENT) {
    Fail(ErrorKind::kFile, "{}: cannot be created: there is no folder {}", path, folder);
  }
  FailErrno(path, "cannot be created");
}

// The process that holds a lock on the file, as text for a message: the system's table says, where it is
// shown.
std::string HolderOf(uint64_t inode) {
  std::ifstream table("/proc/locks");
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string number, kind, mode, access, process, file;
    words >> number >> kind >> mode >> access >> process >> file;
    if (kind == "FLOCK" && file.substr(file.rfind(':') + 1) == std::to_string(inode)) {
      return "process " + process;
    }
  }
  return "another process";
}

[[noreturn]] void FailLocked(const std::string& path, uint64_t inode) {
  Fail(ErrorKind::kFile, "{}: is in use by {}; wait until that ends, or name another file", path,
       HolderOf(inode));
}

// Throws if another process has a FileLock on the file.
void RefuseLocked(const std::string& path, const Target& target) {
  const int fd = ::open(target.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;  // not to be read: then it is no file that anybody goes on from
  const bool is_locked = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  if (is_locked) FailLocked(path, target.info.st_ino);
}

std::mutex locks_mutex;
std::vector<FileLock*> locks;

uint64_t RandomNumber() {
  uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) {
    Fail(ErrorKind::kFile, "the system gives no random numbers: {}", std::strerror(errno));
  }
  return number;
}

}  // namespace

AtomicFileWriter::AtomicFileWriter(std::string path)
    : path_(std::move(path)), buffer_(std::make_unique<char[]>(kWriteBufferBytes)) {
  const Target target = Follow(path_);
  if (!target.is_replaced()) {
    fd_ = target.descriptor >= 0 ? ::fcntl(target.descriptor, F_DUPFD_CLOEXEC, 0)
                                 : ::open(target.path.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (fd_ < 0) FailErrno(path_, "cannot be written");
    return;
  }
  if (target.exists) {
    lock_ = FileLock::Find(target.info.st_dev, target.info.st_ino);
    if (lock_ == nullptr) RefuseLocked(path_, target);
  }
  folder_ = OpenFolder(path_, target.path, &name_);
  RemoveLeftovers(folder_, name_);
  try {
    CreateTemporary();
  } catch (...) {
    ::close(folder_);
    throw;
  }
  if (target.exists) CopyAttributes(fd_, target.info);
}

void AtomicFileWriter::CreateTemporary() {
  while (true) {
    temporary_name_ = fmt::format("{}{:016x}", TemporaryPrefix(name_), RandomNumber());
    fd_ = ::openat(folder_, temporary_name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                   0666);
    if (fd_ < 0 && errno == EEXIST) continue;
    if (fd_ < 0) FailErrno(path_, "cannot be created");
    // Another writer may have taken the file for a leftover before it was locked; then it is gone, or will
    // be. A file system without locks says something else, and nobody takes anything for a leftover there.
    const bool was_taken = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    struct stat info {};
    if (!was_taken && ::fstat(fd_, &info) == 0 && info.st_nlink > 0) return;
    ::close(std::exchange(fd_, -1));
  }
}

AtomicFileWriter::~AtomicFileWriter() {
  if (fd_ >= 0) {
    if (!temporary_name_.empty()) ::unlinkat(folder_, temporary_name_.c_str(), 0);
    ::close(fd_);
  }
  if (folder_ >= 0) ::close(folder_);
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
      FailErrno(path_,
                temporary_name_.empty() ? "cannot be written" : "cannot be written, and is left as it was");
    }
    done += static_cast<size_t>(count);
  }
  buffered_ = 0;
}

void AtomicFileWriter::Commit() {
  Flush();
  if (!temporary_name_.empty()) Replace();
  ::close(std::exchange(fd_, -1));
}

void AtomicFileWriter::Replace() {
  if (::fsync(fd_) != 0) FailErrno(path_, "cannot be flushed to disk, and is left as it was");
  if (::renameat(folder_, temporary_name_.c_str(), folder_, name_.c_str()) != 0) {
    FailErrno(path_, "cannot be replaced");
  }
  // The temporary file was locked from its first moment, so there is none in which another process could come
  // between: its lock becomes that of the file.
  if (lock_ != nullptr) std::swap(lock_->fd_, fd_);
  // The new name must outlive a power cut too. The file is whole either way, so a refusal is no error.
  const int synced = ::openat(folder_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (synced < 0) return;
  [[maybe_unused]] const int refused = ::fsync(synced);
  ::close(synced);
}

FileLock::FileLock(const std::string& path) : path_(path) {
  const Target target = Follow(path);
  if (!target.is_replaced()) return;
  CheckWritable(path);
  target_ = target.path;
  while (!TryOpen()) {
  }
  const std::lock_guard guard(locks_mutex);
  locks.push_back(this);
}

// False if the file was replaced or removed in between.
bool FileLock::TryOpen() {
  fd_ = ::open(target_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  was_created_ = fd_ >= 0;
  if (fd_ < 0 && errno == EEXIST) {
    fd_ = ::open(target_.c_str(), O_RDWR | O_CLOEXEC);
    if (fd_ < 0 && errno == ENOENT) return false;
  }
  if (fd_ < 0) FailErrno(path_, "cannot be written");
  struct stat opened {
  }, named{};
  ::fstat(fd_, &opened);
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(std::exchange(fd_, -1));
    FailLocked(path_, opened.st_ino);
  }
  const bool is_named =
      ::stat(target_.c_str(), &named) == 0 && named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
  if (!is_named) ::close(std::exchange(fd_, -1));
  return is_named;
}

FileLock::~FileLock() {
  if (fd_ < 0) return;
  const std::lock_guard guard(locks_mutex);
  locks.erase(std::find(locks.begin(), locks.end(), this));
  struct stat info {};
  if (was_created_ && ::fstat(fd_, &info) == 0 && info.st_size == 0) ::unlink(target_.c_str());
  ::close(fd_);
}

FileLock* FileLock::Find(uint64_t device, uint64_t inode) {
  const std::lock_guard guard(locks_mutex);
  for (FileLock* lock : locks) {
    struct stat info {};
    if (::fstat(lock->fd_, &info) == 0 && info.st_dev == device && info.st_ino == inode) return lock;
  }
  return nullptr;
}

void CheckWritable(const std::string& path) {
  const Target target = Follow(path);
  if (target.is_replaced()) {
    AtomicFileWriter writer(path);
  } else if (target.descriptor >= 0 && ::fcntl(target.descriptor, F_GETFD) < 0) {
    FailErrno(path, "cannot be written");
  }
}

}  // namespace mneme
