#include "mneme/session.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <numeric>
#include <sstream>

#include "kernels/cpu_device.h"
#include "session/session_test_util.h"

namespace mneme {
namespace {

using namespace mneme::testing;

#define MNEME_SESSION_TEST_MODEL() \
  MNEME_REQUIRE_DATA(data);        \
  const std::shared_ptr<const LoadedModel> model = TestModel(data)

std::vector<TokenId> GreedyTokens(Session& session, int64_t count) {
  std::vector<TokenId> tokens;
  Generation generation = session.Generate({.max_tokens = count, .stop_at_eog = false});
  while (const auto piece = generation.Next()) {
    if (piece->token >= 0) tokens.push_back(piece->token);
  }
  return tokens;
}

TEST(SessionTest, GreedyTextOfTheModelsAuthor) {
  MNEME_SESSION_TEST_MODEL();
  std::ifstream file(data + "/models/stories260K/expected-greedy-200steps.txt");
  std::stringstream expected;
  expected << file.rdbuf();
  ASSERT_FALSE(expected.str().empty());
  Budget budget;
  for (const char* spec : {"dense", "sinks:sinks=4,window=400"}) {
    TestSession session(model, TestOptions(spec), budget, TestDevice());
    session.FeedText("");  // BOS alone
    EXPECT_EQ(session.num_tokens(), 1);
    GenerateResult result;
    std::string text = GenerateText(session, {.max_tokens = 200}, &result);
    std::string want = expected.str();
    while (!want.empty() && want.back() == '\n') want.pop_back();
    while (!text.empty() && text.back() == '\n') text.pop_back();
    EXPECT_EQ(text, want) << spec;
    EXPECT_EQ(StopReasonName(result.reason), "max tokens");
    EXPECT_EQ(session.num_tokens(), 201);
  }
}

TEST(SessionTest, TextInPiecesEqualsTokensOfTheWhole) {
  MNEME_SESSION_TEST_MODEL();
  const std::string text =
      "Once upon a time, a caf\xC3\xA9 \xE2\x82\xAC opened.\nLily went in  and sat down. The end!";
  const std::vector<TokenId> ids = model->tokenizer().Encode(text, {.add_bos = true});
  Budget budget;
  TestSession whole(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  whole.Feed(ids);
  for (const size_t piece : {1, 2, 3, 7, 100}) {
    TestSession session(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
    for (size_t i = 0; i < text.size(); i += piece) {
      EXPECT_EQ(session.FeedText(std::string_view(text).substr(i, piece)), std::min(piece, text.size() - i));
    }
    session.FinishText();
    EXPECT_EQ(session.pending_bytes(), 0u);
    EXPECT_EQ(session.text_bytes(), static_cast<int64_t>(text.size()));
    EXPECT_EQ(session.num_tokens(), static_cast<int64_t>(ids.size()));
    EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(whole))) << piece;
  }
}

// Text that a full context refused is neither lost nor read twice by who saves, and goes on with more room.
TEST(SessionTest, RefusedTextWaitsInTheState) {
  MNEME_SESSION_TEST_MODEL();
  std::string text;
  while (text.size() < 9000)
    text += "Once upon a time there was a caf\xC3\xA9 with " + std::to_string(text.size()) + " cats. ";
  Budget large;
  TestSession whole(model, TestOptions("dense"), large, TestDevice());
  whole.FeedText(text);
  whole.FinishText();
  Budget probe;
  { const TestSession small(model, TestOptions("dense"), probe, TestDevice()); }
  Budget budget(probe.peak_bytes() + (size_t{1} << 18));
  TestSession full(model, TestOptions("dense"), budget, TestDevice());
  int64_t at = 0;
  EXPECT_NE(ErrorOf(ErrorKind::kBudget,
                    [&] {
                      for (; at < static_cast<int64_t>(text.size()); at += 700)
                        full.FeedText(std::string_view(text).substr(static_cast<size_t>(at), 700));
                    }),
            "(no error)");
  const std::string path = ::testing::TempDir() + "/mneme_refused.state";
  full.Save(path);
  TestSession more(model, TestOptions("dense"), large, TestDevice());
  more.Reload(path);
  EXPECT_EQ(more.text_bytes(), at + 700);
  EXPECT_LT(more.num_tokens(), whole.num_tokens());
  more.FeedText(std::string_view(text).substr(static_cast<size_t>(more.text_bytes())));
  more.FinishText();
  EXPECT_EQ(more.num_tokens(), whole.num_tokens());
  EXPECT_TRUE(SameBits(LogitsOf(more), LogitsOf(whole)));
}

TEST(SessionTest, ChunksDoNotChangeBits) {
  MNEME_SESSION_TEST_MODEL();
  const std::vector<TokenId> tokens = TestTokens(*model, 90);
  for (const std::string& spec : TestContexts()) {
    std::vector<float> first;
    for (const int64_t chunk : {1, 7, 16, 128}) {
      Budget budget;
      TestSession session(model, TestOptions(spec, chunk), budget, TestDevice());
      EXPECT_EQ(session.Feed(tokens), tokens.size());
      if (first.empty()) first = LogitsOf(session);
      EXPECT_TRUE(SameBits(LogitsOf(session), first)) << spec << " in chunks of " << chunk;
    }
  }
}

TEST(SessionTest, RowsHandedOutAreTheLogitsOfEachStep) {
  MNEME_SESSION_TEST_MODEL();
  const std::vector<TokenId> tokens = TestTokens(*model, 40);
  Budget budget;
  TestSession rows(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  TestSession steps(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  int64_t expected_index = 0;
  rows.Feed(tokens, {}, [&](int64_t index, std::span<const float> logits) {
    EXPECT_EQ(index, expected_index++);
    steps.Feed({&tokens[static_cast<size_t>(index)], 1});
    EXPECT_TRUE(SameBits({logits.begin(), logits.end()}, LogitsOf(steps))) << index;
  });
  EXPECT_EQ(expected_index, 40);
  // An exception of the callback's own leaves whole chunks behind.
  EXPECT_THROW(
      rows.Feed(tokens, {}, [](int64_t, std::span<const float>) { throw std::runtime_error("mine"); }),
      std::runtime_error);
  EXPECT_EQ(rows.num_tokens(), 40 + 16);
  EXPECT_EQ(rows.Logits().size(), model->plan().vocab_size);
}

// T40: going back and doing something else is as if the detour had not been, also across evictions.
TEST(SessionTest, RewindIsExact) {
  MNEME_SESSION_TEST_MODEL();
  const std::vector<TokenId> tokens = TestTokens(*model, 120);
  const auto all = std::span(tokens);
  for (const std::string& spec : TestContexts()) {
    for (const size_t at : {3u, 24u, 25u, 31u, 80u}) {
      for (const size_t back : {1u, 5u, 20u}) {
        Budget budget;
        TestSession straight(model, TestOptions(spec), budget, TestDevice());
        TestSession detour(model, TestOptions(spec), budget, TestDevice());
        straight.Feed(all.first(at));
        detour.Feed(all.first(at));
        detour.Feed(all.last(back));  // something else
        detour.Rewind(static_cast<int64_t>(back));
        EXPECT_EQ(detour.num_tokens(), straight.num_tokens());
        EXPECT_EQ(detour.RecentTokens().back(), straight.RecentTokens().back());
        EXPECT_EQ(detour.impl().context->Ledger(), straight.impl().context->Ledger());
        EXPECT_TRUE(SameBits(LogitsOf(detour), LogitsOf(straight))) << spec << " at " << at << " by " << back;
        straight.Feed(all.subspan(at, 30));
        detour.Feed(all.subspan(at, 30));
        EXPECT_TRUE(SameBits(LogitsOf(detour), LogitsOf(straight))) << spec << " at " << at << " by " << back;
      }
    }
  }
}

TEST(SessionTest, RewindRefusesWhatIsGone) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  EXPECT_EQ(session.MaxRewind(), 0);
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session.Rewind(1); }).find("cannot go back by 1"),
            std::string::npos);
  session.Feed(TestTokens(*model, 100));
  EXPECT_GE(session.MaxRewind(), 20);
  const std::vector<float> before = LogitsOf(session);
  EXPECT_NE(
      ErrorOf(ErrorKind::kInput, [&] { session.Rewind(session.MaxRewind() + 1); }).find("cannot go back"),
      std::string::npos);
  EXPECT_TRUE(SameBits(LogitsOf(session), before));
  // To the very beginning, where the stream is short enough.
  TestSession small(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  small.Feed(TestTokens(*model, 10));
  EXPECT_EQ(small.MaxRewind(), 10);
  small.Rewind(10);
  EXPECT_EQ(small.num_tokens(), 0);
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { small.Logits(); }).find("stream is empty"), std::string::npos);
}

