// The one hash of the tree: XXH3 with 64 bits. It tells whether two things are the same content; it does not
// hold against forgery. Thread rule: any; a Hasher belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/files/serial.h"

struct XXH3_state_s;  // <xxhash.h>

namespace mneme {

// `seed`: the hash of what came before, or 0.
uint64_t HashBytes(std::string_view bytes, uint64_t seed = 0);

// Of whatever is written into it, in order. The value depends on the bytes alone, not on how they were cut
// into pieces, so lengths go in where two lists could read alike: PutString and PutVector write them.
class Hasher : public StateWriter {
 public:
  explicit Hasher(uint64_t seed = 0);
  void Write(const void* data, size_t bytes) override;
  uint64_t value() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

// Of a file's content, read in pieces: what HashBytes gives for all of it at once. Throws Error(kFile).
uint64_t HashFile(const std::string& path, uint64_t seed = 0);

}  // namespace mneme
