#include "bench/kernels.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

TEST(Kernels, AreFoundByPartsOfTheirNames) {
  const size_t num_all = FindKernels("all").size();
  EXPECT_EQ(num_all, LinearCases().size() + AttendCases().size() + MemoryCases().size() +
                         RecurCases().size() + PointwiseCases().size());
  EXPECT_EQ(FindKernels("memory/").size(), MemoryCases().size());
  const std::vector<KernelCase> one = FindKernels("q8_0/packed/2048x2048/rows:512");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].name, "linear/q8_0/packed/2048x2048/rows:512");
  for (const KernelCase& each : FindKernels("rows:1"))
    EXPECT_TRUE(each.name.ends_with("rows:1")) << each.name;
  EXPECT_THROW(FindKernels("linear/q9"), Error);
}

TEST(Kernels, ShareIsThatOfTheTighterLimit) {
  const KernelLimits limits{.bytes_per_second = 100, .ops_per_second = 1000, .ops_name = "fp32"};
  KernelRow row{.timing = {.median_seconds = 4}, .bytes = 200, .ops = 1000};
  SetShare(limits, &row);
  EXPECT_EQ(row.share, 0.5);
  EXPECT_EQ(row.share_of, "read bandwidth");
  row.ops = 3000;
  SetShare(limits, &row);
  EXPECT_EQ(row.share, 0.75);
  EXPECT_EQ(row.share_of, "fp32 peak");
}

TEST(Kernels, OneOfEachGroupRuns) {
  CpuDevice device(2);
  MachineLimits limits;
  limits.num_threads = 2;
  limits.bandwidth = {{.footprint_bytes = 1 << 20, .read_bytes = {.one_thread = 1e10, .all_threads = 1e10}}};
  limits.fp32_ops = limits.int8_ops = limits.int16_ops = {.one_thread = 1e11, .all_threads = 1e11};
  for (const char* name :
       {"linear/q8_0/packed/576x576/rows:512", "linear/f16/int16/576x576/rows:512",
        "linear/q4_k/stored/2048x2048/rows:512", "attend/prefill/f16/group:1/512x512",
        "memory/gated-delta/write", "memory/linear/read/rows:1", "recur/delta/16x32/128x128/rows:1",
        "recur/scan/1x64/128x64/rows:512", "pointwise/rms-norm", "pointwise/silu", "pointwise/add"}) {
    const KernelRow row = FindKernels(name).front().measure(limits, 0.0, device);
    EXPECT_GT(row.timing.median_seconds, 0) << name;
    EXPECT_GT(row.bytes, 0) << name;
    EXPECT_GT(row.share, 0) << name;
  }
}

}  // namespace
}  // namespace mneme
