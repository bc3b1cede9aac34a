// Scores of a written answer against the right one: exact match, token F1, ROUGE, and the published rules of
// the LongBench, InfiniteBench and BABILong tasks. All pure functions of their texts; one call, one thread.
//
// Where a published score segments Chinese into words with a dictionary, here every character is a word: such
// scores are comparable among runs of this program, not with published tables.
#pragma once

#include <optional>
#include <span>
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
// after lower-casing; with `stem` those of more than three letters are stemmed (stem.h). rouge_l takes each text as
// one sentence; rouge_l_sum takes each line as one and counts the union of their longest common
// subsequences, each word at most as often as it occurs.
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

// 2 * (longest common subsequence in bytes) / (sum of lengths), rounded to whole percents; 1 for two empty
// texts.
double EditSimilarity(std::string_view a, std::string_view b);

// How one task is scored. A name is what `ParseMetric` takes and files show.
enum class Metric {
  kExactMatch,        // exact_match
  kTokenF1,           // f1
  kCharacterF1,       // f1_characters
  kRougeL,            // rouge_l           LongBench: gov_report, qmsum, multi_news, samsum
  kRougeLCharacters,  // rouge_l_characters
  kRougeLSum,         // rouge_l_sum       InfiniteBench: longbook_sum_eng
  kClass,             // class             LongBench: trec, lsht
  kCount,             // count             share of the numbers written that are the right one
  kParagraph,         // paragraph         the same with the number inside the answer
  kCode,              // code              edit similarity of the first line of code
  kFirstNumber,       // first_number      the first run of digits is the answer
  kNumberValue,       // number_value      the first number has the answer's value
  kLastNumber,        // last_number       the last word is the answer's integer
  kContainsWord,      // contains_word     the answer is one of the words
  kContainsAnyCase,   // contains_word_any_case
  kChoice,            // choice            InfiniteBench: longbook_choice_eng
  kFunctionChoice,    // function_choice   InfiniteBench: code_debug
  kNumberPrefix,      // number_prefix     share of the right numbers before the first wrong one
  kLabel,             // label             BABILong: the answer is the only label named
};
std::string_view MetricName(Metric metric);
std::optional<Metric> ParseMetric(std::string_view name);

// What a prediction is held against.
struct ScoreInput {
  std::string prediction;
  std::vector<std::string> answers;  // the best counts, except where the metric takes them as one list
  std::vector<std::string> classes;  // kClass: all class names; kLabel: all labels of the task
  std::string question;              // kLabel: labels in it are not answers
};
// In [0, 1]; 0 without answers. Throws as Rouge.
double ScoreAnswer(Metric metric, const ScoreInput& input);

}  // namespace mneme
