#include "fuzz/load_from_bytes.h"

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/error.h"

namespace mneme::fuzz {

std::shared_ptr<const LoadedModel> LoadFromBytes(const void* data, size_t bytes, Device& device) {
  const int fd = memfd_create("mneme-fuzz", 0);
  MNEME_CHECK(fd >= 0);
  std::shared_ptr<const LoadedModel> model;
  try {
    const char* from = static_cast<const char*>(data);
    for (size_t done = 0; done < bytes;) {
      const ssize_t written = write(fd, from + done, bytes - done);
      MNEME_CHECK(written > 0);
      done += static_cast<size_t>(written);
    }
    ModelOptions options;
    // Either packed form of float weights; the input's length decides, so that every input has one.
    options.pack = bytes % 2 == 0 ? PackMode::kFloat32 : PackMode::kInt16;
    model = LoadedModel::Load("/proc/self/fd/" + std::to_string(fd), options, device);
  } catch (...) {
    close(fd);
    throw;
  }
  close(fd);
  return model;
}

}  // namespace mneme::fuzz
