#include "eval/tasks/haystack.h"

#include <algorithm>

#include "base/error.h"
#include "base/text/recall_text.h"

namespace mneme {
namespace {

constexpr size_t kMaxGapBytes = 64;
constexpr size_t kLongSentenceBytes = 300;  // ends at the next white space then
constexpr size_t kMaxUnitBytes = 1000;

bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == '\f' || c == '\v'; }
// Of the byte order mark that a text may begin with.
size_t MarkBytes(std::string_view text) { return text.starts_with("\xEF\xBB\xBF") ? 3 : 0; }
bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Whether a sentence ends before the white space at text[end].
bool EndsSentence(std::string_view text, size_t end) {
  size_t last = end;
  while (last > 0 && (text[last - 1] == '"' || text[last - 1] == '\'' || text[last - 1] == ')')) --last;
  return last > 0 && (text[last - 1] == '.' || text[last - 1] == '!' || text[last - 1] == '?');
}

// Bytes of the first sentence of a text that begins with a word.
size_t SentenceBytes(std::string_view text) {
  for (size_t i = 1; i < text.size(); ++i) {
    if (IsSpace(text[i])) {
      const bool paragraph = text[i] == '\n' && i + 1 < text.size() && IsSpace(text[i + 1]);
      if (i >= kLongSentenceBytes || paragraph || EndsSentence(text, i)) return i;
    }
    if (i >= kMaxUnitBytes && !IsContinuation(text[i])) return i;
  }
  return text.size();
}

}  // namespace

Haystack Haystack::Grass(size_t sentences_per_unit, std::string gap) {
  Haystack haystack;
  haystack.name_ = "the papers' filler";
  haystack.gap_ = std::move(gap);
  const auto sentences = GrassSentences();
  MNEME_CHECK(sentences_per_unit > 0 && sentences.size() % sentences_per_unit == 0);
  for (size_t i = 0; i < sentences.size(); ++i) {
    if (i % sentences_per_unit == 0) {
      haystack.units_.emplace_back(sentences[i]);
    } else {
      haystack.units_.back() += " " + std::string(sentences[i]);
    }
  }
  return haystack;
}

Haystack Haystack::Sentences(std::string name, std::vector<std::string> sentences, std::string gap) {
  MNEME_CHECK(!sentences.empty());
  Haystack haystack;
  haystack.name_ = std::move(name);
  haystack.gap_ = std::move(gap);
  haystack.units_ = std::move(sentences);
  return haystack;
}

Haystack Haystack::File(const std::string& path, bool repeat) {
  Haystack haystack;
  haystack.name_ = path.substr(path.rfind('/') + 1);
  haystack.is_endless_ = repeat;
  haystack.gap_ = "\n";
  haystack.file_ = std::make_shared<const MappedFile>(path);
  const std::string_view text = haystack.FileText();
  if (std::all_of(text.begin() + MarkBytes(text), text.end(), IsSpace))
    Fail(ErrorKind::kInput, "{}: the haystack has no word in it", path);
  return haystack;
}

std::string_view Haystack::FileText() const {
  return {reinterpret_cast<const char*>(file_->bytes().data()), file_->bytes().size()};
}

bool Haystack::Next(Cursor* cursor, Unit* unit) const {
  if (!file_) {
    *unit = {gap_, units_[cursor->place]};
    cursor->place = (cursor->place + 1) % units_.size();
    return true;
  }
  const std::string_view text = FileText();
  size_t begin = cursor->place;
  if (begin == 0) begin = MarkBytes(text);
  const size_t gap_begin = begin;
  while (begin < text.size() && IsSpace(text[begin])) ++begin;
  if (begin == text.size()) {
    if (!is_endless_) return false;
    cursor->place = 0;
    const bool found = Next(cursor, unit);
    unit->gap = gap_;
    return found;
  }
  unit->gap = text.substr(gap_begin, std::min(begin - gap_begin, kMaxGapBytes));
  unit->text = text.substr(begin, SentenceBytes(text.substr(begin, kMaxUnitBytes + 8)));
  cursor->place = begin + unit->text.size();
  file_->CheckUnchanged();
  return true;
}

std::vector<size_t> CutPoints(std::string_view text, FillerCut cut) {
  std::vector<size_t> points;
  for (size_t i = 1; i < text.size() && cut != FillerCut::kUnits; ++i) {
    if (cut == FillerCut::kCharacters ? !IsContinuation(text[i]) : IsSpace(text[i]) && !IsSpace(text[i - 1]))
      points.push_back(i);
  }
  points.push_back(text.size());
  return points;
}

}  // namespace mneme
