#include "eval/tasks/candidates.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>

#include "base/error.h"

namespace mneme {
namespace {

constexpr int64_t kMoreTokens = 6;

bool IsWordByte(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

std::string_view FirstDigits(std::string_view text) {
  const auto begin = std::find_if(text.begin(), text.end(), IsDigit);
  const auto end = std::find_if_not(begin, text.end(), IsDigit);
  return text.substr(static_cast<size_t>(begin - text.begin()), static_cast<size_t>(end - begin));
}

std::string_view WithoutLead(std::string_view text) {
  while (!text.empty() && !IsWordByte(text[0]) && (text[0] & 0x80) == 0) text.remove_prefix(1);
  return text;
}

// Whether more text cannot change the score.
bool IsDecided(const RecallQuestion& question, std::string_view text) {
  switch (question.rule) {
    case AnswerRule::kDigits: {
      const std::string_view digits = FirstDigits(text);
      return !digits.empty() && digits.data() + digits.size() < text.data() + text.size();
    }
    case AnswerRule::kStart:
      return WithoutLead(text).size() > question.answers[0].size();
    case AnswerRule::kContainsAny:
    case AnswerRule::kContains:
      break;
  }
  return ScoreAnswer(question, text) >= 1;
}

double LogProbabilityOf(std::span<const float> logits, TokenId token) {
  const double value = LogProbability(logits, token);
  if (!std::isfinite(value))
    Fail(ErrorKind::kInput, "the model's logits are not finite; is the file damaged?");
  return value;
}

// Of the tokens `ids` after the stream as it is, which stays so where `rewind` says it.
double ContinuationLikelihood(Session& session, std::span<const TokenId> ids, bool rewind, StopToken stop) {
  double sum = LogProbabilityOf(session.Logits(), ids[0]);
  if (ids.size() == 1) return sum;
  const int64_t first = session.num_tokens();
  const auto count = static_cast<int64_t>(ids.size()) - 1;
  const int64_t fed =
      session.Feed(ids.first(ids.size() - 1), stop, [&](int64_t index, std::span<const float> logits) {
        sum += LogProbabilityOf(logits, ids[static_cast<size_t>(index - first) + 1]);
      });
  if (rewind) session.Rewind(fed);
  if (fed < count) Fail(ErrorKind::kInterrupted, "interrupted");
  return sum;
}

std::string Write(Session& session, const RecallQuestion& question, int64_t max_tokens, StopToken stop) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  std::string text;
  Generation generation = session.Generate(options);
  while (const auto piece = generation.Next(stop)) {
    text += piece->text;
    if (IsDecided(question, text)) return text;
  }
  if (generation.result().reason == StopReason::kInterrupted) Fail(ErrorKind::kInterrupted, "interrupted");
  return text;
}

// `session` is the stream's own, which is afterwards as it was, or a copy of it, which need not be: a copy is
// there because the question is longer than what can be taken back.
RecallAnswer AskSession(RecallStream& stream, Session& session, const RecallQuestion& question,
                        const AskOptions& options, const std::vector<std::vector<TokenId>>& endings,
                        size_t common) {
  RecallAnswer answer;
  const int64_t start = session.num_tokens();
  session.BeginTurn();
  const int64_t fed = session.Feed(std::span(endings[0]).first(common), stream.stop());
  if (fed < static_cast<int64_t>(common)) Fail(ErrorKind::kInterrupted, "interrupted");
  answer.num_tokens = session.num_tokens();
  if (options.likelihood) {
    double best_other = -INFINITY, right = -INFINITY;
    for (size_t i = 0; i < question.candidates.size(); ++i) {
      const auto ending = std::span(endings[i]).subspan(common);
      std::optional<Session> copy;
      if (static_cast<int64_t>(ending.size()) - 1 > session.options().max_rewind) {
        copy = session.Clone();
        stream.NotePeak();
      }
      const double value = ContinuationLikelihood(copy ? *copy : session, ending, !copy, stream.stop());
      if (i == 0) {
        right = value;
      } else {
        best_other = std::max(best_other, value);
      }
    }
    answer.likely = right > best_other ? 1 : 0;
  }
  if (options.generate) {
    const auto own_tokens = static_cast<int64_t>(endings[0].size() - common);
    answer.text =
        Write(session, question, question.max_tokens > 0 ? question.max_tokens : own_tokens + kMoreTokens,
              stream.stop());
    answer.generated = ScoreAnswer(question, answer.text);
  }
  if (&session == &stream.session()) session.Rewind(session.num_tokens() - start);
  return answer;
}

}  // namespace

double ScoreAnswer(const RecallQuestion& question, std::string_view text) {
  MNEME_CHECK(!question.answers.empty());
  const std::string& answer = question.answers[0];
  switch (question.rule) {
    case AnswerRule::kDigits:
      return FirstDigits(text) == answer ? 1 : 0;
    case AnswerRule::kStart: {
      const std::string_view rest = WithoutLead(text);
      return rest.starts_with(answer) && (rest.size() == answer.size() || !IsWordByte(rest[answer.size()]));
    }
    case AnswerRule::kContainsAny:
    case AnswerRule::kContains:
      break;
  }
  const std::string lower = Lower(text);
  size_t found = 0;
  for (const std::string& one : question.answers) found += lower.find(Lower(one)) != std::string::npos;
  if (question.rule == AnswerRule::kContainsAny) return found > 0 ? 1 : 0;
  return static_cast<double>(found) / static_cast<double>(question.answers.size());
}

int64_t AskTokens(const Tokenizer& tokenizer, const RecallQuestion& question) {
  size_t longest = 0;
  for (const std::string& candidate : question.candidates)
    longest = std::max(longest, tokenizer.Encode(question.tail + question.gap + candidate).size());
  // What the encoder holds back of the text before: a word or two.
  constexpr int64_t kHeld = 32;
  return static_cast<int64_t>(longest) + std::max(kMoreTokens, question.max_tokens) + kHeld;
}

RecallAnswer Ask(RecallStream& stream, const RecallQuestion& question, const AskOptions& options) {
  MNEME_CHECK(question.candidates.size() > 1 && !question.answers.empty());
  stream.Flush();
  std::vector<std::vector<TokenId>> endings;
  size_t common = SIZE_MAX, longest = 0;
  for (const std::string& candidate : question.candidates) {
    endings.push_back(stream.Ending(question.tail + question.gap + candidate));
    const auto& first = endings[0];
    const auto& last = endings.back();
    const auto differ = std::mismatch(first.begin(), first.end(), last.begin(), last.end());
    if (endings.size() > 1) common = std::min(common, static_cast<size_t>(differ.first - first.begin()));
    longest = std::max(longest, last.size());
  }
  for (const auto& ending : endings) common = std::min(common, ending.size() - 1);
  Session& session = stream.session();
  const int64_t needed = static_cast<int64_t>(longest) + std::max(kMoreTokens, question.max_tokens) + 1;
  if (needed <= session.options().max_rewind)
    return AskSession(stream, session, question, options, endings, common);
  Session copy = session.Clone();
  const RecallAnswer answer = AskSession(stream, copy, question, options, endings, common);
  stream.NotePeak();
  return answer;
}

}  // namespace mneme
