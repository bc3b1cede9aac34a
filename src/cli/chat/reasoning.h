// What a model thinks before it answers: told from the answer by the marks that its template or its
// vocabulary knows.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/tokenizer.h"

namespace mneme::cli {

// The marks of one kind. The text of both belongs to the reasoning.
struct ReasoningMarks {
  std::string_view open, close;
};

// Those that the template writes or reads, else those that the vocabulary has as tokens; null: the model is
// not known to think aloud. Points into a table.
const ReasoningMarks* FindReasoning(const Tokenizer& tokenizer, std::string_view jinja_text);

// Whether a prompt ends in the opening mark: the reply begins with reasoning then.
bool OpensReasoning(const ReasoningMarks& marks, std::string_view prompt);

// A reply taken apart. Without a closing mark all of it is an answer: templates read it so.
struct SplitReply {
  std::string reasoning;  // without marks and the white space around it
  std::string answer;     // without the white space before it
};
// Null if there is no reasoning in it. is_open: the prompt opened it.
std::optional<SplitReply> TakeApart(const ReasoningMarks& marks, std::string_view reply, bool is_open);

// Tells the reasoning in a reply from the answer while it comes. What may still be the beginning of a mark
// waits.
class ReasoningReader {
 public:
  struct Part {
    std::string text;
    bool is_reasoning = false;
  };
  ReasoningReader(const ReasoningMarks& marks, bool is_open) : marks_(marks), is_open_(is_open) {}

  // Appends what is certain.
  void Feed(std::string_view text, std::vector<Part>* parts);
  void Finish(std::vector<Part>* parts);

 private:
  void Give(size_t size, std::vector<Part>* parts);

  const ReasoningMarks& marks_;
  bool is_open_;
  std::string held_;
};

}  // namespace mneme::cli