// Back step by step as far as it goes: each stream is the one that it was, sampler and all, and can be saved.
TEST(SessionTest, RewindsOneAfterTheOtherKeepWhatTheStreamNeeds) {
  MNEME_SESSION_TEST_MODEL();
  const std::vector<TokenId> tokens = TestTokens(*model, 400);
  const std::string path = ::testing::TempDir() + "mneme_rewinds_" + std::to_string(::getpid());
  for (const std::string& context : TestContexts()) {
    Budget budget;
    SessionOptions options = TestOptions(context);
    options.sampler.repetition_penalty = 1.5f;
    TestSession session(model, options, budget, TestDevice());
    session.Feed(tokens);
    EXPECT_GE(session.MaxRewind(), 20) << context;
    while (session.MaxRewind() > 0) {
      session.Rewind(session.MaxRewind());
      if (session.num_tokens() == 0) break;
      TestSession straight(model, options, budget, TestDevice());
      straight.Feed(std::span(tokens).first(static_cast<size_t>(session.num_tokens())));
      ASSERT_TRUE(SameBits(LogitsOf(session), LogitsOf(straight))) << context << " " << session.num_tokens();
      ASSERT_EQ(session.Sample(), straight.Sample()) << context << " " << session.num_tokens();
      session.Save(path);
      TestSession restored(model, options, budget, TestDevice());
      restored.Reload(path);
      ASSERT_EQ(restored.Sample(), straight.Sample()) << context;
      ASSERT_EQ(session.Clone().Sample(), straight.Sample()) << context;
    }
  }
  std::remove(path.c_str());
}

