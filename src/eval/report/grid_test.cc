#include "eval/report/grid.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <optional>

#include "base/error.h"
#include "eval/report/grid_html.h"
#include "eval/report/heatmap.h"

namespace mneme {
namespace {

EvalRow Row(const std::string& context, int64_t length, std::optional<double> depth, double accuracy) {
  EvalRow row;
  row.task = "passkey";
  row.context = context;
  row.length = length;
  row.depth = depth;
  row.trials = 20;
  row.accuracy = accuracy;
  row.seconds = 1.5;
  row.peak_bytes = 12345;
  row.labels["score"] = "generate";
  row.numbers["tokens"] = static_cast<double>(length) - 0.5;
  return row;
}

EvalHeader Header() {
  EvalHeader header;
  header.task = "passkey";
  header.seed = 7;
  header.model_name = "a <model>";
  header.model_fingerprint = 0xfedcba9876543210u;
  header.settings = {{"trials", "20"}, {"format", "landmark"}};
  return header;
}

std::string TemporaryPath(const std::string& name) {
  const std::string path = ::testing::TempDir() + "mneme_grid_" + name + std::to_string(getpid());
  std::remove(path.c_str());
  return path;
}

std::string MessageOf(ErrorKind kind, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.kind() == kind ? error.what() : std::string("(another kind) ") + error.what();
  }
  return "(no error)";
}

TEST(EvalJsonTest, ComesBackAsItWas) {
  EvalReport report{Header(), {Row("dense", 1024, 0.5, 0.9), Row("sinks", 2048, std::nullopt, 0.25)}};
  report.rows[1].note = "half of it";
  const EvalReport back = ParseEvalJson(EvalJson(report), "memory");
  EXPECT_EQ(EvalJson(back), EvalJson(report));
  ASSERT_EQ(back.rows.size(), 2u);
  EXPECT_EQ(back.rows[0].depth, 0.5);
  EXPECT_FALSE(back.rows[1].depth);
  EXPECT_EQ(back.rows[0].labels.at("score"), "generate");
  EXPECT_EQ(back.rows[0].numbers.at("tokens"), 1023.5);
  EXPECT_NEAR(back.rows[0].Error(), std::sqrt(0.09 / 20), 1e-12);
  EXPECT_EQ(back.header.model_fingerprint, 0xfedcba9876543210u);
}

TEST(EvalRowTest, SharesHaveWilsonsIntervalAndMeansTheirErrors) {
  EvalRow row;
  row.trials = 20;
  row.accuracy = 0.9;  // Wilson's interval of 18 of 20: 0.699 to 0.972
  EXPECT_NEAR(row.Interval().first, 0.699, 5e-4);
  EXPECT_NEAR(row.Interval().second, 0.972, 5e-4);
  row.accuracy = 0;
  EXPECT_EQ(row.Interval().first, 0);
  EXPECT_NEAR(row.Interval().second, 0.161, 5e-4);
  row.accuracy = 1;
  EXPECT_NEAR(row.Interval().first, 0.839, 5e-4);
  EXPECT_EQ(row.Interval().second, 1);
  row.standard_error = 0.1;
  EXPECT_NEAR(row.Interval().first, 1 - 0.196, 1e-3);
}

TEST(EvalJsonTest, OtherTextIsRefusedByName) {
  const auto refuse = [](const std::string& text) {
    return MessageOf(ErrorKind::kFile, [&] { ParseEvalJson(text, "f.json"); });
  };
  for (const char* text : {"", "[]", "{", "{\"format\": \"x\"}", "3", "null"})
    EXPECT_NE(refuse(text).find("f.json"), std::string::npos) << text << ": " << refuse(text);
  const std::string good = EvalJson({Header(), {Row("dense", 1024, 0.5, 0.9)}});
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string bad = good;
    const size_t at = bad.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return refuse(bad.replace(at, from.size(), to));
  };
  EXPECT_NE(with("\"trials\": 20,", "").find("'trials' is missing"), std::string::npos);
  EXPECT_NE(with("\"trials\": 20,", "\"trials\": \"many\",").find("'trials'"), std::string::npos);
  for (const char* trials : {"-1", "100000000000", "9223372036854775807"}) {
    EXPECT_NE(with("\"trials\": 20,", std::string("\"trials\": ") + trials + ",").find("outside"),
              std::string::npos);
  }
  EXPECT_NE(with("\"version\": 1", "\"version\": 2").find("version"), std::string::npos);
  EXPECT_NE(with("fedcba9876543210", "none").find("fingerprint"), std::string::npos);
}

TEST(EvalLogTest, GoesOnWhereItStopped) {
  const std::string path = TemporaryPath("log.json");
  {
    EvalLog log(Header(), path, "");
    log.Add(Row("dense", 1024, 0.5, 0.9));
    EvalRow stopped = Row("dense", 2048, 0.5, 0);
    stopped.trials = 0;
    stopped.note = "does not fit";
    log.Add(stopped);
  }
  EvalLog again(Header(), path, "");
  EXPECT_EQ(again.num_resumed(), 1u);
  EXPECT_NE(again.Find(Row("dense", 1024, 0.5, 0)), nullptr);
  EXPECT_EQ(again.Find(Row("dense", 2048, 0.5, 0)), nullptr) << "what failed is tried again";
  EXPECT_EQ(again.Find(Row("dense", 1024, 0.25, 0)), nullptr);
  again.Add(Row("dense", 1024, 0.5, 0.8));
  EXPECT_EQ(again.report().rows.size(), 1u) << "a cell is there once";
  std::remove(path.c_str());
}

