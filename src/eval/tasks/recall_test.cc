#include "eval/tasks/recall.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/text/recall_text.h"
#include "eval/tasks/passkey.h"
#include "eval/tasks/recall_test_util.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

// Words of the passkey task and of the haystack that the tests write.
std::vector<std::string> TaskWords() {
  std::set<std::string> words;
  const auto add = [&](std::string_view text) {
    std::string clean(text);
    for (char& c : clean) {
      if (!std::isalpha(static_cast<unsigned char>(c))) c = ' ';
    }
    std::istringstream stream(clean);
    for (std::string word; stream >> word;) words.insert(word);
  };
  add(PasskeyIntroduction());
  add(PasskeyStatement("1"));
  add(PasskeyQuestion());
  for (const std::string_view sentence : GrassSentences()) add(sentence);
  for (const char* word : {"red", "blue", "round", "square", "old", "new"}) words.insert(word);
  return {words.begin(), words.end()};
}

class RecallTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    induction_ = new testing::InductionModel(TaskWords());
    model_ = new Model(ModelUnder(size_t{1} << 30));
    // One token to a word, so that a text can have any length.
    haystack_path_ = ::testing::TempDir() + "mneme_words_" + std::to_string(getpid());
    std::ofstream file(haystack_path_);
    const char* words[] = {"red", "blue", "round", "square", "old", "new"};
    Random random(5);
    for (int i = 0; i < 3000; ++i) file << (i > 0 ? " " : "") << words[random.Below(6)];
  }
  static void TearDownTestSuite() {
    std::remove(haystack_path_.c_str());
    delete model_;
    delete induction_;
  }

  static Model ModelUnder(size_t cap_bytes) {
    return Model::Load(Engine({.num_threads = 1, .memory_bytes = cap_bytes, .max_rows = 64}),
                       induction_->path());
  }
  static RecallTaskOptions Options(const std::string& spec) {
    RecallTaskOptions options;
    options.session.keys = options.session.values = Encoding::kF32;
    options.contexts = {spec};
    return options;
  }

  static std::vector<RecallCell> Cells(std::vector<int64_t> lengths, std::vector<double> depths,
                                       int64_t num_trials) {
    PasskeyOptions options;
    options.lengths = std::move(lengths);
    options.depths = std::move(depths);
    options.num_trials = num_trials;
    std::vector<RecallCell> cells = PasskeyCells(options);
    for (RecallCell& cell : cells) cell.layout.last_cut = FillerCut::kWords;
    return cells;
  }

  static EvalReport RunCells(const std::string& spec, std::vector<RecallCell> cells) {
    const Haystack haystack = Haystack::File(haystack_path_, false);
    RecallRun run(*model_, haystack, Options(spec));
    EvalLog log(EvalHeader{}, "", "");
    NoProgress progress;
    EXPECT_TRUE(run.Run(std::move(cells), log, progress));
    return log.report();
  }

  // Of depth 0: index of the first digit's token, found without the code under test.
  static int64_t FirstDigit() {
    const Tokenizer& tokenizer = model_->tokenizer();
    const auto ids = tokenizer.Encode(std::string(PasskeyIntroduction()) + "The pass key is 5");
    return static_cast<int64_t>(ids.size()) - 1;
  }

  // For texts of all these lengths with the key in front: right exactly where all five digits are visible to
  // the rows that must write them.
  static void ExpectRightWhereVisible(const std::string& spec, const std::vector<int64_t>& lengths,
                                      const std::function<bool(int64_t row, int64_t key)>& sees) {
    const EvalReport report = RunCells(spec, Cells(lengths, {0}, 3));
    ASSERT_EQ(report.rows.size(), 2 * lengths.size());
    int num_visible = 0, num_hidden = 0;
    for (const EvalRow& row : report.rows) {
      ASSERT_EQ(row.note, "");
      ASSERT_EQ(row.numbers.at("tokens"), static_cast<double>(row.length)) << "texts are exactly as long";
      // The digits, and what ends them.
      bool digits = true;
      for (int64_t digit = 0; digit < 5; ++digit)
        digits = digits && sees(row.length - 1 + digit, FirstDigit() + digit);
      const bool end = sees(row.length - 1 + 5, FirstDigit() + 5);
      const bool generates = row.labels.at("score") == "generate";
      if (digits && (end || !generates)) {
        EXPECT_EQ(row.accuracy, 1) << spec << " " << row.length << " " << row.labels.at("score");
        ++num_visible;
      } else if (!digits && generates) {
        EXPECT_EQ(row.accuracy, 0) << spec << " " << row.length;
        ++num_hidden;
      }
    }
    if (spec != "dense") {
      EXPECT_GT(num_visible, 0) << spec;
      EXPECT_GT(num_hidden, 0) << spec;
    }
  }

  static std::vector<int64_t> Range(int64_t begin, int64_t end) {
    std::vector<int64_t> lengths;
    for (int64_t length = begin; length < end; ++length) lengths.push_back(length);
    return lengths;
  }

  static testing::InductionModel* induction_;
  static Model* model_;
  static std::string haystack_path_;
};