// Between two chunks the stream is in the middle of something.
TEST(SessionTest, ACallbackOfFeedMayNotEnterTheSession) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice());
  const std::vector<TokenId> tokens = TestTokens(*model, 40);
  const std::vector<std::function<void()>> calls = {
      [&] { session.Save(::testing::TempDir() + "mneme_never"); },
      [&] { session.Clone(); },
      [&] { session.Rewind(1); },
      [&] { session.Feed(tokens); },
      [&] { session.FeedText("x"); },
      [&] { session.Generate(); },
  };
  for (size_t i = 0; i < calls.size(); ++i) {
    const int64_t before = session.num_tokens();
    EXPECT_NE(ErrorOf(ErrorKind::kInput,
                      [&] {
                        session.Feed(std::span(tokens).first(5), {},
                                     [&](int64_t, std::span<const float>) { calls[i](); });
                      })
                  .find("in the middle"),
              std::string::npos)
        << i;
    EXPECT_EQ(session.num_tokens(), before + 5) << i;  // the chunk stays
  }
  session.Feed(std::span(tokens).first(5));
}

TEST(SessionTest, SamplingAfterRewindRepeatsItself) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  SessionOptions options = TestOptions("sinks:sinks=4,window=20");
  options.sampler = {.temperature = 1.0f, .top_p = 0.95f, .repetition_penalty = 1.2f, .seed = 11};
  TestSession session(model, options, budget, TestDevice());
  session.FeedText("Once upon a time");
  session.FinishText();
  const std::vector<TokenId> first = GreedyTokens(session, 20);
  session.Rewind(20);
  EXPECT_EQ(GreedyTokens(session, 20), first);
  session.Rewind(20);
  options.sampler.seed = 12;
  session.SetSampler(options.sampler);
  EXPECT_NE(GreedyTokens(session, 20), first);
}

// The position decides nothing in contexts of relative positions.
TEST(SessionTest, AStreamThatStartsFarAwayWritesTheSame) {
  MNEME_SESSION_TEST_MODEL();
  for (const std::string& spec : TestContexts()) {
    std::vector<TokenId> expected;
    for (const Position start : {Position{0}, Position{1} << 33}) {
      Budget budget;
      SessionOptions options = TestOptions(spec);
      options.start_position = start;
      TestSession session(model, options, budget, TestDevice());
      session.FeedText("Once upon a time, there was a dog.");
      const std::vector<TokenId> tokens = GreedyTokens(session, 60);
      if (expected.empty()) expected = tokens;
      EXPECT_EQ(tokens, expected) << spec << " from " << start;
      EXPECT_EQ(session.next_position(), start + session.num_tokens());
      EXPECT_EQ(session.impl().context->Ledger().front().begin, start);
    }
  }
}

