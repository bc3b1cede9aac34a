// What the built program takes of the machine's memory, measured from outside: nothing grows without end, and
// the sum that it prints is not exceeded.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "base/testing.h"
#include "cli/answer_record.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kMiB = size_t{1} << 20;

// Sanitizers keep memory of their own.
constexpr bool HasOwnMemory() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return false;
#else
  return true;
#endif
}

struct Outcome {
  int code = -1;
  std::string out, err;
  size_t peak_bytes = 0;  // resident
};

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class CliMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mneme_memory_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    data_ = testing::DataFolder();
    if (data_.empty()) GTEST_SKIP() << testing::kSkipMessage;
    model_ = data_ + "/models/stories260K/stories260K.gguf";
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  // `input` is a file that is standard input.
  Outcome RunProgram(const std::vector<std::string>& arguments, const std::string& input = "/dev/null") {
    const pid_t child = fork();
    if (child == 0) {
      std::vector<char*> argv = {const_cast<char*>(MNEME_PROGRAM)};
      for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
      for (const char* argument : {"--threads", "1"}) argv.push_back(const_cast<char*>(argument));
      argv.push_back(nullptr);
      if (std::freopen(input.c_str(), "rb", stdin) == nullptr ||
          std::freopen(Path("stdout").c_str(), "wb", stdout) == nullptr ||
          std::freopen(Path("stderr").c_str(), "wb", stderr) == nullptr) {
        _exit(126);
      }
      execv(MNEME_PROGRAM, argv.data());
      _exit(127);
    }
    int status = 0;
    struct rusage usage {};
    wait4(child, &status, 0, &usage);
    Outcome outcome;
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    outcome.out = ReadAll(Path("stdout"));
    outcome.err = ReadAll(Path("stderr"));
    outcome.peak_bytes = static_cast<size_t>(usage.ru_maxrss) * 1024;
    return outcome;
  }

  fs::path folder_;
  std::string data_, model_;
};

// The cap that a refusal says would do; empty if it says none.
std::string CapThatWouldDo(const std::string& message) {
  std::smatch found;
  static const std::regex pattern("--memory at least ([0-9]+[KMG]?)");
  return std::regex_search(message, found, pattern) ? found[1].str() : "";
}

TEST(AnswerRecordTest, KeepsTheBeginningAndCountsTheRest) {
  cli::AnswerRecord record(/*keeps=*/true);
  const int64_t num_tokens = static_cast<int64_t>(cli::AnswerRecord::kMaxTokens) + 1000;
  const std::string piece = "0123456789";
  for (int64_t i = 0; i < num_tokens; ++i) record.Add(piece, 7);
  record.Add("the end", -1);
  EXPECT_EQ(record.num_tokens(), num_tokens);
  EXPECT_EQ(record.tokens().size(), cli::AnswerRecord::kMaxTokens);
  EXPECT_EQ(record.num_tokens_left_out(), 1000);
  EXPECT_LE(record.text().size(), cli::AnswerRecord::kMaxTextBytes);
  EXPECT_EQ(record.text().size() % piece.size(), 0u);  // whole pieces
  EXPECT_EQ(static_cast<int64_t>(record.text().size()) + record.num_text_bytes_left_out(),
            num_tokens * static_cast<int64_t>(piece.size()) + 7);
  cli::AnswerRecord counts_only(/*keeps=*/false);
  for (int i = 0; i < 1000; ++i) counts_only.Add(piece, 7);
  EXPECT_EQ(counts_only.text().capacity() + counts_only.tokens().capacity(), std::string().capacity());
  EXPECT_EQ(counts_only.num_tokens(), 1000);
}

