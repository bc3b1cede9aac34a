// SentencePiece's precompiled_charsmap: a table of character sequences and what they normalise to. Layout:
// u32 size of a double-array trie (github.com/s-yata/darts-clone), the trie's u32 units, then the
// replacements as strings ended by NUL; a leaf holds the offset of its replacement.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mneme {

class Charsmap {
 public:
  Charsmap() = default;
  // Throws Error(kFile) if the blob is truncated. Units out of range end a match; they are not followed.
  Charsmap(std::string_view blob, std::string_view source_name);

  bool empty() const { return units_.empty(); }
  // What it was made from.
  std::string Blob() const;
  // Length of the longest sequence that `text` starts with (0: none) and its replacement. *touched is set if
  // more text could make it longer.
  size_t LongestMatch(std::string_view text, std::string_view* replacement, bool* touched) const;

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;  // ends in NUL
};

}  // namespace mneme
