// `chat` and `run --chat` as a person uses them: templates, their variables, sampling, empty input.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/tests/cli_test_util.h"
#include "formats/gguf.h"

namespace mneme {
namespace {

class CliChatTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    ASSERT_EQ(RunProgram({"convert", "--random", "tiny", Path("m.gguf"), "--seed", "3"}).code, 0);
  }
  Outcome Chat(const std::vector<std::string>& options, const std::string& lines) {
    std::vector<std::string> arguments = {"chat", Path("m.gguf"), "-n", "4"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return RunProgram(arguments, lines);
  }
  // Of the stream that a message makes.
  int64_t NumTokens(const std::vector<std::string>& options) {
    std::vector<std::string> arguments = {"run", Path("m.gguf"), "--no-generate", "--report", Path("r")};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Outcome outcome = RunProgram(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(ReadAll(Path("r")))["stream"]["tokens"];
  }
};

TEST_F(CliChatTest, ATemplateOfAFileAndItsVariables) {
  const std::string file =
      Write("t.jinja", "{% for m in messages %}{{ m.content }}{{ sign }}{% endfor %}{{ open }}");
  const std::string other = Write("other.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
  const int64_t plain = NumTokens({"--template", file, "-p", "ab"});
  EXPECT_EQ(NumTokens({"--template", file, "--template-arg", "sign=xy", "-p", "ab"}), plain + 2);
  // A state goes on with both; others are refused by name.
  const std::vector<std::string> begin = {"--template", file,      "--template-arg",
                                          "sign=xy",    "--state", Path("s")};
  ASSERT_EQ(Chat(begin, "ab\n").code, 0);
  fs::remove(file);
  const Outcome more = Chat({"--state", Path("s")}, "ab\n");
  EXPECT_EQ(more.code, 0) << more.err;
  EXPECT_NE(more.err.find("a file's, as saved"), std::string::npos) << more.err;
  const std::vector<std::vector<std::string>> refused = {
      {"--template", other}, {"--template", "chatml"}, {"--template-arg", "sign=z"}};
  for (const std::vector<std::string>& words : refused) {
    Outcome outcome = Chat({"--state", Path("s"), words[0], words[1]}, "ab\n");
    EXPECT_EQ(outcome.code, 1) << words[1];
    ExpectOneErrorLine(outcome, words[0] + ":");
  }
  EXPECT_EQ(Chat({"--template", "nonsense"}, "").code, 2);
  EXPECT_EQ(Chat({"--template", "chatml", "--template-arg", "a=b"}, "").code, 2);
  EXPECT_EQ(Chat({"--template", Path("absent.jinja")}, "").code, 1);
}

TEST_F(CliChatTest, ATemplateThatFailsEndsNoConversation) {
  const std::string file = Write("t.jinja",
                                 "{% for m in messages %}\n{% if 'no' in m.content %}"
                                 "{{ raise_exception('not that') }}{% endif %}{{ m.content }}{% endfor %}");
  const Outcome outcome = Chat({"--template", file}, "a\nno\nb\n/stats\n");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("t.jinja, line 2: not that"), std::string::npos) << outcome.err;
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 2) << outcome.out;
}

TEST_F(CliChatTest, SamplesWithASeedThatIsPrinted) {
  const std::vector<std::string> run = {"run", Path("m.gguf"), "-p", "ab", "-n", "30", "--ignore-end"};
  const auto with = [&](std::vector<std::string> options) {
    options.insert(options.begin(), run.begin(), run.end());
    return RunProgram(options);
  };
  const Outcome first = with({});
  const size_t at = first.err.find("--seed ");
  ASSERT_NE(at, std::string::npos) << first.err;
  EXPECT_NE(first.err.find("temperature 0.8, top-k 40, top-p 0.95, min-p 0.05"), std::string::npos)
      << first.err;
  const std::string seed = first.err.substr(at + 7, first.err.find(' ', at + 7) - at - 7);
  EXPECT_EQ(with({"--seed", seed}).out, first.out);
  EXPECT_NE(with({}).out, first.out);
  const Outcome greedy = with({"--temperature", "0"});
  EXPECT_NE(greedy.err.find("sampling: greedy\n"), std::string::npos) << greedy.err;
  EXPECT_EQ(with({"--temperature", "0"}).out, greedy.out);
  EXPECT_NE(greedy.out, first.out);
}

TEST_F(CliChatTest, WhatTheFilesSayOfSampling) {
  const GgufFile file(Path("m.gguf"));
  GgufWriter writer;
  writer.CopyAllMetadata(file);
  writer.Set("general.sampling.temp", 0.5f);
  writer.Set("general.sampling.top_k", int32_t{7});
  for (const GgufTensor& tensor : file.tensors())
    writer.AddTensor(tensor.name, tensor.encoding, tensor.shape, tensor.data);
  writer.Write(Path("n.gguf"));
  const auto said = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {"run", Path("n.gguf"), "-p", "a", "-n", "1"});
    return RunProgram(options).err;
  };
  EXPECT_NE(
      said({}).find("temperature 0.5, top-k 7, top-p 0.95, min-p 0.05 (as the model's files say); --seed"),
      std::string::npos)
      << said({});
  EXPECT_NE(said({"--top-k", "9", "--min-p", "0", "--seed", "5"}).find("0.5, top-k 9, top-p 0.95 (as"),
            std::string::npos);
}