TEST_F(CliMemoryTest, WritingDoesNotGrow) {
  const Outcome outcome =
      RunProgram({"run", model_, "-p", "Once", "-n", "70000", "--ignore-end", "--context", "sinks:window=60",
                  "--memory", "16M", "--report", Path("report.json"), "-q"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json report = Json::parse(ReadAll(Path("report.json")));
  const Json& run = report["run"];
  EXPECT_EQ(run["generated_tokens"].size(), cli::AnswerRecord::kMaxTokens);
  EXPECT_EQ(run["generated_tokens_left_out"], 70000 - static_cast<int64_t>(cli::AnswerRecord::kMaxTokens));
  EXPECT_EQ(run["generated_text"].get<std::string>().size() +
                run["generated_text_bytes_left_out"].get<size_t>() + 1,
            outcome.out.size());
  if (!HasOwnMemory()) return;
  // Without a report nothing is kept at all.
  const std::vector<std::string> quiet = {
      "run",      model_, "-p", "Once", "--ignore-end", "--context", "sinks:window=60",
      "--memory", "16M",  "-q", "-n"};
  // The least of three: pages come and go by a hundred KiB from run to run.
  const auto peak = [&](const char* num_tokens) {
    std::vector<std::string> arguments = quiet;
    arguments.emplace_back(num_tokens);
    size_t least = SIZE_MAX;
    for (int i = 0; i < 3; ++i) least = std::min(least, RunProgram(arguments).peak_bytes);
    return least;
  };
  EXPECT_LT(peak("100000"), peak("2000") + 300 * 1024);  // 5.3 bytes for each would be 510 KiB and more
}

TEST_F(CliMemoryTest, ChatRefusesALineThatDoesNotFitAndGoesOn) {
  const std::vector<std::string> arguments = {"chat",     model_, "--context", "sinks:window=200",
                                              "--memory", "16M",  "-n",        "4"};
  const std::string megabyte(kMiB, 'a');
  {
    std::ofstream input(Path("one"), std::ios::binary);
    input << "first\n";
    for (int i = 0; i < 30; ++i) input << megabyte;
    input << "\nlast\n/context\n";
  }
  {
    std::ofstream input(Path("many"), std::ios::binary);
    input << "first\n";
    const std::string part = std::string(10239, 'a') + "\\\n";
    for (int i = 0; i < 3072; ++i) input << part;
    input << "end\nlast\n/context\n";
  }
  for (const char* name : {"one", "many"}) {
    const Outcome outcome = RunProgram(arguments, Path(name));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find("bytes in one line"), std::string::npos) << outcome.err;
    EXPECT_NE(CapThatWouldDo(outcome.err), "") << outcome.err;
    EXPECT_NE(outcome.err.find("tokens so far"), std::string::npos) << outcome.err;
    // Both messages were answered.
    EXPECT_GE(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 2) << outcome.out;
    if (HasOwnMemory()) {
      EXPECT_LT(outcome.peak_bytes, 40 * kMiB) << name;
    }
  }
}

TEST_F(CliMemoryTest, TheCapThatARefusedLineNamesTakesIt) {
  std::ofstream(Path("line"), std::ios::binary) << std::string(100000, 'a') << "\n/context\n";
  const auto chat = [&](const std::string& cap) {
    return RunProgram({"chat", model_, "--context", "sinks:window=60", "--memory", cap, "-n", "1"},
                      Path("line"));
  };
  std::string smallest = CapThatWouldDo(chat("10K").err);
  ASSERT_NE(smallest, "");
  const Outcome refused = chat(smallest);
  const std::string enough = CapThatWouldDo(refused.err);
  ASSERT_NE(enough, "") << refused.err;
  const Outcome taken = chat(enough);
  EXPECT_EQ(taken.code, 0);
  EXPECT_EQ(CapThatWouldDo(taken.err), "") << taken.err;
  std::smatch tokens;
  ASSERT_TRUE(std::regex_search(taken.err, tokens, std::regex("([0-9,]+) tokens so far"))) << taken.err;
  EXPECT_GT(tokens[1].length(), 5) << taken.err;  // "10,000" and more
}

TEST_F(CliMemoryTest, EveryRefusedCapNamesOneThatWouldDo) {
  for (const char* context : {"auto", "sinks", "xl", "lambda", "sinks:window=3000", "infini"}) {
    for (const char* cap : {"1K", "2M"}) {
      std::vector<std::string> arguments = {"run", model_,     "-p", "a",         "-n",   "3",
                                            "-q",  "--memory", cap,  "--context", context};
      const Outcome refused = RunProgram(arguments);
      if (refused.code == 0 || refused.err.find("no compressive memory") != std::string::npos) continue;
      const std::string enough = CapThatWouldDo(refused.err);
      ASSERT_NE(enough, "") << context << " " << cap << ": " << refused.err;
      arguments[8] = enough;
      const Outcome taken = RunProgram(arguments);
      EXPECT_EQ(taken.code, 0) << context << " " << cap << ", then " << enough << ": " << taken.err;
    }
  }
}

TEST_F(CliMemoryTest, ASavedStateNamesTheCapThatItNeeds) {
  const std::string state = Path("state");
  const auto run = [&](const std::string& cap, const char* context) {
    return RunProgram({"run", model_, "-p", "Once upon a time", "-n", "5", "-q", "--state", state, "--memory",
                       cap, "--context", context});
  };
  ASSERT_EQ(run("64M", "sinks:window=20000").code, 0);
  const std::string enough = CapThatWouldDo(run("4M", "auto").err);
  ASSERT_NE(enough, "");
  const Outcome taken = run(enough, "auto");
  EXPECT_EQ(taken.code, 0) << enough << ": " << taken.err;
}

// The line "memory: weights 2 MiB + ... = 43 MiB at most (MemoryMax=43M)": its parts add up to its total.
size_t PrintedSum(const std::string& text) {
  std::smatch line;
  static const std::regex pattern("memory: (weights .*) = ([0-9]+) MiB at most \\(MemoryMax=([0-9]+)M\\)");
  EXPECT_TRUE(std::regex_search(text, line, pattern)) << text;
  if (line.empty()) return 0;
  const std::string parts = line[1].str();
  static const std::regex part("([0-9]+) MiB");
  size_t sum = 0;
  for (std::sregex_iterator at(parts.begin(), parts.end(), part), end; at != end; ++at) {
    sum += std::stoul((*at)[1]);
  }
  EXPECT_EQ(sum, std::stoul(line[2])) << text;
  EXPECT_EQ(line[2], line[3]);
  return std::stoul(line[2]) * kMiB;
}

TEST_F(CliMemoryTest, ResidentMemoryStaysBelowThePrintedSum) {
  if (!HasOwnMemory()) GTEST_SKIP() << "the program's memory is a sanitizer's too";
  const std::string book = data_ + "/books/northanger-abbey.txt";
  std::ofstream(Path("text"), std::ios::binary) << ReadAll(book).substr(0, 20000);
  const std::vector<std::string> models = {model_, MNEME_SOURCE_DIR "/models/mneme-tiny.gguf",
                                           data_ + "/models/hf-tiny-llama-random"};
  for (const std::string& model : models) {
    for (const char* pack : {"auto", "never"}) {
      const Outcome outcome = RunProgram({"run", model, "-f", Path("text"), "-n", "50", "--memory", "12M",
                                          "--pack", pack, "--context", "sinks", "--report", Path("json")});
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      const size_t sum = PrintedSum(outcome.err);
      const Json report = Json::parse(ReadAll(Path("json")));
      const Json& memory = report["memory"];
      EXPECT_EQ(memory["at_most_bytes"], sum);
      EXPECT_EQ(memory["by_tag"]["weights"]["under_cap"], false);
      if (report["run"]["packed_weight_bytes"] > 0) {
        EXPECT_EQ(memory["by_tag"]["packed"]["used_bytes"], report["run"]["packed_weight_bytes"]);
      }
      EXPECT_LE(memory["peak_bytes"], 12 * kMiB);
      const Outcome plan = RunProgram({"plan", model, "--memory", "12M", "--pack", pack, "--no-time"});
      ASSERT_EQ(plan.code, 0) << plan.err;
      EXPECT_NEAR(static_cast<double>(PrintedSum(plan.out)), static_cast<double>(sum), 1.0 * kMiB);
      EXPECT_LE(report["resident"]["peak_bytes"], sum) << model << " " << pack;
      EXPECT_LE(outcome.peak_bytes, sum) << model << " " << pack;
    }
  }
}

// Once, and only where the context shows the model more than it was trained on.
TEST_F(CliMemoryTest, SaysWhenAStreamIsPastWhatTheModelWasTrainedOn) {
  ASSERT_EQ(RunProgram({"convert", "--random",
                        "layers=1,dim=64,heads=2,kv_heads=1,ffn=64,vocab=300,length=64", Path("short.gguf")})
                .code,
            0);
  const std::string text(200, 'x');
  const auto count = [&](const std::string& context) {
    const Outcome outcome =
        RunProgram({"run", Path("short.gguf"), "-p", text + text, "-n", "2", "--context", context});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    size_t found = 0;
    for (size_t at = 0; (at = outcome.err.find("past 64 tokens", at)) != std::string::npos; ++at) ++found;
    return found;
  };
  EXPECT_EQ(count("dense"), 1u);
  EXPECT_EQ(count("sinks:window=32"), 0u);
}

}  // namespace
}  // namespace mneme