TEST(SessionTest, ThreadsDoNotChangeBits) {
  MNEME_SESSION_TEST_MODEL();
  const std::vector<TokenId> tokens = TestTokens(*model, 100);
  for (const std::string& spec : TestContexts()) {
    std::vector<float> first;
    for (const size_t num_threads : {1, 2, 3}) {
      CpuDevice device(num_threads);
      Budget budget;
      TestSession session(model, TestOptions(spec), budget, device);
      session.Feed(tokens);
      if (first.empty()) first = LogitsOf(session);
      EXPECT_TRUE(SameBits(LogitsOf(session), first)) << spec << " with " << num_threads << " threads";
    }
  }
}

TEST(SessionTest, StopStringsEndTheTextBeforeThem) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  const auto run = [&](std::vector<std::string> stops, GenerateResult* result) {
    TestSession session(model, TestOptions("dense"), budget, TestDevice());
    session.FeedText("Once upon a time");
    return GenerateText(session, {.max_tokens = 60, .stop_strings = std::move(stops)}, result);
  };
  GenerateResult result;
  const std::string free = run({}, &result);
  const std::string stop = "play outside";
  ASSERT_NE(free.find(stop), std::string::npos) << free;
  const std::string stopped = run({"never", stop, ""}, &result);
  EXPECT_EQ(stopped, free.substr(0, free.find(stop)));
  EXPECT_EQ(result.reason, StopReason::kStopString);
  EXPECT_EQ(result.stop_string, stop);
  EXPECT_EQ(run({"xyzzy"}, &result), free);
  EXPECT_EQ(result.reason, StopReason::kMaxTokens);
}

// A conversation goes on behind what was shown, not behind the words that ended it.
TEST(SessionTest, StopStringsLeaveTheStream) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession free(model, TestOptions("dense"), budget, TestDevice());
  free.FeedText("Once upon a time");
  const std::string text = GenerateText(free, {.max_tokens = 60});
  for (size_t at = 10; at < 60; at += 3) {
    const std::string stop = text.substr(at, 6);
    TestSession session(model, TestOptions("dense"), budget, TestDevice()),
        plain(model, TestOptions("dense"), budget, TestDevice());
    session.FeedText("Once upon a time");
    session.FinishText();
    const auto num_before = static_cast<size_t>(session.num_tokens());
    GenerateResult result;
    const std::string shown = GenerateText(session, {.max_tokens = 60, .stop_strings = {stop}}, &result);
    ASSERT_EQ(result.reason, StopReason::kStopString);
    const std::vector<TokenId> ids = session.RecentTokens();
    ASSERT_EQ(ids.size(), static_cast<size_t>(session.num_tokens()));
    const std::string kept =
        model->tokenizer().Decode(std::span(ids).subspan(num_before), {.at_text_start = false});
    // A token may begin before the stop string and cannot be cut by every tokenizer.
    EXPECT_TRUE(kept.starts_with(shown)) << stop;
    EXPECT_LT(kept.size(), shown.size() + 6) << stop;
    EXPECT_EQ(kept.find(stop), std::string::npos);
    plain.Feed(ids);
    EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(plain))) << stop;
  }
}

TEST(SessionTest, AnAnswerThatIsDroppedLeavesWhatWasHandedOut) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice()),
      plain(model, TestOptions("dense"), budget, TestDevice());
  const std::vector<TokenId> prompt = TestTokens(*model, 12);
  session.Feed(prompt);
  plain.Feed(prompt);
  std::vector<TokenId> tokens;
  {
    Generation generation = session.Generate();
    while (tokens.size() < 5) tokens.push_back(generation.Next()->token);
    EXPECT_EQ(generation.result().num_tokens, 5);
    EXPECT_EQ(session.num_tokens(), 12 + 4);  // the last one is fed when it ends
    generation.Settle();
    EXPECT_EQ(session.num_tokens(), 12 + 5);
    tokens.push_back(generation.Next()->token);
  }
  plain.Feed(tokens);
  EXPECT_EQ(session.num_tokens(), 12 + 6);
  EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(plain)));
}

