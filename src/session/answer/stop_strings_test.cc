#include "session/answer/stop_strings.h"

#include <gtest/gtest.h>

namespace mneme {
namespace {

struct Outcome {
  std::string text;
  std::string stop;
  bool operator==(const Outcome&) const = default;
};

Outcome Match(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopStringMatcher matcher(stops);
  Outcome outcome;
  for (const std::string& piece : pieces) outcome.text += matcher.Add(piece);
  outcome.text += matcher.Flush();
  if (matcher.found()) outcome.stop = matcher.stop_string();
  return outcome;
}

TEST(StopStringsTest, MatchesAcrossPieces) {
  EXPECT_EQ(Match({"STOP"}, {"go ", "S", "T", "OP", " more"}), (Outcome{"go ", "STOP"}));
  EXPECT_EQ(Match({"STOP"}, {"STOP"}), (Outcome{"", "STOP"}));
  EXPECT_EQ(Match({"\n\n"}, {"a\n", "b\n", "\nc"}), (Outcome{"a\nb", "\n\n"}));
}

TEST(StopStringsTest, HoldsBackOnlyWhatMayStillBecomeAStop) {
  StopStringMatcher matcher({"abab!"});
  EXPECT_EQ(matcher.Add("xab"), "x");
  EXPECT_EQ(matcher.Add("ab"), "");
  EXPECT_EQ(matcher.Add("ab"), "ab");  // "ababab": the last four may still begin it
  EXPECT_EQ(matcher.Add("?"), "abab?");
  EXPECT_EQ(matcher.Add("a"), "");
  EXPECT_EQ(matcher.Flush(), "a");
  EXPECT_FALSE(matcher.found());
}

TEST(StopStringsTest, NoStopsPassEverythingThrough) {
  StopStringMatcher matcher({"", ""});
  EXPECT_EQ(matcher.Add("anything"), "anything");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopStringsTest, TheResultDoesNotDependOnTheCuts) {
  const std::vector<std::string> stops = {"abc", "b", "bcd", "zz"};
  for (const std::string text : {"xxabcd", "aabbcc", "zabcz", "zzz", "acacac", "xyz zb"}) {
    const Outcome whole = Match(stops, {text});
    for (unsigned cuts = 0; cuts < (1u << (text.size() - 1)); ++cuts) {
      std::vector<std::string> pieces(1);
      for (size_t i = 0; i < text.size(); ++i) {
        pieces.back() += text[i];
        if (i + 1 < text.size() && (cuts >> i & 1) != 0) pieces.emplace_back();
      }
      EXPECT_EQ(Match(stops, pieces), whole) << text << " cut by " << cuts;
    }
  }
  EXPECT_EQ(Match(stops, {"xxabcd"}), (Outcome{"xxa", "b"}));
  EXPECT_EQ(Match({"c", "bc"}, {"abcd"}), (Outcome{"a", "bc"}));
}

}  // namespace
}  // namespace mneme
