#include "bench/speed.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "bench/speed_report.h"

namespace mneme {
namespace {

class SpeedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    data_ = testing::DataFolder();
    if (data_.empty()) GTEST_SKIP() << testing::kSkipMessage;
    model_.emplace(Model::Load(Engine({.num_threads = 1, .memory_bytes = size_t{1} << 30, .max_rows = 16}),
                               data_ + "/models/stories260K/stories260K.gguf"));
  }

  static SessionOptions Options(const std::string& context) {
    SessionOptions options;
    options.context = context;
    options.keys = options.values = Encoding::kF32;
    return options;
  }

  std::string data_;
  std::optional<Model> model_;
};

TEST_F(SpeedTest, GoesOnWhereTheStateCannotBeWritten) {
  SpeedSettings settings;
  settings.session = Options("sinks:sinks=4,window=60");
  settings.depths = {0, 200};
  settings.num_prefill = settings.num_prompt = 16;
  settings.num_decode = 4;
  settings.num_repeats = 1;
  settings.max_seconds = 100;
  settings.temporary_folder = ::testing::TempDir() + "/no such folder";
  NoProgress progress;
  std::vector<EvalRow> rows;
  MeasureSpeedByDepth(*model_, settings, progress,
                      [&](const SpeedPoint& point) { rows.push_back(SpeedRow("sinks", point, 1)); });
  ASSERT_EQ(rows.size(), 2u);
  for (const EvalRow& row : rows) {
    EXPECT_GT(row.trials, 0);
    EXPECT_GT(row.accuracy, 0);
    EXPECT_NE(row.note.find("no such folder"), std::string::npos) << row.note;
  }
}

TEST_F(SpeedTest, ByDepthReadsAndFills) {
  SpeedSettings settings;
  settings.session = Options("sinks:sinks=4,window=60");
  settings.depths = {0, 200, int64_t{1} << 40};
  settings.num_prefill = settings.num_prompt = 16;
  settings.num_decode = 4;
  settings.num_repeats = 1;
  settings.max_seconds = 100;
  settings.bytes_per_second = 1e9;
  settings.temporary_folder = ::testing::TempDir();
  NoProgress progress;
  std::vector<SpeedPoint> points;
  MeasureSpeedByDepth(*model_, settings, progress, [&](const SpeedPoint& point) { points.push_back(point); });
  ASSERT_EQ(points.size(), 3u);
  EXPECT_EQ(points[1].reached, "read");
  EXPECT_EQ(points[2].reached, "filled");
  for (const SpeedPoint& point : points) {
    EXPECT_EQ(point.note, "");
    EXPECT_GT(point.decode_per_second, 0);
    EXPECT_GT(point.first_token_seconds, 0);
    EXPECT_GT(point.floor_per_second, 0);
    EXPECT_GT(point.disk_bytes, 0u);
  }
  EXPECT_GT(points[1].disk_bytes, points[0].disk_bytes);
  EXPECT_EQ(points[1].session_bytes, points[2].session_bytes);

  const RecomputePoint ratio = MeasureRecompute(*model_, 64, 4, Options("dense"), 3);
  EXPECT_GT(ratio.ratio(), 1);
  EXPECT_THROW(MeasureRecompute(*model_, 4, 4, Options("dense"), 1), Error);

  EvalReport report;
  for (const SpeedPoint& point : points) report.rows.push_back(SpeedRow("sinks", point, 1));
  report.rows.push_back(RecomputeRow(ratio, 1));
  EXPECT_EQ(SpeedTable(report.rows).size(), 4u);
  EXPECT_EQ(RecomputeTable(report.rows).size(), 2u);
  const std::string html = SpeedHtml(report);
  EXPECT_NE(html.find("limit of the bandwidth"), std::string::npos);
  EXPECT_EQ(html.find("://"), std::string::npos);
}

}  // namespace
}  // namespace mneme
