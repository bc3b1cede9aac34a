#include "session/answer/stop_strings.h"

#include <algorithm>
#include <utility>

namespace mneme {

StopStringMatcher::StopStringMatcher(const std::vector<std::string>& stop_strings) {
  for (const std::string& text : stop_strings) {
    if (text.empty()) continue;
    stop_strings_.push_back(text);
    longest_ = std::max(longest_, text.size());
  }
}

// Length of the longest suffix of held_ that is the beginning of a stop string.
size_t StopStringMatcher::HeldSuffix() const {
  const std::string_view held = held_;
  for (size_t length = std::min(held.size(), longest_); length > 0; --length) {
    const std::string_view suffix = held.substr(held.size() - length);
    for (const std::string& stop : stop_strings_) {
      if (std::string_view(stop).starts_with(suffix)) return length;
    }
  }
  return 0;
}

std::string StopStringMatcher::Add(std::string_view text) {
  if (found_) return {};
  held_ += text;
  size_t best_end = std::string::npos;
  size_t best_start = 0;
  for (const std::string& stop : stop_strings_) {
    const size_t start = held_.find(stop);
    if (start == std::string::npos) continue;
    const size_t end = start + stop.size();
    if (end < best_end || (end == best_end && start < best_start)) {
      best_end = end;
      best_start = start;
      stop_string_ = stop;
    }
  }
  if (best_end != std::string::npos) {
    found_ = true;
    std::string certain = held_.substr(0, best_start);
    certain_bytes_ += static_cast<int64_t>(best_start);
    held_.clear();
    return certain;
  }
  const size_t num_certain = held_.size() - HeldSuffix();
  std::string certain = held_.substr(0, num_certain);
  held_.erase(0, num_certain);
  certain_bytes_ += static_cast<int64_t>(num_certain);
  return certain;
}

std::string StopStringMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace mneme
