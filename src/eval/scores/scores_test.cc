#include "eval/scores/scores.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "eval/scores/metric.h"
#include "eval/scores/stem.h"
#include "eval/scores/text.h"

namespace mneme {
namespace {

double Score(Metric metric, std::string prediction, std::vector<std::string> answers,
             std::vector<std::string> classes = {}, std::string question = "") {
  return ScoreAnswer(metric,
                     {std::move(prediction), std::move(answers), std::move(classes), std::move(question)});
}

TEST(ScoresTest, NormalizationDropsCasePunctuationArticles) {
  EXPECT_EQ(NormalizeAnswer("  The  Cat's, a  hat!\n"), "cats hat");
  EXPECT_EQ(NormalizeAnswer("theatre, another"), "theatre another");
  EXPECT_EQ(ExactMatch("The Eiffel Tower.", "eiffel tower"), 1);
  EXPECT_EQ(ExactMatch("Eiffel", "eiffel tower"), 0);
}

TEST(ScoresTest, TokenF1CountsRepeatedWordsOnce) {
  // Words: prediction {cat, sat, on, mat} of 4, answer {cat, mat, mat} of 3; common 2.
  const FScore score = TokenF1("The cat sat on the mat", "a cat, mat mat");
  EXPECT_DOUBLE_EQ(score.precision, 2.0 / 4);
  EXPECT_DOUBLE_EQ(score.recall, 2.0 / 3);
  EXPECT_DOUBLE_EQ(score.f, 4.0 / 7);
  EXPECT_EQ(TokenF1("", "cat").f, 0);
  EXPECT_EQ(TokenF1("the", "the").f, 0);  // nothing but articles
}

TEST(ScoresTest, CharacterF1OfTextWithoutSpaces) {
  EXPECT_DOUBLE_EQ(CharacterF1("北京。", "北京").f, 1);
  EXPECT_DOUBLE_EQ(CharacterF1("北京市", "北京").f, 0.8);
  EXPECT_EQ(CharacterF1("\xff\xfe", "北").f, 0);  // not UTF-8
}

// The examples of Porter's paper, step by step.
TEST(ScoresTest, PorterStemsOfThePaper) {
  const std::vector<std::pair<const char*, const char*>> pairs = {{"caresses", "caress"},
                                                                  {"ponies", "poni"},
                                                                  {"ties", "ti"},
                                                                  {"caress", "caress"},
                                                                  {"cats", "cat"},
                                                                  {"feed", "feed"},
                                                                  {"agreed", "agre"},
                                                                  {"plastered", "plaster"},
                                                                  {"bled", "bled"},
                                                                  {"motoring", "motor"},
                                                                  {"sing", "sing"},
                                                                  {"conflated", "conflat"},
                                                                  {"troubled", "troubl"},
                                                                  {"sized", "size"},
                                                                  {"hopping", "hop"},
                                                                  {"tanned", "tan"},
                                                                  {"falling", "fall"},
                                                                  {"hissing", "hiss"},
                                                                  {"fizzed", "fizz"},
                                                                  {"failing", "fail"},
                                                                  {"filing", "file"},
                                                                  {"happy", "happi"},
                                                                  {"sky", "sky"},
                                                                  {"relational", "relat"},
                                                                  {"conditional", "condit"},
                                                                  {"rational", "ration"},
                                                                  {"valenci", "valenc"},
                                                                  {"hesitanci", "hesit"},
                                                                  {"digitizer", "digit"},
                                                                  {"radicalli", "radic"},
                                                                  {"vietnamization", "vietnam"},
                                                                  {"operator", "oper"},
                                                                  {"feudalism", "feudal"},
                                                                  {"decisiveness", "decis"},
                                                                  {"hopefulness", "hope"},
                                                                  {"callousness", "callous"},
                                                                  {"formaliti", "formal"},
                                                                  {"sensitiviti", "sensit"},
                                                                  {"sensibiliti", "sensibl"},
                                                                  {"triplicate", "triplic"},
                                                                  {"formative", "form"},
                                                                  {"formalize", "formal"},
                                                                  {"electriciti", "electr"},
                                                                  {"electrical", "electr"},
                                                                  {"hopeful", "hope"},
                                                                  {"goodness", "good"},
                                                                  {"revival", "reviv"},
                                                                  {"allowance", "allow"},
                                                                  {"inference", "infer"},
                                                                  {"airliner", "airlin"},
                                                                  {"gyroscopic", "gyroscop"},
                                                                  {"adjustable", "adjust"},
                                                                  {"defensible", "defens"},
                                                                  {"irritant", "irrit"},
                                                                  {"replacement", "replac"},
                                                                  {"adjustment", "adjust"},
                                                                  {"dependent", "depend"},
                                                                  {"adoption", "adopt"},
                                                                  {"homologou", "homolog"},
                                                                  {"communism", "commun"},
                                                                  {"activate", "activ"},
                                                                  {"angulariti", "angular"},
                                                                  {"homologous", "homolog"},
                                                                  {"effective", "effect"},
                                                                  {"bowdlerize", "bowdler"},
                                                                  {"probate", "probat"},
                                                                  {"rate", "rate"},
                                                                  {"cease", "ceas"},
                                                                  {"controll", "control"},
                                                                  {"roll", "roll"},
                                                                  {"generalizations", "gener"},
                                                                  {"oscillators", "oscil"},
                                                                  {"by", "by"}};
  for (const auto& [word, stem] : pairs) EXPECT_EQ(PorterStem(word), stem) << word;
}

// Short words stay, as ROUGE and the paper's program leave them; the library alone would cut "us" to "u".
TEST(ScoresTest, PorterLeavesShortWordsAndOtherLetters) {
  for (const char* word : {"", "s", "us", "is", "ay"}) EXPECT_EQ(PorterStem(word), word);
  EXPECT_EQ(PorterStem("us2s"), "us2");
  EXPECT_EQ(PorterStem("trekking"), "trekk");  // Snowball's reading of the rule of double letters
}

// The example in the documentation of the rouge_score package.
TEST(ScoresTest, RougeOfThePublishedExample) {
  const RougeScores scores =
      Rouge("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog", true);
  EXPECT_DOUBLE_EQ(scores.rouge_1.precision, 0.75);
  EXPECT_DOUBLE_EQ(scores.rouge_1.recall, 6.0 / 9);
  EXPECT_NEAR(scores.rouge_1.f, 0.70588, 1e-5);
  EXPECT_DOUBLE_EQ(scores.rouge_l.precision, 0.625);
  EXPECT_DOUBLE_EQ(scores.rouge_l.recall, 5.0 / 9);
  EXPECT_NEAR(scores.rouge_l.f, 0.58823, 1e-5);
  EXPECT_DOUBLE_EQ(scores.rouge_2.precision, 2.0 / 7);
  EXPECT_DOUBLE_EQ(scores.rouge_2.recall, 2.0 / 8);
}

// Lin (2004), section 3.1: "police kill the gunman" shares 3 of 4 with the reference, "the gunman kill
// police" 2.
TEST(ScoresTest, RougeLOfLinsPaper) {
  const std::string reference = "police killed the gunman";
  EXPECT_DOUBLE_EQ(Rouge("police kill the gunman", reference).rouge_l.f, 0.75);
  EXPECT_DOUBLE_EQ(Rouge("the gunman kill police", reference).rouge_l.f, 0.5);
  EXPECT_DOUBLE_EQ(Rouge("police kill the gunman", reference, true).rouge_l.f, 1);
}

// Lin (2004), section 3.2: the union of w1 w2 and w1 w3 w5 covers four of five words.
TEST(ScoresTest, RougeLSumTakesTheUnionOverSentences) {
  const RougeScores scores = Rouge("w1 w3 w8 w9 w5\nw1 w2 w6 w7 w8", "w1 w2 w3 w4 w5");
  EXPECT_DOUBLE_EQ(scores.rouge_l_sum.recall, 0.8);
  EXPECT_DOUBLE_EQ(scores.rouge_l_sum.precision, 0.4);
  EXPECT_DOUBLE_EQ(scores.rouge_l.recall, 0.6);
}

// Both "a" and "b" are a longest subsequence of "a b" and "b a"; which one the walk finds decides what the
// union with the next line adds. rouge_score leaves out the reference's word.
TEST(ScoresTest, RougeLSumLeavesOutTheReferencesWordAmongEquals) {
  EXPECT_DOUBLE_EQ(Rouge("b a\na c", "a b").rouge_l_sum.recall, 0.5);
  EXPECT_DOUBLE_EQ(Rouge("b a\nb c", "a b").rouge_l_sum.recall, 1);
}

TEST(ScoresTest, RougeOfEmptyTextsIsZero) {
  EXPECT_EQ(Rouge("", "a b").rouge_1.f, 0);
  EXPECT_EQ(Rouge("a", "a").rouge_2.f, 0);
  EXPECT_EQ(RougeLDistinct("", "a b"), 0);
  EXPECT_EQ(RougeLDistinct("...", "a b"), 0);
}

TEST(ScoresTest, LongBenchRougeCountsWordsOnce) {
  // Distinct words: {a, b, c} and {a, b, d}; the common subsequence has a and b.
  EXPECT_DOUBLE_EQ(RougeLDistinct("a b a b c", "a b d"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(RougeLDistinct("a b. c d.", "a b. c d."), 1);
}

TEST(ScoresTest, EditSimilarity) {
  EXPECT_DOUBLE_EQ(EditSimilarity("abcd", "abcd"), 1);
  EXPECT_DOUBLE_EQ(EditSimilarity("abcd", "bcde"), 0.75);
  EXPECT_DOUBLE_EQ(EditSimilarity("this is a test", "this is a test!"), 0.97);  // fuzzywuzzy's own example
  EXPECT_DOUBLE_EQ(EditSimilarity("", "x"), 0);
  // Characters, not bytes: two letters that share their first byte have nothing in common.
  EXPECT_DOUBLE_EQ(EditSimilarity("a=\u00e9", "a=\u00e8"), 0.67);
  EXPECT_DOUBLE_EQ(EditSimilarity("print(\u60a8\u597d)", "print(\u4f60\u597d)"), 0.89);
}

TEST(ScoresTest, LongBenchMetrics) {
  EXPECT_EQ(Score(Metric::kCount, "There are 7, or 8", {"7"}), 0.5);
  EXPECT_EQ(Score(Metric::kCount, "17", {"7"}), 0);
  EXPECT_EQ(Score(Metric::kParagraph, "Paragraph 12", {"Paragraph 12"}), 1);
  EXPECT_EQ(Score(Metric::kParagraph, "Paragraph 1", {"Paragraph 12"}), 0);
  const std::vector<std::string> classes = {"Date", "Definition of something", "Number of something"};
  EXPECT_EQ(Score(Metric::kClass, "Type: Date", {"Date"}, classes), 1);
  EXPECT_EQ(Score(Metric::kClass, "Date or Number of something", {"Date"}, classes), 0.5);
  EXPECT_EQ(Score(Metric::kClass, "none", {"Date"}, classes), 0);
  EXPECT_EQ(Score(Metric::kClass, "City other", {"City other"}, {"City", "City other"}), 1);
  EXPECT_EQ(Score(Metric::kCode, "\n# comment\nreturn x\nrest", {"return x"}), 1);
  EXPECT_EQ(Score(Metric::kTokenF1, "Paris", {"London", "Paris"}), 1);  // the best answer counts
}

TEST(ScoresTest, InfiniteBenchMetrics) {
  EXPECT_EQ(Score(Metric::kFirstNumber, "The pass key is 71432.", {"71432"}), 1);
  EXPECT_EQ(Score(Metric::kFirstNumber, "1 or 71432", {"71432"}), 0);
  EXPECT_EQ(Score(Metric::kNumberValue, "about 88.50", {"88.5"}), 1);
  EXPECT_EQ(Score(Metric::kNumberValue, "none", {"0"}), 0);
  EXPECT_EQ(Score(Metric::kLastNumber, "The value is: -12.", {"-12"}), 1);
  EXPECT_EQ(Score(Metric::kLastNumber, "12 it is", {"12"}), 0);
  EXPECT_EQ(Score(Metric::kContainsWord, "key \"a-b\": \"c14c-b8\"", {"c14c-b8"}), 1);
  EXPECT_EQ(Score(Metric::kContainsWord, "c14c-b8x", {"c14c-b8"}), 0);
  EXPECT_EQ(Score(Metric::kContainsAnyCase, "It is Molly.", {"MOLLY"}), 1);
  EXPECT_EQ(Score(Metric::kChoice, "A. Walking Georgie", {"Walking Georgie", "A"}), 1);
  EXPECT_EQ(Score(Metric::kChoice, "B", {"Walking Georgie", "A"}), 0);
  EXPECT_EQ(Score(Metric::kChoice, "The answer is: A", {"Walking Georgie", "A"}), 1);
  EXPECT_EQ(Score(Metric::kChoice, "I think C or A", {"x", "C"}), 1);
  EXPECT_EQ(Score(Metric::kFunctionChoice, "C. run", {"run", "C"}), 1);
  EXPECT_EQ(Score(Metric::kFunctionChoice, "The answer is: `run`", {"run", "C"}), 1);
  EXPECT_EQ(Score(Metric::kFunctionChoice, "run", {"run", "C"}), 0);
  EXPECT_EQ(Score(Metric::kNumberPrefix, "[1, 2, 9, 4]", {"1", "2", "3", "4"}), 0.5);
  EXPECT_EQ(Score(Metric::kNumberPrefix, "", {"1", "2"}), 0);
}

TEST(ScoresTest, BabiLabels) {
  const std::vector<std::string> places = {"bathroom", "garden", "kitchen"};
  EXPECT_EQ(Score(Metric::kLabel, " The garden. No, the kitchen", {"garden"}, places), 1);
  EXPECT_EQ(Score(Metric::kLabel, "garden or kitchen", {"garden"}, places), 0);
  EXPECT_EQ(Score(Metric::kLabel, "after the kitchen, the garden", {"garden"}, places,
                  "Where was Mary before the kitchen?"),
            1);
  EXPECT_EQ(Score(Metric::kLabel, "hall", {"garden"}, places), 0);
  EXPECT_EQ(Score(Metric::kLabel, "apple,milk", {"apple,milk"}, {"apple", "milk", "football"}), 1);
  EXPECT_EQ(Score(Metric::kLabel, "apple", {"apple,milk"}, {"apple", "milk", "football"}), 0);
  EXPECT_EQ(Score(Metric::kLabel, "n,e", {"n,e"}, {"n,e", "s,w"}), 1);
}

TEST(ScoresTest, NamesAreUniqueAndParse) {
  EXPECT_EQ(ParseMetric("f1"), Metric::kTokenF1);
  EXPECT_EQ(ParseMetric("F2"), std::nullopt);
  for (int i = 0; i <= static_cast<int>(Metric::kLabel); ++i) {
    const auto metric = static_cast<Metric>(i);
    EXPECT_EQ(ParseMetric(MetricName(metric)), metric);
  }
}

TEST(ScoresTest, LcsIndicesAgreeWithTheLength) {
  const auto words = scores::SplitWhiteSpace("a b c a b b a");
  const auto other = scores::SplitWhiteSpace("c b a b a c");
  const auto indices = scores::LcsIndices(words, other, scores::Equals::kLeaveA);
  EXPECT_EQ(indices.size(), scores::LcsLength(words, other));
  EXPECT_TRUE(std::is_sorted(indices.begin(), indices.end()));
}

}  // namespace
}  // namespace mneme