TEST(EvalLogTest, ResultsOfAnotherRunAreRefused) {
  const std::string path = TemporaryPath("other.json");
  EvalLog(Header(), path, "").Add(Row("dense", 1024, 0.5, 0.9));
  const auto refuse = [&](const std::function<void(EvalHeader*)>& change) {
    EvalHeader header = Header();
    change(&header);
    return MessageOf(ErrorKind::kMismatch, [&] { EvalLog log(header, path, ""); });
  };
  EXPECT_NE(refuse([](EvalHeader* h) { h->seed = 8; }).find("seed"), std::string::npos);
  EXPECT_NE(refuse([](EvalHeader* h) { h->task = "needle"; }).find("task"), std::string::npos);
  EXPECT_NE(refuse([](EvalHeader* h) { h->model_fingerprint = 1; }).find("model"), std::string::npos);
  EXPECT_NE(refuse([](EvalHeader* h) { h->settings[0].second = "30"; }).find("trials"), std::string::npos);
  EXPECT_NE(refuse([](EvalHeader* h) { h->settings.pop_back(); }).find("setting"), std::string::npos);
  std::ofstream(path) << "{";
  EXPECT_NE(MessageOf(ErrorKind::kFile, [&] { EvalLog log(Header(), path, ""); }).find(path),
            std::string::npos);
  std::remove(path.c_str());
}

TEST(EvalHtmlTest, MapsForDepthsLinesForLengthsTablesForAll) {
  EvalReport report{Header(), {}};
  for (const int64_t length : {1024, 32768, 1 << 20}) {
    for (const double depth : {0.0, 0.5}) report.rows.push_back(Row("sinks:a<b", length, depth, 0.75));
  }
  std::string html = EvalHtml(report);
  EXPECT_NE(html.find(">32K<"), std::string::npos);
  EXPECT_NE(html.find(">75<"), std::string::npos);
  EXPECT_EQ(html.find("a<b"), std::string::npos);
  EXPECT_EQ(html.find("<model>"), std::string::npos);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("://"), std::string::npos);
  EXPECT_EQ(html.find("<path"), std::string::npos);
  for (EvalRow& row : report.rows) row.depth.reset();
  html = EvalHtml(report);
  EXPECT_NE(html.find("<path"), std::string::npos);
  EXPECT_NE(EvalHtml({Header(), {}}).find("No result yet"), std::string::npos);
}

TEST(EvalHtmlTest, ALabelThatIsANumberIsTheAxisWhereLengthsDoNotVary) {
  EvalReport report{Header(), {}};
  for (const char* distance : {"16", "64", "256"}) {
    EvalRow row = Row("window", 4096, std::nullopt, 0.5);
    row.labels["distance"] = distance;
    report.rows.push_back(row);
  }
  EXPECT_NE(EvalHtml(report).find("distance (tokens)"), std::string::npos);
}

TEST(EvalHtmlTest, LengthsThatVaryBesideTheAxisHaveLinesOfTheirOwnAndChanceHasOne) {
  EvalReport report;
  for (const int64_t length : {1024, 2048}) {
    for (const char* pairs : {"1", "4", "16"}) {
      EvalRow row;
      row.task = "needle";
      row.context = "sinks";
      row.length = length;
      row.trials = 10;
      row.accuracy = 0.5;
      row.labels["pairs"] = pairs;
      row.numbers["chance"] = 0.1;
      report.rows.push_back(row);
    }
  }
  const std::string html = EvalHtml(report);
  for (const char* line : {">sinks (length 1K)<", ">sinks (length 2K)<", ">chance<"}) {
    EXPECT_NE(html.find(line), std::string::npos) << line;
  }
  // The whole range of a share, so that half does not look like all.
  EXPECT_NE(html.find(">0</text>"), std::string::npos);
  EXPECT_NE(html.find(">1</text>"), std::string::npos);
}

TEST(HeatMapTest, MissingCellsAreDashedAndEmptyMapsSaySo) {
  EXPECT_NE(RenderHeatMap(HeatMap{}, 300).find("no data"), std::string::npos);
  HeatMap map;
  map.columns = {"1K", "2K"};
  map.rows = {"0%", "50%"};
  map.values = {{1.0, std::nullopt}, {0.0}};
  const std::string svg = RenderHeatMap(map, 300);
  size_t dashed = 0;
  for (size_t at = svg.find("dasharray"); at != std::string::npos; at = svg.find("dasharray", at + 1))
    ++dashed;
  EXPECT_EQ(dashed, 2u);
  EXPECT_NE(svg.find(">100</text>"), std::string::npos);
}

}  // namespace
}  // namespace mneme
