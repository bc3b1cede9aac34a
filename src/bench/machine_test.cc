#include "bench/machine.h"

#include <gtest/gtest.h>

namespace mneme {
namespace {

TEST(Machine, MeasuresPlausibleRates) {
  ThreadPool pool(2);
  const MachineLimits limits = MeasureMachine(pool, 0.1, size_t{4} << 20);
  EXPECT_EQ(limits.num_threads, 2u);
  EXPECT_FALSE(limits.simd_target.empty());
  ASSERT_EQ(limits.bandwidth.size(), 3u);
  for (const MachineBandwidth& row : limits.bandwidth) {
    EXPECT_GT(row.read_bytes.one_thread, 1e8);
    EXPECT_LT(row.read_bytes.all_threads, 1e14);
  }
  EXPECT_GT(limits.fp32_ops.one_thread, 1e8);
  EXPECT_GT(limits.int8_ops.all_threads, 1e8);
  EXPECT_LT(limits.int8_ops.all_threads, 1e15);
  EXPECT_GT(limits.int16_ops.one_thread, 1e8);
  EXPECT_LT(limits.int16_ops.one_thread, 1e14);
}

TEST(Machine, BandwidthIsThatOfTheNearestFootprint) {
  MachineLimits limits;
  limits.bandwidth = {{.footprint_bytes = 1 << 20, .read_bytes = {.one_thread = 10, .all_threads = 20}},
                      {.footprint_bytes = 1 << 24, .read_bytes = {.one_thread = 3, .all_threads = 6}}};
  EXPECT_EQ(limits.ReadBandwidth(2 << 20, true), 20);
  EXPECT_EQ(limits.ReadBandwidth(1 << 30, false), 3);
  EXPECT_EQ(MachineLimits().ReadBandwidth(1, true), 0);
}

}  // namespace
}  // namespace mneme
