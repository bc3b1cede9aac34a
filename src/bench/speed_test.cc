#include "bench/speed.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "bench/speed_report.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

class SpeedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    data_ = testing::DataFolder();
    if (data_.empty()) GTEST_SKIP() << testing::kSkipMessage;
    device_ = std::make_unique<CpuDevice>(1);
    model_ = Model::Load(data_ + "/models/stories260K/stories260K.gguf", {}, *device_);
  }

  static ContextSettings Settings(const std::string& spec) {
    ContextSettings settings;
    settings.spec = spec;
    settings.max_chunk = 16;
    settings.key_encoding = settings.value_encoding = Encoding::kF32;
    return settings;
  }

  std::string data_;
  std::unique_ptr<CpuDevice> device_;
  std::shared_ptr<const Model> model_;
};

TEST_F(SpeedTest, GoesOnWhereTheStateCannotBeWritten) {
  SpeedSettings settings;
  settings.context = Settings("sinks:sinks=4,window=60");
  settings.depths = {0, 200};
  settings.num_prefill = settings.num_prompt = 16;
  settings.num_decode = 4;
  settings.num_repeats = 1;
  settings.max_seconds = 100;
  settings.temporary_folder = ::testing::TempDir() + "/no such folder";
  Budget budget;
  NoProgress progress;
  std::vector<EvalRow> rows;
  MeasureSpeedByDepth(model_, settings, budget, *device_, progress,
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
  settings.context = Settings("sinks:sinks=4,window=60");
  settings.depths = {0, 200, int64_t{1} << 40};
  settings.num_prefill = settings.num_prompt = 16;
  settings.num_decode = 4;
  settings.num_repeats = 1;
  settings.max_seconds = 100;
  settings.bytes_per_second = 1e9;
  settings.temporary_folder = ::testing::TempDir();
  Budget budget;
  NoProgress progress;
  std::vector<SpeedPoint> points;
  MeasureSpeedByDepth(model_, settings, budget, *device_, progress,
                      [&](const SpeedPoint& point) { points.push_back(point); });
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

  const RecomputePoint ratio = MeasureRecompute(model_, 64, 4, Settings("dense"), 3, budget, *device_);
  EXPECT_GT(ratio.ratio(), 1);
  EXPECT_THROW(MeasureRecompute(model_, 4, 4, Settings("dense"), 1, budget, *device_), Error);

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