TEST(SessionTest, NothingChangesASessionWhileItAnswers) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice());
  session.FeedText("Once upon a time");
  session.FinishText();
  const std::string state = ::testing::TempDir() + "/busy.state";
  session.Save(state);
  const std::vector<TokenId> tokens = {5};
  const std::vector<std::function<void()>> changes = {
      [&] { session.Feed(tokens); },     [&] { session.FeedText("x"); },
      [&] { session.FinishText(); },     [&] { session.Rewind(1); },
      [&] { session.Reload(state); },    [&] { session.SetSampler({.temperature = 1}); },
      [&] { session.FeedPauses(1, 5); }, [&] { session.Generate(); },
      [&] { session.Sample(); }};
  Generation generation = session.Generate({.max_tokens = 3});
  generation.Next();
  for (const auto& change : changes) {
    EXPECT_NE(ErrorOf(ErrorKind::kInput, change).find("in the middle of this session"), std::string::npos);
  }
  while (generation.Next()) {
  }
  EXPECT_EQ(generation.result().num_tokens, 3);
  for (const auto& change : changes) EXPECT_EQ(ErrorOf(ErrorKind::kInput, change), "(no error)");
}

TEST(SessionTest, AStopEndsItAndLosesNothing) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  session.FeedText("Once upon");
  std::atomic<bool> stop{true};
  EXPECT_EQ(session.FeedText(" a time", TextKind::kPlain, &stop), 0);
  const std::vector<TokenId> tokens = TestTokens(*model, 5);
  GenerateResult result;
  EXPECT_EQ(GenerateText(session, {}, &result, &stop), "");
  EXPECT_EQ(result.reason, StopReason::kInterrupted);
  EXPECT_EQ(session.Feed(tokens, &stop), 0u);
  stop = false;
  EXPECT_EQ(session.Feed(tokens, &stop), 5u);
  EXPECT_EQ(session.text_bytes(), 9);
}

// T39, what of it needs no trained pauses.
TEST(SessionTest, TheLikeliestTokensComeWithTheirProbabilities) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice());
  session.Feed(TestTokens(*model, 30));
  std::vector<float> logits = LogitsOf(session);
  Generation generation = session.Generate({.max_tokens = 5, .num_top = 7});
  while (const auto piece = generation.Next()) {
    ASSERT_EQ(piece->top.size(), 7u);
    EXPECT_EQ(piece->top[0].first, piece->token);  // greedy
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    std::vector<TokenId> best(logits.size());
    std::iota(best.begin(), best.end(), 0);
    std::stable_sort(best.begin(), best.end(), [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
    for (size_t i = 0; i < piece->top.size(); ++i) {
      EXPECT_EQ(piece->top[i].first, best[i]);
      // The logarithm and the rounding to float.
      EXPECT_NEAR(piece->top[i].second, logits[best[i]] - std::log(sum), 1e-5);
    }
    generation.Settle();
    logits = LogitsOf(session);
  }
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session.Generate({.num_top = 5000}); }).find("num_top"),
            std::string::npos);
}

// Lets only some tokens through, and counts what it is told.
class OnlyThese : public TokenFilter {
 public:
  explicit OnlyThese(std::vector<TokenId> allowed) : allowed_(std::move(allowed)) {}
  void Mask(std::span<float> logits) override {
    std::vector<float> kept;
    for (const TokenId id : allowed_) kept.push_back(logits[static_cast<size_t>(id)]);
    std::fill(logits.begin(), logits.end(), -INFINITY);
    for (size_t i = 0; i < kept.size(); ++i) logits[static_cast<size_t>(allowed_[i])] = kept[i];
  }
  void Accept(TokenId token) override { accepted.push_back(token); }
  void Undo(int64_t count) override { accepted.resize(accepted.size() - static_cast<size_t>(count)); }
  std::vector<TokenId> accepted;

 private:
  std::vector<TokenId> allowed_;
};

TEST(SessionTest, AFilterDecidesWhatMayCome) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice());
  session.Feed(TestTokens(*model, 30));
  const std::vector<float> before = LogitsOf(session);
  const size_t used = budget.used_bytes();
  const auto filter = std::make_shared<OnlyThese>(std::vector<TokenId>{300, 17, 41});
  std::vector<TokenId> written;
  {
    Generation generation = session.Generate({.max_tokens = 12, .filter = filter});
    EXPECT_EQ(LogitsOf(session), before);  // they are masked in a copy
    EXPECT_GT(budget.used_bytes(), used);
    while (const auto piece = generation.Next()) {
      if (piece->token >= 0) written.push_back(piece->token);
    }
  }
  EXPECT_EQ(budget.used_bytes(), used);
  ASSERT_EQ(written.size(), 12u);
  EXPECT_EQ(written, filter->accepted);
  for (const TokenId id : written) EXPECT_TRUE(id == 300 || id == 17 || id == 41) << id;
  EXPECT_EQ(written[0], before[300] > std::max(before[17], before[41]) ? 300
                        : before[17] > before[41]                      ? 17
                                                                       : 41);
  // One that lets nothing through ends the answer with an error, and the stream stays.
  const int64_t num_tokens = session.num_tokens();
  EXPECT_NE(ErrorOf(ErrorKind::kInput,
                    [&] {
                      Generation none =
                          session.Generate({.filter = std::make_shared<OnlyThese>(std::vector<TokenId>{})});
                      none.Next();
                    }),
            "(no error)");
  EXPECT_EQ(session.num_tokens(), num_tokens);
  session.Feed(TestTokens(*model, 3));
}

