#include "tokenizer/word_encoder.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/hash.h"
#include "tokenizer/text/unicode.h"

namespace mneme {
namespace {

constexpr uint32_t kNoMerge = ~uint32_t{0};
constexpr size_t kCacheEntries = size_t{1} << 14;
// A short text is done before a cache would be cleared.
constexpr uint64_t kBytesBeforeCache = 4096;
// Up to here a linear search for the best pair beats a heap.
constexpr size_t kShortSymbols = 40;

}  // namespace

template <typename Find>
void WordEncoder::Merge(const Find& find) {
  if (symbols_.size() < 2) return;
  if (symbols_.size() <= kShortSymbols)
    MergeShort(find);
  else
    MergeLong(find);
}

template <typename Find>
void WordEncoder::MergeShort(const Find& find) {
  size_t count = symbols_.size();
  priorities_.resize(count);
  merged_ids_.resize(count);
  for (size_t i = 0; i + 1 < count; ++i) priorities_[i] = find(symbols_[i], symbols_[i + 1], &merged_ids_[i]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i)
      if (priorities_[i] < priorities_[best]) best = i;
    if (priorities_[best] == kNoMerge) break;
    symbols_[best].length += symbols_[best + 1].length;
    symbols_[best].id = merged_ids_[best];
    for (size_t i = best + 1; i + 1 < count; ++i) {
      symbols_[i] = symbols_[i + 1];
      priorities_[i] = priorities_[i + 1];
      merged_ids_[i] = merged_ids_[i + 1];
    }
    --count;
    if (best + 1 < count) priorities_[best] = find(symbols_[best], symbols_[best + 1], &merged_ids_[best]);
    if (best > 0) priorities_[best - 1] = find(symbols_[best - 1], symbols_[best], &merged_ids_[best - 1]);
  }
  symbols_.resize(count);
}

template <typename Find>
void WordEncoder::MergeLong(const Find& find) {
  const uint32_t count = static_cast<uint32_t>(symbols_.size());
  constexpr uint32_t kNone = ~uint32_t{0};
  previous_.resize(count);
  next_.resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    previous_[i] = i == 0 ? kNone : i - 1;
    next_[i] = i + 1 == count ? kNone : i + 1;
  }
  const auto later = [](const Queued& a, const Queued& b) {
    return a.priority != b.priority ? a.priority > b.priority : a.left > b.left;
  };
  heap_.clear();
  const auto queue = [&](uint32_t left, uint32_t right) {
    if (left == kNone || right == kNone) return;
    TokenId id = -1;
    const uint32_t priority = find(symbols_[left], symbols_[right], &id);
    if (priority == kNoMerge) return;
    heap_.push_back({priority, left, right, symbols_[left].length + symbols_[right].length, id});
    std::push_heap(heap_.begin(), heap_.end(), later);
  };
  for (uint32_t i = 0; i + 1 < count; ++i) queue(i, i + 1);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Queued top = heap_.back();
    heap_.pop_back();
    // A symbol swallowed by another has length 0; one that grew no longer adds up.
    Symbol& left = symbols_[top.left];
    Symbol& right = symbols_[top.right];
    if (left.length == 0 || right.length == 0 || left.length + right.length != top.length) continue;
    left.length = top.length;
    left.id = top.id;
    right.length = 0;
    next_[top.left] = next_[top.right];
    if (next_[top.right] != kNone) previous_[next_[top.right]] = top.left;
    queue(previous_[top.left], top.left);
    queue(top.left, next_[top.left]);
  }
  std::erase_if(symbols_, [](const Symbol& symbol) { return symbol.length == 0; });
}

void WordEncoder::Encode(std::string_view word, std::vector<TokenId>* out) {
  if (word.empty()) return;
  encoded_bytes_ += word.size();
  if (word.size() > CacheEntry::kMaxBytes || encoded_bytes_ < kBytesBeforeCache) {
    EncodeUncached(word, out);
    return;
  }
  if (cache_.empty()) cache_.resize(kCacheEntries);
  CacheEntry& entry = cache_[HashBytes(word) & (kCacheEntries - 1)];
  if (entry.num_bytes == word.size() && std::memcmp(entry.bytes, word.data(), word.size()) == 0) {
    out->insert(out->end(), entry.ids, entry.ids + entry.num_ids);
    return;
  }
  const size_t before = out->size();
  EncodeUncached(word, out);
  const size_t num_ids = out->size() - before;
  if (num_ids > CacheEntry::kMaxIds) return;
  entry.num_bytes = static_cast<uint8_t>(word.size());
  entry.num_ids = static_cast<uint8_t>(num_ids);
  std::memcpy(entry.bytes, word.data(), word.size());
  std::copy(out->begin() + static_cast<std::ptrdiff_t>(before), out->end(), entry.ids);
}

