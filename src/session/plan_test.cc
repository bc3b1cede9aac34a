#include "mneme/plan.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/text/units.h"
#include "mneme/report.h"
#include "model/test_util.h"
#include "session/resolve.h"
#include "session/session_test_util.h"

namespace mneme {
namespace {

using namespace mneme::testing;

#define MNEME_SESSION_TEST_MODEL() \
  MNEME_REQUIRE_DATA(data);        \
  const std::shared_ptr<const LoadedModel> model = TestModel(data)

// The promise that a run rests on: what is planned is what is reserved.
TEST(PlanTest, PlannedBytesAreTheReservedOnes) {
  MNEME_SESSION_TEST_MODEL();
  for (const std::string& spec : TestContexts()) {
    const TestSettings options = TestOptions(spec);
    const SessionBytes bytes = PeakSessionBytes(*model, options, InnerContext(options, options.max_rows),
                                                2000, TestDevice().num_threads());
    Budget budget;
    TestSession session(model, options, budget, TestDevice());
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
  MNEME_REQUIRE_DATA(data);
  for (const size_t cap : {size_t{4} << 20, size_t{8} << 20, size_t{64} << 20}) {
    for (const char* context : {"auto", "sinks", "lambda", "window", "xl"}) {
      const Model model = TestModelUnder(data, cap);
      Session session(model, TestOptions(context));
      EXPECT_EQ(session.options().max_rewind, 20);
      session.Feed(TestTokens(*model.impl()->loaded, 700));
      EXPECT_LE(model.engine().memory().peak_bytes, cap);
      // Another finds what is left, or is refused with what is lacking.
      try {
        const Session second(model, TestOptions(context));
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("are lacking"), std::string::npos) << error.what();
      }
      EXPECT_LE(model.engine().memory().peak_bytes, cap);
    }
  }
}

TEST(PlanTest, ASessionStaysWithinItsShare) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModelUnder(data, size_t{256} << 20);
  SessionOptions options = TestOptions("sinks");
  options.memory_bytes = size_t{4} << 20;
  const Session session(model, options), other(model, options);
  for (const Session* one : {&session, &other}) {
    EXPECT_EQ(one->memory().cap_bytes, options.memory_bytes);
    EXPECT_LE(one->memory().peak_bytes, options.memory_bytes);
    EXPECT_GE(one->memory().peak_bytes, options.memory_bytes / 2);  // it uses it
  }
  EXPECT_EQ(model.engine().memory().used_bytes,
            session.memory().used_bytes + other.memory().used_bytes + model.activation_bytes());
  // A dense one grows up to it, and no further.
  options.context = "dense";
  Session dense(model, options);
  const std::string message =
      ErrorOf(ErrorKind::kBudget, [&] { dense.Feed(std::vector<TokenId>(100000, 5)); });
  EXPECT_NE(message.find("session_memory"), std::string::npos) << message;
  EXPECT_LE(dense.memory().peak_bytes, options.memory_bytes);
  // What does not fit is refused with the share that would do.
  options.context = "sinks:sinks=4,window=40000";
  const std::string refusal = ErrorOf(ErrorKind::kBudget, [&] { Session(model, options); });
  const std::string before = "it needs at least ";
  const size_t at = refusal.find(before);
  ASSERT_NE(at, std::string::npos) << refusal;
  const size_t begin = at + before.size();
  options.memory_bytes = ParseBytes(refusal.substr(begin, refusal.find(',', begin) - begin), "share");
  EXPECT_NO_THROW(Session(model, options)) << refusal;
}

// Also of a context that grows the first chunk must fit, and the cap that is named is one that does.
TEST(PlanTest, AContextThatGrowsIsRefusedByTheSameRule) {
  MNEME_REQUIRE_DATA(data);
  const auto after = [](const std::string& message, const std::string& before) {
    const size_t at = message.find(before);
    EXPECT_NE(at, std::string::npos) << message;
    const size_t begin = at + before.size();
    return ParseBytes(message.substr(begin, message.find(',', begin) - begin), "bytes");
  };
  SessionOptions options = TestOptions("dense");
  const Model small = TestModelUnder(data, 1024);
  const size_t cap =
      after(ErrorOf(ErrorKind::kBudget, [&] { Session(small, options); }), "--memory at least ");
  EXPECT_EQ(small.engine().memory().used_bytes, 0u);
  const Model model = TestModelUnder(data, cap);
  Session session(model, options);
  session.Feed(TestTokens(*model.impl()->loaded, static_cast<size_t>(session.max_rows())));
  // The same of a share.
  const Model wide = TestModelUnder(data, size_t{256} << 20);
  options.memory_bytes = 100;
  options.memory_bytes =
      after(ErrorOf(ErrorKind::kBudget, [&] { Session(wide, options); }), "it needs at least ");
  Session shared(wide, options);
  shared.Feed(TestTokens(*wide.impl()->loaded, static_cast<size_t>(shared.max_rows())));
}

TEST(PlanTest, ActivationsFollowTheCapOnceNobodyHasThem) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModelUnder(data, size_t{24} << 20);
  {
    const Lease taken = model.engine().Reserve(size_t{6} << 20, "something of the application");
    EXPECT_EQ(Session(model, TestOptions("sinks:window=60")).max_rows(),
              512);  // they take less than a quarter
    const Lease more = model.engine().Reserve(size_t{14} << 20, "nearly all the rest");
    EXPECT_NE(ErrorOf(ErrorKind::kBudget, [&] { Session(model, TestOptions("sinks:window=2000")); }),
              "(no error)");
  }
  EXPECT_EQ(Session(model, TestOptions("sinks:window=60")).max_rows(), 512);
}

