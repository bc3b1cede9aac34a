#include "eval/scores/metric.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>
#include <utility>

#include "eval/scores/scores.h"
#include "eval/scores/text.h"

namespace mneme {

using namespace scores;  // NOLINT: the file is about nothing else

namespace {

constexpr std::array<std::pair<Metric, std::string_view>, 19> kNames = {{
    {Metric::kExactMatch, "exact_match"},
    {Metric::kTokenF1, "f1"},
    {Metric::kCharacterF1, "f1_characters"},
    {Metric::kRougeL, "rouge_l"},
    {Metric::kRougeLCharacters, "rouge_l_characters"},
    {Metric::kRougeLSum, "rouge_l_sum"},
    {Metric::kClass, "class"},
    {Metric::kCount, "count"},
    {Metric::kParagraph, "paragraph"},
    {Metric::kCode, "code"},
    {Metric::kFirstNumber, "first_number"},
    {Metric::kNumberValue, "number_value"},
    {Metric::kLastNumber, "last_number"},
    {Metric::kContainsWord, "contains_word"},
    {Metric::kContainsAnyCase, "contains_word_any_case"},
    {Metric::kChoice, "choice"},
    {Metric::kFunctionChoice, "function_choice"},
    {Metric::kNumberPrefix, "number_prefix"},
    {Metric::kLabel, "label"},
}};

constexpr std::string_view kWordBreaks = "\n:\"'.,?!{}";

std::string WithSpaces(std::string_view text) {
  std::string out;
  for (const std::string& character : Characters(text)) out += (out.empty() ? "" : " ") + character;
  return out;
}

bool HasWord(std::string_view prediction, std::string_view answer) {
  const auto words = SplitWhiteSpace(Blank(prediction, kWordBreaks));
  return std::find(words.begin(), words.end(), answer) != words.end();
}

std::string Upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return out;
}

// Share of the numbers written that are `number`.
double NumberShare(std::string_view prediction, std::string_view number) {
  const auto written = DigitRuns(prediction);
  if (written.empty()) return 0;
  const auto right = std::count(written.begin(), written.end(), number);
  return static_cast<double>(right) / static_cast<double>(written.size());
}

double ScoreClass(std::string_view prediction, const std::string& answer,
                  const std::vector<std::string>& classes) {
  std::vector<std::string> named;
  for (const std::string& name : classes) {
    if (Contains(prediction, name)) named.push_back(name);
  }
  // The published loop removes from the list that it walks over, so it passes over the entry that follows a
  // removed one; kept, because the tables were made with it.
  for (size_t i = 0; i < named.size(); ++i) {
    if (named[i] != answer && Contains(answer, named[i])) {
      const std::string gone = named[i];
      named.erase(std::find(named.begin(), named.end(), gone));
    }
  }
  if (std::find(named.begin(), named.end(), answer) == named.end()) return 0;
  return 1.0 / static_cast<double>(named.size());
}

double ScoreCode(std::string_view prediction, std::string_view answer) {
  while (prediction.starts_with('\n')) prediction.remove_prefix(1);
  for (const std::string_view line : Split(prediction, '\n')) {
    if (!Contains(line, "`") && !Contains(line, "#") && !Contains(line, "//"))
      return EditSimilarity(line, answer);
  }
  return EditSimilarity("", answer);
}

// First unsigned number in the text, with decimals if there are any.
bool FirstNumber(std::string_view text, double* value) {
  const auto begin = std::find_if(text.begin(), text.end(), IsDigit);
  if (begin == text.end()) return false;
  auto end = std::find_if_not(begin, text.end(), IsDigit);
  if (end != text.end() && *end == '.' && end + 1 != text.end() && IsDigit(end[1])) {
    end = std::find_if_not(end + 1, text.end(), IsDigit);
  }
  *value = std::strtod(std::string(begin, end).c_str(), nullptr);
  return true;
}

bool IsLastInteger(std::string_view prediction, std::string_view answer) {
  const auto words = SplitWhiteSpace(Blank(prediction, "\n.`'\":"));
  if (words.empty()) return false;
  char* end = nullptr;
  const long long value = std::strtoll(words.back().c_str(), &end, 10);
  if (*end != '\0') return false;
  const std::string right(answer);
  return value == std::strtoll(right.c_str(), &end, 10) && !right.empty() && *end == '\0';
}

std::string SingleSpaces(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c != ' ' || out.empty() || out.back() != ' ') out += c;
  }
  return out;
}

// Text after the first of the prefixes that occurs, without the character after it. found: one occurred.
std::string AfterPrefix(const std::string& text, std::span<const std::string_view> prefixes, bool* found) {
  *found = false;
  for (const std::string_view prefix : prefixes) {
    const size_t at = text.find(prefix);
    if (at == std::string::npos) continue;
    *found = true;
    const size_t begin = at + prefix.size() + 1;
    return begin <= text.size() ? text.substr(begin) : "";
  }
  return "";
}

bool IsChoice(std::string_view prediction, const std::vector<std::string>& answers) {
  constexpr std::string_view kLetters = "ABCD";
  const auto is_right = [&](std::string_view text) {
    return std::find(answers.begin(), answers.end(), text) != answers.end();
  };
  const std::string_view trimmed = Trim(prediction);
  if (trimmed.empty()) return false;
  if (kLetters.find(trimmed[0]) != std::string_view::npos) return is_right(trimmed.substr(0, 1));
  if (is_right(trimmed)) return true;
  const std::string text = SingleSpaces(Blank(trimmed, "\n\"'.,?!{}"));
  constexpr std::array<std::string_view, 4> kPrefixes = {"answer is:", "answer:", "answer is", "option is"};
  bool found = false;
  const std::string after = AfterPrefix(text, kPrefixes, &found);
  if (found) {
    return std::any_of(answers.begin(), answers.end(), [&](const std::string& answer) {
      return !answer.empty() && after.starts_with(answer);
    });
  }
  for (const std::string& word : SplitWhiteSpace(text)) {
    if (kLetters.find(word) != std::string_view::npos) return is_right(word);
  }
  return false;
}

