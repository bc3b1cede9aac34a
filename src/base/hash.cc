#include "base/hash.h"

#include <xxhash.h>

#include <new>
#include <vector>

#include "base/files/file.h"

namespace mneme {

uint64_t HashBytes(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

void Hasher::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

Hasher::Hasher(uint64_t seed) : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset_withSeed(state_.get(), seed);
}

void Hasher::Write(const void* data, size_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }
uint64_t Hasher::value() const { return XXH3_64bits_digest(state_.get()); }

uint64_t HashFile(const std::string& path, uint64_t seed) {
  ByteSource source(path);
  std::vector<char> buffer(size_t{1} << 16);
  Hasher hash(seed);
  for (size_t count = source.Read(buffer); count > 0; count = source.Read(buffer))
    hash.Write(buffer.data(), count);
  return hash.value();
}

}  // namespace mneme