TEST(PlanTest, WhatCannotFitIsRefusedWithTheNumberThatWouldDo) {
  MNEME_SESSION_TEST_MODEL();
  const auto resolve = [&](SessionOptions options, size_t cap) {
    ResolveSession(*model, options, {.cap_bytes = cap, .max_rows = 16, .num_threads = 1});
  };
  const std::string message = ErrorOf(
      ErrorKind::kBudget, [&] { resolve(TestOptions("sinks:sinks=4,window=100000"), size_t{4} << 20); });
  EXPECT_NE(message.find("--memory at least "), std::string::npos) << message;
  const std::string tiny =
      ErrorOf(ErrorKind::kBudget, [&] { resolve(TestOptions("auto"), size_t{200} << 10); });
  EXPECT_NE(tiny.find("--memory"), std::string::npos) << tiny;
  // The number does do.
  SessionOptions options = TestOptions("sinks:sinks=4,window=100000");
  const size_t enough = PeakSessionBytes(*model, options, InnerContext(options, 16), -1, 1).total();
  EXPECT_NO_THROW(resolve(options, enough * 4));
  options = TestOptions("dense");
  options.expected_tokens = 10000000;
  const std::string dense = ErrorOf(ErrorKind::kBudget, [&] { resolve(options, size_t{16} << 20); });
  EXPECT_NE(dense.find("10,000,000 tokens"), std::string::npos) << dense;
}

// A window as long as training allows is dear where heads are many and the rest is little.
TEST(PlanTest, AutoSaysWhatItsWindowCosts) {
  const TemporaryFolder folder;
  const std::string tiny = WriteTiny(folder);
  const auto reason = [&](uint32_t trained_length, const std::string& context) {
    const std::string path = folder / (std::to_string(trained_length) + ".gguf");
    Rewrite(
        tiny, path, [&](GgufWriter& writer) { writer.Set("llama.context_length", trained_length); },
        [](const GgufTensor&) { return true; });
    const Model model =
        Model::Load(Engine({.num_threads = 1, .memory_bytes = size_t{256} << 20, .max_rows = 16}), path);
    SessionOptions options = TestOptions(context);
    options.expected_tokens = -1;
    return ChooseContext(model, options).reason;
  };
  const std::string price = "times the arithmetic of --context sinks:window=2044";
  const std::string dear = reason(8192, "auto");
  EXPECT_NE(dear.find(price), std::string::npos) << dear;
  EXPECT_EQ(reason(2048, "auto").find(price), std::string::npos);
  EXPECT_EQ(reason(8192, "sinks:window=8000"), "");  // who asks for it knows
}

TEST(PlanTest, TimeFollowsWhatATokenSees) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModelUnder(data, size_t{1} << 30);
  const SpeedEstimate speed = {.base_seconds = 1e-4, .visible_seconds = 1e-7, .slow_factor = 1.5};
  SessionOptions options = TestOptions("auto");
  options.expected_tokens = 100000;
  for (const PlanRow& row : PlanRun(model, options, &speed)) {
    if (row.name == "dense") {
      EXPECT_NEAR(row.seconds, 1e5 * (1e-4 + 1e-7 * 5e4), 1);
    }
    if (row.name == "window") {  // far shorter than the stream
      EXPECT_LT(row.seconds, 1e5 * (1e-4 + 1e-7 * 5e3));
    }
    if (row.seconds > 0) {
      EXPECT_DOUBLE_EQ(row.slow_seconds, 1.5 * row.seconds) << row.name;
    }
  }
}