testing::InductionModel* RecallTest::induction_ = nullptr;
Model* RecallTest::model_ = nullptr;
std::string RecallTest::haystack_path_;

TEST_F(RecallTest, DenseRecallsAtEveryDistance) {
  std::vector<int64_t> lengths = Range(90, 110);
  lengths.push_back(1500);
  ExpectRightWhereVisible("dense", lengths, [](int64_t, int64_t) { return true; });
}

TEST_F(RecallTest, ATurnStandsAroundATextAndItsQuestion) {
  const Tokenizer& tokenizer = model_->tokenizer();
  const std::vector<Segment> prompt = {
      {"</s>red", TextKind::kFormat}, {"mneme-text", TextKind::kPlain}, {"</s>blue", TextKind::kFormat}};
  RecallTaskOptions options = Options("dense");
  options.turn = TurnAround(tokenizer, prompt, "mneme-text");
  EXPECT_GE(options.turn->num_before, 2);
  EXPECT_GE(options.turn->num_after, 2);
  EXPECT_THROW(TurnAround(tokenizer, {{"red", TextKind::kFormat}}, "mneme-text"), Error);

  const Haystack haystack = Haystack::File(haystack_path_, false);
  EvalLog log(EvalHeader{}, "", "");
  NoProgress progress;
  EXPECT_TRUE(RecallRun(*model_, haystack, options).Run(Cells({120, 300}, {0, 0.5}, 2), log, progress));
  ASSERT_EQ(log.report().rows.size(), 8u);
  for (const EvalRow& row : log.report().rows) {
    EXPECT_EQ(row.accuracy, 1) << row.length << " " << row.note;
    EXPECT_LE(row.numbers.at("tokens"), static_cast<double>(row.length));
    EXPECT_GE(row.numbers.at("tokens"), static_cast<double>(row.length) - 2);
  }

  // The ids are those of the template around what the user says, and of the reply's beginning.
  const TokensRead on_read = [](int64_t) {};
  RecallStream stream(Session(*model_, options.session), haystack, 0, on_read, {}, &*options.turn);
  stream.BeginTurn();
  stream.Text("old new</s>");
  std::vector<Segment> whole = prompt;
  whole[1].text = "old new</s> round?";
  whole.push_back({" square", TextKind::kPlain});
  std::vector<TokenId> ids = EncodePrompt(tokenizer, whole);
  const std::vector<TokenId> ending = stream.Ending(" round?", " square");
  const auto read = static_cast<size_t>(stream.num_tokens());
  ids.erase(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(read));
  EXPECT_EQ(ending, ids);
}

TEST(AnswerTest, WhereTheReplyBegins) {
  const auto rest = [](std::string_view tail) { return tail.substr(AnswerBegin(tail)); };
  EXPECT_EQ(rest("What is the pass key? The pass key is"), "The pass key is");
  EXPECT_EQ(rest("Question: Find it. Answer: They are:"), "Answer: They are:");
  EXPECT_EQ(rest("Key: \"a\"\nThe value is:"), "The value is:");
  EXPECT_EQ(rest("Who has the ball?"), "");
  EXPECT_EQ(rest("The pass key of Ann is"), "The pass key of Ann is");
}

TEST_F(RecallTest, WindowForgetsExactlyWhereItEnds) {
  const int64_t window = 70;
  // At the length at which the first digit's distance is the window, and around it.
  const int64_t edge = FirstDigit() + window;
  ExpectRightWhereVisible("window:window=70", Range(edge - 6, edge + 8),
                          [&](int64_t row, int64_t key) { return row - key < window; });
}

