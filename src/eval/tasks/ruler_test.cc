#include "eval/tasks/ruler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>

#include "base/error.h"
#include "eval/tasks/ruler_documents.h"
#include "mneme/tokenizer.h"

namespace mneme {
namespace {

Tokenizer ShippedTokenizer() { return LoadTokenizerFile(MNEME_SOURCE_DIR "/models/mneme-tiny.gguf"); }

std::string FileWith(const char* name, const std::string& text) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream(path) << text;
  return path;
}

size_t CountOf(const std::string& text, const std::string& word) {
  size_t count = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++count;
  return count;
}

TEST(Ruler, ThereAreThirteenTasksAndThoseWithoutTheirFileAreLeftOut) {
  EXPECT_EQ(RulerTasks().size(), 13u);
  EXPECT_EQ(ChosenRulerTasks({}).size(), 11u);
  EXPECT_EQ(ChosenRulerTasks({.squad_path = "a", .hotpot_path = "b"}).size(), 13u);
  EXPECT_EQ(ChosenRulerTasks({.tasks = {"vt", "cwe"}}).size(), 2u);
  for (const char* name : {"qa_1", "niah", ""}) {
    EXPECT_THROW(ChosenRulerTasks({.tasks = {name}}), Error) << name;
  }
}

TEST(Ruler, ListsOfWordsFillTheLengthAndAskForTheMostFrequent) {
  const Tokenizer tokenizer = ShippedTokenizer();
  for (const RulerTask& task : RulerTasks()) {
    if (task.name != "cwe" && task.name != "fwe") continue;
    const std::vector<RecallCell> cells =
        RulerCells(task, {.lengths = {2048, 4096}, .num_trials = 2, .seed = 5}, tokenizer);
    ASSERT_EQ(cells.size(), 2u);
    for (const RecallCell& cell : cells) {
      EXPECT_FALSE(cell.layout.has_filler);
      for (const RecallTrial& trial : cell.trials) {
        const std::string& text = trial.statements.at(0).text;
        const RecallQuestion& question = trial.questions.at(0);
        const auto tokens =
            static_cast<int64_t>(tokenizer.Encode(cell.layout.head + text + question.tail).size());
        EXPECT_LE(tokens, cell.row.length) << task.name;
        EXPECT_GE(tokens, cell.row.length * 9 / 10) << task.name;
        std::map<std::string, size_t> counts;
        std::istringstream words(text);
        for (std::string word; words >> word;) {
          if (std::isalpha(static_cast<unsigned char>(word[0])) != 0) ++counts[word];
        }
        size_t least = SIZE_MAX;
        for (const std::string& answer : question.answers) {
          least = std::min(least, counts[answer]);
          counts.erase(answer);
        }
        for (const auto& [word, count] : counts) EXPECT_LT(count, least) << task.name << " " << word;
        EXPECT_EQ(ScoreAnswer(question, question.candidates[0]), 1);
      }
    }
    EXPECT_THROW(RulerCells(task, {.lengths = {64}, .num_trials = 1}, tokenizer), Error);
  }
}

TEST(Ruler, QuestionsOverDocumentsAskWithTheirOwnDocumentAmongOthers) {
  std::string file = R"({"data":[{"paragraphs":[)";
  for (int i = 0; i < 40; ++i) {
    file += std::string(i == 0 ? "" : ",") + R"({"context":"Town )" + std::to_string(i) +
            R"( lies on a river, far from the sea.","qas":[{"question":"Which town is number )" +
            std::to_string(i) + R"(?","answers":[{"text":"Town )" + std::to_string(i) +
            R"("}],"is_impossible":false}]})";
  }
  const RulerOptions options = {
      .lengths = {1024}, .num_trials = 3, .squad_path = FileWith("towns.json", file + "]}]}")};
  for (const RecallCell& cell :
       RulerCells(ChosenRulerTasks({.tasks = {"qa_1"}, .squad_path = "x"})[0], options, ShippedTokenizer())) {
    for (const RecallTrial& trial : cell.trials) {
      const std::string& text = trial.statements.at(0).text;
      EXPECT_NE(text.find(trial.questions.at(0).answers[0] + " lies"), std::string::npos);
      EXPECT_GT(CountOf(text, "Document "), 3u);
      EXPECT_EQ(trial.questions[0].rule, AnswerRule::kContainsAny);
    }
  }
}

