#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"

namespace mneme {
namespace {

// A mapping as the signal handler sees it: lock-free, because the fault may come while a lock is held.
struct Guard {
  std::atomic<uintptr_t> begin{0};  // 0: free, 1: being filled
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> is_damaged{false};
};
static_assert(std::atomic<uintptr_t>::is_always_lock_free);

std::array<Guard, 4096> guards;
uintptr_t page_bytes = 4096;

size_t AddGuard(const uint8_t* data, size_t size) {
  for (size_t i = 0; i < guards.size(); ++i) {
    uintptr_t unused = 0;
    if (!guards[i].begin.compare_exchange_strong(unused, 1)) continue;
    guards[i].is_damaged.store(false);
    guards[i].end.store(reinterpret_cast<uintptr_t>(data) + size);
    guards[i].begin.store(reinterpret_cast<uintptr_t>(data));
    return i;
  }
  return SIZE_MAX;
}

void OnBusError(int signal_number, siginfo_t* info, void*) {
  const int code = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Guard& guard : guards) {
    const uintptr_t begin = guard.begin.load();
    const uintptr_t end = guard.end.load();
    if (begin <= 1 || address < begin || address >= end) continue;
    guard.is_damaged.store(true);
    // All that follows is gone too where a file was cut: one call for it, not one fault for each page.
    const uintptr_t page = address / page_bytes * page_bytes;
    if (::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
               -1, 0) == MAP_FAILED) {
      break;
    }
    errno = code;
    return;
  }
  std::signal(signal_number, SIG_DFL);  // not ours: the same instruction faults again, and ends the process
}

[[noreturn]] void FailOpen(const std::string& path, int fd, const char* what) {
  const int code = errno;
  if (fd >= 0) ::close(fd);
  Fail(ErrorKind::kFile, "{}: {}: {}", path, what, std::strerror(code));
}

int64_t ModifiedNs(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

}  // namespace

void GuardMappedFiles() {
  page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // Not to wait for who writes to a pipe: it is refused below.
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) FailOpen(path, fd, "cannot be opened");
  struct stat info {};
  if (::fstat(fd, &info) != 0) FailOpen(path, fd, "cannot be examined");
  if (!S_ISREG(info.st_mode) || info.st_size == 0) {
    ::close(fd);
    Fail(ErrorKind::kFile, "{}: is {}", path, S_ISREG(info.st_mode) ? "empty" : "not a regular file");
  }
  size_ = static_cast<size_t>(info.st_size);
  device_ = info.st_dev;
  inode_ = info.st_ino;
  modified_ns_ = ModifiedNs(info);
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED) FailOpen(path, fd, "cannot be mapped");
  ::close(fd);
  data_ = static_cast<const uint8_t*>(data);
  guard_ = AddGuard(data_, size_);
}

void MappedFile::Swap(MappedFile& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  std::swap(modified_ns_, other.modified_ns_);
  std::swap(guard_, other.guard_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { Swap(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  Swap(other);
  return *this;
}

MappedFile::~MappedFile() {
  if (guard_ != SIZE_MAX) guards[guard_].begin.store(0);
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

void MappedFile::CheckUnchanged() const {
  if (data_ == nullptr) return;
  const char* what = "was cut short, or cannot be read,";
  if (guard_ == SIZE_MAX || !guards[guard_].is_damaged.load()) {
    struct stat info {};
    if (::stat(path_.c_str(), &info) != 0 || info.st_dev != device_ || info.st_ino != inode_) return;
    if (static_cast<size_t>(info.st_size) == size_ && ModifiedNs(info) == modified_ns_) return;
    what = "was written to";
  }
  Fail(ErrorKind::kFile,
       "{}: {} while it was in use; what was read from it since cannot be trusted. Start again with a file "
       "that "
       "stays as it is (a new file moved onto the old name disturbs nobody)",
       path_, what);
}

}  // namespace mneme
