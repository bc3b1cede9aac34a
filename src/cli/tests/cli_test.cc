// Runs the built program as a person would: every verb, wrong arguments, missing files, pipes, signals.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "cli/tests/cli_test_util.h"
#include "formats/gguf.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

// ---- without data

TEST_F(CliTest, HelpAndVersionGoToStandardOutput) {
  const Outcome help = RunProgram({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* verb :
       {"run", "chat", "inspect", "plan", "convert", "bench", "tokenize", "template", "eval", "Examples"}) {
    EXPECT_NE(help.out.find(verb), std::string::npos) << verb;
  }
  EXPECT_EQ(help.err, "");
  const Outcome version = RunProgram({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.rfind("mneme ", 0), 0u) << version.out;
}

TEST_F(CliTest, RunHelpListsEveryContextWithItsPaper) {
  const Outcome help = RunProgram({"run", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* part : {"dense", "window", "sinks", "lambda", "xl", "auto", "2309.17453", "2308.16137",
                           "1901.02860", "middle_tokens", "--memory"}) {
    EXPECT_NE(help.out.find(part), std::string::npos) << part;
  }
}

TEST_F(CliTest, EveryVerbHasHelp) {
  for (const char* verb :
       {"run", "chat", "inspect", "plan", "convert", "bench", "tokenize", "template", "eval"}) {
    const Outcome help = RunProgram({verb, "--help"});
    EXPECT_EQ(help.code, 0) << verb;
    EXPECT_GT(help.out.size(), 200u) << verb;
  }
}

TEST_F(CliTest, WrongUsageIsTwoAndSuggests) {
  Outcome outcome = RunProgram({"rnu"});
  EXPECT_EQ(outcome.code, 2);
  ExpectOneErrorLine(outcome, "did you mean 'run'?");
  outcome = RunProgram({"run", "model", "--contxt", "sinks"});
  EXPECT_EQ(outcome.code, 2);
  ExpectOneErrorLine(outcome, "did you mean '--context'?");
  outcome = RunProgram({"eval", "perplexty"});
  EXPECT_EQ(outcome.code, 2);
  ExpectOneErrorLine(outcome, "perplexity");
  EXPECT_EQ(RunProgram({}).code, 2);
  EXPECT_EQ(RunProgram({"run", "model", "--threads", "0"}).code, 2);
  EXPECT_EQ(RunProgram({"run", "model", "--memory", "lots"}).code, 2);
  EXPECT_EQ(RunProgram({"run", "model", "--kv", "q6_k"}).code, 2);
  EXPECT_EQ(RunProgram({"run", "model", "--context", "sinks:sinks=4,sinks=5"}).code, 2);
  EXPECT_EQ(RunProgram({"run", "model", "--resume"}).code, 2);
  EXPECT_EQ(RunProgram({"eval", "logits", "model"}).code, 2);
}

TEST_F(CliTest, NumbersAreTakenExactlyOrRefused) {
  const std::vector<std::vector<std::string>> wrong = {{"--seed", "18446744073709551616"},
                                                       {"--seed", "-1"},
                                                       {"--pin", "-1"},
                                                       {"--max-rewind", "-1"},
                                                       {"--start-position", "-1"},
                                                       {"--start-position", "9223372036854775808"},
                                                       {"--temperature", "nan"},
                                                       {"--temperature", "-1"},
                                                       {"--repetition-penalty", "1e-45"},
                                                       {"--repetition-penalty", "inf"},
                                                       {"--top-k", "1.5"},
                                                       {"--top-p", "0"},
                                                       {"--memory", "1.5"},
                                                       {"--memory", "99999999999G"},
                                                       {"--chunk", "0"},
                                                       {"--threads", "1025"},
                                                       {"-n", "-2"},
                                                       {"--pause", "-1"},
                                                       {"--pack", "int8"},
                                                       {"--ban", "1,x"}};
  for (const std::vector<std::string>& option : wrong) {
    const Outcome outcome = RunProgram({"run", "model", option[0], option[1]});
    EXPECT_EQ(outcome.code, 2) << option[0] << " " << option[1] << ": " << outcome.err;
    ExpectOneErrorLine(outcome, "'" + option[1].substr(option[1].find(',') + 1) + "'");
  }
}

TEST_F(CliTest, OptionsOfOtherProgramsAreUnderstoodOrExplained) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> hints = {
      {{"-c", "4096"}, "--memory"},
      {{"--ctx-size=4096"}, "--memory"},
      {{"-ngl", "99"}, "processor"},
      {{"--prompt-cache", "f"}, "--state"},
      {{"-ctk", "q8_0"}, "--kv-k"},
      {{"-cnv"}, "mneme chat"},
      {{"--chat-template", "chatml"}, "--template"},
      {{"--chat-template-kwargs", "{}"}, "--template-arg"}};
  for (const auto& [words, hint] : hints) {
    std::vector<std::string> arguments = {"run", "model"};
    arguments.insert(arguments.end(), words.begin(), words.end());
    const Outcome outcome = RunProgram(arguments);
    EXPECT_EQ(outcome.code, 2) << words[0];
    ExpectOneErrorLine(outcome, hint);
  }
  // These mean the same here: the command line is right, and the file is not there.
  const Outcome outcome = RunProgram({"run",
                                      "-m",
                                      Path("absent.gguf"),
                                      "-t",
                                      "1",
                                      "-s",
                                      "7",
                                      "--temp",
                                      "0.5",
                                      "--repeat-penalty",
                                      "1.1",
                                      "--repeat-last-n",
                                      "32",
                                      "--keep",
                                      "4",
                                      "--ignore-eos",
                                      "--cache-type-k",
                                      "q8_0",
                                      "--n-predict",
                                      "3"});
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  ExpectOneErrorLine(outcome, "absent.gguf");
}

TEST_F(CliTest, VersionAndHelpThatCannotBeWrittenAreErrors) {
  for (const char* words : {" --version", " --help", " run --help"}) {
    const std::string command = std::string(MNEME_PROGRAM) + words + " >/dev/full 2>" + Path("err");
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1) << words;
    EXPECT_NE(ReadAll(Path("err")).find("standard output"), std::string::npos) << words;
  }
}

TEST_F(CliTest, MissingAndDamagedFilesAreOne) {
  Outcome outcome = RunProgram({"run", Path("absent.gguf")});
  EXPECT_EQ(outcome.code, 1);
  ExpectOneErrorLine(outcome, "absent.gguf");
  outcome = RunProgram({"inspect", Write("bad.gguf", "GGUF and then nothing")});
  EXPECT_EQ(outcome.code, 1);
  ExpectOneErrorLine(outcome, "bad.gguf");
  outcome = RunProgram({"inspect", Write("empty.gguf", "")});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.out, "");
}

