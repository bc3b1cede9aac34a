// Sessions that recall: a turn is read again with what came back for it, whoever runs it, and no bit depends
// on anything else.
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "base/files/file.h"
#include "base/random.h"
#include "mneme/calibrate.h"
#include "mneme/report.h"
#include "mneme/scheduler.h"
#include "session/session_test_util.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

constexpr const char* kSpec = "recall:sinks=4,window=60,budget=128,keep=4096,replay=32";

std::vector<TokenId> Part(const std::vector<TokenId>& tokens, size_t begin, size_t end) {
  return {tokens.begin() + static_cast<ptrdiff_t>(begin), tokens.begin() + static_cast<ptrdiff_t>(end)};
}

// Tokens without repetition, so that slices differ; a question is a part of them.
std::vector<TokenId> RandomTokens(const LoadedModel& model, size_t count) {
  Random random(11);
  std::vector<TokenId> tokens;
  while (tokens.size() < count) {
    tokens.push_back(static_cast<TokenId>(3 + random.Below(model.plan().vocab_size - 3)));
  }
  return tokens;
}

struct Answer {
  std::string text;
  std::vector<float> logits;
  std::vector<Position> recalled;
  bool operator==(const Answer& other) const {
    return text == other.text && SameBits(logits, other.logits) && recalled == other.recalled;
  }
};

Answer Ask(Session& session, const std::vector<TokenId>& question) {
  session.BeginTurn();
  session.Feed(question);
  Answer answer;
  answer.text = GenerateText(session, {.max_tokens = 8});
  answer.logits = LogitsOf(session);
  for (const RecalledRange& range : session.Recalled()) answer.recalled.push_back(range.begin);
  return answer;
}

TEST(RecallSession, AnAnswerIsTheSameInAnyChunksThreadsAndAfterAState) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  const std::vector<TokenId> tokens = RandomTokens(*model, 800);
  std::optional<Answer> expected;
  for (const auto& [rows, threads] : {std::pair<int64_t, size_t>(16, 1), {1, 1}, {7, 2}, {64, 2}}) {
    CpuDevice device(threads);
    Budget budget;
    TestSession session(model, TestOptions(kSpec, rows), budget, device);
    session.Feed(Part(tokens, 0, 700));
    BufferWriter writer;
    session.impl().WriteBody(writer);
    Session clone = session.Clone();
    const Answer answer = Ask(session, Part(tokens, 300, 320));
    EXPECT_FALSE(answer.recalled.empty());
    EXPECT_EQ(session.num_tokens(), 728);
    if (!expected.has_value()) expected = answer;
    EXPECT_TRUE(answer == *expected) << rows << " rows, " << threads << " threads";
    EXPECT_TRUE(Ask(clone, Part(tokens, 300, 320)) == *expected);
    EXPECT_FALSE(RecalledText(session).empty());
  }
}

TEST(RecallSession, AStateInTheMiddleOfAConversationGoesOn) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  const std::vector<TokenId> tokens = RandomTokens(*model, 900);
  Budget budget;
  TestSession session(model, TestOptions(kSpec), budget, TestDevice());
  session.Feed(Part(tokens, 0, 700));
  Ask(session, Part(tokens, 300, 320));
  session.BeginTurn();
  session.Feed(Part(tokens, 120, 135));
  const std::string path = ::testing::TempDir() + "/recall.state";
  session.Save(path);
  TestSession restored(model, TestOptions(kSpec), budget, TestDevice());
  restored.Reload(path);
  EXPECT_EQ(restored.Recalled().size(), session.Recalled().size());
  const GenerateOptions few{.max_tokens = 12};
  EXPECT_EQ(GenerateText(restored, few), GenerateText(session, few));
  EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(session)));
  const Answer answer = Ask(session, Part(tokens, 735, 745));
  EXPECT_TRUE(Ask(restored, Part(tokens, 735, 745)) == answer);
}

TEST(RecallSession, QuestionsOfOneTextHaveTheSameAnswersInAnyOrder) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  const std::vector<TokenId> tokens = RandomTokens(*model, 900);
  Budget budget;
  TestSession session(model, TestOptions(kSpec, 16, 64), budget, TestDevice());
  session.Feed(Part(tokens, 0, 700));
  const std::vector<std::vector<TokenId>> questions = {Part(tokens, 100, 115), Part(tokens, 333, 350),
                                                       Part(tokens, 501, 520)};
  std::vector<Answer> expected;
  const auto ask = [&](size_t i) {
    const int64_t before = session.num_tokens();
    const Answer answer = Ask(session, questions[i]);
    session.Rewind(session.num_tokens() - before);
    return answer;
  };
  for (size_t i = 0; i < questions.size(); ++i) expected.push_back(ask(i));
  for (const std::vector<size_t>& order : {std::vector<size_t>{2, 1, 0}, {1, 0, 2}, {0, 2, 1}}) {
    for (const size_t i : order) EXPECT_TRUE(ask(i) == expected[i]) << i;
  }
}