// answers: the function's name, then its letter.
bool IsFunctionChoice(std::string_view prediction, const std::vector<std::string>& answers) {
  if (answers.size() < 2) return false;
  const std::string_view trimmed = Trim(prediction);
  const std::string& letter = answers[1];
  if (trimmed.starts_with(letter + ".") || trimmed.starts_with(letter + ":")) return true;
  std::string text = Blank(trimmed, "\n`'\"-*");
  for (const std::string_view word : {"Option", "option"}) {
    for (size_t at = 0; (at = text.find(word)) != std::string::npos;) text.replace(at, word.size(), " ");
  }
  text = SingleSpaces(text);
  constexpr std::array<std::string_view, 4> kPrefixes = {
      "answer is:", "is:", "answer:", "correct option is:"};
  bool found = false;
  const std::string after = AfterPrefix(text, kPrefixes, &found);
  return !after.empty() && (after.starts_with(letter) || after.starts_with(answers[0]));
}

double NumberPrefix(std::string_view prediction, const std::vector<std::string>& answers) {
  const auto written = DigitRuns(prediction);
  size_t right = 0;
  while (right < written.size() && right < answers.size()) {
    if (std::strtod(written[right].c_str(), nullptr) != std::strtod(answers[right].c_str(), nullptr)) break;
    ++right;
  }
  return static_cast<double>(right) / static_cast<double>(answers.size());
}

// The first sentence names the answer and no other label that the question does not name.
bool IsOnlyLabel(const ScoreInput& input, const std::string& answer) {
  const std::string lower = LowerAscii(input.prediction);
  std::string_view output = lower;
  for (const std::string_view end : {".", "<context>", "<example>"}) {
    output = output.substr(0, output.find(end));
  }
  const std::string question = LowerAscii(input.question), target = LowerAscii(answer);
  std::set<std::string> named;
  for (const std::string& label : input.classes) {
    const std::string name = LowerAscii(label);
    if (Contains(output, name) && !Contains(question, name)) named.insert(name);
  }
  // A list of things; "n,e" is one label.
  if (target.size() > 3 && Contains(target, ",")) {
    const auto parts = Split(target, ',');
    return named.size() == parts.size() &&
           std::all_of(parts.begin(), parts.end(),
                       [&](std::string_view part) { return named.count(std::string(part)) > 0; });
  }
  return named.size() == 1 && named.count(target) > 0;
}

double ScoreOne(Metric metric, const ScoreInput& input, const std::string& answer) {
  const std::string& prediction = input.prediction;
  double value = 0;
  switch (metric) {
    case Metric::kExactMatch:
      return ExactMatch(prediction, answer);
    case Metric::kTokenF1:
      return TokenF1(prediction, answer).f;
    case Metric::kCharacterF1:
      return CharacterF1(prediction, answer).f;
    case Metric::kRougeL:
      return RougeLDistinct(prediction, answer);
    case Metric::kRougeLCharacters:
      return RougeLDistinct(WithSpaces(prediction), WithSpaces(answer));
    case Metric::kRougeLSum:
      return Rouge(prediction, answer).rouge_l_sum.f;
    case Metric::kClass:
      return ScoreClass(prediction, answer, input.classes);
    case Metric::kCount:
      return NumberShare(prediction, answer);
    case Metric::kParagraph: {
      const auto numbers = DigitRuns(answer);
      return numbers.empty() ? 0 : NumberShare(prediction, numbers.front());
    }
    case Metric::kCode:
      return ScoreCode(prediction, answer);
    case Metric::kFirstNumber: {
      const auto written = DigitRuns(prediction);
      return !written.empty() && written.front() == answer;
    }
    case Metric::kNumberValue:
      return FirstNumber(prediction, &value) && value == std::strtod(answer.c_str(), nullptr);
    case Metric::kLastNumber:
      return IsLastInteger(prediction, answer);
    case Metric::kContainsWord:
      return HasWord(prediction, answer);
    case Metric::kContainsAnyCase:
      return HasWord(Upper(prediction), Upper(answer));
    case Metric::kLabel:
      return IsOnlyLabel(input, answer);
    case Metric::kChoice:
    case Metric::kFunctionChoice:
    case Metric::kNumberPrefix:
      break;  // of the whole list: ScoreAnswer
  }
  return 0;
}

}  // namespace

std::string_view MetricName(Metric metric) {
  for (const auto& [value, name] : kNames) {
    if (value == metric) return name;
  }
  return "";
}

std::optional<Metric> ParseMetric(std::string_view name) {
  for (const auto& [value, known] : kNames) {
    if (known == name) return value;
  }
  return std::nullopt;
}

double ScoreAnswer(Metric metric, const ScoreInput& input) {
  if (input.answers.empty()) return 0;
  if (metric == Metric::kChoice) return IsChoice(input.prediction, input.answers);
  if (metric == Metric::kFunctionChoice) return IsFunctionChoice(input.prediction, input.answers);
  if (metric == Metric::kNumberPrefix) return NumberPrefix(input.prediction, input.answers);
  double best = 0;
  for (const std::string& answer : input.answers) best = std::max(best, ScoreOne(metric, input, answer));
  return best;
}

}  // namespace mneme