TEST_F(RecallTest, SinksForgetBetweenSinksAndWindow) {
  const int64_t window = 70, first = FirstDigit();
  // Sinks end before the key, within its digits, behind it.
  for (const int64_t sinks : {int64_t{4}, first, first + 1, first + 4}) {
    const int64_t edge = first + window;
    std::vector<int64_t> lengths = Range(edge - 4, sinks <= first ? edge + 6 : edge + 2);
    // With some digits among the sinks the others are found where the key is stated again, until that has
    // left the window too.
    for (const int64_t length : Range(edge + 20, edge + 24)) lengths.push_back(length);
    ExpectRightWhereVisible(fmt::format("sinks:sinks={},window={}", sinks, window), lengths,
                            [&](int64_t row, int64_t key) { return key < sinks || row - key <= window; });
  }
  const std::vector<int64_t> lengths = {first + window + 40};
  for (const RecallCell& cell : Cells(lengths, {0}, 2)) {
    const EvalReport report = RunCells(fmt::format("sinks:sinks={},window={}", first + 6, window), {cell});
    for (const EvalRow& row : report.rows) EXPECT_EQ(row.accuracy, 1) << "all digits are sinks";
  }
}

TEST_F(RecallTest, LambdaForgetsBetweenStartsAndWindow) {
  const int64_t window = 72, starts = 6, edge = FirstDigit() + window;
  ExpectRightWhereVisible(fmt::format("lambda:starts={},window={},distance={}", starts, window, window),
                          Range(edge - 6, edge + 8),
                          [&](int64_t row, int64_t key) { return key < starts || row - key < window; });
  const EvalReport report =
      RunCells(fmt::format("lambda:starts={},window={},distance={}", FirstDigit() + 6, window, window),
               Cells({edge + 50}, {0}, 2));
  for (const EvalRow& row : report.rows) EXPECT_EQ(row.accuracy, 1);
}

TEST_F(RecallTest, XlForgetsWholeSegments) {
  const int64_t segment = 50, previous = 1, first = FirstDigit();
  const int64_t edge = (first / segment + previous + 1) * segment;
  ExpectRightWhereVisible(
      "xl:segment=50,previous=1", Range(edge - 6, edge + 7),
      [&](int64_t row, int64_t key) { return key >= (row / segment - previous) * segment; });
}

TEST_F(RecallTest, LikelihoodIsAtChanceWhereNothingOfTheStatementIsSeen) {
  for (const char* spec : {"window:window=60", "sinks:sinks=4,window=60",
                           "lambda:starts=6,window=60,distance=60", "xl:segment=30,previous=1"}) {
    const EvalReport report = RunCells(spec, Cells({220}, {0}, 40));
    ASSERT_EQ(report.rows.size(), 2u);
    EXPECT_EQ(report.rows[0].accuracy, 0) << spec;
    EXPECT_LT(report.rows[1].accuracy, 0.3) << spec << ": one in ten by chance";
  }
}

TEST_F(RecallTest, EveryDepthIsFoundByDenseAndTheLastOnesByAWindow) {
  const std::vector<double> depths = {0, 0.25, 0.5, 0.75, 1};
  const EvalReport dense = RunCells("dense", Cells({400}, depths, 3));
  for (const EvalRow& row : dense.rows) EXPECT_EQ(row.accuracy, 1);
  const EvalReport window = RunCells("window:window=100", Cells({400}, depths, 3));
  for (const EvalRow& row : window.rows) {
    if (row.labels.at("score") == "likelihood") continue;
    EXPECT_EQ(row.accuracy, *row.depth >= 1 ? 1 : 0) << *row.depth;
  }
}

TEST_F(RecallTest, SharingThePrefixChangesNothing) {
  // Under a cap that two sessions do not fit, every trial reads for itself.
  RecallTaskOptions options = Options("dense");
  const Haystack haystack = Haystack::Grass(1, " ");
  const auto run = [&](size_t cap) {
    const Model model = ModelUnder(cap);
    RecallRun recall(model, haystack, options);
    EvalLog log(EvalHeader{}, "", "");
    NoProgress progress;
    recall.Run(Cells({1200}, {0.9}, 3), log, progress);
    return log.report().rows;
  };
  const auto wide = run(size_t{1} << 30);
  const auto narrow = run(wide[0].peak_bytes + (size_t{1} << 20));
  ASSERT_EQ(wide.size(), narrow.size());
  for (size_t i = 0; i < wide.size(); ++i) {
    EXPECT_EQ(narrow[i].note, "");
    EXPECT_EQ(wide[i].accuracy, 1);
    EXPECT_EQ(narrow[i].accuracy, 1);
    EXPECT_EQ(wide[i].numbers.at("tokens"), narrow[i].numbers.at("tokens"));
  }
  const auto none = run(wide[0].peak_bytes / 2);
  EXPECT_EQ(none[0].trials, 0);
  EXPECT_NE(none[0].note, "");
}

