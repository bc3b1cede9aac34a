// Runs the built program in a folder of its own.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/testing.h"

namespace mneme {

namespace fs = std::filesystem;

struct Outcome {
  int code = -1;  // exit code, or 1000 + signal
  std::string out;
  std::string err;
};

inline std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class CliTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mneme_cli_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return Path(name);
  }

  // Starts the program; `input` is what it reads from standard input.
  pid_t Start(const std::vector<std::string>& arguments, const std::string& input) {
    const std::string in = Write("stdin", input);
    const pid_t child = fork();
    if (child != 0) return child;
    std::signal(SIGHUP, SIG_DFL);  // also where the tests run under nohup
    std::vector<char*> argv = {const_cast<char*>(MNEME_PROGRAM)};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    if (std::freopen(in.c_str(), "rb", stdin) == nullptr ||
        std::freopen(Path("stdout").c_str(), "wb", stdout) == nullptr ||
        std::freopen(Path("stderr").c_str(), "wb", stderr) == nullptr) {
      _exit(126);
    }
    execv(MNEME_PROGRAM, argv.data());
    _exit(127);
  }
  Outcome Finish(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    Outcome outcome;
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    outcome.out = ReadAll(Path("stdout"));
    outcome.err = ReadAll(Path("stderr"));
    return outcome;
  }
  Outcome RunProgram(const std::vector<std::string>& arguments, const std::string& input = "") {
    return Finish(Start(arguments, input));
  }

  // A line of shell, where redirections matter; $M is the program. What it prints is lost unless it
  // redirects.
  int Shell(const std::string& line) const {
    const std::string command = "M='" MNEME_PROGRAM "'; cd '" + folder_.string() + "'; " + line;
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

  fs::path folder_;
};

inline void ExpectOneErrorLine(const Outcome& outcome, const std::string& part) {
  const size_t begin = outcome.err.rfind("mneme: ");
  ASSERT_NE(begin, std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(part, begin), std::string::npos) << outcome.err;
}

}  // namespace mneme

// First line of a test that runs the small trained model; defines `data` and `model`.
#define MNEME_REQUIRE_MODEL(model)                                         \
  MNEME_REQUIRE_DATA(data);                                                \
  const std::string model = data + "/models/stories260K/stories260K.gguf"; \
  if (!fs::exists(model)) GTEST_SKIP() << "no " << model
