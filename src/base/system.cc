#include "mneme/system.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace mneme {
namespace {

// A number in a file of one number, or after a label; 0 where it is absent.
size_t ReadNumber(const char* path, const char* label) {
  std::FILE* file = std::fopen(path, "r");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long long value = 0;
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    const char* start = line;
    if (label != nullptr) {
      if (std::strncmp(line, label, std::strlen(label)) != 0) continue;
      start += std::strlen(label);
    }
    if (std::sscanf(start, "%llu", &value) == 1) break;
  }
  std::fclose(file);
  return static_cast<size_t>(value);
}

}  // namespace

size_t AvailableMemoryBytes() {
  size_t available = ReadNumber("/proc/meminfo", "MemAvailable:") * 1024;
  const size_t limit = ReadNumber("/sys/fs/cgroup/memory.max", nullptr);
  if (limit != 0) {
    const size_t used = ReadNumber("/sys/fs/cgroup/memory.current", nullptr);
    available = std::min(available, limit > used ? limit - used : size_t{0});
  }
  return available;
}

size_t ResidentBytes() {
  const int fd = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[128];
  const ssize_t count = ::read(fd, text, sizeof(text) - 1);
  ::close(fd);
  if (count <= 0) return 0;
  text[count] = '\0';
  char* rest = nullptr;
  std::strtoull(text, &rest, 10);  // the first number is the virtual size
  const unsigned long long pages = std::strtoull(rest, nullptr, 10);
  return static_cast<size_t>(pages) * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

size_t PeakResidentBytes() {
  const int fd = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[4096];
  const ssize_t count = ::read(fd, text, sizeof(text) - 1);
  ::close(fd);
  if (count <= 0) return 0;
  text[count] = '\0';
  const char* const line = std::strstr(text, "VmHWM:");
  if (line == nullptr) return 0;
  return static_cast<size_t>(std::strtoull(line + std::strlen("VmHWM:"), nullptr, 10)) * 1024;  // kB
}

}  // namespace mneme
