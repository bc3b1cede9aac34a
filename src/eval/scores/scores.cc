#include "eval/scores/scores.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

#include "eval/scores/stem.h"
#include "eval/scores/text.h"

namespace mneme {

using namespace scores;  // NOLINT: the file is about nothing else

namespace {

FScore FromCounts(size_t common, size_t num_predicted, size_t num_right) {
  FScore score;
  if (common == 0) return score;
  score.precision = static_cast<double>(common) / static_cast<double>(num_predicted);
  score.recall = static_cast<double>(common) / static_cast<double>(num_right);
  score.f = 2 * score.precision * score.recall / (score.precision + score.recall);
  return score;
}

// Punctuation of Chinese text and typographic quotes and dashes, by code point ranges in UTF-8.
bool IsWidePunctuation(std::string_view character) {
  if (character.size() != 3) return false;
  const auto at = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(character[i])); };
  const uint32_t code = (at(0) & 0x0F) << 12 | (at(1) & 0x3F) << 6 | (at(2) & 0x3F);
  return (code >= 0x2010 && code <= 0x2027) || (code >= 0x3001 && code <= 0x303F) ||
         (code >= 0xFF01 && code <= 0xFF0F) || (code >= 0xFF1A && code <= 0xFF20) ||
         (code >= 0xFF3B && code <= 0xFF40) || (code >= 0xFF5B && code <= 0xFF64);
}

std::vector<std::string> BareCharacters(std::string_view text) {
  std::vector<std::string> characters = Characters(LowerAscii(text));
  std::erase_if(characters, [](const std::string& c) {
    return (c.size() == 1 && (IsSpace(c[0]) || IsAsciiPunctuation(c[0]))) || IsWidePunctuation(c);
  });
  return characters;
}

std::vector<std::string> RougeWords(std::string_view text, bool stem) {
  std::string bare = LowerAscii(text);
  for (char& c : bare) {
    if (!IsDigit(c) && !(c >= 'a' && c <= 'z')) c = ' ';
  }
  std::vector<std::string> words = SplitWhiteSpace(bare);
  if (stem) {
    for (std::string& word : words) {
      if (word.size() > 3) word = PorterStem(word);
    }
  }
  return words;
}

FScore RougeN(const std::vector<std::string>& prediction, const std::vector<std::string>& reference,
              size_t n) {
  const auto grams = [n](const std::vector<std::string>& words) {
    std::vector<std::string> list;
    for (size_t i = 0; i + n <= words.size(); ++i) {
      std::string gram = words[i];
      for (size_t j = 1; j < n; ++j) gram += ' ' + words[i + j];
      list.push_back(std::move(gram));
    }
    return list;
  };
  const auto ours = grams(prediction), right = grams(reference);
  return FromCounts(CommonCount(ours, right), ours.size(), right.size());
}

// Words of lines that are not empty.
std::vector<std::vector<std::string>> RougeLines(std::string_view text, bool stem) {
  std::vector<std::vector<std::string>> lines;
  for (const std::string_view line : Split(text, '\n')) {
    std::vector<std::string> words = RougeWords(line, stem);
    if (!words.empty()) lines.push_back(std::move(words));
  }
  return lines;
}

FScore RougeLSum(std::string_view prediction, std::string_view reference, bool stem) {
  const auto ours = RougeLines(prediction, stem), right = RougeLines(reference, stem);
  std::map<std::string, size_t> ours_left, right_left;
  size_t num_ours = 0, num_right = 0;
  for (const auto& line : ours) {
    num_ours += line.size();
    for (const std::string& word : line) ++ours_left[word];
  }
  for (const auto& line : right) {
    num_right += line.size();
    for (const std::string& word : line) ++right_left[word];
  }
  size_t hits = 0;
  for (const auto& line : right) {
    std::set<size_t> covered;
    for (const auto& other : ours) {
      for (const size_t index : LcsIndices(line, other, Equals::kLeaveA)) covered.insert(index);
    }
    for (const size_t index : covered) {
      size_t& left = ours_left[line[index]];
      size_t& wanted = right_left[line[index]];
      if (left == 0 || wanted == 0) continue;
      --left;
      --wanted;
      ++hits;
    }
  }
  return FromCounts(hits, num_ours, num_right);
}

}  // namespace

std::string NormalizeAnswer(std::string_view text) {
  std::string bare = LowerAscii(text);
  std::erase_if(bare, IsAsciiPunctuation);
  std::string out;
  for (const std::string& word : SplitWhiteSpace(bare)) {
    if (word == "a" || word == "an" || word == "the") continue;
    if (!out.empty()) out += ' ';
    out += word;
  }
  return out;
}

double ExactMatch(std::string_view prediction, std::string_view answer) {
  return NormalizeAnswer(prediction) == NormalizeAnswer(answer) ? 1 : 0;
}

FScore TokenF1(std::string_view prediction, std::string_view answer) {
  const auto ours = SplitWhiteSpace(NormalizeAnswer(prediction));
  const auto right = SplitWhiteSpace(NormalizeAnswer(answer));
  return FromCounts(CommonCount(ours, right), ours.size(), right.size());
}

FScore CharacterF1(std::string_view prediction, std::string_view answer) {
  const auto ours = BareCharacters(prediction), right = BareCharacters(answer);
  return FromCounts(CommonCount(ours, right), ours.size(), right.size());
}

RougeScores Rouge(std::string_view prediction, std::string_view reference, bool stem) {
  const auto ours = RougeWords(prediction, stem), right = RougeWords(reference, stem);
  RougeScores scores;
  scores.rouge_1 = RougeN(ours, right, 1);
  scores.rouge_2 = RougeN(ours, right, 2);
  scores.rouge_l = FromCounts(LcsLength(ours, right), ours.size(), right.size());
  scores.rouge_l_sum = RougeLSum(prediction, reference, stem);
  return scores;
}

double RougeLDistinct(std::string_view prediction, std::string_view reference) {
  const auto sentences = [](std::string_view text, std::set<std::string>* distinct) {
    std::vector<std::vector<std::string>> list;
    for (const std::string_view sentence : Split(text, '.')) {
      std::vector<std::string> words = SplitWhiteSpace(sentence);
      distinct->insert(words.begin(), words.end());
      if (!words.empty()) list.push_back(std::move(words));
    }
    return list;
  };
  std::set<std::string> our_words, right_words;
  const auto ours = sentences(prediction, &our_words), right = sentences(reference, &right_words);
  if (ours.empty() || right.empty()) return 0;
  std::set<std::string> covered;
  for (const auto& sentence : right) {
    for (const auto& other : ours) {
      for (const size_t index : LcsIndices(sentence, other, Equals::kLeaveB)) covered.insert(sentence[index]);
    }
  }
  return FromCounts(covered.size(), our_words.size(), right_words.size()).f;
}

double EditSimilarity(std::string_view a, std::string_view b) {
  if (a.empty() && b.empty()) return 1;
  const std::vector<std::string> ours = Characters(a), right = Characters(b);
  const double common = static_cast<double>(LcsLength(ours, right));
  return std::round(200 * common / static_cast<double>(ours.size() + right.size())) / 100;
}

}  // namespace mneme
