#include "eval/datasets/dataset.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "base/text/units.h"
#include "eval/datasets/dataset_run.h"
#include "eval/tasks/babi.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

class DatasetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) /
        ("mneme-dataset-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }
  static std::string Read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::vector<DatasetExample> Examples(Benchmark benchmark, const std::string& path) {
    std::vector<DatasetExample> examples;
    for (const DatasetFile& file : FindDatasetFiles(benchmark, path, {})) {
      ReadDataset(benchmark, file, [&](DatasetExample&& example) {
        examples.push_back(std::move(example));
        return true;
      });
    }
    return examples;
  }
  std::string MessageOf(Benchmark benchmark, const std::string& path) {
    try {
      Examples(benchmark, path);
    } catch (const Error& error) {
      return error.what();
    }
    return "(no error)";
  }

  fs::path folder_;
};

constexpr const char* kQasper =
    R"({"input": "Who?", "context": "Ann did.", "answers": ["Ann", "her"], "length": 2, "all_classes": null, "_id": "q7"})"
    "\n";

TEST_F(DatasetTest, LongBenchLines) {
  Write("qasper.jsonl", std::string(kQasper) + "\n" + kQasper);
  Write("README.json", "not a task");
  const auto examples = Examples(Benchmark::kLongBench, folder_.string());
  ASSERT_EQ(examples.size(), 2u);
  EXPECT_EQ(examples[0].id, "q7");
  EXPECT_EQ(examples[0].answers, (std::vector<std::string>{"Ann", "her"}));
  EXPECT_EQ(examples[0].length, 2);
  EXPECT_TRUE(examples[0].where.ends_with("qasper.jsonl:1"));
  EXPECT_TRUE(examples[1].where.ends_with("qasper.jsonl:3"));
  EXPECT_EQ(RenderPrompt("{context} {a-b} {} {\"k\": 1} Q: {input}", examples[0]),
            "Ann did. {a-b} {} {\"k\": 1} Q: Who?");
}

TEST_F(DatasetTest, EveryBuiltInPromptFindsItsFields) {
  DatasetExample example;
  for (const char* field : {"context", "input", "question", "OPTION_A", "OPTION_B", "OPTION_C", "OPTION_D",
                            "prefix", "func", "func_call", "labels"})
    example.fields[field] = "x";
  for (const Benchmark benchmark : {Benchmark::kLongBench, Benchmark::kInfiniteBench, Benchmark::kBabi}) {
    for (const DatasetTask& task : DatasetTasks(benchmark)) {
      const std::string text = RenderPrompt(task.prompt, example);
      EXPECT_EQ(text.find('{'), std::string::npos) << task.name;
      EXPECT_EQ(&FindDatasetTask(benchmark, task.name), &task);
    }
  }
}

TEST_F(DatasetTest, UnknownFieldsAndTasksAreNamed) {
  DatasetExample example;
  example.where = "f.jsonl:4";
  try {
    RenderPrompt("{contxt}", example);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("f.jsonl:4"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("{contxt}"), std::string::npos);
  }
  Write("other.jsonl", kQasper);
  EXPECT_NE(MessageOf(Benchmark::kLongBench, folder_.string()).find("no file is named after a task"),
            std::string::npos);
  EXPECT_THROW(FindDatasetTask(Benchmark::kBabi, "qa21"), Error);
  EXPECT_THROW(FindDatasetFiles(Benchmark::kBabi, (folder_ / "absent").string(), {}), Error);
}

TEST_F(DatasetTest, BadLinesAreNamedWithTheirPlace) {
  const std::string path =
      Write("qasper.jsonl", std::string(kQasper) + "{\"input\": 3}\n{broken\n[1]\n" + kQasper);
  EXPECT_NE(MessageOf(Benchmark::kLongBench, path).find("qasper.jsonl:2: there is no \"context\""),
            std::string::npos)
      << MessageOf(Benchmark::kLongBench, path);
  std::vector<std::string> bad;
  const auto files = FindDatasetFiles(Benchmark::kLongBench, path, {});
  EXPECT_EQ(CountExamples(Benchmark::kLongBench, files[0], -1,
                          [&](const std::string& message) { bad.push_back(message); }),
            2);
  ASSERT_EQ(bad.size(), 3u);
  EXPECT_NE(bad[1].find(":3: this is not JSON"), std::string::npos) << bad[1];
  EXPECT_NE(bad[2].find(":4: this is not a JSON object"), std::string::npos) << bad[2];
}