void WordEncoder::EncodeUncached(std::string_view word, std::vector<TokenId>* out) {
  switch (model_->spec.algorithm) {
    case Algorithm::kByteBpe:
      EncodeByteBpe(word, out);
      break;
    case Algorithm::kScoredBpe:
      EncodeScoredBpe(word, out);
      break;
    case Algorithm::kRankedBpe:
      EncodeRankedBpe(word, out);
      break;
    case Algorithm::kUnigram:
      EncodeUnigram(word, out);
      break;
  }
}

void WordEncoder::EncodeByteBpe(std::string_view word, std::vector<TokenId>* out) {
  if (model_->spec.ignore_merges) {
    if (const TokenId id = model_->mergeable.Find(word); id >= 0) {
      out->push_back(id);
      return;
    }
  }
  symbols_.clear();
  for (size_t i = 0; i < word.size(); ++i)
    symbols_.push_back({static_cast<uint32_t>(i), 1, model_->byte_ids[static_cast<uint8_t>(word[i])]});
  const bool has_unknown = HasUnknown();
  // As the reference does: bytes without a piece are not there.
  if (!has_unknown) std::erase_if(symbols_, [](const Symbol& symbol) { return symbol.id < 0; });
  Merge([this](const Symbol& left, const Symbol& right, TokenId* id) {
    const MergeTable::Merge* merge = model_->merges.Find(left.id, right.id);
    if (merge == nullptr) return kNoMerge;
    *id = merge->id;
    return merge->rank;
  });
  for (const Symbol& symbol : symbols_) out->push_back(symbol.id >= 0 ? symbol.id : model_->spec.unk_id);
}

bool WordEncoder::HasUnknown() const {
  const TokenId id = model_->spec.unk_id;
  return id >= 0 && model_->types[static_cast<size_t>(id)] != TokenType::kControl;
}

void WordEncoder::SplitCharacters(std::string_view word) {
  symbols_.clear();
  for (size_t at = 0; at < word.size();) {
    TokenId id = -1;
    bool touched = false;
    const size_t symbol = model_->inline_symbols.LongestMatch(word.substr(at), &id, &touched);
    const size_t length = symbol > 0 ? symbol : DecodeUtf8(word.data() + at, word.size() - at).length;
    symbols_.push_back(
        {static_cast<uint32_t>(at), static_cast<uint32_t>(length), symbol > 0 ? id : -1, symbol > 0});
    at += length;
  }
}

void WordEncoder::AppendUnknown(std::string_view text, std::vector<TokenId>* out) {
  if (model_->spec.byte_fallback) {
    const auto has_id = [this](char byte) { return model_->byte_ids[static_cast<uint8_t>(byte)] >= 0; };
    if (std::all_of(text.begin(), text.end(), has_id)) {
      for (char byte : text) out->push_back(model_->byte_ids[static_cast<uint8_t>(byte)]);
      return;
    }
  }
  if (HasUnknown()) out->push_back(model_->spec.unk_id);
}

void WordEncoder::EncodeScoredBpe(std::string_view word, std::vector<TokenId>* out) {
  SplitCharacters(word);
  unused_splits_.clear();
  Merge([&](const Symbol& left, const Symbol& right, TokenId* id) {
    if (left.frozen || right.frozen) return kNoMerge;
    const std::string_view text = word.substr(left.begin, left.length + right.length);
    *id = model_->mergeable.Find(text);
    if (*id < 0) return kNoMerge;
    if (model_->has_unused && model_->types[static_cast<size_t>(*id)] == TokenType::kUnused)
      unused_splits_[std::string(text)] = left.length;
    return model_->priorities[static_cast<size_t>(*id)];
  });
  // AppendScored does not touch symbols_.
  for (const Symbol& symbol : symbols_) AppendScored(word.substr(symbol.begin, symbol.length), out);
}

