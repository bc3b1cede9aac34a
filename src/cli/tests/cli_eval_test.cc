// The tasks of `mneme eval` that read data, and suites, through the built program.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "base/testing.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class CliEvalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mneme_eval_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    const std::string data = testing::DataFolder();
    if (data.empty()) GTEST_SKIP() << testing::kSkipMessage;
    model_ = data + "/models/stories260K/stories260K.gguf";
    book_ = data + "/books/persuasion.txt";
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return Path(name);
  }
  static std::string ReadAll(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // The exit code; out_ and err_ are what was printed.
  int Run(const std::string& arguments) {
    const int status = std::system(
        (std::string(MNEME_PROGRAM) + " eval " + arguments + " >" + Path("out") + " 2>" + Path("err"))
            .c_str());
    out_ = ReadAll(Path("out"));
    err_ = ReadAll(Path("err"));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  fs::path folder_;
  std::string model_, book_, out_, err_;
};

TEST_F(CliEvalTest, BabiWritesAnswersAndGoesOn) {
  Write("qa1_test.txt",
        "1 Mary went to the kitchen.\n2 Where is Mary? \tkitchen\t1\n3 John went to the garden.\n4 Where is "
        "John? "
        "\tgarden\t3\n");
  const std::string command = "babi " + model_ + " --data " + Path("qa1_test.txt") + " --book " + book_ +
                              " --lengths 512 --context sinks:sinks=4,window=200 --max-tokens 4 --out " +
                              Path("pred") + " --json " + Path("r.json") + " --html " + Path("r.html");
  ASSERT_EQ(Run(command + " --limit 1"), 0) << err_;
  ASSERT_EQ(Run(command), 0) << err_;
  EXPECT_NE(err_.find("2 answers, 1 of them from before"), std::string::npos) << err_;
  const Json json = Json::parse(ReadAll(Path("r.json")));
  ASSERT_EQ(json["results"].size(), 1u);
  EXPECT_EQ(json["results"][0]["trials"], 2);
  EXPECT_EQ(json["results"][0]["length"], 512);
  const std::string answers = ReadAll(Path("pred/sinks_sinks=4_window=200/qa1_test_512.jsonl"));
  EXPECT_EQ(std::count(answers.begin(), answers.end(), '\n'), 2);
  EXPECT_EQ(Run(command + " --truncate 100"), 1);  // answers of other settings
  EXPECT_NE(ReadAll(Path("r.html")).find("<table"), std::string::npos);
  EXPECT_EQ(Run(command + " --kv f32"), 1);
  EXPECT_EQ(Run(command + " --start-position 1000"), 1);
  Write("qa1_test.txt", "1 Mary went to the hall.\n2 Where is Mary? \thall\t1\n");
  EXPECT_EQ(Run(command), 1);  // other questions under the same name
  EXPECT_NE(err_.find("data was"), std::string::npos) << err_;
}

TEST_F(CliEvalTest, BadLinesAreNamedBeforeAnythingIsAsked) {
  Write("qasper.jsonl", "{\"input\": \"q\", \"context\": \"c\", \"answers\": [\"a\"]}\n{\n");
  const std::string command =
      "longbench " + model_ + " --data " + Path("qasper.jsonl") + " --out " + Path("p");
  EXPECT_EQ(Run(command), 1);
  EXPECT_NE(err_.find("qasper.jsonl:2"), std::string::npos) << err_;
  EXPECT_FALSE(fs::exists(Path("p")));
  EXPECT_EQ(Run(command + " --skip-bad --max-tokens 3 --context sinks:window=64"), 0) << err_;
  EXPECT_NE(out_.find("qasper"), std::string::npos);
  EXPECT_EQ(Run("longbench " + model_ + " --data " + Path("absent") + " --out " + Path("p")), 1);
  EXPECT_EQ(Run(command + " --task nonsense"), 1);
  EXPECT_NE(err_.find("narrativeqa"), std::string::npos) << err_;
}

TEST_F(CliEvalTest, QuestionsAreAskedInTheWordsOfATemplate) {
  Write("qasper.jsonl", "{\"input\": \"q\", \"context\": \"c\", \"answers\": [\"a\"]}\n");
  const std::string command = "longbench " + model_ + " --data " + Path("qasper.jsonl") + " --out " +
                              Path("p") + " --max-tokens 3 --context sinks:window=64";
  EXPECT_EQ(Run(command + " --template auto"), 2);
  EXPECT_NE(err_.find("carries no chat template"), std::string::npos) << err_;
  EXPECT_EQ(Run(command + " --template nonsense"), 2);
  EXPECT_EQ(Run(command + " --template-arg a=1"), 2);
  const std::string raises = Write("raises.jinja", "{{ raise_exception('asked: ' ~ messages[0]['role']) }}");
  EXPECT_EQ(Run(command + " --template " + raises), 1);
  EXPECT_NE(err_.find("asked: user"), std::string::npos) << err_;
  const std::string plain = Write("plain.jinja", "{{ start }}{{ messages[0]['content'] }}");
  fs::remove_all(Path("p"));
  EXPECT_EQ(Run(command + " --template " + plain + " --template-arg start=Once"), 0) << err_;
  EXPECT_EQ(Run(command + " --template " + plain + " --template-arg start=Twice"), 1);
  EXPECT_NE(err_.find("chat template was"), std::string::npos) << err_;
}

TEST_F(CliEvalTest, PerplexityTablesAndRecomputation) {
  ASSERT_EQ(Run("perplexity " + model_ + " -f " + book_ +
                " --sinks 0,4 --cache 64,128 --context recompute:window=64,every=50 --lengths 256,1K "
                "--max-tokens 600 --json " +
                Path("p.json")),
            0)
      << err_;
  EXPECT_NE(out_.find("cache 128"), std::string::npos) << out_;
  EXPECT_NE(out_.find("recompute:window=64,every=50"), std::string::npos) << out_;
  const Json json = Json::parse(ReadAll(Path("p.json")));
  EXPECT_EQ(json["contexts"].size(), 5u);
  EXPECT_EQ(json["results"].size(), 15u);  // two lengths and the whole of each
  EXPECT_EQ(json["model"]["fingerprint"].get<std::string>().size(), 16u);
  EXPECT_EQ(Run("perplexity " + model_ + " -f " + book_ + " --sinks 4"), 2);
  EXPECT_EQ(Run("perplexity " + model_ + " -f " + book_ + " --context recompute:size=3"), 1);
}

TEST_F(CliEvalTest, SuiteRunsOnceAndRefusesUnknownKeys) {
  Write("book.txt", ReadAll(book_).substr(0, 3000));
  const std::string suite =
      "title = \"T\"\nmodels = [\"" + model_ +
      "\"]\n[defaults]\nmemory = \"32M\"\n"
      "[[run]]\ntask = \"perplexity\"\nfile = \"book.txt\"\ncontext = [\"sinks:window=64\", "
      "\"window:window=64\"]\n"
      "[[run]]\ntask = \"summary\"\nfile = \"book.txt\"\ncontext = \"sinks:window=64\"\nmax-tokens = 5\n"
      "[[run]]\ntask = \"perplexity\"\nname = \"absent\"\nfile = \"absent.txt\"\n";
  const std::string path = Write("s.toml", suite);
  EXPECT_EQ(Run("suite " + path), 1);  // one of the runs has no file
  EXPECT_NE(out_.find("failed with code 1"), std::string::npos) << out_;
  const Json json = Json::parse(ReadAll(Path("s.out/report.json")));
  ASSERT_EQ(json["runs"].size(), 3u);
  EXPECT_EQ(json["runs"][0]["status"], "done");
  EXPECT_EQ(json["runs"][0]["report"]["contexts"].size(), 2u);
  EXPECT_NE(ReadAll(Path("s.out/report.html")).find("<svg"), std::string::npos);
  EXPECT_EQ(Run("suite " + path), 1);
  EXPECT_NE(err_.find("[1/3] perplexity: done before"), std::string::npos) << err_;
  EXPECT_NE(err_.find("[2/3] summary: done before"), std::string::npos) << err_;
  EXPECT_EQ(Run("suite " + Write("t.toml", "[[run]]\ntask = \"perplexity\"\nflie = \"x\"\n")), 1);
  EXPECT_NE(err_.find("t.toml:3: "), std::string::npos) << err_;
  EXPECT_EQ(Run("suite " + Write("u.toml", "[[run]]\ntask = \"nonsense\"\n")), 1);
  EXPECT_NE(err_.find("unknown task 'nonsense'"), std::string::npos) << err_;
  // Files of their own where names differ only in what files cannot be named; words a shell takes back.
  Write("it's.txt", ReadAll(book_).substr(0, 300));
  const std::string run = "task = \"perplexity\"\nfile = \"it's.txt\"\n";
  const std::string twins = Write("x.toml", "model = \"" + model_ + "\"\n[[run]]\nname = \"a b\"\n" + run +
                                                "[[run]]\nname = \"a/b\"\n" + run);
  EXPECT_EQ(Run("suite " + twins), 0) << err_;
  EXPECT_TRUE(fs::exists(Path("x.out/a_b.json")) && fs::exists(Path("x.out/a_b__2.json")));
  EXPECT_EQ(Run("suite --list " + twins), 0);
  EXPECT_NE(out_.find("it'\\''s.txt'"), std::string::npos) << out_;
  EXPECT_EQ(Run("suite " + Write("v.toml", "[[run]\n")), 1);
  EXPECT_EQ(Run("suite " + Write("w.toml", "")), 1);
}

}  // namespace
}  // namespace mneme
