// Finds stop strings in text that arrives in pieces, and holds back text only while it may still become one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mneme {

// The first stop string to be complete ends the text (of two that end at the same byte, the longer one), so
// the result does not depend on how the text is cut into pieces. Thread rule: one thread at a time.
class StopStringMatcher {
 public:
  explicit StopStringMatcher(const std::vector<std::string>& stop_strings);

  // Returns the text that is certain now. Once found() is true: the rest before the stop string.
  std::string Add(std::string_view text);
  // Ends the text: what was held back. Empty after a match.
  std::string Flush();

  bool found() const { return found_; }
  const std::string& stop_string() const { return stop_string_; }
  // Bytes of the text that can be part of no stop string any more: all before the stop string once it is
  // found.
  int64_t certain_bytes() const { return certain_bytes_; }

 private:
  size_t HeldSuffix() const;

  std::vector<std::string> stop_strings_;
  size_t longest_ = 0;
  std::string held_;
  int64_t certain_bytes_ = 0;
  bool found_ = false;
  std::string stop_string_;
};

}  // namespace mneme
