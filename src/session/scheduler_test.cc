#include "mneme/scheduler.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <stdexcept>

#include "session/session_test_util.h"

namespace mneme {
namespace {

using namespace testing;

// What a job said.
struct Log {
  std::vector<TokenId> ids;
  std::string text;
  std::vector<int64_t> fed;  // after each step that fed something
  int num_done = 0;
  int num_failed = 0;
  GenerateResult result;
  std::string error;

  std::function<void(const JobEvent&)> Listener() {
    return [this](const JobEvent& event) {
      if (event.kind == JobEvent::kFed) fed.push_back(event.num_fed);
      if (event.kind == JobEvent::kPiece) {
        text += event.piece.text;
        if (event.piece.token >= 0) ids.push_back(event.piece.token);
      }
      if (event.kind == JobEvent::kDone) {
        ++num_done;
        result = event.result;
      }
      if (event.kind == JobEvent::kFailed) {
        ++num_failed;
        error = event.error->what();
      }
    };
  }
};

class SchedulerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    data_ = DataFolder();
    if (data_.empty()) GTEST_SKIP() << kSkipMessage;
    model_.emplace(Model::Load(Engine({.num_threads = 1, .memory_bytes = size_t{1} << 30, .max_rows = 40}),
                               data_ + kTestModelFile));
    tokens_ = TestTokens(*model_->impl()->loaded, 200);
  }
  std::unique_ptr<Session> New(const SessionOptions& options, size_t num_tokens = 0) {
    auto session = std::make_unique<Session>(*model_, options);
    session->Feed(Tokens(num_tokens));
    return session;
  }
  std::vector<TokenId> Tokens(size_t count) const {
    return {tokens_.begin(), tokens_.begin() + static_cast<ptrdiff_t>(count)};
  }
  // The answer of a session that runs alone.
  static Log Alone(Session& session, const GenerateOptions& options) {
    Log log;
    Generation generation = session.Generate(options);
    while (const auto piece = generation.Next()) {
      log.text += piece->text;
      if (piece->token >= 0) log.ids.push_back(piece->token);
    }
    log.result = generation.result();
    return log;
  }

  std::string data_;
  std::optional<Model> model_;
  std::vector<TokenId> tokens_;
};

// Prompts of other lengths, every context, answers with pauses and with backspace: all at once.
TEST_F(SchedulerTest, EachGetsTheBitsOfRunningAlone) {
  for (const int64_t rows_per_step : {3, 17, 0}) {
    std::vector<std::unique_ptr<Session>> together, alone;
    std::vector<Log> logs(TestContexts().size());
    Scheduler scheduler(*model_, rows_per_step);
    for (size_t i = 0; i < logs.size(); ++i) {
      SessionOptions options = TestOptions(TestContexts()[i]);
      options.sampler.temperature = i % 2 == 0 ? 0.0f : 0.8f;
      GenerateOptions generate{.max_tokens = 10 + static_cast<int64_t>(i)};
      if (i == 1) generate.num_pauses = 5;
      if (i == 2) generate.backspace = true;
      generate.pause_token = generate.backspace_token = 511;
      together.push_back(New(options, 4 * i));
      alone.push_back(New(options, 4 * i));
      const std::vector<TokenId> prompt(tokens_.begin() + 40,
                                        tokens_.begin() + 50 + 9 * static_cast<ptrdiff_t>(i));
      scheduler.Add({.session = together[i].get(),
                     .tokens = prompt,
                     .generate = generate,
                     .on_event = logs[i].Listener()});
      alone[i]->Feed(prompt);
      const Log expected = Alone(*alone[i], generate);
      logs[i].error = expected.text;  // kept for the comparison below
    }
    while (scheduler.Step()) {
    }
    for (size_t i = 0; i < logs.size(); ++i) {
      EXPECT_EQ(logs[i].num_done, 1);
      EXPECT_EQ(logs[i].text, logs[i].error) << TestContexts()[i];
      EXPECT_EQ(logs[i].fed.back(), static_cast<int64_t>(10 + 9 * i));
      EXPECT_EQ(together[i]->num_tokens(), alone[i]->num_tokens());
      EXPECT_TRUE(SameBits(LogitsOf(*together[i]), LogitsOf(*alone[i]))) << TestContexts()[i];
    }
  }
}

