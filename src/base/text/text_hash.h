// A hash of a text that comes in pieces of any size, small enough to be part of a state: XXH3 of blocks, each
// seeded with the hash of all before it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/files/serial.h"

namespace mneme {

// Thread rule: one thread at a time.
class TextHash {
 public:
  void Add(std::string_view text);
  // Of everything added: the same whatever the pieces were.
  uint64_t digest() const;

  void Save(StateWriter& writer) const;
  // Throws Error(kFile).
  void Restore(StateReader& reader);

 private:
  uint64_t hash_ = 0;  // of the whole blocks
  std::string tail_;   // less than a block
};

}  // namespace mneme
