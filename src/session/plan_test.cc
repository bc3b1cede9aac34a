#include "session/plan.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/units.h"
#include "session/memory_sum.h"
#include "session/report.h"
#include "session/session_test_util.h"

namespace mneme {
namespace {

using namespace mneme::testing;

#define MNEME_SESSION_TEST_MODEL() \
  MNEME_REQUIRE_DATA(data);        \
  const std::shared_ptr<const Model> model = TestModel(data)

// The promise that a run rests on: what is planned is what is reserved.
TEST(PlanTest, PlannedBytesAreTheReservedOnes) {
  MNEME_SESSION_TEST_MODEL();
  for (const std::string& spec : TestContexts()) {
    const SessionOptions options = TestOptions(spec);
    const SessionBytes bytes = PeakSessionBytes(*model, options, 2000, TestDevice().num_threads());
    Budget budget;
    Session session(model, options, budget, TestDevice());
    session.Feed(TestTokens(*model, 2000));
    EXPECT_LE(budget.peak_bytes(), bytes.total() + (spec == "dense" ? bytes.scratch_bytes : 0)) << spec;
    EXPECT_GE(budget.peak_bytes(), bytes.total() * 95 / 100) << spec;
    EXPECT_EQ(bytes.is_bounded, spec != "dense");
    if (bytes.is_bounded) {
      EXPECT_EQ(budget.peak_bytes(), bytes.total()) << spec;
    }
  }
}

TEST(PlanTest, ARunThatResolvesUnderACapFitsUnderIt) {
  MNEME_SESSION_TEST_MODEL();
  for (const size_t cap : {size_t{4} << 20, size_t{8} << 20, size_t{64} << 20}) {
    for (const char* spec : {"auto", "sinks", "lambda", "window", "xl"}) {
      SessionOptions options = TestOptions(spec, 512);
      const ResolvedContext resolved =
          ResolveSessionContext(*model, options, cap, -1, TestDevice().num_threads());
      EXPECT_EQ(resolved.settings.max_rewind, options.context.max_rewind);
      options.context = resolved.settings;
      Budget budget(cap);
      Session session(model, options, budget, TestDevice());
      session.Feed(TestTokens(*model, 700));
      EXPECT_LE(budget.peak_bytes(), cap);
    }
  }
}

TEST(PlanTest, WhatCannotFitIsRefusedWithTheNumberThatWouldDo) {
  MNEME_SESSION_TEST_MODEL();
  const size_t num_threads = TestDevice().num_threads();
  const std::string message = ErrorOf(ErrorKind::kBudget, [&] {
    ResolveSessionContext(*model, TestOptions("sinks:sinks=4,window=100000"), size_t{4} << 20, -1,
                          num_threads);
  });
  EXPECT_NE(message.find("--memory at least "), std::string::npos) << message;
  const std::string tiny = ErrorOf(ErrorKind::kBudget, [&] {
    ResolveSessionContext(*model, TestOptions("auto"), size_t{200} << 10, -1, num_threads);
  });
  EXPECT_NE(tiny.find("--memory"), std::string::npos) << tiny;
  // The number does do.
  SessionOptions options = TestOptions("sinks:sinks=4,window=100000");
  const size_t enough = PeakSessionBytes(*model, options, -1, num_threads).total();
  EXPECT_NO_THROW(ResolveSessionContext(*model, options, enough * 4, -1, num_threads));
  const std::string dense = ErrorOf(ErrorKind::kBudget, [&] {
    ResolveSessionContext(*model, TestOptions("dense"), size_t{16} << 20, 10000000, num_threads);
  });
  EXPECT_NE(dense.find("10,000,000 tokens"), std::string::npos) << dense;
}

TEST(PlanTest, OneRowPerContextWithBytesAndTime) {
  MNEME_SESSION_TEST_MODEL();
  const SpeedEstimate speed = MeasureSpeed(model, TestDevice(), 0.1);
  EXPECT_GT(speed.SecondsFor(100), 0);
  PlanOptions options{.session = TestOptions("auto"),
                      .cap_bytes = size_t{16} << 20,
                      .num_tokens = 10000000,
                      .num_threads = TestDevice().num_threads(),
                      .speed = &speed};
  std::vector<PlanRow> rows = PlanRun(*model, options);
  ASSERT_EQ(rows.size(), PolicyTable().size());
  for (const PlanRow& row : rows) {
    if (row.name == "infini") {  // the test's model has no memory; the row stays and says so
      EXPECT_FALSE(row.fits);
      EXPECT_NE(row.note.find("no compressive memory"), std::string::npos) << row.note;
      continue;
    }
    EXPECT_GT(row.bytes.total(), 0u) << row.name;
    if (row.name == "dense") {
      EXPECT_FALSE(row.fits);
      EXPECT_NE(row.note.find("--memory at least"), std::string::npos) << row.note;
    } else {
      EXPECT_TRUE(row.fits) << row.name << ": " << row.note;
      EXPECT_EQ(row.note, "");
      EXPECT_GT(row.seconds, 0);
      EXPECT_LE(row.bytes.total(), options.cap_bytes);
    }
  }
  options.num_tokens = -1;
  rows = PlanRun(*model, options);
  for (const PlanRow& row : rows) {
    EXPECT_EQ(row.fits, row.name != "dense" && row.name != "infini") << row.name;
  }
}

TEST(ReportTest, JsonHoldsWhatTheRunDid) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget(size_t{16} << 20);
  Session session(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  session.Feed(TestTokens(*model, 100));
  GenerateText(session, {.max_tokens = 10, .stop_at_eog = false});
  const std::string text = ReportJson(session, budget,
                                      {.program_version = "1.2.3",
                                       .context_asked = "auto",
                                       .context_reason = "because",
                                       .wall_seconds = 1,
                                       .num_threads = 2});
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["version"], "1.2.3");
  EXPECT_EQ(json["context"]["resolved"], "sinks:sinks=4,window=20");
  EXPECT_EQ(json["stream"]["tokens"], 110);
  EXPECT_EQ(json["stream"]["generated"], 10);
  EXPECT_EQ(json["memory"]["cap_bytes"], size_t{16} << 20);
  EXPECT_EQ(json["memory"]["peak_bytes"], budget.peak_bytes());
  EXPECT_EQ(json["ledger"]["totals"]["sink"], 4);
  EXPECT_EQ(json["ledger"]["ranges"].back()["end"], 110);
  EXPECT_GT(json["speed"]["decode"]["tokens_per_second"].get<double>(), 0);
  EXPECT_EQ(json["options"]["seed"], 0);
  EXPECT_FALSE(json["resident"]["samples"].empty());
  const std::string lines = ReportText(session, budget);
  EXPECT_NE(lines.find("0-3: sink"), std::string::npos) << lines;
  EXPECT_NE(lines.find("peak"), std::string::npos) << lines;
}

TEST(ReportTest, MemoryHasARowForEachUse) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget(size_t{16} << 20);
  const Lease packed = budget.Reserve(MemoryTag::kPacked, 3 << 20, "the repacked weights");
  Session session(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  const auto json = nlohmann::json::parse(ReportJson(session, budget, {}));
  const auto& rows = json["memory"]["by_tag"];
  EXPECT_EQ(rows["packed"]["used_bytes"], 3 << 20);
  EXPECT_EQ(rows["packed"]["under_cap"], false);
  size_t used = 0;
  for (const auto& row : rows) {
    if (row["under_cap"]) used += row["used_bytes"].get<size_t>();
  }
  EXPECT_EQ(json["memory"]["used_bytes"], used);
  EXPECT_EQ(used, budget.used_bytes());
  const std::string lines = ReportText(session, budget);
  EXPECT_NE(lines.find("memory beside the cap: packed 3.00 MiB"), std::string::npos) << lines;
}

TEST(PlanTest, TheCapThatARefusalNamesDoes) {
  MNEME_SESSION_TEST_MODEL();
  const size_t num_threads = TestDevice().num_threads();
  for (const char* spec : {"auto", "sinks", "lambda", "window", "xl", "sinks:sinks=4,window=5000", "dense"}) {
    for (const size_t reserved : {size_t{0}, size_t{1} << 20}) {
      const SessionOptions options = TestOptions(spec, 512);
      const int64_t num_tokens = std::string(spec) == "dense" ? 30000 : -1;
      const std::string message = ErrorOf(ErrorKind::kBudget, [&] {
        ResolveSessionContext(*model, options, size_t{64} << 10, num_tokens, num_threads, reserved);
      });
      const std::string before = "--memory at least ";
      const size_t at = message.find(before);
      ASSERT_NE(at, std::string::npos) << message;
      const size_t begin = at + before.size();
      const size_t cap = ParseBytes(message.substr(begin, message.find(',', begin) - begin), "cap");
      EXPECT_NO_THROW(ResolveSessionContext(*model, options, cap, num_tokens, num_threads, reserved))
          << spec << ": " << message;
    }
  }
}

TEST(MemorySumTest, PartsAddUpInWholeMiB) {
  const MemorySum sum{.weight_bytes = (size_t{463} << 20) - 5,
                      .packed_bytes = size_t{209} << 20,
                      .cap_bytes = size_t{256} << 20,
                      .program_bytes = (size_t{26} << 20) - 1000};
  EXPECT_EQ(sum.total_bytes(), size_t{954} << 20);
  EXPECT_EQ(sum.ToString(),
            "weights 463 MiB + packed 209 MiB + cap 256 MiB + program 26 MiB = 954 MiB at most "
            "(MemoryMax=954M)");
  MemorySum loading = sum;
  loading.load_peak_bytes = size_t{1200} << 20;
  EXPECT_EQ(loading.total_bytes(), size_t{1200} << 20);
  EXPECT_NE(loading.ToString().find("1200 MiB"), std::string::npos) << loading.ToString();
}

}  // namespace
}  // namespace mneme
