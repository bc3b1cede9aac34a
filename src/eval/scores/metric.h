// The published rules by which the LongBench, InfiniteBench and BABILong tasks score one answer. Pure
// functions of their texts.
//
// Where a published score segments Chinese into words with a dictionary, here every character is a word: such
// scores are comparable among runs of this program, not with published tables.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mneme {

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
