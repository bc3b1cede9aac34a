#include "eval/tasks/needle.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/text/recall_text.h"
#include "eval/tasks/recall_test_util.h"
#include "eval/tasks/stream.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

NeedleOptions Options(const std::string& format, std::vector<int64_t> pairs) {
  NeedleOptions options;
  options.format = format;
  options.lengths = {4096};
  options.num_pairs = std::move(pairs);
  options.num_trials = 5;
  return options;
}

TEST(NeedleTest, EveryFormatHidesAllPairsAndAsksForSome) {
  for (const NeedleFormat& format : NeedleFormats()) {
    NeedleOptions options = Options(std::string(format.name), {1, 3, format.most_pairs});
    options.num_queries = 2;
    for (const RecallCell& cell : NeedleCells(options)) {
      const size_t pairs = std::stoul(cell.row.labels.at("pairs"));
      const size_t per_pair = format.name == "variables" ? 5 : 1;
      for (const RecallTrial& trial : cell.trials) {
        EXPECT_EQ(trial.statements.size(), pairs * per_pair) << format.name;
        double last = 0;
        std::set<std::string> texts;
        for (const RecallStatement& statement : trial.statements) {
          EXPECT_GE(statement.place, last);
          EXPECT_LE(statement.place, 1);
          last = statement.place;
          texts.insert(statement.text);
        }
        EXPECT_EQ(texts.size(), trial.statements.size());
        ASSERT_FALSE(trial.questions.empty());
        for (const RecallQuestion& question : trial.questions) {
          EXPECT_EQ(question.candidates.size(), 10u);
          EXPECT_EQ(std::set<std::string>(question.candidates.begin(), question.candidates.end()).size(),
                    10u);
          // What is asked for is in the text; the other candidates are not its answer.
          for (const std::string& answer : question.answers) {
            bool found = false;
            for (const std::string& text : texts) found = found || text.find(answer) != std::string::npos;
            EXPECT_TRUE(found) << format.name << " " << answer;
          }
          EXPECT_EQ(ScoreAnswer(question, " " + question.candidates[0] + "."), 1);
          EXPECT_EQ(ScoreAnswer(question, " " + question.candidates[1] + "."), 0);
        }
      }
    }
  }
}

TEST(NeedleTest, AllComesFromTheSeed) {
  const auto first = [](uint64_t seed, int64_t trials) {
    NeedleOptions options = Options("ruler", {4});
    options.seed = seed;
    options.num_trials = trials;
    return NeedleCells(options)[0].trials;
  };
  EXPECT_EQ(first(1, 3)[2].statements[0].text, first(1, 9)[2].statements[0].text);
  EXPECT_NE(first(1, 3)[2].statements[0].text, first(2, 3)[2].statements[0].text);
  EXPECT_NE(first(1, 3)[1].statements[0].text, first(1, 3)[2].statements[0].text);
}

TEST(NeedleTest, SeveralValuesAndQueriesAreAskedTogether) {
  NeedleOptions options = Options("ruler", {4});
  options.num_queries = 2;
  options.values_per_key = 3;
  options.values = "uuids";
  const RecallTrial trial = NeedleCells(options)[0].trials[0];
  EXPECT_EQ(trial.statements.size(), 12u);
  ASSERT_EQ(trial.questions.size(), 1u);
  const RecallQuestion& question = trial.questions[0];
  EXPECT_EQ(question.answers.size(), 6u);
  EXPECT_NE(question.tail.find(", and "), std::string::npos);
  EXPECT_NEAR(ScoreAnswer(question, question.answers[0] + " " + question.answers[5]), 2.0 / 6, 1e-12);
}

TEST(NeedleTest, TheAskedKeyIsWhereTheDepthSays) {
  NeedleOptions options = Options("named-keys", {8});
  options.depths = {0.25};
  const std::vector<RecallCell> cells = NeedleCells(options);
  for (const RecallTrial& trial : cells[0].trials) {
    for (const RecallStatement& statement : trial.statements) {
      const bool is_asked = statement.text.find(trial.questions[0].answers[0]) != std::string::npos;
      EXPECT_EQ(statement.place == 0.25, is_asked);
    }
  }
}

TEST(NeedleTest, WhatMakesNoSenseIsNamed) {
  const auto refuse = [](const std::function<void(NeedleOptions*)>& change) -> std::string {
    NeedleOptions options = Options("ruler", {4});
    change(&options);
    try {
      NeedleCells(options);
    } catch (const Error& error) {
      return error.what();
    }
    return "(no error)";
  };
  EXPECT_EQ(refuse([](NeedleOptions*) {}), "(no error)");
  EXPECT_NE(refuse([](NeedleOptions* o) { o->format = "x"; }).find("named-keys"), std::string::npos);
  EXPECT_NE(refuse([](NeedleOptions* o) { o->values = "x"; }).find("uuids"), std::string::npos);
  EXPECT_NE(refuse([](NeedleOptions* o) { o->num_pairs = {257}; }).find("257"), std::string::npos);
  EXPECT_NE(refuse([](NeedleOptions* o) { o->num_queries = 0; }).find("queries"), std::string::npos);
  EXPECT_NE(refuse([](NeedleOptions* o) { o->num_hops = 0; }).find("hops"), std::string::npos);
  EXPECT_NE(refuse([](NeedleOptions* o) { o->depths = {2}; }).find("depth"), std::string::npos);
}

