// Taking tokens back while generating. The small model was not trained to do it; a token that it likes to
// write stands in for the backspace.
#include <gtest/gtest.h>

#include <algorithm>

#include "session/session_test_util.h"

namespace mneme {
namespace {

using namespace testing;

struct Kept {
  std::vector<TokenId> ids;
  std::string text;
  GenerateResult result;
};

Kept Write(Session& session, const GenerateOptions& options) {
  Kept kept;
  Generation generation = session.Generate(options);
  while (const auto piece = generation.Next()) {
    kept.text += piece->text;
    if (piece->token >= 0) kept.ids.push_back(piece->token);
  }
  kept.result = generation.result();
  return kept;
}

GenerateOptions WithBackspace(TokenId token, int64_t max_tokens) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.backspace = true;
  options.backspace_token = token;
  return options;
}

TokenId Favourite(const LoadedModel& model) { return model.tokenizer().Encode("the cat.").back(); }

// T40: what was taken back leaves no trace, whatever the context evicts meanwhile.
TEST(BackspaceTest, TheStreamIsThatOfTheTokensThatStay) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  for (const std::string& spec : TestContexts()) {
    for (const float temperature : {0.0f, 1.5f}) {
      Budget budget;
      SessionOptions options = TestOptions(spec);
      options.sampler.temperature = temperature;
      options.sampler.repetition_penalty = 1.1f;
      const std::vector<TokenId> prompt = TestTokens(*model, 30);
      TestSession session(model, options, budget, TestDevice()), plain(model, options, budget, TestDevice());
      session.Feed(prompt);
      plain.Feed(prompt);
      const Kept kept = Write(session, WithBackspace(Favourite(*model), 60));
      EXPECT_GT(kept.result.num_backspaces, 0) << spec;
      EXPECT_EQ(session.stats().num_backspaces, kept.result.num_backspaces);
      ASSERT_EQ(kept.ids.size(), static_cast<size_t>(kept.result.num_tokens)) << spec;
      EXPECT_EQ(session.num_tokens(), 30 + kept.result.num_tokens);
      EXPECT_EQ(std::count(kept.ids.begin(), kept.ids.end(), Favourite(*model)), 0);
      EXPECT_EQ(kept.text, model->tokenizer().Decode(kept.ids, {.at_text_start = false}));
      for (const TokenId id : kept.ids) plain.Feed({&id, 1});
      EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(plain))) << spec;
      EXPECT_EQ(session.impl().context->Ledger(), plain.impl().context->Ledger()) << spec;
      // And it goes on the same.
      EXPECT_EQ(Write(session, {.max_tokens = 10}).ids, Write(plain, {.max_tokens = 10}).ids) << spec;
    }
  }
}

// A filter hears of every token that stays, and of what is taken back.
TEST(BackspaceTest, AFilterHearsOfWhatIsTakenBack) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  class Listening : public TokenFilter {
   public:
    void Mask(std::span<float>) override {}
    void Accept(TokenId token) override { tokens.push_back(token); }
    void Undo(int64_t count) override { tokens.resize(tokens.size() - static_cast<size_t>(count)); }
    std::vector<TokenId> tokens;
  };
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice());
  session.Feed(TestTokens(*model, 30));
  GenerateOptions options = WithBackspace(Favourite(*model), 60);
  const auto filter = std::make_shared<Listening>();
  options.filter = filter;
  const Kept kept = Write(session, options);
  EXPECT_GT(kept.result.num_backspaces, 0);
  EXPECT_EQ(filter->tokens, kept.ids);
}

TEST(BackspaceTest, OneDetourIsBitForBitNoDetour) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  for (const std::string& spec : TestContexts()) {
    Budget budget;
    TestSession session(model, TestOptions(spec), budget, TestDevice());
    const std::vector<TokenId> tokens = TestTokens(*model, 60);
    for (const TokenId id : tokens) {
      session.Feed({&id, 1});
      const std::vector<float> before = LogitsOf(session);
      const auto ledger = session.impl().context->Ledger();
      const TokenId wrong = (id + 77) % 512;
      session.Feed({&wrong, 1});
      session.Rewind(1);
      ASSERT_TRUE(SameBits(before, LogitsOf(session))) << spec << " at " << session.num_tokens();
      EXPECT_EQ(ledger, session.impl().context->Ledger());
    }
  }
}

// What was still open when its owner dropped the answer was seen by nobody, and leaves the stream.
TEST(BackspaceTest, AnAnswerThatIsDroppedLeavesWhatWasHandedOut) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice()),
      plain(model, TestOptions("dense"), budget, TestDevice());
  const std::vector<TokenId> prompt = TestTokens(*model, 12);
  session.Feed(prompt);
  plain.Feed(prompt);
  GenerateOptions generate = WithBackspace(511, 40);  // never written
  generate.backspace_depth = 4;
  std::vector<TokenId> seen;
  {
    Generation generation = session.Generate(generate);
    while (seen.size() < 3) seen.push_back(generation.Next()->token);
    EXPECT_GT(session.num_tokens(), 12 + 3);
  }
  plain.Feed(seen);
  EXPECT_EQ(session.num_tokens(), 12 + 3);
  EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(plain)));
}

