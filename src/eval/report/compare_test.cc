#include "eval/report/compare.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace mneme {
namespace {

EvalRow Row(const std::string& context, int64_t length, int64_t trials, double accuracy) {
  EvalRow row;
  row.task = "passkey";
  row.context = context;
  row.length = length;
  row.trials = trials;
  row.accuracy = accuracy;
  return row;
}

TEST(CompareTest, FishersTableOfTheTea) {
  // Fisher, "The Design of Experiments": three of four cups right, one of four; one-sided 17/70, two-sided
  // 34/70.
  EXPECT_NEAR(FisherExact(3, 4, 1, 4), 34.0 / 70, 1e-12);
  EXPECT_NEAR(FisherExact(4, 4, 0, 4), 2.0 / 70, 1e-12);
  EXPECT_NEAR(FisherExact(5, 10, 5, 10), 1, 1e-12);
  EXPECT_NEAR(FisherExact(0, 5, 0, 7), 1, 1e-12);
  EXPECT_NEAR(FisherExact(0, 0, 3, 7), 1, 1e-12);
  EXPECT_LT(FisherExact(0, 1000, 1000, 1000), 1e-300);
}

TEST(CompareTest, NormalTest) {
  EXPECT_NEAR(NormalTest(0, 3, 1.96 * 5, 4), 0.05, 1e-4);
  EXPECT_EQ(NormalTest(1, 0, 1, 0), 1);
  EXPECT_EQ(NormalTest(1, 0, 2, 0), 0);
}

TEST(CompareTest, OnlyDifferencesBeyondTheNoiseAreCalledSo) {
  EvalReport a{{}, {Row("dense", 1024, 20, 1), Row("dense", 2048, 20, 0.9), Row("dense", 4096, 20, 0.5)}};
  EvalReport b{{}, {Row("dense", 1024, 20, 0.1), Row("dense", 2048, 20, 0.8), Row("dense", 8192, 20, 0.5)}};
  a.header.seed = 1;
  b.header.settings = {{"trials", "20"}};
  const EvalComparison comparison = CompareReports(a, b);
  ASSERT_EQ(comparison.cells.size(), 2u);
  EXPECT_TRUE(comparison.cells[0].is_significant);
  EXPECT_TRUE(comparison.cells[0].is_exact);
  EXPECT_FALSE(comparison.cells[1].is_significant);
  EXPECT_EQ(comparison.only_a, 1u);
  EXPECT_EQ(comparison.only_b, 1u);
  ASSERT_EQ(comparison.headers.size(), 2u);
  EXPECT_EQ(comparison.headers[0].what, "seed");
  EXPECT_EQ(comparison.headers[1].a, "(not set)");
  EXPECT_EQ(ComparisonTable(comparison, true).size(), 2u);
  EXPECT_EQ(ComparisonTable(comparison, false).size(), 3u);
  EXPECT_NE(ComparisonSummary(comparison)[1].find("1 differ"), std::string::npos);
}

TEST(CompareTest, ManyCellsNeedMoreThanOneInTwenty) {
  // p = 0.02 alone is a difference; among twenty cells it is not.
  const EvalRow low = Row("dense", 1, 20, 0.4), high = Row("dense", 1, 20, 0.8);
  EXPECT_TRUE(CompareReports({{}, {low}}, {{}, {high}}).cells[0].is_significant);
  EvalReport a{{}, {low}}, b{{}, {high}};
  for (int64_t length = 2; length < 22; ++length) {
    a.rows.push_back(Row("dense", length, 20, 0.5));
    b.rows.push_back(Row("dense", length, 20, 0.5));
  }
  EXPECT_FALSE(CompareReports(a, b).cells[0].is_significant);
}

TEST(CompareTest, RunsOfOneContextEachAreComparedAcrossContexts) {
  const EvalComparison comparison =
      CompareReports({{}, {Row("sinks", 1024, 20, 1)}}, {{}, {Row("lambda", 1024, 20, 0)}});
  EXPECT_TRUE(comparison.ignores_context);
  EXPECT_TRUE(comparison.cells[0].is_significant);
}

TEST(CompareTest, NothingInCommonIsAnError) {
  EXPECT_THROW(CompareReports({{}, {Row("dense", 1, 20, 1)}}, {{}, {Row("dense", 2, 20, 1)}}), Error);
  EXPECT_THROW(CompareReports({}, {}), Error);
}

TEST(CompareTest, MeansOfOtherMetricsUseTheirErrors) {
  EvalRow a = Row("dense", 1, 1000, 3.0), b = Row("dense", 1, 1000, 3.5);
  a.metric = b.metric = "nats_per_token";
  a.standard_error = b.standard_error = 0.05;
  const EvalComparison comparison = CompareReports({{}, {a}}, {{}, {b}});
  EXPECT_FALSE(comparison.cells[0].is_exact);
  EXPECT_TRUE(comparison.cells[0].is_significant);
}

}  // namespace
}  // namespace mneme