// With the model that copies by hand.
class NeedleRunTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::set<std::string> words = {"What", "is", "Who", "has", "what", "red", "blue", "round"};
    std::string text(PasskeyIntroduction());
    text += NamedKeyStatement("apple", "1") + " " + PairStatement("apple", "river");
    for (char& c : text) {
      if (!std::isalpha(static_cast<unsigned char>(c))) c = ' ';
    }
    std::istringstream stream(text);
    for (std::string word; stream >> word;) words.insert(word);
    for (const std::string_view word : RecallWords()) words.emplace(word);
    induction_ = new testing::InductionModel({words.begin(), words.end()});
    model_ = new Model(ModelUnder(size_t{1} << 30));
    path_ = ::testing::TempDir() + "mneme_needle_" + std::to_string(getpid());
    std::ofstream file(path_);
    for (int i = 0; i < 6000; ++i) file << (i % 3 == 0 ? "red " : i % 2 == 0 ? "blue " : "round ");
  }
  static void TearDownTestSuite() {
    std::remove(path_.c_str());
    delete model_;
    delete induction_;
  }
  static Model ModelUnder(size_t cap_bytes) {
    return Model::Load(Engine({.num_threads = 1, .memory_bytes = cap_bytes, .max_rows = 64}),
                       induction_->path());
  }
  static RecallTaskOptions Exact(std::vector<std::string> specs) {
    RecallTaskOptions options;
    options.session.keys = options.session.values = Encoding::kF32;
    options.contexts = std::move(specs);
    return options;
  }

  static testing::InductionModel* induction_;
  static Model* model_;
  static std::string path_;
};

testing::InductionModel* NeedleRunTest::induction_ = nullptr;
Model* NeedleRunTest::model_ = nullptr;
std::string NeedleRunTest::path_;

TEST_F(NeedleRunTest, AllKeysAreFoundAmongMany) {
  const Haystack haystack = Haystack::File(path_, true);
  for (const char* format : {"named-keys", "pairs"}) {
    // Four tokens tell words apart, and numbers only by their first two digits: few numbers, many words.
    NeedleOptions options = Options(format, {1, std::string(format) == "pairs" ? 20 : 2});
    options.lengths = {1200};
    options.num_trials = 2;
    options.num_queries = 6;
    RecallRun run(*model_, haystack, Exact({"dense"}));
    EvalLog log(EvalHeader{}, "", "");
    NoProgress progress;
    ASSERT_TRUE(run.Run(NeedleCells(options), log, progress));
    ASSERT_EQ(log.report().rows.size(), 4u);
    for (const EvalRow& row : log.report().rows)
      EXPECT_EQ(row.accuracy, 1) << format << " " << row.labels.at("pairs") << " " << row.labels.at("score");
  }
}

TEST_F(NeedleRunTest, AStreamForgetsAtTheDistanceThatItsWindowHas) {
  const Haystack haystack = Haystack::File(path_, true);
  const Tokenizer& tokenizer = model_->tokenizer();
  const auto count = [&](const std::string& text) {
    return static_cast<int64_t>(tokenizer.Encode(text).size());
  };
  // From the first digit to the end of the statement; and the question up to the row that writes it.
  const int64_t after = count(NamedKeyStatement("apple", "12345") + "\n") - count("The pass key apple is ");
  const int64_t question = count("\n" + NamedKeyQuestion("apple") + " ");
  const int64_t window = 90, edge = window - after - question;
  StreamTaskOptions task;
  task.length = 5000;
  task.spacing = 200;  // so that no statement is in the way of a question
  for (int64_t distance = edge - 4; distance <= edge + 4; ++distance) task.distances.push_back(distance);
  task.distances.push_back(410);
  StreamTask stream(*model_, haystack, Exact({"window:window=90", "dense"}), task);
  EvalLog log(EvalHeader{}, "", "");
  NoProgress progress;
  ASSERT_TRUE(stream.Run(log, progress));
  int checked = 0;
  for (const EvalRow& row : log.report().rows) {
    ASSERT_GT(row.trials, 20);
    const int64_t distance = std::stol(row.labels.at("distance"));
    EXPECT_EQ(row.numbers.at("tokens_between"), static_cast<double>(distance));
    if (row.labels.at("score") != "generate") continue;
    if (row.context == "dense") {
      EXPECT_GE(row.accuracy, 0.8) << "but for keys that share their first two digits";
    } else {
      // The row's distance to the digit it needs is `after + distance + question - 1`.
      const bool visible = after + distance + question - 1 < window;
      EXPECT_EQ(row.accuracy, visible ? 1 : 0) << row.context << " " << distance;
    }
    ++checked;
  }
  EXPECT_EQ(checked, 20);
  EXPECT_TRUE(stream.Run(log, progress)) << "nothing is left to do";
}

TEST_F(NeedleRunTest, StreamsThatMakeNoSenseAreRefused) {
  const Haystack haystack = Haystack::Grass(1, " ");
  const auto refuse = [&](const StreamTaskOptions& task) -> std::string {
    try {
      StreamTask stream(*model_, haystack, Exact({"dense"}), task);
    } catch (const Error& error) {
      return error.what();
    }
    return "(no error)";
  };
  StreamTaskOptions task;
  EXPECT_NE(refuse(task).find("distance"), std::string::npos);
  task.distances = {1 << 20};
  EXPECT_NE(refuse(task).find("does not fit"), std::string::npos);
  task.distances = {6000};
  task.spacing = 50;
  EXPECT_NE(refuse(task).find("spacing"), std::string::npos);
  task.distances = {-1};
  EXPECT_NE(refuse(task).find("negative"), std::string::npos);
}

}  // namespace
}  // namespace mneme
