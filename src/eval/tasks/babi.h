// bAbI stories and BABILong: which answers a task knows, stories from the numbered form, and the haystack
// form of the BABILong paper (arXiv 2406.10149): the sentences of a story spread in their order among the
// sentences of a book.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/tokenizer.h"

namespace mneme {

// The answers that task "qa1" .. "qa20" knows; empty for another name.
std::span<const std::string_view> BabiLabels(std::string_view task);

struct BabiQuestion {
  std::vector<std::string> facts;  // sentences before the question, without earlier questions
  std::string question;
  std::string answer;
  size_t line = 0;  // of the question, from 1
};
// Reads the numbered form line by line: "1 Mary moved to the bathroom.", "3 Where is Mary? TAB bathroom TAB
// 1"; the numbers start again with each story.
class BabiParser {
 public:
  // True where the line asks something: *question is filled. line_number from 1. Throws Error(kInput) that
  // says what is wrong with the line (without its place).
  bool Line(std::string_view line, size_t line_number, BabiQuestion* question);

 private:
  std::vector<std::string> facts_;
  int64_t last_number_ = 0;
};

// Sentences of a book, to hide facts in.
class BabiBook {
 public:
  // Throws Error(kFile), and Error(kInput) for a file without sentences.
  explicit BabiBook(const std::string& path);
  size_t num_sentences() const { return sentences_.size(); }
  // The facts in their order at random places among consecutive sentences, about num_tokens in all (never
  // less than the facts take). The book starts at a random sentence, and again from its beginning where it is
  // too short. Same seed and tokenizer, same text.
  std::string Hide(std::span<const std::string> facts, int64_t num_tokens, const Tokenizer& tokenizer,
                   uint64_t seed) const;

 private:
  std::vector<std::string> sentences_;
};

}  // namespace mneme