TEST(SessionTest, PausesTakePositionsAndAreNotPenalised) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  SessionOptions options = TestOptions("sinks:sinks=4,window=20");
  options.sampler.repetition_penalty = 1e6f;
  const TokenId pause = 300;
  TestSession none(model, options, budget, TestDevice()), zero(model, options, budget, TestDevice());
  TestSession paused(model, options, budget, TestDevice()), plain(model, options, budget, TestDevice());
  const std::vector<TokenId> prompt = TestTokens(*model, 12);
  for (Session* session : {&none, &zero, &paused, &plain}) session->Feed(prompt);
  zero.FeedPauses(0, pause);
  EXPECT_TRUE(SameBits(LogitsOf(none), LogitsOf(zero)));
  paused.FeedPauses(17, pause);  // more than a chunk
  plain.Feed(std::vector<TokenId>(17, pause));
  EXPECT_EQ(paused.num_tokens(), 12 + 17);
  EXPECT_EQ(paused.RecentTokens(), plain.RecentTokens());
  EXPECT_TRUE(SameBits(LogitsOf(paused), LogitsOf(plain)));
  // The penalty is harsh enough to show: for `plain` the pause is a token like others.
  paused.Rewind(1);
  paused.FeedPauses(1, pause);
  EXPECT_TRUE(SameBits(LogitsOf(paused), LogitsOf(plain)));
  SamplerOptions banned = options.sampler;
  for (TokenId id = 0; id < 512; ++id) {
    if (id != pause && id != 301) banned.banned.push_back(id);
  }
  paused.SetSampler(banned);
  plain.SetSampler(banned);
  const std::vector<float> logits = LogitsOf(paused);
  if (logits[300] > logits[301]) {
    EXPECT_EQ(paused.Sample(), 300);
    EXPECT_EQ(plain.Sample(), 301);
  } else {
    EXPECT_EQ(paused.Sample(), 301);
  }
}

TEST(SessionTest, PausesThatCannotBe) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session.FeedPauses(3, 300); }).find("empty"), std::string::npos);
  session.FeedText("Once");
  EXPECT_NE(ErrorOf(ErrorKind::kUnsupported, [&] { session.FeedPauses(3); }).find("<pause>"),
            std::string::npos);
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session.FeedPauses(20, 300); }).find("window of 20"),
            std::string::npos);
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session.FeedPauses(-1, 300); }).find("negative"),
            std::string::npos);
  GenerateResult result;
  GenerateText(session, {.max_tokens = 15, .num_pauses = 10, .pause_token = 300}, &result);
  EXPECT_NE(result.message.find("longer than 10 tokens"), std::string::npos) << result.message;
  EXPECT_EQ(result.reason, StopReason::kContextFull);  // the answer ends before it loses its pauses
  EXPECT_EQ(result.num_tokens, 10);
  GenerateText(session, {.max_tokens = 5, .num_pauses = 10, .pause_token = 300}, &result);
  EXPECT_EQ(result.message, "");
  const int64_t before = session.num_tokens();
  const std::atomic<bool> stop{true};
  GenerateText(session, {.max_tokens = 5, .num_pauses = 10, .pause_token = 300}, &result, &stop);
  EXPECT_EQ(result.reason, StopReason::kInterrupted);
  EXPECT_EQ(session.num_tokens(), before);
}