TEST_F(RecallTest, QuestionsLongerThanARewindAreAskedOfACopy) {
  const Haystack haystack = Haystack::Grass(1, " ");
  const TokensRead on_read = [](int64_t) {};
  const RecallTrial trial = Cells({150}, {0}, 1)[0].trials[0];
  std::vector<RecallAnswer> answers;
  // All is taken back; nothing of the question; not even a candidate.
  for (const int64_t max_rewind : {200, 8, 2}) {
    SessionOptions options = Options("").session;
    options.context = "window:window=100";
    options.max_rewind = max_rewind;
    RecallStream stream(Session(*model_, options), haystack, 0, on_read);
    stream.Text(std::string(PasskeyIntroduction()));
    stream.Filler(300, "", FillerCut::kUnits);
    stream.EndFiller("\n");
    stream.Text(trial.statements[0].text + "\n");
    stream.Flush();
    const int64_t num_tokens = stream.num_tokens();
    for (int i = 0; i < 2; ++i) {
      answers.push_back(Ask(stream, trial.questions[0], {}));
      EXPECT_EQ(stream.num_tokens(), num_tokens) << max_rewind;
    }
  }
  for (const RecallAnswer& answer : answers) {
    EXPECT_EQ(answer.likely, 1);
    EXPECT_EQ(answer.generated, 1);
    EXPECT_EQ(answer.text, answers[0].text);
    EXPECT_EQ(answer.num_tokens, answers[0].num_tokens);
  }
}

TEST_F(RecallTest, WhatDoesNotFitIsSaidAndFinishedCellsAreKept) {
  const Haystack haystack = Haystack::File(haystack_path_, false);
  RecallRun run(*model_, haystack, Options("window:window=100"));
  EvalLog log(EvalHeader{}, "", "");
  NoProgress progress;
  EXPECT_THROW(run.Run(Cells({20, 30}, {0}, 1), log, progress), Error) << "the question alone is longer";
  EXPECT_TRUE(log.report().rows.empty());
  {
    EvalLog some(EvalHeader{}, "", "");
    EXPECT_TRUE(run.Run(Cells({20, 200}, {0}, 1), some, progress));
    ASSERT_EQ(some.report().rows.size(), 4u);
    EXPECT_EQ(some.report().rows[0].trials, 0);
    EXPECT_NE(some.report().rows[0].note.find("length 20: the task's own text"), std::string::npos);
    EXPECT_EQ(some.report().rows[2].trials, 1);
    EXPECT_EQ(some.report().rows[2].note, "");
  }
  try {
    run.Run(Cells({200, 3500}, {0}, 1), log, progress);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_NE(std::string(error.what()).find("--repeat"), std::string::npos) << error.what();
  }
  EXPECT_EQ(log.report().rows.size(), 2u);
  const Haystack repeated = Haystack::File(haystack_path_, true);
  RecallRun again(*model_, repeated, Options("window:window=100"));
  EXPECT_TRUE(again.Run(Cells({200, 3500}, {0}, 1), log, progress));
  EXPECT_EQ(log.report().rows.size(), 4u);
}

TEST_F(RecallTest, AStopKeepsWhatIsFinished) {
  const Haystack haystack = Haystack::Grass(1, " ");
  class StopLater : public NoProgress {
   public:
    void Update(int64_t done, int64_t, std::string_view) override {
      if (done > 400) stop = true;
    }
    std::atomic<bool> stop{false};
  } progress;
  RecallTaskOptions options = Options("window:window=100");
  options.stop = &progress.stop;
  RecallRun run(*model_, haystack, options);
  EvalLog log(EvalHeader{}, "", "");
  EXPECT_FALSE(run.Run(Cells({200, 4000}, {0}, 1), log, progress));
  progress.stop = false;
  ASSERT_EQ(log.report().rows.size(), 2u);
  EXPECT_EQ(log.report().rows[0].length, 200);
  NoProgress quiet;
  EXPECT_TRUE(run.Run(Cells({200, 4000}, {0}, 1), log, quiet));
  EXPECT_EQ(log.report().rows.size(), 4u);
}

