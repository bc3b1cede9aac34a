#include "base/hash.h"

#include <vector>

#include "base/file.h"

namespace mneme {

uint64_t HashBytes(const void* data, size_t num_bytes, uint64_t hash) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < num_bytes; ++i) hash = (hash ^ bytes[i]) * 1099511628211ULL;
  return hash;
}

uint64_t HashFile(const std::string& path, uint64_t hash) {
  ByteSource source(path, /*stops_on_interrupt=*/false);
  std::vector<char> buffer(size_t{1} << 16);
  for (size_t count = source.Read(buffer); count > 0; count = source.Read(buffer))
    hash = HashBytes(buffer.data(), count, hash);
  return hash;
}

}  // namespace mneme
