// Asks a question at the end of a stream, and scores the answer: what the model writes by itself, and which
// of a few answers it finds likeliest. The second also works for models that are too small to follow.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/tasks/recall_stream.h"

namespace mneme {

enum class AnswerRule : uint8_t {
  kDigits,       // the first run of digits is the answer, as in the passkey papers
  kStart,        // the text begins with the answer, as a whole word
  kContainsAny,  // any of the answers occurs, whatever the case, as in RULER's questions over documents
  kContains,     // the share of the answers that occur anywhere, whatever the case, as in RULER
};

struct RecallQuestion {
  std::string tail;  // the text up to the answer, without the space before it
  std::string gap = " ";
  std::vector<std::string> answers;     // one, but for kContains and kContainsAny
  std::vector<std::string> candidates;  // the first is right; all begin differently enough to be told apart
  AnswerRule rule = AnswerRule::kDigits;
  int64_t max_tokens = 0;  // to write; 0: the tokens of the answer and a few more
};

// 0..1: how right `text` is.
double ScoreAnswer(const RecallQuestion& question, std::string_view text);

struct AskOptions {
  bool generate = true;
  bool likelihood = true;
};

struct RecallAnswer {
  double generated = 0;
  double likely = 0;       // 1: the right candidate is likelier than every other one
  std::string text;        // what the model wrote
  int64_t num_tokens = 0;  // of the stream when the answer began
};

// How many tokens asking takes at most, beside the stream: what max_rewind must allow to ask without a copy.
int64_t AskTokens(const Tokenizer& tokenizer, const RecallQuestion& question);

// The prompt is cut where the answer's tokens begin, whether or not the tokenizer puts the space into the
// answer's first token: it is the part that the encodings of all candidates have in common. The stream is
// afterwards as it was. Throws what Session throws, Error(kInterrupted); Error(kInput) for logits that are
// not finite.
RecallAnswer Ask(RecallStream& stream, const RecallQuestion& question, const AskOptions& options);

}  // namespace mneme