// A line of gigabytes must not be read into memory to find out that it is one.
TEST_F(DatasetTest, RecordsBeyondTheCapAreNamedAndPassedOver) {
  const size_t cap = size_t{1} << 20;
  const std::string large =
      R"({"input": "Who?", "context": ")" + std::string(MaxRecordBytes(cap), 'x') + R"(", "answers": ["a"]})";
  const std::string path = Write("qasper.jsonl", std::string(kQasper) + large + "\n" + kQasper);
  const auto files = FindDatasetFiles(Benchmark::kLongBench, path, {});
  std::vector<std::string> bad;
  size_t largest = 0;
  const auto count = [&](size_t cap_bytes) {
    bad.clear();
    return CountExamples(
        Benchmark::kLongBench, files[0], -1, [&](const std::string& message) { bad.push_back(message); },
        MaxRecordBytes(cap_bytes), &largest);
  };
  EXPECT_EQ(count(cap), 2);
  EXPECT_LE(largest, std::string(kQasper).size());
  ASSERT_EQ(bad.size(), 1u);
  EXPECT_NE(bad[0].find("qasper.jsonl:2: has "), std::string::npos) << bad[0];
  const std::string before = "--memory at least ";
  const size_t at = bad[0].find(before);
  ASSERT_NE(at, std::string::npos) << bad[0];
  EXPECT_EQ(count(ParseBytes(bad[0].substr(at + before.size()), "cap")), 3);
  EXPECT_EQ(largest, large.size());
}

TEST_F(DatasetTest, ArraysAreReadAnElementAtATime) {
  const std::string element =
      R"({"input": "[a] {b, \"c", "question": "Where is \\", "target": "kitchen", "more": [1, {"x": 2}]})";
  const std::string path = Write("qa1_0k.json", " [" + element + ",\n" + element + " , " + element + "]\n");
  const auto examples = Examples(Benchmark::kBabi, path);
  ASSERT_EQ(examples.size(), 3u);
  EXPECT_EQ(examples[2].fields.at("input"), "[a] {b, \"c");
  EXPECT_TRUE(examples[2].where.ends_with("qa1_0k.json:3")) << examples[2].where;
  EXPECT_LT(examples[0].record_bytes, element.size() + 3);
  EXPECT_EQ(Examples(Benchmark::kBabi, Write("qa1_1k.json", "[ ]")).size(), 0u);
  for (const char* text : {"[", "[{\"input\": \"", "[{}] x", "[,]", "[{]"}) {
    const std::string bad = Write("qa2.json", text);
    EXPECT_NE(MessageOf(Benchmark::kBabi, bad), "(no error)") << text;
  }
}

TEST_F(DatasetTest, InfiniteBenchFields) {
  Write(
      "code_debug.jsonl",
      R"({"id": 3, "context": "c", "input": "", "answer": ["run"], "options": ["go", "run", "sit", "eat"]})");
  Write("code_run.jsonl", R"({"id": 1, "context": "c", "input": "what is func_12(-3)?", "answer": -7})");
  Write("math_find.jsonl",
        R"({"id": 1, "context": "[1]", "input": "The largest number of the list is", "answer": 7.5})");
  const auto examples = Examples(Benchmark::kInfiniteBench, folder_.string());
  ASSERT_EQ(examples.size(), 3u);
  EXPECT_EQ(examples[0].id, "3");
  EXPECT_EQ(examples[0].answers, (std::vector<std::string>{"run", "B"}));
  EXPECT_EQ(examples[0].fields.at("OPTION_D"), "eat");
  EXPECT_EQ(examples[1].fields.at("func"), "func_12");
  EXPECT_EQ(examples[1].fields.at("func_call"), "func_12(-3)");
  EXPECT_EQ(examples[1].answers, std::vector<std::string>{"-7"});
  EXPECT_EQ(examples[2].fields.at("prefix"), "What is the largest number in the following list?");
  EXPECT_EQ(examples[2].answers, std::vector<std::string>{"7.5"});
}

