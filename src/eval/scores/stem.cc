// Porter's stemmer: M. F. Porter, An algorithm for suffix stripping, Program 14(3), 1980.
#include <array>
#include <string>
#include <string_view>

#include "eval/scores/scores.h"

namespace mneme {
namespace {

struct Rule {
  std::string_view suffix;
  std::string_view replacement;
};

class Stemmer {
 public:
  explicit Stemmer(std::string_view word) : word_(word) {}

  std::string Stem() {
    if (word_.size() < 3) return word_;
    Plurals();
    PastAndGerund();
    if (Ends("y") && HasVowel(word_.size() - 1)) word_.back() = 'i';
    Replace(kDoubleSuffixes, 0);
    Replace(kSimpleSuffixes, 0);
    DropSuffix();
    FinalE();
    return word_;
  }

 private:
  static constexpr std::array<Rule, 20> kDoubleSuffixes = {
      {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"}, {"anci", "ance"}, {"izer", "ize"},
       {"abli", "able"},   {"alli", "al"},     {"entli", "ent"}, {"eli", "e"},     {"ousli", "ous"},
       {"ization", "ize"}, {"ation", "ate"},   {"ator", "ate"},  {"alism", "al"},  {"iveness", "ive"},
       {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"},  {"iviti", "ive"}, {"biliti", "ble"}}};
  static constexpr std::array<Rule, 7> kSimpleSuffixes = {{{"icate", "ic"},
                                                           {"ative", ""},
                                                           {"alize", "al"},
                                                           {"iciti", "ic"},
                                                           {"ical", "ic"},
                                                           {"ful", ""},
                                                           {"ness", ""}}};
  static constexpr std::array<std::string_view, 19> kLastSuffixes = {
      "al",  "ance", "ence", "er",  "ic",  "able", "ible", "ant", "ement", "ment",
      "ent", "ion",  "ou",   "ism", "ate", "iti",  "ous",  "ive", "ize"};

  bool IsConsonant(size_t i) const {
    switch (word_[i]) {
      case 'a':
      case 'e':
      case 'i':
      case 'o':
      case 'u':
        return false;
      case 'y':
        return i == 0 || !IsConsonant(i - 1);
      default:
        return true;
    }
  }
  // Porter's m of the first `length` letters: how often a consonant follows a vowel.
  size_t Measure(size_t length) const {
    size_t count = 0;
    for (size_t i = 1; i < length; ++i) count += IsConsonant(i) && !IsConsonant(i - 1);
    return count;
  }
  bool HasVowel(size_t length) const {
    for (size_t i = 0; i < length; ++i) {
      if (!IsConsonant(i)) return true;
    }
    return false;
  }
  bool Ends(std::string_view suffix) const { return word_.ends_with(suffix); }
  bool EndsInDoubleConsonant() const {
    const size_t n = word_.size();
    return n >= 2 && word_[n - 1] == word_[n - 2] && IsConsonant(n - 1);
  }
  // Consonant, vowel, consonant other than w, x, y, at the end of the first `length` letters.
  bool IsShortSyllable(size_t length) const {
    if (length < 3) return false;
    const char last = word_[length - 1];
    return IsConsonant(length - 1) && !IsConsonant(length - 2) && IsConsonant(length - 3) && last != 'w' &&
           last != 'x' && last != 'y';
  }
  void Cut(size_t count) { word_.resize(word_.size() - count); }

  void Plurals() {
    if (Ends("sses") || Ends("ies")) {
      Cut(2);
    } else if (Ends("s") && !Ends("ss")) {
      Cut(1);
    }
  }

  void PastAndGerund() {
    if (Ends("eed")) {
      if (Measure(word_.size() - 3) > 0) Cut(1);
      return;
    }
    const size_t suffix = Ends("ed") ? 2 : Ends("ing") ? 3 : 0;
    if (suffix == 0 || !HasVowel(word_.size() - suffix)) return;
    Cut(suffix);
    if (Ends("at") || Ends("bl") || Ends("iz")) {
      word_ += 'e';
    } else if (EndsInDoubleConsonant() && !Ends("l") && !Ends("s") && !Ends("z")) {
      Cut(1);
    } else if (Measure(word_.size()) == 1 && IsShortSyllable(word_.size())) {
      word_ += 'e';
    }
  }

  // The longest suffix of the table is the one that counts, whether or not its condition holds.
  template <size_t N>
  void Replace(const std::array<Rule, N>& rules, size_t min_measure) {
    const Rule* longest = nullptr;
    for (const Rule& rule : rules) {
      if (Ends(rule.suffix) && (longest == nullptr || rule.suffix.size() > longest->suffix.size()))
        longest = &rule;
    }
    if (longest == nullptr || Measure(word_.size() - longest->suffix.size()) <= min_measure) return;
    Cut(longest->suffix.size());
    word_ += longest->replacement;
  }

  void DropSuffix() {
    std::string_view longest;
    for (const std::string_view suffix : kLastSuffixes) {
      if (Ends(suffix) && suffix.size() > longest.size()) longest = suffix;
    }
    if (longest.empty()) return;
    const size_t rest = word_.size() - longest.size();
    if (Measure(rest) <= 1) return;
    if (longest == "ion" && (rest == 0 || (word_[rest - 1] != 's' && word_[rest - 1] != 't'))) return;
    Cut(longest.size());
  }

  void FinalE() {
    if (Ends("e")) {
      const size_t rest = word_.size() - 1;
      const size_t measure = Measure(rest);
      if (measure > 1 || (measure == 1 && !IsShortSyllable(rest))) Cut(1);
    }
    if (Ends("ll") && Measure(word_.size()) > 1) Cut(1);
  }

  std::string word_;
};

}  // namespace

std::string PorterStem(std::string_view word) { return Stemmer(word).Stem(); }

}  // namespace mneme