TEST_F(SchedulerTest, AnAnswerGetsARowOfEveryStepAndPromptsShareTheRest) {
  const auto first = New(TestOptions("dense"), 10), second = New(TestOptions("dense"), 12);
  const auto reads = New(TestOptions("dense", 64)), reads_too = New(TestOptions("dense", 64));
  Log answers[2], prompts[2];
  Scheduler scheduler(*model_, 20);
  scheduler.Add({.session = first.get(),
                 .generate = GenerateOptions{.max_tokens = 9},
                 .on_event = answers[0].Listener()});
  scheduler.Add({.session = reads.get(), .tokens = Tokens(100), .on_event = prompts[0].Listener()});
  scheduler.Add({.session = second.get(),
                 .generate = GenerateOptions{.max_tokens = 9},
                 .on_event = answers[1].Listener()});
  scheduler.Add({.session = reads_too.get(), .tokens = Tokens(100), .on_event = prompts[1].Listener()});
  for (size_t step = 1; step <= 5; ++step) {
    EXPECT_TRUE(scheduler.Step());
    for (const Log& log : answers)
      EXPECT_EQ(log.ids.size(), step + 1);  // the first was chosen before the first call
    for (const Log& log : prompts) EXPECT_EQ(log.fed.back(), static_cast<int64_t>(9 * step));
  }
  while (scheduler.Step()) {
  }
  for (const Log& log : prompts) EXPECT_EQ(log.fed.back(), 100);
  EXPECT_EQ(scheduler.num_jobs(), 0u);
}

TEST_F(SchedulerTest, OneIsCancelledOneFailsAndTheThirdNoticesNothing) {
  SessionOptions small = TestOptions("dense");
  small.memory_bytes = size_t{3} << 20;
  const auto failing = New(small);
  const auto cancelled = New(TestOptions("sinks:sinks=4,window=20"), 10);
  const auto steady = New(TestOptions("sinks:sinks=4,window=20"), 15),
             alone = New(TestOptions("sinks:sinks=4,window=20"), 15);
  std::vector<TokenId> endless;
  while (endless.size() < 20000) endless.insert(endless.end(), tokens_.begin(), tokens_.end());
  std::atomic<bool> stop{false};
  Log log_cancelled, log_failing, log_steady;
  Scheduler scheduler(*model_);
  scheduler.Add({.session = cancelled.get(),
                 .generate = GenerateOptions{.max_tokens = -1, .stop_at_eog = false},
                 .stop = &stop,
                 .on_event = log_cancelled.Listener()});
  scheduler.Add({.session = failing.get(), .tokens = endless, .on_event = log_failing.Listener()});
  const GenerateOptions options{.max_tokens = 400, .stop_at_eog = false};
  scheduler.Add({.session = steady.get(), .generate = options, .on_event = log_steady.Listener()});
  for (int i = 0; i < 5; ++i) scheduler.Step();
  stop = true;
  while (scheduler.Step()) {
  }
  EXPECT_EQ(log_cancelled.num_done, 1);
  EXPECT_EQ(log_cancelled.result.reason, StopReason::kInterrupted);
  EXPECT_EQ(cancelled->num_tokens(), 10 + static_cast<int64_t>(log_cancelled.ids.size()));
  EXPECT_EQ(log_failing.num_failed, 1);
  EXPECT_NE(log_failing.error.find("full at token"), std::string::npos) << log_failing.error;
  EXPECT_EQ(failing->num_tokens(), log_failing.fed.back());
  EXPECT_GT(log_failing.fed.back(), 0);
  EXPECT_EQ(log_steady.num_done, 1);
  const Log expected = Alone(*alone, options);
  EXPECT_EQ(log_steady.ids, expected.ids);
  EXPECT_TRUE(SameBits(LogitsOf(*steady), LogitsOf(*alone)));
  // And all three can go on.
  for (Session* session : {cancelled.get(), failing.get(), steady.get()}) session->Rewind(1);
}