TEST(PasskeyTest, WhatMakesNoSenseIsNamed) {
  const auto refuse = [](const std::function<void(PasskeyOptions*)>& change) -> std::string {
    PasskeyOptions options;
    options.lengths = {1000};
    options.depths = {0.5};
    change(&options);
    try {
      PasskeyCells(options);
    } catch (const Error& error) {
      return error.what();
    }
    return "(no error)";
  };
  EXPECT_EQ(refuse([](PasskeyOptions*) {}), "(no error)");
  EXPECT_NE(refuse([](PasskeyOptions* o) { o->format = "x"; }).find("infinitebench"), std::string::npos);
  EXPECT_NE(refuse([](PasskeyOptions* o) { o->depths = {1.5}; }).find("1.5"), std::string::npos);
  EXPECT_NE(refuse([](PasskeyOptions* o) { o->lengths = {0}; }).find("length"), std::string::npos);
  EXPECT_NE(refuse([](PasskeyOptions* o) { o->lengths = {}; }).find("length"), std::string::npos);
  EXPECT_NE(refuse([](PasskeyOptions* o) { o->num_trials = 0; }).find("trials"), std::string::npos);
  EXPECT_NE(refuse([](PasskeyOptions* o) { o->num_candidates = 1; }).find("candidates"), std::string::npos);
}

TEST(PasskeyTest, ChanceIsThatOfTheCandidatesThereAre) {
  RecallQuestion ten, nine;
  ten.candidates.resize(10);
  nine.candidates.resize(9);
  EXPECT_EQ(ChanceOf({{{}, {ten}}, {{}, {ten}}, {{}, {ten}}}), 0.1);
  EXPECT_NEAR(ChanceOf({{{}, {ten}}, {{}, {nine}}}), (1.0 / 10 + 1.0 / 9) / 2, 1e-12);
  PasskeyOptions options;
  options.format = "landmark";
  options.lengths = {1000};
  options.depths = {0.5};
  options.num_candidates = 64;
  // Of 50000 keys nine have one digit.
  options.num_trials = 20000;
  const RecallCell cell = PasskeyCells(options)[0];
  EXPECT_GT(cell.row.numbers.at("chance"), 1.0 / 64);
  EXPECT_EQ(cell.row.numbers.at("chance"), ChanceOf(cell.trials));
}

TEST(AnswerTest, RulesOfTheTasks) {
  RecallQuestion question;
  question.answers = {"123"};
  EXPECT_EQ(ScoreAnswer(question, " 123. And 5"), 1);
  EXPECT_EQ(ScoreAnswer(question, " 1234"), 0);
  EXPECT_EQ(ScoreAnswer(question, " 5 and 123"), 0);
  EXPECT_EQ(ScoreAnswer(question, ""), 0);
  question.rule = AnswerRule::kStart;
  question.answers = {"river"};
  EXPECT_EQ(ScoreAnswer(question, " \"river\"."), 1);
  EXPECT_EQ(ScoreAnswer(question, " rivers"), 0);
  EXPECT_EQ(ScoreAnswer(question, " the river"), 0);
  question.rule = AnswerRule::kContains;
  question.answers = {"Ab", "cd"};
  EXPECT_EQ(ScoreAnswer(question, "x AB y"), 0.5);
  EXPECT_EQ(ScoreAnswer(question, "x cdab y"), 1);
}

TEST(HaystackTest, SentencesOfAFileComeWithTheirGaps) {
  const std::string path = ::testing::TempDir() + "mneme_haystack_" + std::to_string(getpid());
  const std::string text = "\xEF\xBB\xBFOne two. \"Three?\" Four\nfive!\r\n\r\nSix seven";
  std::ofstream(path, std::ios::binary) << text;
  const Haystack haystack = Haystack::File(path, false);
  Haystack::Cursor cursor;
  Haystack::Unit unit;
  std::string joined;
  std::vector<std::string> units;
  while (haystack.Next(&cursor, &unit)) {
    joined += std::string(unit.gap) + std::string(unit.text);
    units.emplace_back(unit.text);
  }
  EXPECT_EQ(joined, text.substr(3));
  EXPECT_EQ(units, (std::vector<std::string>{"One two.", "\"Three?\"", "Four\nfive!", "Six seven"}));
  const Haystack repeated = Haystack::File(path, true);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(repeated.Next(&cursor, &unit));
  std::ofstream(path) << " \n ";
  EXPECT_THROW(Haystack::File(path, false), Error);
  std::ofstream(path, std::ios::binary) << "\xEF\xBB\xBF \n";
  EXPECT_THROW(Haystack::File(path, true), Error) << "a byte order mark is not a word";
  std::remove(path.c_str());
  EXPECT_THROW(Haystack::File(path, false), Error);
}

}  // namespace
}  // namespace mneme
