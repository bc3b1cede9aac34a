#include "mneme/ledger.h"

#include <gtest/gtest.h>

#include "mneme/stats.h"
#include "session/answer/history.h"

namespace mneme {
namespace {

using enum TokenFate;

TEST(LedgerTest, WordsAsInTheManual) {
  const std::vector<LedgerRange> ranges = {
      {0, 4, kSink}, {4, 1000, kDropped}, {1000, 1953001, kDropped}, {1953001, 1954021, kWindow}};
  EXPECT_EQ(LedgerText(ranges), "tokens 0-3: sink; 4-1,953,000: dropped; 1,953,001-1,954,020: window");
  EXPECT_EQ(LedgerText({}), "no tokens");
  EXPECT_EQ(LedgerText(std::vector<LedgerRange>{{7, 8, kSink}}), "tokens 7: sink");
}

TEST(LedgerTest, ManyRangesEndInATotal) {
  std::vector<LedgerRange> ranges;
  for (Position i = 0; i < 10; ++i) ranges.push_back({i, i + 1, i % 2 == 0 ? kRecalled : kDropped});
  EXPECT_EQ(LedgerText(ranges, 2),
            "tokens 0: recalled; 1: dropped; and 8 more ranges with 4 recalled, 4 dropped");
}

TEST(LedgerTest, TotalsAndJson) {
  const std::vector<LedgerRange> ranges = {
      {0, 4, kSink}, {4, 4, kStored}, {4, 9, kDropped}, {9, 10, kDropped}};
  const auto totals = LedgerTotals(ranges);
  ASSERT_EQ(totals.size(), 2u);
  EXPECT_EQ(totals[1].fate, kDropped);
  EXPECT_EQ(totals[1].num_tokens, 6);
  EXPECT_EQ(LedgerJson(ranges),
            R"([{"begin":0,"end":4,"fate":"sink"},{"begin":4,"end":10,"fate":"dropped"}])");
  EXPECT_EQ(LedgerJson({}), "[]");
}

TEST(TokenHistoryTest, KeepsTheLastTokensInOnePiece) {
  TokenHistory history(5);
  for (TokenId i = 0; i < 1000; ++i) {
    history.Push(i % 3 == 0 ? ~i : i);
    const auto last = history.Last(5);
    ASSERT_EQ(last.size(), static_cast<size_t>(std::min(i + 1, 5)));
    for (size_t k = 0; k < last.size(); ++k) {
      EXPECT_EQ(TokenHistory::IdOf(last[k]), i + 1 - static_cast<TokenId>(last.size() - k));
    }
  }
  history.Pop(2);
  EXPECT_EQ(TokenHistory::IdOf(history.Last(1)[0]), 997);
}

TEST(SpeedLogTest, StaysBoundedAndTellsTenthsApart) {
  SpeedLog log;
  // A million chunks; the last half at half the speed.
  for (int i = 0; i < 1000000; ++i) log.Add(10, i < 500000 ? 1e-3 : 2e-3);
  EXPECT_LE(log.samples().size(), SpeedLog::kMaxSamples);
  EXPECT_GE(log.samples().size(), SpeedLog::kMaxSamples / 4);
  EXPECT_EQ(log.num_tokens(), 10000000);
  const Flatness flatness = log.flatness();
  EXPECT_NEAR(flatness.first_tokens_per_second, 10000, 100);
  EXPECT_NEAR(flatness.last_tokens_per_second, 5000, 50);
  EXPECT_GT(flatness.first_resident_bytes, 0u);
  EXPECT_LT(SpeedLog().flatness().first_tokens_per_second, 1e-9);
}

}  // namespace
}  // namespace mneme