// ---- with the small trained model

TEST_F(CliTest, RunWritesTheExpectedStory) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome = RunProgram(
      {"run", model, "-p", "", "-n", "199", "--kv", "f32", "--context", "dense", "--temperature", "0"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string expected = ReadAll(data + "/models/stories260K/expected-greedy-200steps.txt");
  const size_t compared = std::min(expected.size(), outcome.out.size());
  ASSERT_GT(compared, 400u);
  EXPECT_EQ(outcome.out.substr(0, compared - 1), expected.substr(0, compared - 1));
  EXPECT_NE(outcome.err.find("context: dense"), std::string::npos) << outcome.err;
}

TEST_F(CliTest, FirstTokenComesSoon) {
  MNEME_REQUIRE_MODEL(model);
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    ASSERT_EQ(RunProgram({"run", model, "-p", "", "-n", "1", "--quiet"}).code, 0);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  EXPECT_LT(best, 5.0);
#else
  EXPECT_LT(best, 0.5);  // 0.05 on an idle machine; this one may be busy
#endif
}

TEST_F(CliTest, FilesPipesAndPromptsAreOneText) {
  MNEME_REQUIRE_MODEL(model);
  const std::string first = Write("first.txt", "Once upon a time, there was a lit");
  const std::string second = Write("second.txt", "tle girl named ");
  const std::vector<std::string> tail = {"-p", "Lily. She", "-n", "20", "-q", "--temperature", "0"};
  std::vector<std::string> from_files = {"run", model, "-f", first, "-f", second};
  from_files.insert(from_files.end(), tail.begin(), tail.end());
  std::vector<std::string> from_pipe = {"run", model, "-f", "-"};
  from_pipe.insert(from_pipe.end(), tail.begin(), tail.end());
  const Outcome files = RunProgram(from_files);
  const Outcome pipe = RunProgram(from_pipe, ReadAll(first) + ReadAll(second));
  const Outcome prompt =
      RunProgram({"run", model, "-p", "Once upon a time, there was a little girl named Lily. She", "-n", "20",
                  "-q", "--temperature", "0"});
  ASSERT_EQ(files.code, 0) << files.err;
  EXPECT_GT(files.out.size(), 10u);
  EXPECT_EQ(files.out, pipe.out);
  EXPECT_EQ(files.out, prompt.out);
  EXPECT_EQ(files.err, "");
}

TEST_F(CliTest, ValuesAreTakenAsTheyAreWritten) {
  MNEME_REQUIRE_MODEL(model);
  for (const char* prompt : {"[a,b]", "{}", "%%", "-1", "a=b", "\"quoted\""}) {
    const Outcome outcome = RunProgram({"run", model, "-p", prompt, "--no-generate", "--report", Path("r")});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(Json::parse(ReadAll(Path("r")))["stream"]["text_bytes"], std::strlen(prompt)) << prompt;
  }
}

TEST_F(CliTest, StateContinuesWithTheSameText) {
  MNEME_REQUIRE_MODEL(model);
  const std::vector<std::string> common = {
      "--context", "sinks:sinks=4,window=60", "--temperature", "0.8", "--seed", "5", "-q"};
  const auto with = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), common.begin(), common.end());
    return RunProgram(arguments);
  };
  const Outcome whole = with({"run", model, "-p", "One day", "-n", "60", "--ids", "--no-generate"});
  EXPECT_EQ(whole.code, 1);  // words are not ids
  ASSERT_EQ(RunProgram({"tokenize", model, "-p", "One day", "--ids-out", Path("ids")}).code, 0);
  const Outcome binary = with({"run", model, "-f", Path("ids"), "--ids", "--no-generate"});
  EXPECT_EQ(binary.code, 1);
  EXPECT_NE(binary.err.find("--ids-out"), std::string::npos) << binary.err;
  const Outcome straight = with({"run", model, "-p", "One day", "-n", "60", "--ignore-end"});
  ASSERT_EQ(straight.code, 0) << straight.err;
  std::string pieces;
  for (int i = 0; i < 3; ++i) {
    std::vector<std::string> arguments = {"run",          model,     "-n",           "20",
                                          "--ignore-end", "--state", Path("s.state")};
    if (i == 0) arguments.insert(arguments.end(), {"-p", "One day"});
    const Outcome part = with(arguments);
    ASSERT_EQ(part.code, 0) << part.err;
    pieces += part.out.substr(0, part.out.size() - 1);
  }
  EXPECT_EQ(pieces + "\n", straight.out);
}

