// Scores of a written answer against the right one: exact match, token F1, ROUGE, edit similarity. All pure
// functions of their texts; one call, one thread. metric.h has the rules by which published benchmarks apply
// them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mneme {

// SQuAD's form of an answer: lower case (ASCII), without ASCII punctuation, articles (a, an, the) and extra
// white space.
std::string NormalizeAnswer(std::string_view text);
// 1 if both are the same after NormalizeAnswer, else 0.
double ExactMatch(std::string_view prediction, std::string_view answer);

struct FScore {
  double precision = 0;
  double recall = 0;
  double f = 0;
};
// Over the words of NormalizeAnswer, each counted as often as it occurs.
FScore TokenF1(std::string_view prediction, std::string_view answer);
// The same over characters (code points) without white space and punctuation: for text without spaces.
FScore CharacterF1(std::string_view prediction, std::string_view answer);

// ROUGE as Lin (2004) defines it, with equal weight of precision and recall. Words are runs of a-z and 0-9
// after lower-casing; with `stem` those of more than three letters are stemmed (stem.h). rouge_l takes each
// text as one sentence; rouge_l_sum takes each line as one and counts the union of their longest common
// subsequences, each word at most as often as it occurs; among equal ones that which leaves out a word of the
// reference first, as the rouge_score package has it.
struct RougeScores {
  FScore rouge_1;
  FScore rouge_2;
  FScore rouge_l;
  FScore rouge_l_sum;
};
// Throws Error(kInput) for texts so long that their common subsequence would need more than 256 MiB.
RougeScores Rouge(std::string_view prediction, std::string_view reference, bool stem = false);

// The ROUGE-L F that LongBench's tables use: words are what spaces separate, sentences end at ".", and words
// count once however often they occur. 0 if a text has no sentence. Errors as Rouge.
double RougeLDistinct(std::string_view prediction, std::string_view reference);

// 2 * (longest common subsequence in characters) / (sum of lengths), rounded to whole percents; 1 for two
// empty texts.
double EditSimilarity(std::string_view a, std::string_view b);

}  // namespace mneme
