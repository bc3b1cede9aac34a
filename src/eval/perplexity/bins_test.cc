#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "eval/perplexity/perplexity.h"

namespace mneme {
namespace {

TEST(PositionBinsTest, LogarithmicBinsCoverEveryIndexOnceWithoutGaps) {
  PositionBins bins;
  for (int64_t index = 0; index < 5000; ++index) bins.Add(index, 1.0);
  int64_t next = 0;
  for (const PositionBin& bin : bins.bins()) {
    EXPECT_GE(bin.begin, next);
    EXPECT_EQ(bin.count, std::min<int64_t>(bin.end, 5000) - bin.begin) << bin.begin;
    next = bin.end;
  }
  EXPECT_EQ(bins.total().count, 5000);
  EXPECT_EQ(bins.total().end, 5000);
}

TEST(PositionBinsTest, HugeIndexKeepsFewBins) {
  PositionBins bins;
  bins.Add(0, 1.0);
  bins.Add((int64_t{1} << 40) + 3, 2.0);
  ASSERT_EQ(bins.bins().size(), 2u);
  EXPECT_LE(bins.bins()[1].begin, (int64_t{1} << 40) + 3);
  EXPECT_GT(bins.bins()[1].end, (int64_t{1} << 40) + 3);
}

TEST(PositionBinsTest, EvenBinsDoubleAndLoseNothing) {
  PositionBins bins(10);
  double sum = 0;
  for (int64_t index = 1; index < 12345; ++index) {
    bins.Add(index, static_cast<double>(index));
    sum += static_cast<double>(index);
  }
  double binned = 0;
  const auto all = bins.bins();
  EXPECT_GE(all.size(), 10u);
  EXPECT_LE(all.size(), 20u);
  for (const PositionBin& bin : all) {
    binned += bin.sum;
    EXPECT_GE(bin.mean(), static_cast<double>(bin.begin));
    EXPECT_LT(bin.mean(), static_cast<double>(bin.end));
  }
  EXPECT_DOUBLE_EQ(binned, sum);
}

TEST(PositionBinTest, StandardErrorOfTheMean) {
  PositionBins bins(1);
  for (const double nll : {1.0, 2.0, 3.0, 4.0}) bins.Add(0, nll);
  EXPECT_NEAR(bins.total().standard_error(), std::sqrt(5.0 / 3.0 / 4.0), 1e-12);
  PositionBins one(1);
  one.Add(0, 1.0);
  EXPECT_EQ(one.total().standard_error(), 0);
}

}  // namespace
}  // namespace mneme