TEST_F(CliTest, ActionsThatAModelWasNotTrainedForAreRefused) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome backspace = RunProgram({"run", model, "-p", "Hi", "-q", "--backspace"});
  EXPECT_EQ(backspace.code, 1);
  ExpectOneErrorLine(backspace, "mneme.backspace_token_id");
  const Outcome pause = RunProgram({"run", model, "-p", "Hi", "-q", "--pause", "3"});
  EXPECT_EQ(pause.code, 1);
  ExpectOneErrorLine(pause, "<pause>");
}

TEST_F(CliTest, StateOfAnotherContextIsRefused) {
  MNEME_REQUIRE_MODEL(model);
  ASSERT_EQ(
      RunProgram({"run", model, "-p", "Hi", "-n", "2", "--context", "sinks:window=50", "--state", Path("s")})
          .code,
      0);
  const std::string before = ReadAll(Path("s"));
  const Outcome outcome =
      RunProgram({"run", model, "-n", "2", "--context", "sinks:window=60", "--state", Path("s")});
  EXPECT_EQ(outcome.code, 1);
  ExpectOneErrorLine(outcome, "window=");
  EXPECT_EQ(ReadAll(Path("s")), before);
  Write("s", before.substr(0, before.size() / 2));
  EXPECT_EQ(RunProgram({"run", model, "-n", "2", "--state", Path("s")}).code, 1);
}

