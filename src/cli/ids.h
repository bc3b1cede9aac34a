// Token ids as text: decimal numbers separated by white space.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/files/file.h"
#include "base/types.h"
#include "mneme/stop.h"

namespace mneme::cli {

// Throws Error(kInput), naming `where` and the offender, for what is not a number in [0, vocab_size).
std::vector<TokenId> ParseIds(std::string_view text, std::string_view where, int64_t vocab_size);

// The ids of a file or pipe of any size, a piece at a time.
class IdReader {
 public:
  // Throws Error(kFile).
  IdReader(const std::string& path, int64_t vocab_size, StopToken stop = {});
  // Replaces *ids by the next ones, at least one; false at the end or after a stop. Throws as ParseIds.
  bool Read(std::vector<TokenId>* ids);
  const ByteSource& source() const { return source_; }

 private:
  std::string path_;
  int64_t vocab_size_;
  StopToken stop_;
  ByteSource source_;
  std::string rest_;  // a number that the last piece cut
  std::vector<char> buffer_;
  bool at_end_ = false;
};

}  // namespace mneme::cli
