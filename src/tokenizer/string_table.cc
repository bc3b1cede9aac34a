#include "tokenizer/string_table.h"

#include <algorithm>
#include <bit>

#include "base/hash.h"

namespace mneme {

void StringPool::Reserve(size_t count, size_t bytes) {
  ends_.reserve(count);
  data_.reserve(bytes);
}

void StringPool::Add(std::string_view text) {
  data_.append(text);
  ends_.push_back(data_.size());
}

void StringIndex::Reserve(size_t count) {
  const size_t wanted = std::bit_ceil(count * 2 + 16);
  if (wanted <= slots_.size()) return;
  const std::vector<TokenId> old = std::move(slots_);
  slots_.assign(wanted, -1);
  count_ = 0;
  for (TokenId id : old)
    if (id >= 0) Add(id);
}

void StringIndex::Add(TokenId id) {
  if ((count_ + 1) * 2 > slots_.size()) Reserve(count_ * 2 + 16);
  const std::string_view text = (*pool_)[static_cast<size_t>(id)];
  size_t at = HashBytes(text) & (slots_.size() - 1);
  for (; slots_[at] >= 0; at = (at + 1) & (slots_.size() - 1))
    if ((*pool_)[static_cast<size_t>(slots_[at])] == text) return;
  slots_[at] = id;
  ++count_;
}

TokenId StringIndex::Find(std::string_view text) const {
  if (slots_.empty()) return -1;
  for (size_t at = HashBytes(text) & (slots_.size() - 1); slots_[at] >= 0;
       at = (at + 1) & (slots_.size() - 1))
    if ((*pool_)[static_cast<size_t>(slots_[at])] == text) return slots_[at];
  return -1;
}

ByteTrie::ByteTrie(std::vector<std::pair<std::string, TokenId>> entries) {
  std::erase_if(entries, [](const auto& entry) { return entry.first.empty(); });
  if (entries.empty()) return;
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  Build(entries);
}

void ByteTrie::Build(const std::vector<std::pair<std::string, TokenId>>& entries) {
  // Level by level: a node is a range of the sorted entries with `depth` bytes in common.
  struct Range {
    size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, entries.size(), 0}};
  nodes_.emplace_back();
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    while (begin < end && entries[begin].first.size() == depth) {
      if (nodes_[node].value < 0) nodes_[node].value = entries[begin].second;
      ++begin;
    }
    nodes_[node].first_edge = static_cast<uint32_t>(edge_bytes_.size());
    while (begin < end) {
      const char byte = entries[begin].first[depth];
      size_t last = begin;
      while (last < end && entries[last].first[depth] == byte) ++last;
      edge_bytes_.push_back(static_cast<uint8_t>(byte));
      edge_nodes_.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.emplace_back();
      ranges.push_back({begin, last, depth + 1});
      begin = last;
    }
    nodes_[node].num_edges = static_cast<uint32_t>(edge_bytes_.size()) - nodes_[node].first_edge;
  }
  root_.assign(256, 0);
  for (uint32_t i = 0; i < nodes_[0].num_edges; ++i) root_[edge_bytes_[i]] = edge_nodes_[i];
}

uint32_t ByteTrie::Step(uint32_t node, uint8_t byte) const {
  if (node == 0) return nodes_.empty() ? 0 : root_[byte];
  const Node& from = nodes_[node];
  const uint8_t* first = edge_bytes_.data() + from.first_edge;
  const uint8_t* last = first + from.num_edges;
  // std::string compares as unsigned char, so the edges ascend.
  const uint8_t* at = std::lower_bound(first, last, byte);
  return at != last && *at == byte ? edge_nodes_[static_cast<size_t>(at - edge_bytes_.data())] : 0;
}

size_t ByteTrie::LongestMatch(std::string_view text, TokenId* value, bool* touched) const {
  size_t longest = 0;
  if (nodes_.empty()) return 0;
  uint32_t node = 0;
  for (size_t i = 0;; ++i) {
    if (i == text.size()) {
      if (HasChildren(node)) *touched = true;
      return longest;
    }
    node = Step(node, static_cast<uint8_t>(text[i]));
    if (node == 0) return longest;
    if (Value(node) >= 0) {
      longest = i + 1;
      *value = Value(node);
    }
  }
}

void MergeTable::Reserve(size_t count) {
  const size_t wanted = std::bit_ceil(count * 2 + 16);
  if (wanted <= slots_.size()) return;
  const std::vector<Entry> old = std::move(slots_);
  slots_.assign(wanted, Entry{});
  shift_ = 64 - std::countr_zero(wanted);
  count_ = 0;
  for (const Entry& entry : old)
    if (entry.key != kFree)
      Add(static_cast<TokenId>(entry.key >> 32), static_cast<TokenId>(entry.key & 0xFFFFFFFF),
          entry.merge.rank, entry.merge.id);
}

void MergeTable::Add(TokenId left, TokenId right, uint32_t rank, TokenId id) {
  if ((count_ + 1) * 2 > slots_.size()) Reserve(count_ * 2 + 16);
  const uint64_t key = Key(left, right);
  size_t at = Slot(key);
  for (; slots_[at].key != kFree; at = (at + 1) & (slots_.size() - 1))
    if (slots_[at].key == key) return;
  slots_[at] = {key, {rank, id}};
  ++count_;
}

void PairSet::Add(uint32_t a, uint32_t b) {
  const uint32_t i = Small(a), j = Small(b);
  if (i < kSmall && j < kSmall)
    small_[i * kSmall + j] = 1;
  else
    large_.Add(static_cast<TokenId>(a), static_cast<TokenId>(b), 0, 0);
}

bool PairSet::HasLarge(uint32_t a, uint32_t b) const {
  return large_.Find(static_cast<TokenId>(a), static_cast<TokenId>(b)) != nullptr;
}

}  // namespace mneme