TEST_F(CliTest, NoOptionBesideAStateIsPassedOver) {
  MNEME_REQUIRE_MODEL(model);
  ASSERT_EQ(RunProgram({"run", model, "--system", "Once.", "-p", " Hi", "-n", "2", "--context",
                        "sinks:window=50", "--temperature", "0.5", "--state", Path("s")})
                .code,
            0);
  const std::string before = ReadAll(Path("s"));
  const std::vector<std::vector<std::string>> bound = {{"--kv-k:", "--kv", "f32"},
                                                       {"--kv-k:", "--kv-k", "f32"},
                                                       {"--kv-v:", "--kv-v", "f32"},
                                                       {"--pin:", "--pin", "3"},
                                                       {"--start-position:", "--start-position", "5"},
                                                       {"--max-rewind:", "--max-rewind", "9"},
                                                       {"--context:", "--context", "dense"},
                                                       {"--pack", "--pack", "int16"},
                                                       {"--system", "--system", "Twice."},
                                                       {"--pin-system", "--system", "Once.", "--pin-system"}};
  for (const std::vector<std::string>& words : bound) {
    std::vector<std::string> arguments = {"run", model, "-n", "2", "--state", Path("s")};
    arguments.insert(arguments.end(), words.begin() + 1, words.end());
    const Outcome outcome = RunProgram(arguments);
    EXPECT_EQ(outcome.code, 1) << words[1] << ": " << outcome.err;
    ExpectOneErrorLine(outcome, words[0]);
    EXPECT_EQ(ReadAll(Path("s")), before) << words[1];
  }
  // What a state leaves free is taken from it, or as typed.
  const auto reported = [&](std::vector<std::string> words) {
    std::vector<std::string> arguments = {"run",     model,     "-n",       "1",
                                          "--state", Path("s"), "--report", Path("r")};
    arguments.insert(arguments.end(), words.begin(), words.end());
    const Outcome outcome = RunProgram(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return Json::parse(ReadAll(Path("r")))["options"];
  };
  EXPECT_EQ(reported({})["temperature"], 0.5);
  EXPECT_EQ(reported({"--temperature", "0.25", "--special"})["temperature"], 0.25);
  EXPECT_EQ(reported({"--seed", "3", "--system", "Once.", "--context", "sinks"})["seed"], 3);
}

TEST_F(CliTest, AConversationBeginsWithItsOwnSystemPrompt) {
  MNEME_REQUIRE_MODEL(model);
  const auto chat = [&](std::vector<std::string> words) {
    std::vector<std::string> arguments = {"chat", model, "-n", "2", "--state", Path("s")};
    arguments.insert(arguments.end(), words.begin(), words.end());
    return RunProgram(arguments, "Hello\n");
  };
  ASSERT_EQ(chat({"--system", "Be kind.", "--template", "chatml"}).code, 0);
  const std::vector<std::vector<std::string>> refused = {{"--system", "Be quick."},
                                                         {"--system", "Be kind.", "--pin-system"},
                                                         {"--template", "zephyr"},
                                                         {"--max-rewind", "9"}};
  for (const std::vector<std::string>& words : refused) {
    const Outcome outcome = chat(words);
    EXPECT_EQ(outcome.code, 1) << words[0] << outcome.err;
    ExpectOneErrorLine(outcome, words.size() == 3 ? words[2] : words[0].substr(0, 5));
  }
  const Outcome outcome = chat({"--system", "Be kind."});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("template: chatml"), std::string::npos) << outcome.err;
}

