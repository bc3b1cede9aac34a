#include "eval/scores/text.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace mneme::scores {

bool IsAsciiPunctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

std::string LowerAscii(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

std::vector<std::string> SplitWhiteSpace(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  for (const char c : text) {
    if (!IsSpace(c)) {
      word += c;
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  while (true) {
    const size_t end = text.find(separator, begin);
    pieces.push_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) return pieces;
    begin = end + 1;
  }
}

std::string Blank(std::string_view text, std::string_view characters) {
  std::string out(text);
  for (char& c : out) {
    if (characters.find(c) != std::string_view::npos) c = ' ';
  }
  return out;
}

std::vector<std::string> Characters(std::string_view text) {
  std::vector<std::string> characters;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    size_t size = 1;
    while (size < want && i + size < text.size() &&
           (static_cast<unsigned char>(text[i + size]) & 0xC0) == 0x80)
      ++size;
    if (size < want) size = 1;
    characters.emplace_back(text.substr(i, size));
    i += size;
  }
  return characters;
}

std::vector<std::string> DigitRuns(std::string_view text) {
  std::vector<std::string> runs;
  bool in_run = false;
  for (const char c : text) {
    if (IsDigit(c)) {
      if (!in_run) runs.emplace_back();
      runs.back() += c;
    }
    in_run = IsDigit(c);
  }
  return runs;
}

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

size_t CommonCount(std::span<const std::string> a, std::span<const std::string> b) {
  std::map<std::string_view, size_t> counts;
  for (const std::string& word : a) ++counts[word];
  size_t common = 0;
  for (const std::string& word : b) {
    const auto found = counts.find(word);
    if (found == counts.end() || found->second == 0) continue;
    --found->second;
    ++common;
  }
  return common;
}

size_t LcsLength(std::span<const std::string> a, std::span<const std::string> b) {
  std::vector<size_t> row(b.size() + 1);
  for (const std::string& word : a) {
    size_t diagonal = 0;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = word == b[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
      diagonal = above;
    }
  }
  return row.back();
}

std::vector<size_t> LcsIndices(std::span<const std::string> a, std::span<const std::string> b,
                               Equals equals) {
  constexpr size_t kMaxCells = size_t{1} << 28;
  if (a.empty() || b.empty()) return {};
  if (a.size() > kMaxCells / b.size()) {
    Fail(ErrorKind::kInput, "ROUGE-L: sentences of {} and {} words are too long to compare", a.size(),
         b.size());
  }
  // Where the walk back from (i, j) goes: the words match, or one of `a` or of `b` is left out.
  enum Step : uint8_t { kMatch, kLeaveA, kLeaveB };
  std::vector<uint8_t> steps(a.size() * b.size());
  std::vector<uint32_t> row(b.size() + 1);
  for (size_t i = 0; i < a.size(); ++i) {
    uint32_t diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const uint32_t above = row[j + 1];
      uint8_t& step = steps[i * b.size() + j];
      if (a[i] == b[j]) {
        step = kMatch;
        row[j + 1] = diagonal + 1;
      } else {
        const bool leaves_a = equals == Equals::kLeaveA ? above >= row[j] : above > row[j];
        step = leaves_a ? kLeaveA : kLeaveB;
        row[j + 1] = std::max(above, row[j]);
      }
      diagonal = above;
    }
  }
  std::vector<size_t> indices;
  size_t i = a.size(), j = b.size();
  while (i > 0 && j > 0) {
    const uint8_t step = steps[(i - 1) * b.size() + j - 1];
    if (step == kMatch) indices.push_back(i - 1);
    if (step != kLeaveB) --i;
    if (step != kLeaveA) --j;
  }
  std::reverse(indices.begin(), indices.end());
  return indices;
}

}  // namespace mneme::scores
