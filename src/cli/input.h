// The input of `run` and `chat`: files and pipes one after the other, and what is known of their length.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/files/file.h"
#include "base/text/text_hash.h"
#include "mneme/stop.h"
#include "mneme/tokenizer.h"

namespace mneme::cli {

// Several byte sources read as one.
class InputFiles {
 public:
  // Opens all of them, so that a missing one is refused before work begins. Throws Error(kFile).
  explicit InputFiles(const std::vector<std::string>& paths, StopToken stop = {});

  // Bytes in all files, -1 if one is a pipe.
  int64_t size_bytes() const { return size_bytes_; }
  int64_t position_bytes() const { return position_bytes_; }
  // Up to buffer.size() bytes; 0 at the end or after a stop.
  size_t Read(std::span<char> buffer);
  // Passes over the next `count` bytes, which go into *hash; returns how many of them were not there. Throws
  // Error(kInterrupted).
  int64_t Skip(int64_t count, TextHash* hash);

 private:
  std::vector<std::string> paths_;
  StopToken stop_;
  std::vector<std::unique_ptr<ByteSource>> sources_;
  size_t current_ = 0;
  int64_t size_bytes_ = 0;
  int64_t position_bytes_ = 0;
};

// How many tokens the files hold: counted while that is quick, else estimated from the size; -1 for a pipe.
// The estimate only tells whether a context of at most `exact_up_to` tokens can hold them.
int64_t CountTokens(const Tokenizer& tokenizer, const std::vector<std::string>& paths, int64_t size_bytes,
                    int64_t exact_up_to, StopToken stop = {});

}  // namespace mneme::cli