TEST_F(CliChatTest, NothingIsWrittenOutOfNothing) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{},
                                                {"-f", "-"},
                                                {"-f", Write("empty", "")},
                                                {"--chat"},
                                                {"--chat", "-f", "-"}}) {
    std::vector<std::string> arguments = {"run", Path("m.gguf"), "-n", "5"};
    arguments.insert(arguments.end(), words.begin(), words.end());
    const Outcome outcome = RunProgram(arguments);
    EXPECT_EQ(outcome.code, 1);
    EXPECT_EQ(outcome.out, "");
    ExpectOneErrorLine(outcome, "the input is empty");
  }
  const Outcome asked = RunProgram({"run", Path("m.gguf"), "-p", "", "-n", "5", "--ignore-end"});
  EXPECT_EQ(asked.code, 0) << asked.err;
  EXPECT_NE(asked.err.find("wrote 5 tokens"), std::string::npos) << asked.err;
  const Outcome read = RunProgram({"run", Path("m.gguf"), "-f", "-", "--no-generate"}, "a");
  EXPECT_EQ(read.code, 0) << read.err;
  EXPECT_EQ(read.err.find("decode:"), std::string::npos) << read.err;
}

TEST_F(CliChatTest, TakingTokensBackCutsAReplyAndNoMessage) {
  const Outcome outcome =
      Chat({"--template", "plain", "--temperature", "0", "--stop", "\n", "--ban", "2"},
           "abcdefgh\n/context\n/rewind 2 tokens\n/context\n/rewind 8 tokens\n/context\nx\n/quit\n");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("took back 2 tokens, "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("with what was left of a message, 0 are left"), std::string::npos)
      << outcome.err;
}

TEST_F(CliChatTest, TheCapThatIsNamedIsEnoughForTheMessagesToo) {
  for (const std::string verb : {"run", "chat"}) {
    const auto with = [&](const std::string& cap) {
      std::vector<std::string> arguments = {verb, Path("m.gguf"), "-n", "2", "--memory", cap};
      if (verb == "run") arguments.insert(arguments.end(), {"--chat", "-p", "a"});
      return RunProgram(arguments, "a\n");
    };
    const Outcome refused = with("1M");
    EXPECT_EQ(refused.code, 1);
    const std::string before = "--memory at least ";
    const size_t at = refused.err.rfind(before);
    ASSERT_NE(at, std::string::npos) << refused.err;
    const std::string enough = refused.err.substr(
        at + before.size(), refused.err.find_first_of(", \n", at + before.size()) - at - before.size());
    const Outcome taken = with(enough);
    EXPECT_EQ(taken.code, 0) << enough << ": " << taken.err;
  }
}

TEST_F(CliChatTest, WhatHasNoEffectIsRefused) {
  ASSERT_EQ(RunProgram({"convert", Path("m.gguf"), Path("q.gguf"), "--encoding", "q8_0"}).code, 0);
  const Outcome outcome = RunProgram({"run", Path("q.gguf"), "-p", "a", "-n", "1", "--pack", "float32"});
  EXPECT_EQ(outcome.code, 2);
  ExpectOneErrorLine(outcome, "--pack float32");
}

// With -q the seed is not told, so it is not drawn.
TEST_F(CliChatTest, AQuietRunIsTheSameEachTime) {
  const auto run = [&] { return RunProgram({"run", Path("m.gguf"), "-p", "a", "-n", "24", "-q"}); };
  const Outcome first = run();
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_FALSE(first.out.empty());
  EXPECT_EQ(run().out, first.out);
}

}  // namespace
}  // namespace mneme