TEST_F(SchedulerTest, AnAnswerWhoseContextIsFullEndsAndSaysSo) {
  SessionOptions small = TestOptions("dense");
  small.memory_bytes = size_t{3} << 20;
  Session full(*model_, small);
  const auto other = New(TestOptions("dense"), 10);
  full.Feed(Tokens(50));
  Log log, log_other;
  Scheduler scheduler(*model_);
  scheduler.Add({.session = &full,
                 .generate = GenerateOptions{.max_tokens = -1, .stop_at_eog = false},
                 .on_event = log.Listener()});
  scheduler.Add({.session = other.get(),
                 .generate = GenerateOptions{.max_tokens = 30, .stop_at_eog = false},
                 .on_event = log_other.Listener()});
  while (scheduler.Step()) {
  }
  EXPECT_EQ(log.result.reason, StopReason::kContextFull);
  EXPECT_NE(log.result.message.find("full at token"), std::string::npos);
  EXPECT_EQ(log_other.ids.size(), 30u);
}

TEST_F(SchedulerTest, ACloneOfOneThatAnswersGoesItsOwnWay) {
  const auto base = New(TestOptions("sinks:sinks=4,window=20"), 30);
  Session clone = base->Clone(), alone = base->Clone();
  Log log;
  Scheduler scheduler(*model_);
  scheduler.Add(
      {.session = base.get(), .generate = GenerateOptions{.max_tokens = 20}, .on_event = log.Listener()});
  for (int i = 0; i < 8; ++i) scheduler.Step();
  const Session middle = base->Clone();  // holds what was fed
  EXPECT_EQ(middle.num_tokens(), base->num_tokens());
  Log log_clone;
  scheduler.Add(
      {.session = &clone, .generate = GenerateOptions{.max_tokens = 20}, .on_event = log_clone.Listener()});
  while (scheduler.Step()) {
  }
  EXPECT_EQ(log.ids, log_clone.ids);
  EXPECT_EQ(log.ids, Alone(alone, {.max_tokens = 20}).ids);
}

TEST_F(SchedulerTest, WhatCannotRunTogetherIsRefused) {
  const auto session = New(TestOptions("dense"), 10);
  Session stranger(Model::Load(model_->engine(), data_ + kTestModelFile), TestOptions("dense"));
  Scheduler scheduler(*model_);
  scheduler.Add({.session = session.get(), .tokens = Tokens(100)});
  const auto refused = [&](Job job) {
    return ErrorOf(ErrorKind::kInput, [&] { scheduler.Add(std::move(job)); });
  };
  EXPECT_NE(refused({.session = session.get()}).find("job is in the middle"), std::string::npos);
  EXPECT_NE(refused({.session = &stranger}).find("one model object"), std::string::npos);
  const auto other = New(TestOptions("dense"), 10);
  EXPECT_NE(refused({.session = other.get(), .tokens = {1, 700}}).find("token 1 of the input"),
            std::string::npos);
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session->Feed(Tokens(1)); }).find("job is in the middle"),
            std::string::npos);
  EXPECT_EQ(scheduler.num_jobs(), 1u);
  // An answer to nothing fails alone.
  const auto empty = New(TestOptions("dense"));
  Log log;
  scheduler.Add({.session = empty.get(), .generate = GenerateOptions{}, .on_event = log.Listener()});
  while (scheduler.Step()) {
  }
  EXPECT_NE(log.error.find("stream is empty"), std::string::npos) << log.error;
  EXPECT_EQ(session->num_tokens(), 110);
}

// The scheduler goes first: its sessions are free again, and hold what was handed out.
TEST_F(SchedulerTest, ASchedulerThatGoesLeavesItsSessionsInOrder) {
  const auto session = New(TestOptions("dense"), 10), alone = New(TestOptions("dense"), 10);
  Log log;
  {
    Scheduler scheduler(*model_);
    scheduler.Add({.session = session.get(),
                   .text = {},
                   .generate = GenerateOptions{.max_tokens = 50},
                   .on_event = log.Listener()});
    for (int i = 0; i < 6; ++i) scheduler.Step();
  }
  EXPECT_EQ(session->num_tokens(), 10 + static_cast<int64_t>(log.ids.size()));
  alone->Feed(log.ids);
  EXPECT_TRUE(SameBits(LogitsOf(*session), LogitsOf(*alone)));
}