TEST_F(CliTest, ResumeNeedsTheTextThatWasRead) {
  MNEME_REQUIRE_MODEL(model);
  std::string text;
  for (int i = 0; i < 40; ++i) text += "Once upon a time there was a dog. ";
  const std::vector<std::string> first = {
      "run", model, "--system", "A story. ", "-f", Write("t", text), "--no-generate", "--state", Path("s")};
  ASSERT_EQ(RunProgram(first).code, 0);
  const auto resume = [&](const std::string& system, const std::string& file) {
    std::vector<std::string> arguments = {"run", model,     "-f",      file,      "-n",
                                          "5",   "--state", Path("s"), "--resume"};
    if (!system.empty()) arguments.insert(arguments.end(), {"--system", system});
    return RunProgram(arguments);
  };
  std::string other = text;
  other[100] = 'X';
  Outcome outcome = resume("A story. ", Write("other", other));
  EXPECT_EQ(outcome.code, 1);
  ExpectOneErrorLine(outcome, "--resume");
  outcome = resume("A longer story. ", Path("t"));
  EXPECT_EQ(outcome.code, 1);
  ExpectOneErrorLine(outcome, "--system");
  outcome = resume("", Path("t"));
  EXPECT_EQ(outcome.code, 1);
  ExpectOneErrorLine(outcome, "--resume");
  outcome = resume("A story. ", Path("t"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

TEST_F(CliTest, InterruptSavesTheStateAndResumeGoesOn) {
  MNEME_REQUIRE_MODEL(model);
  const std::string book = data + "/books/war-and-peace.txt";
  const std::vector<std::string> arguments = {
      "run",     model,    "-f", book, "--no-generate", "--context", "sinks:sinks=4,window=60",
      "--state", Path("s")};
  const pid_t child = Start(arguments, "");
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  kill(child, SIGINT);
  const Outcome outcome = Finish(child);
  EXPECT_EQ(outcome.code, 130) << outcome.err;
  EXPECT_NE(outcome.err.find("saved to"), std::string::npos) << outcome.err;
  EXPECT_TRUE(fs::exists(Path("s")));
  // The rest of the book, cut short, against the whole in one go.
  std::vector<std::string> resumed = arguments;
  resumed.push_back("--resume");
  const pid_t second = Start(resumed, "");
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  kill(second, SIGINT);
  const Outcome more = Finish(second);
  EXPECT_EQ(more.code, 130) << more.err;
  EXPECT_NE(more.err.find("resuming after"), std::string::npos) << more.err;
}

TEST_F(CliTest, ResumeGivesTheBitsOfAnUnbrokenRun) {
  MNEME_REQUIRE_MODEL(model);
  std::string text;
  for (int i = 0; i < 200; ++i) text += "Once upon a time there was a dog. ";
  const std::vector<std::string> common = {"--context", "sinks:sinks=4,window=60", "-n",
                                           "30",        "--temperature",           "0"};
  const auto with = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), common.begin(), common.end());
    return RunProgram(arguments);
  };
  const Outcome straight = with({"run", model, "-f", Write("whole", text)});
  // A pipe that gave the first half, cut in a word; then the whole file with --resume.
  ASSERT_EQ(with({"run", model, "-f", Write("half", text.substr(0, text.size() / 2 + 1)), "--no-generate",
                  "--state", Path("s")})
                .code,
            0);
  const Outcome resumed = with({"run", model, "-f", Path("whole"), "--resume", "--state", Path("s")});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(resumed.out, straight.out);
  EXPECT_GT(straight.out.size(), 20u);
}