TEST_F(DatasetTest, WhatAFileSaysTakesNoStack) {
  // A long text, and a call and a key at its end.
  const auto write = [&](const std::string& name, const std::string& input) {
    const nlohmann::json line = {{"context", "c"}, {"input", input}, {"answer", "v"}};
    return Write(name, line.dump() + "\n");
  };
  const std::string run = write("code_run.jsonl", "func_" + std::string(1 << 20, '1') +
                                                      " func_2(x) func_(3) func_4(-) func_5(6 func_7(-8)");
  const auto runs = Examples(Benchmark::kInfiniteBench, run);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].fields.at("func_call"), "func_7(-8)");
  EXPECT_EQ(runs[0].fields.at("func"), "func_7");
  const std::string key(1 << 20, 'k');
  const auto keys = Examples(Benchmark::kInfiniteBench, write("kv_retrieval.jsonl", "Key: \"" + key + "\""));
  ASSERT_EQ(keys.size(), 1u);
  EXPECT_TRUE(keys[0].fields.at("key") == key);
  EXPECT_NE(MessageOf(Benchmark::kInfiniteBench, write("code_run_2.jsonl", "func_1(")).find("names no call"),
            std::string::npos);
  // Lists in lists, where a text stands.
  constexpr size_t kDepth = 300000;
  const std::string deep = std::string(kDepth, '[') + std::string(kDepth, ']');
  const std::string lists =
      Write("passkey.jsonl", R"({"context": "c", "input": "i", "answer": )" + deep + "}\n");
  EXPECT_NE(MessageOf(Benchmark::kInfiniteBench, lists).find("passkey.jsonl:1: \"answer\" holds a list"),
            std::string::npos);
  const std::string ids =
      Write("qasper.jsonl", R"({"context": "c", "input": "i", "answers": ["a"], "_id": )" + deep + "}\n");
  EXPECT_NE(MessageOf(Benchmark::kLongBench, ids).find("qasper.jsonl:1: \"_id\" holds a list"),
            std::string::npos);
}

TEST_F(DatasetTest, ALinkToItselfIsPassedOver) {
  Write("qasper.jsonl", kQasper);
  fs::create_symlink("narrativeqa.jsonl", folder_ / "narrativeqa.jsonl");
  EXPECT_EQ(Examples(Benchmark::kLongBench, folder_.string()).size(), 1u);
}

constexpr const char* kStories =
    "1 Mary went to the kitchen.\n"
    "2 Where is Mary? \tkitchen\t1\n"
    "3 John went to the garden.\n"
    "4 Where is John? \tgarden\t3\n"
    "1 Ann went to the office.\n"
    "2 Where is Ann? \toffice\t1\n";

TEST_F(DatasetTest, BabiStories) {
  Write("qa1_single-supporting-fact_test.txt", kStories);
  const auto examples = Examples(Benchmark::kBabi, folder_.string());
  ASSERT_EQ(examples.size(), 3u);
  EXPECT_EQ(examples[1].fields.at("input"), "Mary went to the kitchen.\nJohn went to the garden.");
  EXPECT_EQ(examples[1].fields.at("question"), "Where is John?");
  EXPECT_EQ(examples[1].answers, std::vector<std::string>{"garden"});
  EXPECT_EQ(examples[1].classes.size(), 6u);
  EXPECT_EQ(examples[2].fields.at("input"), "Ann went to the office.");
  Write("qa2_x_test.txt", "1 A.\n3 B.\n2 C.\n");
  EXPECT_NE(MessageOf(Benchmark::kBabi, (folder_ / "qa2_x_test.txt").string()).find("qa2_x_test.txt:3: "),
            std::string::npos);
}

TEST_F(DatasetTest, BabilongFoldersAndArrays) {
  const std::string object = R"({"input": "Noise. Ann is here.", "question": "Who?", "target": "Ann"})";
  Write("data/qa5/16k.json", "[" + object + "," + object + "]");
  Write("data/qa5/0k.jsonl", object);
  const auto files = FindDatasetFiles(Benchmark::kBabi, folder_.string(), {});
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[1].variant, "16k");
  EXPECT_EQ(AnswersFileName(Benchmark::kBabi, files[1], 0), "qa5_16k.jsonl");
  EXPECT_EQ(Examples(Benchmark::kBabi, folder_.string()).size(), 3u);
}