// What is in the middle keeps the stream alive: a Session that is moved or destroyed takes nothing away from
// it.
TEST_F(SchedulerTest, ASessionMayMoveOrGoWhileItAnswers) {
  const auto alone = New(TestOptions("dense"), 10);
  const Log expected = Alone(*alone, {.max_tokens = 12});
  Log log;
  Scheduler scheduler(*model_);
  std::optional<Generation> generation;
  std::vector<TokenId> ids;
  {
    auto first = New(TestOptions("dense"), 10), second = New(TestOptions("dense"), 10);
    scheduler.Add(
        {.session = first.get(), .generate = GenerateOptions{.max_tokens = 12}, .on_event = log.Listener()});
    scheduler.Step();
    Session moved = std::move(*first);
    first.reset();
    scheduler.Step();
    generation.emplace(second->Generate({.max_tokens = 12}));
    ids.push_back(generation->Next()->token);
  }
  while (scheduler.Step()) {
  }
  while (const auto piece = generation->Next()) {
    if (piece->token >= 0) ids.push_back(piece->token);
  }
  EXPECT_EQ(log.ids, expected.ids);
  EXPECT_EQ(ids, expected.ids);
}

// What a filter or a listener throws, of whatever kind, is the matter of its own job.
TEST_F(SchedulerTest, WhatIsThrownInOneJobLeavesTheOthersAsTheyAre) {
  class Throwing : public TokenFilter {
   public:
    void Mask(std::span<float>) override {}
    void Accept(TokenId) override {
      if (++count_ == 4) throw std::out_of_range("no rule for this");
    }
    void Undo(int64_t) override {}

   private:
    int count_ = 0;
  };
  const auto bad = New(TestOptions("dense"), 10), good = New(TestOptions("dense"), 12),
             alone = New(TestOptions("dense"), 12);
  Log log_bad, log_good;
  Scheduler scheduler(*model_);
  scheduler.Add({.session = bad.get(),
                 .generate = GenerateOptions{.max_tokens = 30, .filter = std::make_shared<Throwing>()},
                 .on_event = log_bad.Listener()});
  int num_heard = 0;
  scheduler.Add({.session = good.get(),
                 .generate = GenerateOptions{.max_tokens = 30},
                 .on_event = [&, listen = log_good.Listener()](const JobEvent& event) {
                   listen(event);
                   if (++num_heard == 7) throw std::runtime_error("mine");
                 }});
  int num_thrown = 0;
  for (bool goes_on = true; goes_on;) {
    try {
      goes_on = scheduler.Step();
    } catch (const std::runtime_error&) {
      ++num_thrown;
    }
  }
  EXPECT_EQ(num_thrown, 1);
  EXPECT_EQ(log_bad.num_failed, 1);
  EXPECT_NE(log_bad.error.find("no rule for this"), std::string::npos) << log_bad.error;
  EXPECT_EQ(log_good.num_done, 1);
  EXPECT_EQ(log_good.ids, Alone(*alone, {.max_tokens = 30}).ids);
  EXPECT_TRUE(SameBits(LogitsOf(*good), LogitsOf(*alone)));
  EXPECT_THROW(scheduler.Add({}), Error);
}

TEST_F(SchedulerTest, AnAnswerThatIsOverFeedsNothingMore) {
  SessionOptions small = TestOptions("dense");
  small.memory_bytes = size_t{3} << 20;
  Session session(*model_, small);
  session.Feed(Tokens(20));
  Generation generation = session.Generate({.max_tokens = -1, .stop_at_eog = false});
  while (generation.Next()) {
  }
  ASSERT_EQ(generation.result().reason, StopReason::kContextFull);
  session.Rewind(10);
  const int64_t num_tokens = session.num_tokens();
  generation.Settle();
  EXPECT_EQ(session.num_tokens(), num_tokens);
}

TEST_F(SchedulerTest, TextOfAJobIsOneTextWithItsBos) {
  const auto session = New(TestOptions("dense")), alone = New(TestOptions("dense"));
  Scheduler scheduler(*model_);
  scheduler.Add({.session = session.get(), .text = {{"Once upon "}, {"a time"}}});
  while (scheduler.Step()) {
  }
  alone->FeedText("Once upon a time");
  alone->FinishText();
  EXPECT_EQ(session->RecentTokens(), alone->RecentTokens());
  EXPECT_TRUE(SameBits(LogitsOf(*session), LogitsOf(*alone)));
}

}  // namespace
}  // namespace mneme