TEST_F(CliTest, KillWhileSavingLeavesAWholeState) {
  MNEME_REQUIRE_MODEL(model);
  const std::vector<std::string> arguments = {"run", model, "-p", "a", "-n", "3", "--state", Path("s"), "-q"};
  ASSERT_EQ(RunProgram(arguments).code, 0);
  for (int delay = 0; delay < 12; ++delay) {
    const pid_t child = Start(arguments, "");
    std::this_thread::sleep_for(std::chrono::milliseconds(4 * delay));
    kill(child, SIGKILL);
    Finish(child);
  }
  const Outcome outcome = RunProgram(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

TEST_F(CliTest, ReportIsJson) {
  MNEME_REQUIRE_MODEL(model);
  std::string text;
  for (int i = 0; i < 300; ++i) text += "The cat sat on the mat and looked at the moon. ";
  const Outcome outcome = RunProgram({"run", model, "-f", Write("t", text), "-n", "10", "--memory", "16M",
                                      "--context", "sinks", "--report", Path("r.json")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json report = Json::parse(ReadAll(Path("r.json")));
  for (const char* key : {"version", "model", "context", "memory", "ledger", "speed", "run"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  EXPECT_LE(report["run"]["generated_tokens"].size(), 10u);
  EXPECT_EQ(report["run"]["input_bytes"], text.size());
}

TEST_F(CliTest, DenseStopsAtTheCapAndSaysWhere) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome = RunProgram({"run", model, "-f", data + "/books/hard-times.txt", "--context",
                                      "dense", "--memory", "6M", "--no-generate"});
  EXPECT_EQ(outcome.code, 1);
  ExpectOneErrorLine(outcome, "token");
}

TEST_F(CliTest, TooSmallACapIsRefusedWithTheOneThatWouldDo) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome = RunProgram({"run", model, "-p", "a", "--memory", "10K"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.out, "");
  ExpectOneErrorLine(outcome, "--memory");
}

TEST_F(CliTest, IdsInAndOut) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome = RunProgram({"run", model, "--ids", "-p", "1 403 407", "-n", "5", "-q"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::istringstream words(outcome.out);
  int id = 0, count = 0;
  while (words >> id) ++count;
  EXPECT_EQ(count, 5) << outcome.out;
  const Outcome bad = RunProgram({"run", model, "--ids", "-p", "1 99999", "-q"});
  EXPECT_EQ(bad.code, 1);
  ExpectOneErrorLine(bad, "99999");
}

TEST_F(CliTest, TokenizeRoundTripAndFiles) {
  MNEME_REQUIRE_MODEL(model);
  const std::string text = "Once upon a time, in a land far away.\nThe end \xF0\x9F\x8C\x99 of it.";
  const Outcome ids = RunProgram({"tokenize", model}, text);
  ASSERT_EQ(ids.code, 0) << ids.err;
  const Outcome back = RunProgram({"tokenize", model, "--decode"}, ids.out);
  EXPECT_EQ(back.out, text);
  const Outcome count = RunProgram({"tokenize", model, "--count"}, text);
  std::istringstream words(ids.out);
  std::vector<int32_t> parsed;
  for (int32_t id; words >> id;) parsed.push_back(id);
  EXPECT_EQ(std::stoul(count.out), parsed.size());
  ASSERT_EQ(RunProgram({"tokenize", model, "--ids-out", Path("ids")}, text).code, 0);
  const std::string binary = ReadAll(Path("ids"));
  ASSERT_EQ(binary.size(), parsed.size() * 4);
  EXPECT_EQ(std::memcmp(binary.data(), parsed.data(), binary.size()), 0);
}

TEST_F(CliTest, InspectAndPlan) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome text = RunProgram({"inspect", model, "--tensors"});
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("token_embd.weight"), std::string::npos);
  const Outcome json = RunProgram({"inspect", model, "--json"});
  const Json inspected = Json::parse(json.out);
  EXPECT_EQ(inspected["model"]["family"], "llama");
  EXPECT_EQ(inspected["can_run"], true);
  const Outcome plan = RunProgram({"plan", model, "--tokens", "10M", "--memory", "16M", "--json"});
  ASSERT_EQ(plan.code, 0) << plan.err;
  bool dense_fits = true, sinks_fit = false;
  const Json planned = Json::parse(plan.out);
  for (const Json& row : planned["contexts"]) {
    if (row["name"] == "dense") dense_fits = row["fits"];
    if (row["name"] == "sinks") sinks_fit = row["fits"];
  }
  EXPECT_FALSE(dense_fits);
  EXPECT_TRUE(sinks_fit);
}

TEST_F(CliTest, InspectTellsOfLatents) {
  MNEME_REQUIRE_DATA(data);
  const std::string golden = data + "/goldens/deepseek-v3";
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "no " << golden;
  const Outcome text = RunProgram({"inspect", golden});
  EXPECT_NE(text.out.find("4 over one latent of 16 values and a key of 8 beside it"), std::string::npos)
      << text.out;
  EXPECT_EQ(Json::parse(RunProgram({"inspect", golden, "--json"}).out)["model"]["num_latent_layers"], 2);
}

TEST_F(CliTest, PackSaysHowWeightsAreRepacked) {
  MNEME_REQUIRE_MODEL(model);
  const auto packed_bytes = [&](const char* pack) {
    const Outcome plan = RunProgram({"plan", model, "--tokens", "1K", "--pack", pack, "--json"});
    EXPECT_EQ(plan.code, 0) << plan.err;
    return Json::parse(plan.out)["packed_bytes"].get<double>();
  };
  const double always = packed_bytes("always");
  EXPECT_EQ(packed_bytes("never"), 0);
  EXPECT_GT(always, 0);
  EXPECT_NEAR(packed_bytes("bf16"), always / 2, always / 100);  // of float32
  EXPECT_EQ(packed_bytes("float32"), always);
  // The same, a scale for 256 columns, and 172 columns in whole blocks of 32.
  EXPECT_GT(packed_bytes("int16"), always / 2);
  EXPECT_LT(packed_bytes("int16"), always / 2 * 1.15);
  EXPECT_NE(RunProgram({"plan", model, "--tokens", "1K", "--pack", "f64"}).code, 0);
}

TEST_F(CliTest, LogitsHaveOneRowPerId) {
  MNEME_REQUIRE_MODEL(model);
  const std::string ids = Write("ids", "1 403 407\n261 378");
  for (const char* chunk : {"1", "3", "512"}) {
    const Outcome outcome = RunProgram(
        {"eval", "logits", model, "--ids", ids, "--out", Path(std::string("l") + chunk), "--chunk", chunk});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }
  EXPECT_EQ(ReadAll(Path("l1")).size(), 5u * 512 * 4);
  EXPECT_EQ(ReadAll(Path("l1")), ReadAll(Path("l512")));
  EXPECT_EQ(ReadAll(Path("l3")), ReadAll(Path("l512")));
}

// Without a flag the logits are the exact ones that other engines compute.
TEST_F(CliTest, LogitsAreThePeersByDefault) {
  MNEME_REQUIRE_MODEL(model);
  for (const char* name : {"llama-gqa", "mpt-6h", "gemma2", "llama-256-Q4_K_S"}) {
    const std::string path = data + "/conformance/models/" + name;
    const Outcome outcome = RunProgram({"eval", "logits", path + ".gguf", "--ids",
                                        data + "/conformance/models/tokens.txt", "--out", Path("peer")});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto floats = [](const std::string& bytes) {
      std::vector<float> values(bytes.size() / sizeof(float));
      std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
      return values;
    };
    EXPECT_LT(
        testing::RelativeDifference(floats(ReadAll(Path("peer"))), floats(ReadAll(path + ".logits.f32"))),
        1e-4)
        << name;
  }
}

TEST_F(CliTest, PerplexityOfTwoContextsSideBySide) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome =
      RunProgram({"eval", "perplexity", model, "-f", data + "/books/hard-times.txt", "--context",
                  "sinks:window=200", "--context", "window:window=200", "--max-tokens", "3000", "--json",
                  Path("p.json"), "--html", Path("p.html")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json json = Json::parse(ReadAll(Path("p.json")));
  ASSERT_EQ(json["contexts"].size(), 2u);
  EXPECT_EQ(json["contexts"][0]["num_scored"], 2999);
  EXPECT_NE(json["contexts"][0]["nll"].get<double>(), json["contexts"][1]["nll"].get<double>());
  const std::string html = ReadAll(Path("p.html"));
  EXPECT_NE(html.find("<svg"), std::string::npos);
  EXPECT_EQ(html.find("http"), std::string::npos);
}

TEST_F(CliTest, ConvertAndRunTheResult) {
  MNEME_REQUIRE_MODEL(model);
  ASSERT_EQ(RunProgram({"convert", model, Path("q8.gguf"), "--encoding", "q8_0"}).code, 0);
  const Outcome outcome = RunProgram({"run", Path("q8.gguf"), "-p", "Once upon", "-n", "5", "-q"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_LT(fs::file_size(Path("q8.gguf")), fs::file_size(model));
}

TEST_F(CliTest, ChatCommandsFromAPipe) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome = RunProgram(
      {"chat", model, "-n", "8"}, "Hello\n/context\n/save " + Path("c") + "\n/rewind\nHello\n/stats\n/load " +
                                      Path("c") + "\n/nonsense\n/help\n/quit\n");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::istringstream lines(outcome.out);
  std::string first, second;
  std::getline(lines, first);
  std::getline(lines, second);
  EXPECT_EQ(first, second);  // rewound: the same again
  EXPECT_TRUE(fs::exists(Path("c")));
  EXPECT_NE(outcome.err.find("took back 1 turn"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("/nonsense is not a command"), std::string::npos) << outcome.err;
}

// Cut by -n, a reply is owed the format's end of turn, wherever the chat goes on.
TEST_F(CliTest, ACutReplyGetsItsEndAlsoFromAState) {
  MNEME_REQUIRE_MODEL(model);
  const auto chat = [&](const std::string& state, const std::string& lines) {
    const Outcome outcome = RunProgram({"chat", model, "--template", "chatml", "-n", "6", "--context",
                                        "sinks:window=200", "--temperature", "0", "--state", Path(state)},
                                       lines);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
  };
  chat("whole", "Hello\nAgain\n/quit\n");
  chat("parts", "Hello\n/quit\n");
  chat("parts", "Again\n/quit\n");
  chat("loaded", "Hello\n/save " + Path("v") + "\n/load " + Path("v") + "\nAgain\n/rewind\nAgain\n/quit\n");
  EXPECT_TRUE(ReadAll(Path("whole")) == ReadAll(Path("parts")));
  EXPECT_TRUE(ReadAll(Path("whole")) == ReadAll(Path("loaded")));
  // `run --chat` holds the same conversation, a message at a time.
  for (const char* message : {"Hello", "Again"}) {
    const Outcome outcome = RunProgram({"run", model, "--chat", "--template", "chatml", "-n", "6",
                                        "--max-rewind", "256", "--context", "sinks:window=200",
                                        "--temperature", "0", "-p", message, "--state", Path("run")});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
  }
  EXPECT_TRUE(ReadAll(Path("whole")) == ReadAll(Path("run")));
}

TEST_F(CliTest, ABaseModelChatsInPlainTurns) {
  const std::string model = Path("base.gguf");
  ASSERT_EQ(RunProgram({"convert", "--random", "tiny", model}).code, 0);
  const Outcome outcome = RunProgram({"chat", model, "-n", "4"}, "Hello\n/quit\n");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("no chat template; plain turns are used"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("template: plain"), std::string::npos) << outcome.err;
  EXPECT_FALSE(outcome.out.empty());
}

// A model file is somebody else's text: nothing of it reaches the terminal raw.
TEST_F(CliTest, NamesOutOfAFileDoNotActOnTheTerminal) {
  ASSERT_EQ(RunProgram({"convert", "--random", "tiny", Path("m.gguf")}).code, 0);
  const GgufFile file(Path("m.gguf"));
  GgufWriter writer;
  writer.Set("general.name", std::string("x\x1b[2J\0\xE2\x80\xAEy", 10));
  writer.Set("general.\x1b[31mkey", std::string("\x1b[32mvalue"));
  writer.CopyAllMetadata(file);
  for (const GgufTensor& tensor : file.tensors())
    writer.AddTensor(tensor.name, tensor.encoding, tensor.shape, tensor.data);
  const float one = 1;
  writer.AddTensor("\x1b[33mtensor", Encoding::kF32, {1}, &one);
  writer.Write(Path("hostile.gguf"));
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"inspect", Path("hostile.gguf"), "--metadata", "--tensors"},
        {"run", Path("hostile.gguf"), "-p", "b", "-n", "2"},
        {"plan", Path("hostile.gguf")}}) {
    const Outcome outcome = RunProgram(arguments);
    for (const std::string& text : {outcome.out, outcome.err}) {
      EXPECT_EQ(text.find('\x1b'), std::string::npos) << arguments[0] << ": " << text;
      EXPECT_EQ(text.find('\0'), std::string::npos) << arguments[0];
      EXPECT_EQ(text.find("\xE2\x80\xAE"), std::string::npos) << arguments[0];
    }
  }
  const Outcome inspected = RunProgram({"inspect", Path("hostile.gguf"), "--metadata", "--tensors"});
  for (const char* part : {"x\\x1b[2J\\x00\\u{202e}y", "\\x1b[31mkey", "\\x1b[32mvalue", "\\x1b[33mtensor"})
    EXPECT_NE(inspected.out.find(part), std::string::npos) << part << " in " << inspected.out;
}

TEST_F(CliTest, WhatHasNoEffectIsRefused) {
  const Outcome tokenizer =
      RunProgram({"convert", "--random", "tiny", Path("m.gguf"), "--tokenizer", Path("none.json")});
  EXPECT_EQ(tokenizer.code, 2);
  ExpectOneErrorLine(tokenizer, "--tokenizer");
  EXPECT_FALSE(fs::exists(Path("m.gguf")));
  const Outcome seed = RunProgram({"convert", Path("in"), Path("out.gguf"), "--seed", "3"});
  EXPECT_EQ(seed.code, 2);
  ExpectOneErrorLine(seed, "--random");
}

TEST_F(CliTest, InspectSaysNothingMoreOfAMissingTokenizer) {
  ASSERT_EQ(RunProgram({"convert", "--random", "tiny", Path("m.gguf")}).code, 0);
  const GgufFile file(Path("m.gguf"));
  GgufWriter writer;
  writer.CopyAllMetadata(file);
  for (const GgufTensor& tensor : file.tensors())
    writer.AddTensor(tensor.name, tensor.encoding, tensor.shape, tensor.data);
  for (const GgufValue& value : file.metadata())
    if (value.key.starts_with("tokenizer.")) writer.Remove(value.key);
  writer.Write(Path("bare.gguf"));
  const Outcome outcome = RunProgram({"inspect", Path("bare.gguf")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("tokenizer       none\n"), std::string::npos) << outcome.out;
}

TEST_F(CliTest, ClosedOutputEndsWithAnError) {
  MNEME_REQUIRE_MODEL(model);
  const std::string command = std::string(MNEME_PROGRAM) + " run " + model +
                              " -p \"\" -n 2000 --ignore-end -q 2>" + Path("e") + " | head -c 10 > /dev/null";
  ASSERT_EQ(std::system(command.c_str()), 0);
  EXPECT_NE(ReadAll(Path("e")).find("standard output"), std::string::npos);
}

}  // namespace
}  // namespace mneme