TEST_F(DatasetTest, PromptFile) {
  EXPECT_EQ(ReadPromptFile(Write("p.json", R"({"qasper": "{input}"})")).at("qasper"), "{input}");
  EXPECT_THROW(ReadPromptFile(Write("q.json", "[1]")), Error);
  EXPECT_THROW(ReadPromptFile(Write("r.json", R"({"qasper": 1})")), Error);
  EXPECT_THROW(ReadPromptFile(Write("s.json", "{")), Error);
}

class DatasetRunTest : public DatasetTest {
 protected:
  static Model TestModel(const std::string& data) {
    return Model::Load(Engine({.num_threads = 1}), data + "/models/stories260K/stories260K.gguf");
  }
};

TEST_F(DatasetRunTest, HiddenFactsKeepTheirOrderAndLength) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModel(data);
  const BabiBook book(data + "/books/persuasion.txt");
  const std::vector<std::string> facts = {"Mary went to the kitchen.", "John went to the garden."};
  const std::string text = book.Hide(facts, 2000, model.tokenizer(), 5);
  EXPECT_EQ(text, book.Hide(facts, 2000, model.tokenizer(), 5));
  EXPECT_NE(text, book.Hide(facts, 2000, model.tokenizer(), 6));
  EXPECT_LT(text.find(facts[0]), text.find(facts[1]));
  EXPECT_NE(text.find(facts[1]), std::string::npos);
  const auto length = static_cast<double>(model.tokenizer().Encode(text).size());
  EXPECT_LE(length, 2050);
  EXPECT_GE(length, 1500);
}

TEST_F(DatasetRunTest, AnswersAreKeptAndNotAskedAgain) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModel(data);
  const std::string path = Write("qa1_test.txt", kStories);
  const auto files = FindDatasetFiles(Benchmark::kBabi, path, {});
  const std::string answers = (folder_ / "out.jsonl").string();
  DatasetSettings settings;
  settings.session.context = "sinks:sinks=4,window=200";
  settings.max_tokens = 4;
  settings.limit = 2;
  NoProgress progress;
  const auto run = [&] {
    DatasetRun once(model, settings);
    return once.Run(Benchmark::kBabi, files[0], answers, nullptr, progress);
  };
  EXPECT_EQ(run().count, 2);
  const std::string two = Read(answers);
  // A crash in the middle of a line.
  std::ofstream(answers, std::ios::app) << "{\"target\": \"of";
  settings.limit = -1;
  const DatasetScore score = run();
  EXPECT_EQ(score.count, 3);
  EXPECT_EQ(score.num_resumed, 2);
  EXPECT_TRUE(Read(answers).starts_with(two));
  const std::string all = Read(answers);
  EXPECT_EQ(run().num_resumed, 3);
  EXPECT_EQ(Read(answers), all);
  const auto line = nlohmann::json::parse(all.substr(0, all.find('\n')));
  EXPECT_EQ(line["target"], "kitchen");
  EXPECT_TRUE(line["output"].is_string());
  // Of more answers than are asked for the first ones count.
  settings.limit = 1;
  const DatasetScore first = run();
  EXPECT_EQ(first.count, 1);
  EXPECT_EQ(first.num_resumed, 1);
  settings.limit = 0;
  EXPECT_EQ(run().count, 0);
  EXPECT_EQ(Read(answers), all);
  settings.limit = -1;
  // Fewer questions than answers.
  Write("qa1_test.txt", std::string(kStories, std::string_view(kStories).find("1 Ann")));
  try {
    run();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kMismatch) << error.what();
  }
  // Answers to other questions.
  Write("qa1_test.txt", std::string("\n") + kStories);
  EXPECT_THROW(run(), Error);
}

TEST_F(DatasetRunTest, AStopKeepsWhatIsDone) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModel(data);
  const auto files = FindDatasetFiles(Benchmark::kBabi, Write("qa1_test.txt", kStories), {});
  DatasetSettings settings;
  settings.session.context = "sinks:sinks=4,window=200";
  NoProgress progress;
  const std::atomic<bool> stop{true};
  settings.stop = &stop;
  DatasetRun once(model, settings);
  const DatasetScore score =
      once.Run(Benchmark::kBabi, files[0], (folder_ / "out.jsonl").string(), nullptr, progress);
  EXPECT_TRUE(score.is_interrupted);
  EXPECT_EQ(score.count, 0);
  EXPECT_FALSE(fs::exists(folder_ / "out.jsonl"));
}

}  // namespace
}  // namespace mneme