TEST(RecallSession, ASchedulersAnswerIsThatOfASessionAlone) {
  MNEME_REQUIRE_DATA(data);
  const Model model = TestModelUnder(data, size_t{256} << 20);
  UseCalibration(model,
                 {.heads = {{.layer = 2, .head = 0, .score = 1}, {.layer = 3, .head = 4, .score = 1}}});
  const std::vector<TokenId> tokens = RandomTokens(*model.impl()->loaded, 800);
  SessionOptions options = TestOptions(kSpec);
  std::vector<std::string> texts;
  for (const bool together : {false, true}) {
    Session a(model, options), b(model, options);
    std::string text;
    for (Session* session : {&a, &b}) {
      session->Feed(Part(tokens, 0, session == &a ? 700 : 500));
      session->BeginTurn();
    }
    Scheduler scheduler(model);
    for (Session* session : {&a, &b}) {
      Job job{.session = session, .tokens = Part(tokens, 300, 322)};
      job.generate = GenerateOptions{.max_tokens = 8};
      job.on_event = [&text, session, &a](const JobEvent& event) {
        if (event.kind == JobEvent::kPiece && session == &a) text += event.piece.text;
      };
      scheduler.Add(std::move(job));
      if (!together) {
        while (scheduler.Step()) {
        }
      }
    }
    while (scheduler.Step()) {
    }
    EXPECT_FALSE(a.Recalled().empty());
    texts.push_back(text);
  }
  EXPECT_EQ(texts[0], texts[1]);
}

TEST(RecallSession, CalibrationFindsTheSameHeadsOnAnyThreadsAndChunksAndIsBoundToItsModel) {
  MNEME_REQUIRE_DATA(data);
  std::vector<std::string> files;
  // Chunks shorter than a question, too.
  for (const int64_t rows : {int64_t{512}, int64_t{64}, int64_t{5}}) {
    EngineOptions options{.num_threads = rows == 64 ? size_t{1} : size_t{2},
                          .memory_bytes = size_t{64} << 20};
    options.max_rows = rows;
    const Model model = Model::Load(Engine(options), data + kTestModelFile);
    NoProgress nobody;
    const Calibration made = Calibrate(model, nobody);
    ASSERT_FALSE(made.heads.empty());
    const std::string path = ::testing::TempDir() + "/stories.recall";
    WriteCalibration(model, made, path);
    const Calibration read = ReadCalibration(model, path);
    ASSERT_EQ(read.heads.size(), made.heads.size());
    EXPECT_EQ(read.heads[0].layer, made.heads[0].layer);
    files.push_back(ReadWholeFile(path));
    // Of another model it is refused by name.
    std::string other = files.back();
    other.replace(other.find("model ") + 6, 4, "dead");
    AtomicFileWriter writer(path);
    writer.Write(other);
    writer.Commit();
    EXPECT_NE(ErrorOf(ErrorKind::kMismatch, [&] { ReadCalibration(model, path); }).find("another model"),
              std::string::npos);
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST(RecallSession, ACalibrationThatIsCutOrNamesAHeadTwiceIsNone) {
  MNEME_REQUIRE_DATA(data);
  const Model model = Model::Load(Engine({.num_threads = 1}), data + kTestModelFile);
  const std::string path = ::testing::TempDir() + "/cut.recall";
  WriteCalibration(model, {.heads = {{1, 2, 0.5}, {1, 3, 0.4}}}, path);
  const std::string good = ReadWholeFile(path);
  EXPECT_EQ(ReadCalibration(model, path).heads.size(), 2u);
  const auto refused = [&](const std::string& text) {
    AtomicFileWriter writer(path);
    writer.Write(text);
    writer.Commit();
    return ErrorOf(ErrorKind::kFile, [&] { ReadCalibration(model, path); });
  };
  // After every line but the last.
  for (size_t at = good.find('\n'); at + 1 < good.size(); at = good.find('\n', at + 1)) {
    EXPECT_NE(refused(good.substr(0, at + 1)).find(path), std::string::npos) << good.substr(0, at + 1);
  }
  const size_t head = good.find("head ");
  const std::string line = good.substr(head, good.find('\n', head) + 1 - head);
  EXPECT_NE(refused(std::string(good).insert(head, line)).find("head"), std::string::npos);
}

}  // namespace
}  // namespace mneme
