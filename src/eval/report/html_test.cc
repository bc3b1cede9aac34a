#include "eval/report/html.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "eval/report/svg.h"

namespace mneme {
namespace {

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
  EXPECT_NE(RenderPlot(Plot{}, 300, 200).find("no data"), std::string::npos);
  Plot one;
  one.series.push_back({"one", {5}, {5}, {}, {}});
  EXPECT_NE(RenderPlot(one, 300, 200).find("<circle"), std::string::npos);
}

// What a model file calls itself and its tokens must not reach a page raw, wherever it is put.
TEST(ReportTest, ControlCharactersAndBidiMarksAreWrittenOut) {
  const std::string name("evil\x1b[2J\0\x07name\xe2\x80\xae\xff", 18);
  HtmlPage page(name);
  page.Heading(name);
  page.Paragraph(name);
  page.Code(name + "\n\tsecond line");
  page.Table({{name}, {name}}, name);
  Plot plot;
  plot.title = plot.x_label = plot.y_label = name;
  plot.series.push_back({name, {1, 2}, {1, 2}, {}, {}});
  plot.markers.push_back({1.5, name});
  page.AddPlot(plot);
  HeatMap map{name, name, name, {name}, {name}, {{0.5}}};
  page.AddHeatMap(map, name);
  const std::string html = page.Finish();
  for (const char c : html) EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t');
  EXPECT_EQ(html.find("\xe2\x80\xae"), std::string::npos);
  EXPECT_EQ(html.find('\xff'), std::string::npos);
  EXPECT_NE(html.find("<h2>evil\\x1b[2J\\x00\\x07name\\u{202e}\\xff</h2>"), std::string::npos);
  EXPECT_NE(html.find("\n\tsecond line"), std::string::npos);
}

TEST(ReportTest, APictureAloneBringsItsColours) {
  Plot plot;
  plot.title = "a & b";
  plot.series.push_back({"one", {1, 2}, {1, 2}, {}, {}});
  const std::string svg = StandaloneSvg(plot, 560, 360);
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=")) << svg.substr(0, 80);
  EXPECT_NE(svg.find("aria-label=\"a &amp; b\">\n<style>"), std::string::npos) << svg.substr(0, 200);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_EQ(RenderPlot(plot, 560, 360).find("xmlns"), std::string::npos);
}

}  // namespace
}  // namespace mneme
