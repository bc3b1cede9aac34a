// Small lookup structures over byte strings: a pool, an index of it, a trie, a table of merges. Internal to
// the folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/types.h"

namespace mneme {

// Strings one after another in one allocation.
class StringPool {
 public:
  void Reserve(size_t count, size_t bytes);
  void Add(std::string_view text);
  size_t size() const { return ends_.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return {data_.data() + begin, ends_[i] - begin};
  }

 private:
  std::string data_;
  std::vector<size_t> ends_;
};

// String -> its index in a pool, for the entries that were added. The pool must not move.
class StringIndex {
 public:
  explicit StringIndex(const StringPool* pool) : pool_(pool) {}
  void Reserve(size_t count);
  // Keeps the earlier entry if the string is there already.
  void Add(TokenId id);
  // -1 if absent.
  TokenId Find(std::string_view text) const;

 private:
  const StringPool* pool_;
  std::vector<TokenId> slots_;  // power of two, -1 free
  size_t count_ = 0;
};

// Longest-match lookup of byte strings.
class ByteTrie {
 public:
  ByteTrie() = default;
  // Values are not negative. The first value wins where a key comes twice. Empty keys are left out.
  explicit ByteTrie(std::vector<std::pair<std::string, TokenId>> entries);

  bool empty() const { return nodes_.empty(); }
  bool Starts(uint8_t byte) const { return !nodes_.empty() && root_[byte] != 0; }
  // Node reached by `byte` from `node` (0 is the root), or 0 if there is none.
  uint32_t Step(uint32_t node, uint8_t byte) const;
  // -1 if no key ends here.
  TokenId Value(uint32_t node) const { return nodes_[node].value; }
  bool HasChildren(uint32_t node) const { return nodes_[node].num_edges != 0; }

  // Length of the longest key that `text` starts with (0: none) and its value. *touched is set if a longer
  // key could still match with more text.
  size_t LongestMatch(std::string_view text, TokenId* value, bool* touched) const;

 private:
  struct Node {
    uint32_t first_edge = 0;
    uint32_t num_edges = 0;
    TokenId value = -1;
  };
  void Build(const std::vector<std::pair<std::string, TokenId>>& entries);
  std::vector<Node> nodes_;
  std::vector<uint8_t> edge_bytes_;
  std::vector<uint32_t> edge_nodes_;
  std::vector<uint32_t> root_;  // 256
};

// (left id, right id) -> rank and merged id.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    TokenId id;
  };
  void Reserve(size_t count);
  // Keeps the earlier entry.
  void Add(TokenId left, TokenId right, uint32_t rank, TokenId id);
  // Null if there is none; ids may be -1, which merges with nothing.
  const Merge* Find(TokenId left, TokenId right) const {
    if (slots_.empty() || left < 0 || right < 0) return nullptr;
    const uint64_t key = Key(left, right);
    for (size_t at = Slot(key);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].key == key) return &slots_[at].merge;
      if (slots_[at].key == kFree) return nullptr;
    }
  }
  size_t size() const { return count_; }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};
  struct Entry {
    uint64_t key = kFree;
    Merge merge{};
  };
  static uint64_t Key(TokenId left, TokenId right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  // Fibonacci hashing: one multiplication spreads pairs of ids, and nothing of it is ever stored.
  size_t Slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> shift_; }
  std::vector<Entry> slots_;
  size_t count_ = 0;
  int shift_ = 64;
};

// A set of character pairs.
class PairSet {
 public:
  void Add(uint32_t a, uint32_t b);
  bool Has(uint32_t a, uint32_t b) const {
    const uint32_t i = Small(a), j = Small(b);
    if (i < kSmall && j < kSmall) return small_[i * kSmall + j];
    return HasLarge(a, b);
  }

 private:
  // ASCII and U+2581 have a table, since they are nearly all of a text.
  static constexpr uint32_t kSmall = 129;
  static uint32_t Small(uint32_t code) { return code < 128 ? code : code == 0x2581 ? 128 : kSmall; }
  bool HasLarge(uint32_t a, uint32_t b) const;
  std::vector<uint8_t> small_ = std::vector<uint8_t>(kSmall * kSmall, 0);
  MergeTable large_;
};

}  // namespace mneme
