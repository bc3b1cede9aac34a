// One word (for SentencePiece: one stretch between safe cuts) to ids, by the model's algorithm, with a cache
// of words seen. Internal to the folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/types.h"
#include "tokenizer/model.h"

namespace mneme {

// A stretch of the word on its way to being a token.
struct Symbol {
  uint32_t begin = 0;
  uint32_t length = 0;
  TokenId id = -1;      // -1: not (known to be) a token
  bool frozen = false;  // a user-defined piece: merges with nothing
};

// One thread at a time. The model must outlive it.
class WordEncoder {
 public:
  explicit WordEncoder(const TokenizerModel* model) : model_(model) {}

  // Appends the ids of the word. Time O(n log n) in its length. An id of -1 never appears; a character
  // without a token or byte tokens gives unk_id where there is one, and nothing otherwise.
  void Encode(std::string_view word, std::vector<TokenId>* out);

 private:
  struct CacheEntry;
  struct Queued {
    uint32_t priority;
    uint32_t left;
    uint32_t right;
    uint32_t length;  // of both together when queued: tells entries that are out of date
    TokenId id;
  };

  void EncodeUncached(std::string_view word, std::vector<TokenId>* out);
  void EncodeByteBpe(std::string_view word, std::vector<TokenId>* out);
  void EncodeScoredBpe(std::string_view word, std::vector<TokenId>* out);
  void EncodeRankedBpe(std::string_view word, std::vector<TokenId>* out);
  void EncodeUnigram(std::string_view word, std::vector<TokenId>* out);
  // The characters of the word, user-defined pieces in one.
  void SplitCharacters(std::string_view word);
  void AppendUnknown(std::string_view text, std::vector<TokenId>* out);
  // Whether what has no piece becomes the unknown token: one that says nothing else (in some files it is the
  // end of text too, which plain text never becomes).
  bool HasUnknown() const;
  void AppendScored(std::string_view text, std::vector<TokenId>* out);

  // Merges neighbours in symbols_, the lowest priority first and the leftmost among equals, until `find`
  // knows no pair. find(left, right, &id) gives the priority or kNoMerge.
  template <typename Find>
  void Merge(const Find& find);
  template <typename Find>
  void MergeShort(const Find& find);
  template <typename Find>
  void MergeLong(const Find& find);

  const TokenizerModel* model_;
  std::vector<Symbol> symbols_;
  std::vector<uint32_t> priorities_;
  std::vector<TokenId> merged_ids_;
  std::vector<uint32_t> previous_, next_;
  std::vector<Queued> heap_;
  std::unordered_map<std::string, uint32_t> unused_splits_;  // unused piece -> length of its left part

  struct BestEnd {
    float score;
    uint32_t begin;
    TokenId id;
  };
  std::vector<BestEnd> best_;

  struct CacheEntry {
    static constexpr size_t kMaxBytes = 22;
    static constexpr size_t kMaxIds = 10;
    uint8_t num_bytes = 0;
    uint8_t num_ids = 0;
    char bytes[kMaxBytes];
    TokenId ids[kMaxIds];
  };
  std::vector<CacheEntry> cache_;  // direct-mapped; made once a text turns out not to be short
  uint64_t encoded_bytes_ = 0;
};

}  // namespace mneme
