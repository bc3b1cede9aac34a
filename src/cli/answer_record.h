// The beginning of an answer, kept for the report. An answer may have no end, so what is kept has a bound:
// the rest is counted, and is on standard output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace mneme::cli {

// Thread rule: one thread at a time.
class AnswerRecord {
 public:
  static constexpr size_t kMaxTokens = size_t{1} << 16;
  static constexpr size_t kMaxTextBytes = size_t{1} << 19;

  // keeps: false only counts.
  explicit AnswerRecord(bool keeps = false) : keeps_(keeps) {}

  // One call of a TextCallback: token -1 stands for text without a token.
  void Add(std::string_view piece, TokenId token) {
    if (token >= 0) {
      ++num_tokens_;
      if (keeps_ && tokens_.size() < kMaxTokens) tokens_.push_back(token);
    }
    num_text_bytes_ += static_cast<int64_t>(piece.size());
    // Whole pieces, which are whole characters; after the first that does not fit, none.
    is_text_full_ = is_text_full_ || !keeps_ || text_.size() + piece.size() > kMaxTextBytes;
    if (!is_text_full_) text_ += piece;
  }

  const std::vector<TokenId>& tokens() const { return tokens_; }
  const std::string& text() const { return text_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_tokens_left_out() const { return num_tokens_ - static_cast<int64_t>(tokens_.size()); }
  int64_t num_text_bytes_left_out() const { return num_text_bytes_ - static_cast<int64_t>(text_.size()); }

 private:
  bool keeps_;
  bool is_text_full_ = false;
  std::vector<TokenId> tokens_;
  std::string text_;
  int64_t num_tokens_ = 0;
  int64_t num_text_bytes_ = 0;
};

}  // namespace mneme::cli