TEST(BackspaceTest, ThePromptIsNeverTakenBack) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  Budget budget;
  SessionOptions options = TestOptions("dense");
  TestSession session(model, options, budget, TestDevice());
  const std::vector<TokenId> prompt = TestTokens(*model, 12);
  session.Feed(prompt);
  const TokenId first = session.Sample();  // what it would write at once stands for the backspace
  const Kept kept = Write(session, WithBackspace(first, 8));
  ASSERT_FALSE(kept.ids.empty());
  EXPECT_NE(kept.ids[0], first);
  std::vector<TokenId> expected = prompt;
  expected.insert(expected.end(), kept.ids.begin(), kept.ids.end());
  EXPECT_EQ(session.RecentTokens(), expected);
  // Nor pauses before the answer.
  TestSession paused(model, options, budget, TestDevice());
  paused.Feed(prompt);
  GenerateOptions both = WithBackspace(first, 8);
  both.num_pauses = 3;
  both.pause_token = 400;
  Write(paused, both);
  const std::vector<TokenId> recent = paused.RecentTokens();
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(recent[prompt.size() + i], 400);
}

// Twelve tokens are left to choose from and one of them takes back: greedy decoding comes back to every place
// again and again, and must end all the same.
TEST(BackspaceTest, GreedyDecodingDoesNotLoop) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  Budget budget;
  SessionOptions options = TestOptions("dense");
  const TokenId backspace = Favourite(*model);
  for (TokenId id = 0; id < 512; ++id) {
    if (id != backspace && (id < 410 || id > 420)) options.sampler.banned.push_back(id);
  }
  TestSession session(model, options, budget, TestDevice());
  session.Feed(TestTokens(*model, 12));
  GenerateOptions generate = WithBackspace(backspace, 5);
  const Kept kept = Write(session, generate);
  EXPECT_EQ(kept.result.num_tokens, 5);
  EXPECT_EQ(kept.result.reason, StopReason::kMaxTokens);
  EXPECT_GE(kept.result.num_backspaces, 5);
  TestSession few(model, options, budget, TestDevice());
  few.Feed(TestTokens(*model, 12));
  generate.max_backspaces = 3;
  EXPECT_EQ(Write(few, generate).result.num_backspaces, 3);
}

TEST(BackspaceTest, StopStringsEndTheStreamWhereTheyEnd) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice()),
      plain(model, TestOptions("dense"), budget, TestDevice());
  for (Session* one : {&session, &plain}) one->FeedText("Once upon a time");
  GenerateOptions options;
  options.max_tokens = 100;
  options.stop_strings = {"park"};
  const Kept expected = Write(plain, options);
  ASSERT_EQ(expected.result.reason, StopReason::kStopString);
  options.backspace = true;
  options.backspace_token = 511;  // never written
  const Kept kept = Write(session, options);
  EXPECT_EQ(kept.result.reason, StopReason::kStopString);
  EXPECT_EQ(kept.text, expected.text);
  EXPECT_EQ(kept.result.num_tokens, expected.result.num_tokens);
  EXPECT_EQ(session.num_tokens(), plain.num_tokens());
  EXPECT_TRUE(SameBits(LogitsOf(session), LogitsOf(plain)));
}

TEST(BackspaceTest, WhatCannotBeIsRefused) {
  MNEME_REQUIRE_DATA(data);
  const auto model = TestModel(data);
  Budget budget;
  TestSession session(model, TestOptions("dense"), budget, TestDevice());
  session.FeedText("Once");
  const auto message = [&](ErrorKind kind, const GenerateOptions& options) {
    return ErrorOf(kind, [&] { Write(session, options); });
  };
  EXPECT_NE(message(ErrorKind::kUnsupported, WithBackspace(-1, 5)).find("mneme.backspace_token_id"),
            std::string::npos);
  EXPECT_NE(message(ErrorKind::kInput, WithBackspace(5000, 5)), "(no error)");
  GenerateOptions none = WithBackspace(5, 5);
  none.backspace_depth = 0;
  EXPECT_NE(message(ErrorKind::kInput, none).find("at least 1"), std::string::npos);
  TestSession stiff(model, TestOptions("dense", 16, 0), budget, TestDevice());
  stiff.FeedText("Once");
  EXPECT_NE(ErrorOf(ErrorKind::kInput, [&] { Write(stiff, WithBackspace(5, 5)); }).find("max_rewind"),
            std::string::npos);
}

}  // namespace
}  // namespace mneme
