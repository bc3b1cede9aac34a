#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "eval/perplexity/perplexity.h"
#include "eval/report/html.h"

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

TEST(AxisTicksTest, RoundNumbersInsideTheRange) {
  EXPECT_EQ(AxisTicks(0, 10, false, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(AxisTicks(1, 1e6, true, 8), (std::vector<double>{1, 10, 100, 1e3, 1e4, 1e5, 1e6}));
  // Few ticks over many decades stay powers of ten: even steps would crowd at the top.
  EXPECT_EQ(AxisTicks(60, 6e5, true, 4), (std::vector<double>{100, 1e3, 1e4, 1e5}));
  EXPECT_EQ(AxisTicks(256, 64e3, true, 4), (std::vector<double>{1e3, 1e4}));
  for (const auto& [low, high] : {std::pair{4.2, 7.9}, {100.0, 130.0}, {0.001, 2e9}, {-3.0, -1.0}}) {
    for (const bool log : {false, true}) {
      if (log && low <= 0) continue;
      const auto ticks = AxisTicks(low, high, log, 6);
      ASSERT_GE(ticks.size(), 2u) << low << " " << high;
      EXPECT_LE(ticks.size(), 14u);
      for (const double tick : ticks) {
        const double slack = (high - low) * 1e-6 + (log ? high * 0.002 : 0);
        EXPECT_GE(tick, low - slack);
        EXPECT_LE(tick, high + slack);
        EXPECT_FALSE(std::signbit(tick) && tick == 0);
      }
    }
  }
}

TEST(ReportTest, TextIsEscapedAndBadPointsBreakTheLine) {
  HtmlPage page("a <b> & \"c\"");
  Plot plot;
  plot.title = "<script>";
  plot.log_y = true;
  plot.series.push_back(
      {"x & y", {1, 2, 3, 4}, {1, std::numeric_limits<double>::quiet_NaN(), -1, 2}, {}, {}});
  page.AddPlot(plot);
  page.Table({{"k", "v"}, {"<i>", "1"}});
  const std::string html = page.Finish();
  EXPECT_EQ(html.find("<script>"), std::string::npos);
  EXPECT_EQ(html.find("<i>"), std::string::npos);
  EXPECT_EQ(html.find("nan"), std::string::npos);
  EXPECT_NE(html.find("x &amp; y"), std::string::npos);
  EXPECT_EQ(html.find("://"), std::string::npos);
}

TEST(ReportTest, EmptyPlotSaysSo) {
  EXPECT_NE(RenderSvg(Plot{}, 300, 200).find("no data"), std::string::npos);
  Plot one;
  one.series.push_back({"one", {5}, {5}, {}, {}});
  EXPECT_NE(RenderSvg(one, 300, 200).find("<circle"), std::string::npos);
}

}  // namespace
}  // namespace mneme
