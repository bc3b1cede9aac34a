// The most recent tokens of a stream, contiguous in memory, in a buffer of fixed size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/types.h"

namespace mneme {

// Entries are token ids; those that samplers should not count (pauses) are kept as ~id, which is negative.
// Thread rule: one thread at a time. Allocates in the constructor only.
class TokenHistory {
 public:
  static size_t BufferBytes(size_t capacity) { return 2 * capacity * sizeof(TokenId); }

  // Keeps at least the last `capacity` tokens (>= 1).
  explicit TokenHistory(size_t capacity) : capacity_(std::max<size_t>(capacity, 1)) {
    entries_.reserve(2 * capacity_);
  }

  size_t capacity() const { return capacity_; }
  size_t size() const { return entries_.size(); }

  void Push(TokenId entry) {
    // Moving half of the buffer once per `capacity` pushes keeps Last() one span.
    if (entries_.size() == 2 * capacity_) {
      entries_.erase(entries_.begin(), entries_.begin() + static_cast<ptrdiff_t>(capacity_));
    }
    entries_.push_back(entry);
  }
  // count <= size().
  void Pop(size_t count) {
    MNEME_CHECK(count <= entries_.size());
    entries_.resize(entries_.size() - count);
  }
  void Clear() { entries_.clear(); }

  // The last min(count, size()) entries, oldest first.
  std::span<const TokenId> Last(size_t count) const {
    return std::span(entries_).last(std::min(count, entries_.size()));
  }
  static TokenId IdOf(TokenId entry) { return entry < 0 ? ~entry : entry; }

 private:
  size_t capacity_;
  std::vector<TokenId> entries_;
};

}  // namespace mneme