TEST(PlanTest, OneRowPerContextWithBytesAndTime) {
  MNEME_REQUIRE_DATA(data);
  const size_t cap = size_t{16} << 20;
  const Model model = TestModelUnder(data, cap);
  const SpeedEstimate speed = MeasureSpeed(model, 0.1);
  EXPECT_GT(speed.SecondsFor(100), 0);
  EXPECT_GE(speed.slow_factor, 1);
  EXPECT_GT(speed.depth, speed.chunk);
  SessionOptions options = TestOptions("auto");
  options.expected_tokens = 10000000;
  std::vector<PlanRow> rows = PlanRun(model, options, &speed);
  ASSERT_EQ(rows.size(), ContextTable().size());
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
      EXPECT_GE(row.slow_seconds, row.seconds);
      EXPECT_LE(row.bytes.total(), cap);
    }
  }
  options.expected_tokens = -1;
  rows = PlanRun(model, options);
  for (const PlanRow& row : rows) {
    EXPECT_EQ(row.fits, row.name != "dense" && row.name != "infini") << row.name;
  }
}

TEST(ReportTest, JsonHoldsWhatTheRunDid) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModelUnder(data, size_t{16} << 20);
  Session session(model, TestOptions("sinks:sinks=4,window=20"));
  session.Feed(TestTokens(*model.impl()->loaded, 100));
  GenerateText(session, {.max_tokens = 10, .stop_at_eog = false});
  const std::string text = ReportJson(
      session,
      {.program_version = "1.2.3", .context_asked = "auto", .context_reason = "because", .wall_seconds = 1});
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["version"], "1.2.3");
  EXPECT_EQ(json["context"]["resolved"], "sinks:sinks=4,window=20");
  EXPECT_EQ(json["stream"]["tokens"], 110);
  EXPECT_EQ(json["stream"]["generated"], 10);
  EXPECT_EQ(json["memory"]["cap_bytes"], size_t{16} << 20);
  EXPECT_EQ(json["memory"]["peak_bytes"], model.engine().memory().peak_bytes);
  EXPECT_EQ(json["ledger"]["totals"]["sink"], 4);
  EXPECT_EQ(json["ledger"]["ranges"].back()["end"], 110);
  EXPECT_GT(json["speed"]["decode"]["tokens_per_second"].get<double>(), 0);
  EXPECT_EQ(json["options"]["seed"], 0);
  EXPECT_EQ(json["options"]["chunk"], 512);
  EXPECT_FALSE(json["resident"]["samples"].empty());
  const std::string lines = ReportText(session);
  EXPECT_NE(lines.find("0-3: sink"), std::string::npos) << lines;
  EXPECT_NE(lines.find("peak"), std::string::npos) << lines;
}

TEST(ReportTest, MemoryHasARowForEachUse) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModelUnder(data, size_t{16} << 20);
  const Session session(model, TestOptions("sinks:sinks=4,window=20"));
  const auto json = nlohmann::json::parse(ReportJson(session, {}));
  const auto& rows = json["memory"]["by_tag"];
  EXPECT_EQ(rows["packed"]["used_bytes"], model.info().packed_bytes);
  EXPECT_EQ(rows["packed"]["under_cap"], false);
  size_t used = 0;
  for (const auto& row : rows) {
    if (row["under_cap"]) used += row["used_bytes"].get<size_t>();
  }
  EXPECT_EQ(json["memory"]["used_bytes"], used);
  EXPECT_EQ(used, model.engine().memory().used_bytes);
  const std::string lines = ReportText(session);
  EXPECT_NE(lines.find("memory beside the cap: weights 1."), std::string::npos) << lines;
}

TEST(PlanTest, TheCapThatARefusalNamesDoes) {
  MNEME_SESSION_TEST_MODEL();
  for (const char* context :
       {"auto", "sinks", "lambda", "window", "xl", "sinks:sinks=4,window=5000", "dense"}) {
    for (const size_t used : {size_t{0}, size_t{1} << 20}) {
      SessionOptions options = TestOptions(context);
      options.expected_tokens = std::string(context) == "dense" ? 30000 : -1;
      SessionLimits limits{
          .cap_bytes = size_t{64} << 10, .used_bytes = used, .max_rows = 512, .num_threads = 1};
      const std::string message =
          ErrorOf(ErrorKind::kBudget, [&] { ResolveSession(*model, options, limits); });
      const std::string before = "--memory at least ";
      const size_t at = message.find(before);
      ASSERT_NE(at, std::string::npos) << message;
      const size_t begin = at + before.size();
      limits.cap_bytes = ParseBytes(message.substr(begin, message.find(',', begin) - begin), "cap");
      EXPECT_NO_THROW(ResolveSession(*model, options, limits)) << context << ": " << message;
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
