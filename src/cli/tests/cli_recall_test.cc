// Recall from the command line: calibrate, run, and what the report says.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/tests/cli_test_util.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

TEST_F(CliTest, CalibratesAndSaysWhatCameBack) {
  MNEME_REQUIRE_MODEL(shipped);
  // What a run keeps for later goes here, and not to whoever runs the tests.
  ::setenv("XDG_CACHE_HOME", Path("cache").c_str(), 1);
  const std::string model = Path("model.gguf");
  fs::copy_file(shipped, model);
  const Outcome calibrated = RunProgram({"calibrate", model});
  ASSERT_EQ(calibrated.code, 0) << calibrated.err;
  EXPECT_NE(calibrated.out.find("model.gguf.recall: "), std::string::npos) << calibrated.out;
  EXPECT_TRUE(ReadAll(Path("model.gguf.recall")).starts_with("mneme calibration 1\nmodel "));

  std::string text = "Lily had a red ball that she called Zebedee. ";
  for (int i = 0; i < 200; ++i)
    text += "The cat number " + std::to_string(i * 7919 % 1000) + " sat on the mat. ";
  const Outcome outcome = RunProgram({"run", model, "-f", Write("t", text), "-p", "Lily had a red ball that",
                                      "-n", "5", "--temperature", "0", "--context",
                                      "recall:window=100,budget=128", "--report", Path("r.json")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json report = Json::parse(ReadAll(Path("r.json")));
  ASSERT_TRUE(report.contains("recalled"));
  for (const Json& one : report["recalled"]) {
    EXPECT_EQ(one["end"].get<int64_t>() - one["begin"].get<int64_t>(), 64);
    EXPECT_FALSE(one["text"].get<std::string>().empty());
  }
  EXPECT_NE(outcome.err.find("came back for the last turn"), std::string::npos) << outcome.err;
  EXPECT_FALSE(fs::exists(Path("cache")));  // the file beside the model was enough

  // Another model's calibration is as none: one is made and kept in the cache.
  fs::remove(model + ".recall");
  const Outcome again =
      RunProgram({"run", model, "-f", Path("t"), "-p", "Lily had a red ball that", "-n", "5", "--temperature",
                  "0", "--context", "recall:window=100,budget=128", "-q"});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.out, outcome.out);
  EXPECT_FALSE(fs::is_empty(fs::path(Path("cache")) / "mneme"));
}

}  // namespace
}  // namespace mneme
