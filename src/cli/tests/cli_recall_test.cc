// Recall from the command line: calibrate, run, and what the report says.
#include <gtest/gtest.h>
#include <sys/stat.h>

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

// A question is a turn of its own, whether the text before it was read by the same command or by an earlier.
TEST_F(CliTest, AQuestionAfterAStateIsTheTurn) {
  MNEME_REQUIRE_MODEL(shipped);
  ::setenv("XDG_CACHE_HOME", Path("cache").c_str(), 1);
  const std::string model = Path("model.gguf");
  fs::copy_file(shipped, model);
  ASSERT_EQ(RunProgram({"calibrate", model}).code, 0);
  std::string text = "Lily had a red ball that she called Zebedee. ";
  for (int i = 0; i < 200; ++i)
    text += "The cat number " + std::to_string(i * 7919 % 1000) + " sat on the mat. ";
  const std::string file = Write("t", text);
  const auto run = [&](std::vector<std::string> more) {
    std::vector<std::string> command = {
        "run", model, "--context", "recall:window=100,budget=128,keep=8192", "--temperature", "0"};
    command.insert(command.end(), more.begin(), more.end());
    return RunProgram(command);
  };
  const std::vector<std::string> question = {
      "-p", "Question: what was the red ball of Lily called? Answer: she called it", "-n", "20"};
  const auto with = [&](std::vector<std::string> first) {
    first.insert(first.end(), question.begin(), question.end());
    return first;
  };
  const Outcome at_once = run(with({"-f", file, "--report", Path("a.json")}));
  ASSERT_EQ(at_once.code, 0) << at_once.err;
  ASSERT_EQ(run({"-f", file, "--no-generate", "--state", Path("s")}).code, 0);
  const Outcome later = run(with({"--state", Path("s"), "--report", Path("b.json")}));
  ASSERT_EQ(later.code, 0) << later.err;
  EXPECT_EQ(later.out, at_once.out);
  const Json a = Json::parse(ReadAll(Path("a.json"))), b = Json::parse(ReadAll(Path("b.json")));
  ASSERT_TRUE(a.contains("recalled") && b.contains("recalled"));
  EXPECT_EQ(a["recalled"], b["recalled"]);
}

// Whatever lies where a calibration would, a run does not wait for it.
TEST_F(CliTest, AFifoInPlaceOfACalibrationIsPassedOver) {
  MNEME_REQUIRE_MODEL(shipped);
  ::setenv("XDG_CACHE_HOME", Path("cache").c_str(), 1);
  const std::string model = Path("model.gguf");
  fs::copy_file(shipped, model);
  ASSERT_EQ(::mkfifo((model + ".recall").c_str(), 0600), 0);
  EXPECT_EQ(RunProgram({"run", model, "-p", "Lily", "-n", "2", "--context", "recall"}).code, 0);
}

}  // namespace
}  // namespace mneme
