// The program where files, streams and other processes do not do as they should: work may not be lost.
#include <algorithm>
#include <csignal>

#include "cli/tests/cli_test_util.h"

namespace mneme {
namespace {

class CliFilesTest : public CliTest {
 protected:
  // Until a program that was started has written some text, or has had its time.
  void AwaitOutput() const {
    for (int i = 0; i < 60'000 && ReadAll(Path("stdout")).size() < 100; ++i) usleep(1000);
  }
};

TEST_F(CliFilesTest, MessagesThatCannotBeWrittenDoNotEndTheRun) {
  MNEME_REQUIRE_MODEL(model);
  const std::string run = "$M run '" + model + "' -p 'Once upon' -n 40 --state ";
  const std::string chat = "printf 'Once upon a time\\n/stats\\n' | $M chat '" + model + "' -n 9 --state ";
  for (const char* to : {"2>/dev/full", "2>&-", "2> >(exec true)"}) {
    const std::string shell = std::string(to) + "\"";
    fs::remove(Path("run.state"));
    fs::remove(Path("chat.state"));
    EXPECT_EQ(Shell("bash -c \"M=$M; " + run + "run.state >out " + shell), 0) << to;
    EXPECT_GT(ReadAll(Path("out")).size(), 50u) << to;
    EXPECT_TRUE(fs::exists(Path("run.state"))) << to;
    EXPECT_EQ(Shell("bash -c \"M=$M; " + chat + "chat.state >out " + shell), 0) << to;
    EXPECT_TRUE(fs::exists(Path("chat.state"))) << to;
  }
  EXPECT_EQ(Shell("$M run absent.gguf 2>/dev/full"), 1);
  EXPECT_EQ(Shell("$M rnu 2>/dev/full"), 2);
}

TEST_F(CliFilesTest, AClosedStreamIsNoFileOpenedLater) {
  MNEME_REQUIRE_MODEL(model);
  EXPECT_EQ(Shell("$M run '" + model + "' -p a -n 3 --report report.json >&- 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("standard output could not be written"), std::string::npos);
  EXPECT_EQ(Shell("$M run '" + model + "' -f - -n 3 <&- 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("standard input: cannot be read"), std::string::npos);
}

TEST_F(CliFilesTest, ResultsThatCannotBeWrittenAreAnError) {
  EXPECT_EQ(Shell("$M --version >/dev/full 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("standard output could not be written"), std::string::npos);
  EXPECT_EQ(Shell("$M run --help >/dev/full 2>err"), 1);
}

// ---- what would change nothing

TEST_F(CliFilesTest, StandardInputIsReadOnce) {
  MNEME_REQUIRE_MODEL(model);
  for (const std::vector<std::string>& verb :
       {std::vector<std::string>{"run"}, {"tokenize"}, {"eval", "perplexity"}, {"eval", "summary"}}) {
    std::vector<std::string> arguments = verb;
    arguments.insert(arguments.end(), {model, "-f", "-", "-f", "-"});
    const Outcome outcome = RunProgram(arguments, "Once upon a time");
    EXPECT_EQ(outcome.code, 2) << verb.back();
    EXPECT_NE(outcome.err.find("standard input is named twice"), std::string::npos) << outcome.err;
  }
}

TEST_F(CliFilesTest, ALengthOfRotationIsRefusedWhereNoneDependsOnIt) {
  MNEME_REQUIRE_MODEL(model);
  for (const std::string verb : {"run", "chat"}) {
    std::vector<std::string> arguments = {verb, model, "--rope-length", "5000"};
    if (verb == "run") arguments.insert(arguments.end(), {"-p", "Once", "-n", "2"});
    const Outcome outcome = RunProgram(arguments, "Once");
    EXPECT_EQ(outcome.code, 2) << verb;
    EXPECT_NE(outcome.err.find("--rope-length: "), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("positions: "), std::string::npos) << outcome.err;
  }
}

// ---- a packed copy

TEST_F(CliFilesTest, APackedCopyIsWrittenMappedAndNamed) {
  MNEME_REQUIRE_MODEL(model);
  const std::vector<std::string> run = {"run", model, "-p", "Once upon", "-n", "20", "--temperature", "0"};
  const auto with = [](std::vector<std::string> arguments, const std::vector<std::string>& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const Outcome plain = RunProgram(run);
  const std::string copy = Path("copy.packed");
  const Outcome first = RunProgram(with(run, {"--pack-cache", copy}));
  EXPECT_EQ(first.out, plain.out);
  EXPECT_NE(first.err.find("note: packed copy " + copy + ": written"), std::string::npos) << first.err;
  const Outcome second = RunProgram(with(run, {"--pack-cache", copy}));
  EXPECT_EQ(second.out, plain.out);
  EXPECT_NE(second.err.find("repacked, mapped from " + copy), std::string::npos) << second.err;
  const Outcome plan = RunProgram({"plan", model, "--no-time", "--pack-cache", copy});
  EXPECT_NE(plan.out.find("repacked, mapped from " + copy), std::string::npos) << plan.out;
  const Outcome never = RunProgram(with(run, {"--pack-cache", copy, "--pack", "never"}));
  EXPECT_EQ(never.code, 2);
  EXPECT_NE(never.err.find("--pack never repacks nothing"), std::string::npos) << never.err;
}

// ---- paths

TEST_F(CliFilesTest, PathsAreTriedBeforeTheFirstToken) {
  MNEME_REQUIRE_MODEL(model);
  const std::string book = data + "/books/war-and-peace.txt";  // minutes, if it were read
  const std::vector<std::vector<std::string>> commands = {
      {"run", model, "-f", book, "--state", Path("absent/s")},
      {"run", model, "-f", book, "--report", Path("absent/r.json")},
      {"run", model, "-f", book, "--report", folder_.string()},
      {"chat", model, "--state", Path("absent/s")},
      {"eval", "perplexity", model, "-f", book, "--json", Path("absent/p.json")},
      {"eval", "perplexity", model, "-f", book, "--html", Path("absent/p.html")},
      {"eval", "passkey", model, "--json", Path("absent/k.json")},
      {"eval", "summary", model, "-f", book, "--out", Path("absent/s.txt")},
      {"eval", "speed", model, "--html", Path("absent/s.html")},
      {"tokenize", model, "-f", book, "--ids-out", Path("absent/ids")},
      {"convert", model, Path("absent/m.gguf")},
      {"bench", model, "--svg", Path("absent/b.svg")},
  };
  for (const auto& command : commands) {
    const Outcome outcome = RunProgram(command);
    EXPECT_EQ(outcome.code, 1) << command[0] << " " << command[1];
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find(command.back()), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("weights"), std::string::npos) << outcome.err;  // no model was loaded
  }
  const std::string text = Write("text", "Once upon a time");
  EXPECT_EQ(RunProgram({"run", model, "-f", text, "--report", text}).code, 2);
  EXPECT_EQ(ReadAll(text), "Once upon a time");
  EXPECT_EQ(RunProgram({"run", model, "-f", text, "--report", Path("x"), "--state", Path("x")}).code, 2);
  EXPECT_EQ(RunProgram({"run", model, "-f", text, "--save-every", "5"}).code, 2);  // there is no state
  EXPECT_EQ(RunProgram({"run", model, "-f", text, "--state", "s", "--save-every", "0s"}).code, 2);
  EXPECT_FALSE(fs::exists(Path("x")));
}

// In front of a command: so many kB of addresses. Sanitizers reserve more than any limit for themselves.
std::string Limited(int kilobytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  (void)kilobytes;
  return "";
#else
  return "ulimit -v " + std::to_string(kilobytes) + "; ";
#endif
}

TEST_F(CliFilesTest, PipesAndDevicesAsInputsAreBounded) {
  ASSERT_EQ(Shell("mkfifo pipe; ln -s /dev/zero zero.json"), 0);
  EXPECT_EQ(Shell("timeout 20 $M run pipe 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("not a regular file"), std::string::npos);
  EXPECT_EQ(Shell(Limited(1000000) + "$M eval compare zero.json zero.json 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("zero.json"), std::string::npos);
  EXPECT_EQ(Shell(Limited(1000000) + "timeout 60 $M tokenize zero.json 2>err </dev/null"), 1);
}

TEST_F(CliFilesTest, QuestionsAreReadFromRegularFiles) {
  MNEME_REQUIRE_MODEL(model);
  ASSERT_EQ(Shell("mkfifo qa1.jsonl; ln -s /dev/zero qa2.jsonl"), 0);
  for (const char* name : {"qa1.jsonl", "qa2.jsonl"}) {
    const std::string line = Limited(2000000) + "timeout 20 $M eval babi '" + model + "' --data " + name;
    EXPECT_EQ(Shell(line + " --out o >out 2>err"), 1) << name;
    EXPECT_NE(ReadAll(Path("err")).find("not a regular file"), std::string::npos) << ReadAll(Path("err"));
  }
}

// Not only after a book was read.
TEST_F(CliFilesTest, WhatAModelCannotDoIsRefusedBeforeItReads) {
  const std::string model = Path("m.gguf");
  ASSERT_EQ(RunProgram({"convert", "--random", "tiny", model}).code, 0);
  const std::string text = Write("text", std::string(500, 'x'));
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--backspace"}, "take tokens back"}, {{"--pause", "3"}, "<pause>"}, {{"--stop", ""}, "--stop"}};
  for (const auto& [options, message] : cases) {
    std::vector<std::string> line = {"run", model, "-f", text, "-n", "3", "--state", Path("s")};
    line.insert(line.end(), options.begin(), options.end());
    const Outcome outcome = RunProgram(line);
    EXPECT_NE(outcome.code, 0) << message;
    EXPECT_NE(outcome.err.find(message), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("reading"), std::string::npos) << outcome.err;
  }
  for (const char* pack : {"float32", "int16", "bf16"}) {
    const Outcome outcome = RunProgram({"run", model, "-p", "x", "-n", "1", "--pack", pack});
    EXPECT_EQ(outcome.code, 2) << pack;
    EXPECT_NE(outcome.err.find(std::string("--pack ") + pack), std::string::npos) << outcome.err;
  }
}

TEST_F(CliFilesTest, LogitsThatAreNoNumbersAreSaid) {
  const std::string model = Path("m.gguf");
  ASSERT_EQ(RunProgram({"convert", "--random", "tiny", model}).code, 0);
  const std::string ids = Write("ids", "1 2 3 4");
  const auto run = [&] { return RunProgram({"eval", "logits", model, "--ids", ids, "--out", Path("l")}); };
  const Outcome right = run();
  ASSERT_EQ(right.code, 0) << right.err;
  EXPECT_EQ((right.out + right.err).find("not numbers"), std::string::npos);
  std::string bytes = ReadAll(model);
  std::fill(bytes.end() - 64, bytes.end(), '\xff');  // NaN, in the tensor that lies last
  Write("m.gguf", bytes);
  const Outcome wrong = run();
  EXPECT_EQ(wrong.code, 0) << wrong.err;
  EXPECT_NE(
      (wrong.out + wrong.err).find("4 of the rows hold logits that are not numbers, the first of them row 0"),
      std::string::npos)
      << wrong.out << wrong.err;
}

TEST_F(CliFilesTest, AnEmptyNameIsAUsageError) {
  for (const char* option : {"--state", "--report", "-f", "--tokenizer"}) {
    const Outcome outcome = RunProgram({"run", "model", option, ""});
    EXPECT_EQ(outcome.code, 2) << option;
    EXPECT_NE(outcome.err.find("is empty"), std::string::npos) << outcome.err;
  }
  EXPECT_EQ(RunProgram({"run", ""}).code, 2);
}

// ---- every end saves

TEST_F(CliFilesTest, AnOutputThatCannotBeWrittenEndsTheRunWithItsStateSaved) {
  MNEME_REQUIRE_MODEL(model);
  const std::string run =
      "$M run '" + model + "' -p 'Once upon' -n 4000 --ignore-end --context sinks:window=60";
  for (const char* to : {">/dev/full", "| head -c 10 >/dev/null", "| true", ">&-"}) {
    fs::remove(Path("s"));
    Shell("( " + run + " --state s 2>err; echo $? >code ) " + to);
    EXPECT_EQ(ReadAll(Path("code")), "1\n") << to;
    EXPECT_NE(ReadAll(Path("err")).find("standard output could not be written"), std::string::npos) << to;
    ASSERT_TRUE(fs::exists(Path("s"))) << to;
    EXPECT_EQ(RunProgram({"run", model, "-n", "5", "--state", Path("s")}).code, 0) << to;
  }
  // A conversation has nobody to answer either.
  EXPECT_EQ(Shell("printf 'Hello\\nAnd then?\\n' | $M chat '" + model + "' -n 9 --state c >/dev/full 2>err"),
            1);
  EXPECT_TRUE(fs::exists(Path("c")));
}

TEST_F(CliFilesTest, SignalsEndTheRunWithItsStateSaved) {
  MNEME_REQUIRE_MODEL(model);
  for (const int number : {SIGHUP, SIGTERM, SIGINT}) {
    fs::remove(Path("s"));
    const pid_t child = Start({"run", model, "-p", "", "-n", "-1", "--ignore-end", "--context",
                               "sinks:window=60", "--state", Path("s")},
                              "");
    AwaitOutput();
    kill(child, number);
    if (number != SIGINT) kill(child, number);  // a closing terminal is told twice
    const Outcome outcome = Finish(child);
    EXPECT_EQ(outcome.code, 130) << number;
    EXPECT_EQ(RunProgram({"run", model, "-n", "5", "--state", Path("s")}).code, 0) << number;
  }
}

TEST_F(CliFilesTest, ALimitOnFileSizesIsAnErrorAndTheOldStateStays) {
  MNEME_REQUIRE_MODEL(model);
  const std::string run = "$M run '" + model + "' -p 'Once upon' -n 40 --state s >out 2>err";
  ASSERT_EQ(Shell(run), 0);
  const std::string before = ReadAll(Path("s"));
  EXPECT_EQ(Shell("ulimit -f 8; " + run), 1);
  EXPECT_NE(ReadAll(Path("err")).find("s: cannot be written, and is left as it was"), std::string::npos);
  EXPECT_EQ(ReadAll(Path("s")), before);
}

TEST_F(CliFilesTest, AFailedReportDoesNotCostTheState) {
  MNEME_REQUIRE_MODEL(model);
  EXPECT_EQ(Shell("$M run '" + model + "' -p a -n 9 --state s --report /dev/full >out 2>err"), 1);
  EXPECT_NE(ReadAll(Path("err")).find("/dev/full: cannot be written"), std::string::npos);
  EXPECT_TRUE(fs::exists(Path("s")));
  // And a state that cannot be saved does not cost the report.
  EXPECT_EQ(Shell("$M run '" + model + "' -p a -n 9 --state /dev/full --report r >out 2>err"), 1);
  EXPECT_TRUE(fs::exists(Path("r")));
}

TEST_F(CliFilesTest, SaveEverySavesOnTheWay) {
  MNEME_REQUIRE_MODEL(model);
  for (const char* every : {"50", "1s"}) {
    fs::remove(Path("s"));
    const pid_t child = Start({"run", model, "-p", "", "-n", "-1", "--ignore-end", "--context",
                               "sinks:window=60", "--state", Path("s"), "--save-every", every},
                              "");
    for (int i = 0; i < 20000 && (!fs::exists(Path("s")) || fs::file_size(Path("s")) == 0); ++i) usleep(1000);
    kill(child, SIGKILL);
    EXPECT_EQ(Finish(child).code, 1000 + SIGKILL);
    const Outcome more = RunProgram({"run", model, "-n", "5", "--state", Path("s")});
    EXPECT_EQ(more.code, 0) << more.err;
    EXPECT_NE(more.err.find("restored"), std::string::npos) << more.err;
  }
}

TEST_F(CliFilesTest, AStateBelongsToOneProcess) {
  MNEME_REQUIRE_MODEL(model);
  const pid_t child = Start({"run", model, "-p", "", "-n", "-1", "--ignore-end", "--context",
                             "sinks:window=60", "--state", Path("s")},
                            "");
  AwaitOutput();
  EXPECT_EQ(Shell("$M run '" + model + "' -n 5 --state s >out2 2>err2"), 1);
  EXPECT_NE(ReadAll(Path("err2")).find("s: is in use by process " + std::to_string(child)), std::string::npos)
      << ReadAll(Path("err2"));
  kill(child, SIGINT);
  Finish(child);
  EXPECT_EQ(RunProgram({"run", model, "-n", "5", "--state", Path("s")}).code, 0);
}

// A result never goes where a verb reads from.
TEST_F(CliFilesTest, WhatIsReadIsNotWrittenOver) {
  const std::string model = Path("m.gguf"), text = Path("text.txt");
  ASSERT_EQ(RunProgram({"convert", "--random", "tiny", model}).code, 0);
  std::ofstream(text) << "Once upon a time there was a cat.\n";
  const std::string model_bytes = ReadAll(model), text_bytes = ReadAll(text);
  const std::vector<std::vector<std::string>> commands = {
      {"eval", "perplexity", model, "-f", text, "--html", model},
      {"eval", "perplexity", model, "-f", text, "--json", text},
      {"eval", "passkey", model, "--lengths", "200", "--html", model},
      {"eval", "speed", model, "--depth", "0", "--html", model},
      {"eval", "summary", model, "-f", text, "--out", model},
      {"eval", "logits", model, "--ids", text, "--out", model},
      {"bench", model, "--svg", model},
      {"convert", model, model},
      {"convert", Path("p-00001-of-00002.gguf"), Path("p-00002-of-00002.gguf")},
      {"tokenize", model, "-p", "hello", "--ids-out", model},
      {"tokenize", model, "-f", text, "--ids-out", text},
      {"run", model, "-f", text, "-n", "1", "--report", model},
      {"run", model, "-f", text, "-n", "1", "--state", text},
  };
  for (const auto& command : commands) {
    const Outcome outcome = RunProgram(command);
    EXPECT_NE(outcome.code, 0) << command[0] << " " << command[1];
    EXPECT_NE(outcome.err.find("would be written over"), std::string::npos) << outcome.err;
  }
  RunProgram({"chat", model, "-n", "1"}, "/save " + model + "\n/quit\n");
  EXPECT_TRUE(ReadAll(model) == model_bytes);
  EXPECT_TRUE(ReadAll(text) == text_bytes);
}

TEST_F(CliFilesTest, AModelThatIsCutShortIsNamedAndTheStateSaved) {
  MNEME_REQUIRE_MODEL(model);
  const std::string copy = Path("copy.gguf");
  fs::copy_file(model, copy);
  const pid_t child = Start({"run", copy, "-p", "", "-n", "-1", "--ignore-end", "--pack", "never",
                             "--context", "sinks:window=60", "--state", Path("s")},
                            "");
  AwaitOutput();
  fs::resize_file(copy, 5000);
  const Outcome outcome = Finish(child);
  EXPECT_EQ(outcome.code, 1);
  ExpectOneErrorLine(outcome, copy + ": was ");
  const Outcome more = RunProgram({"run", model, "-n", "5", "--state", Path("s")});
  EXPECT_EQ(more.code, 0) << more.err;
}

// ---- chat

TEST_F(CliFilesTest, NoCommandEndsAConversation) {
  MNEME_REQUIRE_MODEL(model);
  const Outcome outcome =
      RunProgram({"chat", model, "-n", "5", "--state", Path("s")},
                 "Hello\n/stats \n/context\t\n/rewind  1  \n/rewind 1   tokens \n/rewind x\n"
                 "/rewind 99999999999999999999\n/save\n/save \n/save /\n/load /dev/null\n/load "
                 "absent\n/\n/ \nAnd then?\n");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find("terminate"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("took back 1 turn"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("/save needs a file name"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("state: saved"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace mneme