// Unused pieces may stand in the middle of a merge, and are taken apart again at the end.
void WordEncoder::AppendScored(std::string_view text, std::vector<TokenId>* out) {
  std::vector<std::string_view> stack = {text};
  while (!stack.empty()) {
    const std::string_view part = stack.back();
    stack.pop_back();
    const TokenId id = model_->mergeable.Find(part);
    if (id < 0) {
      AppendUnknown(part, out);
      continue;
    }
    if (model_->has_unused && model_->types[static_cast<size_t>(id)] == TokenType::kUnused) {
      if (const auto split = unused_splits_.find(std::string(part)); split != unused_splits_.end()) {
        stack.push_back(part.substr(split->second));
        stack.push_back(part.substr(0, split->second));
        continue;
      }
    }
    out->push_back(id);
  }
}

void WordEncoder::EncodeRankedBpe(std::string_view word, std::vector<TokenId>* out) {
  if (model_->spec.ignore_merges) {
    if (const TokenId id = model_->mergeable.Find(word); id >= 0) {
      out->push_back(id);
      return;
    }
  }
  SplitCharacters(word);
  for (Symbol& symbol : symbols_)
    if (symbol.id < 0) symbol.id = model_->mergeable.Find(word.substr(symbol.begin, symbol.length));
  Merge([this](const Symbol& left, const Symbol& right, TokenId* id) {
    if (left.id < 0 || right.id < 0 || left.frozen || right.frozen) return kNoMerge;
    const MergeTable::Merge* merge = model_->merges.Find(left.id, right.id);
    if (merge == nullptr) return kNoMerge;
    *id = merge->id;
    return merge->rank;
  });
  for (const Symbol& symbol : symbols_) {
    if (symbol.id >= 0)
      out->push_back(symbol.id);
    else
      AppendUnknown(word.substr(symbol.begin, symbol.length), out);
  }
}

// Viterbi over the ends of pieces: best_[e] is the best way to reach byte e. Kudo 2018, arXiv:1804.10959.
void WordEncoder::EncodeUnigram(std::string_view word, std::vector<TokenId>* out) {
  constexpr uint32_t kUnreached = ~uint32_t{0};
  best_.assign(word.size() + 1, {0, kUnreached, -1});
  const auto reach = [this](size_t begin, size_t end, TokenId id, float score) {
    BestEnd& target = best_[end];
    const float total = score + best_[begin].score;
    if (target.begin == kUnreached || total > target.score)
      target = {total, static_cast<uint32_t>(begin), id};
  };
  for (size_t at = 0; at < word.size();) {
    const size_t char_length = DecodeUtf8(word.data() + at, word.size() - at).length;
    bool has_single = false;
    uint32_t node = 0;
    for (size_t end = at; end < word.size() && !model_->unigram.empty();) {
      node = model_->unigram.Step(node, static_cast<uint8_t>(word[end]));
      if (node == 0) break;
      ++end;
      const TokenId id = model_->unigram.Value(node);
      if (id < 0) continue;
      const size_t index = static_cast<size_t>(id);
      const float score = model_->types[index] == TokenType::kUserDefined
                              ? static_cast<float>(static_cast<float>(end - at) * model_->max_score - 0.1)
                              : model_->scores[index];
      reach(at, end, id, score);
      if (end - at == char_length) has_single = true;
    }
    if (!has_single) reach(at, at + char_length, -1, model_->unknown_score);
    at += char_length;
  }
  symbols_.clear();
  for (size_t end = word.size(); end > 0; end = best_[end].begin) {
    MNEME_CHECK(best_[end].begin < end);
    symbols_.push_back({best_[end].begin, static_cast<uint32_t>(end - best_[end].begin), best_[end].id});
  }
  for (auto symbol = symbols_.rbegin(); symbol != symbols_.rend(); ++symbol) {
    if (symbol->id >= 0)
      out->push_back(symbol->id);
    else
      AppendUnknown(word.substr(symbol->begin, symbol->length), out);
  }
}

}  // namespace mneme
