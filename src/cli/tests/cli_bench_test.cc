// mneme bench from the command line: speed, states, plots, profiles.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/tests/cli_test_util.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

TEST_F(CliTest, BenchRows) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome =
      RunProgram({"bench", model, "--prefill", "32", "--decode", "8", "--batch", "2", "--repeat", "1",
                  "--depth", "0,1M", "--max-seconds", "0.1", "--context", "sinks", "--no-floor", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json json = Json::parse(outcome.out);
  ASSERT_EQ(json["rows"].size(), 5u) << outcome.out;
  for (const Json& row : json["rows"]) EXPECT_GT(row["tokens_per_second"].get<double>(), 0) << row;
  EXPECT_EQ(json["rows"][3]["reached"], "filled");
}

// Without prefill the speed of reading is measured all the same; what the cap cannot hold is a row with a
// reason.
TEST_F(CliTest, BenchReadsAsDeepAsTheCapAllows) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome =
      RunProgram({"bench", model, "--prefill", "0", "--decode", "4", "--repeat", "1", "--depth", "0,8K,100M",
                  "--max-seconds", "60", "--context", "dense", "--memory", "64M", "--no-floor", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json rows = Json::parse(outcome.out)["rows"];
  ASSERT_EQ(rows.size(), 3u) << outcome.out;
  EXPECT_EQ(rows[1]["reached"], "read");
  EXPECT_GT(rows[1]["tokens_per_second"].get<double>(), 0);
  EXPECT_EQ(rows[2]["tokens_per_second"].get<double>(), 0);
  EXPECT_NE(rows[2]["note"].get<std::string>().find("memory cap"), std::string::npos) << outcome.out;
}

TEST_F(CliTest, BenchStatePlotAndProfile) {
  MNEME_REQUIRE_MODEL(model);
  Outcome outcome = RunProgram({"bench",       model,
                                "--prefill",   "0",
                                "--decode",    "4",
                                "--repeat",    "1",
                                "--depth",     "0,96",
                                "--context",   "sinks",
                                "--no-floor",  "--json",
                                "--state",     Path("."),
                                "--svg",       Path("speed.svg"),
                                "--plot-also", "another=0:100,64:50"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json rows = Json::parse(outcome.out)["rows"];
  ASSERT_EQ(rows.size(), 6u) << outcome.out;
  EXPECT_EQ(rows[1]["what"], "save");
  EXPECT_EQ(rows[2]["what"], "restore");
  EXPECT_GT(rows[4]["bytes_per_second"].get<double>(), 0);
  for (const auto& entry : fs::directory_iterator(Path("."))) EXPECT_NE(entry.path().extension(), ".state");
  const std::string svg = ReadAll(Path("speed.svg"));
  EXPECT_NE(svg.find("xmlns"), std::string::npos);
  EXPECT_NE(svg.find("another"), std::string::npos);
  EXPECT_EQ(RunProgram({"bench", model, "--svg", Path("x.svg"), "--decode", "1", "--prefill", "0",
                        "--no-floor", "--plot-also", "nonsense"})
                .code,
            2);

  outcome = RunProgram({"bench", model, "--profile", "--prefill", "32", "--depth", "64", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json profile = Json::parse(outcome.out);
  for (const char* what : {"decode", "prefill 32"}) {
    double parts = 0;
    bool has_attention = false;
    for (const Json& row : profile[what]) {
      if (row["op"] != "whole") parts += row["seconds"].get<double>();
      has_attention |= row["op"] == "attention" && row["seconds"].get<double>() > 0;
    }
    EXPECT_TRUE(has_attention) << profile;
    EXPECT_GE(parts, profile[what].back()["seconds"].get<double>() * 0.999) << profile;
  }

  outcome = RunProgram({"bench", model, "--profile", "--prefill", "32", "--svg", Path("profile.svg")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string picture = ReadAll(Path("profile.svg"));
  for (const char* part : {"xmlns", "one token", "32 tokens", "attention", "limits"})
    EXPECT_NE(picture.find(part), std::string::npos) << part;
  EXPECT_EQ(RunProgram({"bench", model, "--profile", "--depth", "0,64"}).code, 2);

  // Every run of a long prefill starts at the depth that was asked for.
  const auto attention_flops = [&](const std::string& tokens) -> double {
    const Outcome run = RunProgram({"bench", model, "--profile", "--prefill", tokens, "--json"});
    const Json rows = Json::parse(run.out);
    for (const Json& row : rows["prefill " + tokens]) {
      if (row["op"] == "attention") return row["flops"].get<double>();
    }
    return 0;
  };
  EXPECT_NEAR(attention_flops("256") / attention_flops("32"), (256 * 128.5) / (32 * 16.5), 1e-6);
}

}  // namespace
}  // namespace mneme
