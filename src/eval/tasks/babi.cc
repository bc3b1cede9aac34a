#include "eval/tasks/babi.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/random.h"
#include "eval/scores/text.h"

namespace mneme {
namespace {

using Labels = std::span<const std::string_view>;

constexpr std::array<std::string_view, 6> kPlaces = {"bathroom", "bedroom", "garden",
                                                     "hallway",  "kitchen", "office"};
constexpr std::array<std::string_view, 7> kGiving = {"Bill",  "Fred",     "Jeff", "Mary",
                                                     "apple", "football", "milk"};
constexpr std::array<std::string_view, 2> kYesNo = {"no", "yes"};
constexpr std::array<std::string_view, 4> kCounts = {"none", "one", "three", "two"};
constexpr std::array<std::string_view, 4> kThings = {"apple", "football", "milk", "nothing"};
constexpr std::array<std::string_view, 3> kMaybe = {"maybe", "no", "yes"};
constexpr std::array<std::string_view, 6> kDayPlaces = {"bedroom", "cinema", "kitchen",
                                                        "office",  "park",   "school"};
constexpr std::array<std::string_view, 4> kAnimals = {"cat", "mouse", "sheep", "wolf"};
constexpr std::array<std::string_view, 4> kColours = {"gray", "green", "white", "yellow"};
constexpr std::array<std::string_view, 12> kPaths = {"e,e", "e,n", "e,s", "n,e", "n,n", "n,w",
                                                     "s,e", "s,s", "s,w", "w,n", "w,s", "w,w"};
constexpr std::array<std::string_view, 7> kMotives = {"bedroom", "bored",   "garden", "hungry",
                                                      "kitchen", "thirsty", "tired"};

const std::array<Labels, 20> kLabels = {kPlaces,  kPlaces,  kPlaces, kPlaces, kGiving, kYesNo,  kCounts,
                                        kThings,  kYesNo,   kMaybe,  kPlaces, kPlaces, kPlaces, kDayPlaces,
                                        kAnimals, kColours, kYesNo,  kYesNo,  kPaths,  kMotives};

// Spaces and line ends as single spaces.
std::string OneLine(std::string_view text) {
  std::string line;
  for (const std::string& word : scores::SplitWhiteSpace(text)) {
    if (!line.empty()) line += ' ';
    line += word;
  }
  return line;
}

}  // namespace

Labels BabiLabels(std::string_view task) {
  if (!task.starts_with("qa")) return {};
  task.remove_prefix(2);
  size_t number = 0;
  const auto [end, error] = std::from_chars(task.data(), task.data() + task.size(), number);
  if (error != std::errc() || end != task.data() + task.size() || number < 1 || number > kLabels.size())
    return {};
  return kLabels[number - 1];
}

bool BabiParser::Line(std::string_view line, size_t line_number, BabiQuestion* question) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), number);
  if (error != std::errc() || number < 1)
    Fail(ErrorKind::kInput, "a line starts with the number of its sentence, from 1");
  if (number == 1) {
    facts_.clear();
  } else if (number <= last_number_) {
    Fail(ErrorKind::kInput, "sentence {} comes after sentence {}", number, last_number_);
  }
  last_number_ = number;
  const auto parts = scores::Split(line.substr(static_cast<size_t>(end - line.data())), '\t');
  const std::string text(scores::Trim(parts[0]));
  if (text.empty()) Fail(ErrorKind::kInput, "sentence {} is empty", number);
  if (parts.size() == 1) {
    facts_.push_back(text);
    return false;
  }
  const std::string answer(scores::Trim(parts[1]));
  if (answer.empty()) Fail(ErrorKind::kInput, "question {} has no answer", number);
  question->facts = facts_;
  question->question = text;
  question->answer = answer;
  question->line = line_number;
  return true;
}

BabiBook::BabiBook(const std::string& path) {
  const std::string text = ReadWholeFile(path, kMaxDataBytes);
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool ends = (text[i] == '.' || text[i] == '!' || text[i] == '?') &&
                      (i + 1 == text.size() || scores::IsSpace(text[i + 1]));
    if (!ends) continue;
    std::string sentence = OneLine(std::string_view(text).substr(begin, i + 1 - begin));
    begin = i + 1;
    if (sentence.size() > 20) sentences_.push_back(std::move(sentence));
  }
  if (sentences_.empty())
    Fail(ErrorKind::kInput, "{}: there are no sentences in it to hide facts among", path);
}

std::string BabiBook::Hide(std::span<const std::string> facts, int64_t num_tokens, const Tokenizer& tokenizer,
                           uint64_t seed) const {
  Random random(seed);
  const auto count = [&](const std::string& text) {
    return static_cast<int64_t>(tokenizer.Encode(" " + text).size());
  };
  int64_t left = num_tokens;
  for (const std::string& fact : facts) left -= count(fact);
  std::vector<const std::string*> noise;
  for (size_t at = random.Below(sentences_.size()); left > 0; at = (at + 1) % sentences_.size()) {
    left -= count(sentences_[at]);
    if (left >= 0) noise.push_back(&sentences_[at]);
  }
  std::vector<size_t> places(facts.size());
  for (size_t& place : places) place = random.Below(noise.size() + 1);
  std::sort(places.begin(), places.end());
  std::string text;
  const auto add = [&](const std::string& sentence) {
    if (!text.empty()) text += ' ';
    text += sentence;
  };
  size_t fact = 0;
  for (size_t i = 0; i <= noise.size(); ++i) {
    while (fact < facts.size() && places[fact] == i) add(facts[fact++]);
    if (i < noise.size()) add(*noise[i]);
  }
  return text;
}

}  // namespace mneme