TEST(Ruler, MeansAreOverTasksAndTheEffectiveLengthStopsAtTheFirstThatFails) {
  std::vector<EvalRow> rows;
  const auto add = [&](const char* task, int64_t length, double accuracy) {
    EvalRow row;
    row.task = "ruler";
    row.context = "dense";
    row.length = length;
    row.labels = {{"task", task}};
    row.trials = 10;
    row.accuracy = accuracy;
    rows.push_back(row);
  };
  for (const int64_t length : {1024, 2048, 4096, 8192}) {
    add("vt", length, length == 4096 ? 0.4 : 0.9);
    // Two depths of one task count once.
    add("niah_single_1", length, 1);
    add("niah_single_1", length, 0.9);
  }
  rows.push_back(
      {.task = "ruler", .context = "dense", .length = 16384, .labels = {{"task", "vt"}}, .note = "full"});
  const RulerSummary summary = SummarizeRuler(rows);
  ASSERT_EQ(summary.means.size(), 4u);
  EXPECT_NEAR(summary.means[0].accuracy, (0.9 + 0.95) / 2, 1e-12);
  EXPECT_EQ(summary.means[0].trials, 30);
  ASSERT_EQ(summary.effective_lengths.size(), 1u);
  EXPECT_EQ(summary.effective_lengths[0].second, 2048);
}

TEST(Ruler, ALengthAtWhichATaskIsMissingIsNoEffectiveLength) {
  std::vector<EvalRow> rows;
  for (const int64_t length : {1024, 2048}) {
    for (const char* task : {"vt", "cwe"}) {
      if (length == 2048 && std::string(task) == "cwe") continue;
      EvalRow row{.task = "ruler", .context = "dense", .length = length, .labels = {{"task", task}}};
      row.trials = 1;
      row.accuracy = 1;
      rows.push_back(row);
    }
  }
  EXPECT_EQ(SummarizeRuler(rows).effective_lengths[0].second, 1024);
}

TEST(RulerDocuments, SquadAndHotpotAreReadAndOthersRefusedByName) {
  const std::string squad = FileWith("squad.json", R"({"data":[{"paragraphs":[
      {"context":"Rome is old.","qas":[
        {"question":"What is old?","answers":[{"text":"Rome"},{"text":"Rome"}],"is_impossible":false},
        {"question":"What is new?","answers":[],"is_impossible":true}]},
      {"context":"Rome is old.","qas":[]}]}]})");
  const RulerDocuments one = ReadSquad(squad);
  EXPECT_EQ(one.texts, std::vector<std::string>{"Rome is old."});
  ASSERT_EQ(one.questions.size(), 1u);
  EXPECT_EQ(one.questions[0].answers, std::vector<std::string>{"Rome"});

  const std::string hotpot = FileWith("hotpot.json", R"([{"question":"Who?","answer":"Ann",
      "context":[["A",["Ann."," She."]],["B",["Bob."]]]}])");
  const RulerDocuments two = ReadHotpot(hotpot);
  EXPECT_EQ(two.texts[0], "A\nAnn. She.");
  EXPECT_EQ(two.questions[0].documents, (std::vector<size_t>{0, 1}));

  for (const char* text : {"", "{}", "[]", "{\"data\":3}", "[{\"question\":1}]"}) {
    const std::string path = FileWith("other.json", text);
    for (const auto read : {ReadSquad, ReadHotpot}) {
      try {
        read(path);
        ADD_FAILURE() << text;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kFile);
        EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
      }
    }
  }
}

}  // namespace
}  // namespace mneme