TEST(SessionTest, EmptyAndShortStreams) {
  MNEME_SESSION_TEST_MODEL();
  for (const std::string& spec : TestContexts()) {
    Budget budget;
    TestSession session(model, TestOptions(spec), budget, TestDevice());
    EXPECT_EQ(session.Feed({}), 0u);
    session.FinishText();
    EXPECT_TRUE(session.impl().context->Ledger().empty());
    const std::string message = ErrorOf(ErrorKind::kInput, [&] { session.Generate(); });
    EXPECT_NE(message.find("stream is empty"), std::string::npos) << message;
    session.Feed(TestTokens(*model, 2));  // fewer than any sinks
    EXPECT_EQ(GreedyTokens(session, 40).size(), 40u);
    EXPECT_EQ(session.num_tokens(), 42);
  }
}

TEST(SessionTest, BytesThatAreNoText) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("sinks:sinks=4,window=20"), budget, TestDevice());
  const std::string bytes("a\0b\xFF\xFE\xC3(\x80\xF0\x9F end", 14);
  EXPECT_EQ(session.FeedText(bytes), bytes.size());
  session.FinishText();
  EXPECT_EQ(session.num_tokens(),
            static_cast<int64_t>(model->tokenizer().Encode(bytes, {.add_bos = true}).size()));
  EXPECT_EQ(GreedyTokens(session, 5).size(), 5u);
}

TEST(SessionTest, BadTokensAndOptionsAreNamed) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice());
  for (const TokenId bad : {-1, 512, INT32_MAX}) {
    const std::vector<TokenId> tokens = {1, 5, bad};
    EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { session.Feed(tokens); }).find("token 2 of the input"),
              std::string::npos);
    EXPECT_EQ(session.num_tokens(), 0);
  }
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { TestSession(model, TestOptions("auto"), budget, TestDevice()); })
                .find("definite context"),
            std::string::npos);
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [] { Engine({.max_rows = 0}); }).find("at least 1"),
            std::string::npos);
}

TEST(SessionTest, ACapTooSmallIsRefusedBeforeAnythingRuns) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget(size_t{1} << 20);
  const std::string message = ErrorOf(ErrorKind::kBudget, [&] {
    TestSession(model, TestOptions("sinks:sinks=4,window=20", 512), budget, TestDevice());
  });
  EXPECT_NE(message.find("--memory at least"), std::string::npos) << message;
  EXPECT_EQ(budget.used_bytes(), 0u);
}

TEST(SessionTest, DenseStopsPolitelyAtTheCap) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget(size_t{4} << 20);
  TestSession session(model, TestOptions("dense"), budget, TestDevice());
  const std::vector<TokenId> tokens = TestTokens(*model, 8000);
  const std::string message = ErrorOf(ErrorKind::kBudget, [&] { session.Feed(tokens); });
  EXPECT_NE(message.find("full at token"), std::string::npos) << message;
  EXPECT_GT(session.num_tokens(), 100);
  EXPECT_LT(session.num_tokens(), 8000);
  EXPECT_LE(budget.peak_bytes(), budget.cap_bytes());
  // What was read is still there, and generation reports the end instead of throwing.
  const int64_t before = session.num_tokens();
  GenerateResult result;
  GenerateText(session, {.max_tokens = 2000, .stop_at_eog = false}, &result);
  EXPECT_EQ(result.reason, StopReason::kContextFull);
  EXPECT_NE(result.message.find("full at token"), std::string::npos);
  EXPECT_GE(session.num_tokens(), before);
}

TEST(SessionTest, MemoryStaysFlatAndIsGivenBack) {
  MNEME_SESSION_TEST_MODEL();
  Budget budget(size_t{16} << 20);
  {
    TestSession session(model, TestOptions("sinks:sinks=4,window=100", 64), budget, TestDevice());
    const std::vector<TokenId> tokens = TestTokens(*model, 3000);
    const size_t used = budget.used_bytes();
    session.Feed(tokens);
    GreedyTokens(session, 50);
    EXPECT_EQ(budget.used_bytes(), used);
    EXPECT_EQ(budget.peak_bytes(), used);
    EXPECT_EQ(session.stats().prefill.num_tokens() + session.stats().decode.num_tokens(), 3050);
    EXPECT_EQ(session.stats().num_generated, 50);
    EXPECT_GT(session.stats().first_token_seconds, 0);
    for (const MemoryTag tag :
         {MemoryTag::kKv, MemoryTag::kScratch, MemoryTag::kSession, MemoryTag::kTokenizer}) {
      EXPECT_GT(budget.peak_bytes(tag), 0u) << MemoryTagName(tag);
    }
  }
  EXPECT_EQ(budget.used_bytes(), 0u);
}

}  // namespace
}  // namespace mneme
