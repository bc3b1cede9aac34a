// Sessions of models whose layers have a state of fixed size: beside attention, or alone (Mamba 2).
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/files/file.h"
#include "session/session_test_util.h"

namespace mneme {
namespace {

using namespace mneme::testing;

class FixedState : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    MNEME_REQUIRE_DATA(data);
    const std::string golden = data + "/goldens/" + GetParam();
    if (!FileExists(golden + "/model.safetensors")) GTEST_SKIP() << "no " << golden;
    model_ = LoadedModel::Load(golden, {}, TestDevice());
    for (TokenId i = 0; i < 400; ++i) tokens_.push_back((i * 37 + i * i / 5) % 128);
  }
  bool has_attention() const { return !model_->context_shape().layers.empty(); }
  std::span<const TokenId> Tokens(size_t first, size_t count) const {
    return std::span(tokens_).subspan(first, count);
  }
  // Tokens are taken back over a border of the state.
  TestSettings Options() const {
    return TestOptions(has_attention() ? "sinks:sinks=4,window=90" : "dense", 16, 80);
  }

  std::shared_ptr<const LoadedModel> model_;
  std::vector<TokenId> tokens_;
  Budget budget_;
};

TEST_P(FixedState, RewindIsExact) {
  for (const size_t at : {1u, 63u, 64u, 130u, 300u}) {
    for (const size_t back : {1u, 16u, 70u}) {
      TestSession straight(model_, Options(), budget_, TestDevice());
      TestSession detour(model_, Options(), budget_, TestDevice());
      straight.Feed(Tokens(0, at));
      detour.Feed(Tokens(0, at));
      detour.Feed(Tokens(400 - back, back));  // something else
      detour.Rewind(static_cast<int64_t>(back));
      EXPECT_TRUE(SameBits(LogitsOf(detour), LogitsOf(straight))) << at << " by " << back;
      straight.Feed(Tokens(at, 30));
      detour.Feed(Tokens(at, 30));
      EXPECT_TRUE(SameBits(LogitsOf(detour), LogitsOf(straight))) << at << " by " << back;
    }
  }
}

TEST_P(FixedState, GoingOnAfterRestoreIsBitIdentical) {
  const std::string path = (std::filesystem::temp_directory_path() /
                            ("mneme_fixed_state_" + std::to_string(::getpid()) + "_" + GetParam()))
                               .string();
  for (const size_t at : {0u, 3u, 64u, 200u}) {
    TestSession original(model_, Options(), budget_, TestDevice());
    original.Feed(Tokens(0, at));
    original.Save(path);
    TestSession restored(model_, Options(), budget_, TestDevice());
    restored.Reload(path);
    EXPECT_EQ(restored.num_tokens(), static_cast<int64_t>(at));
    EXPECT_EQ(restored.impl().context->Ledger(), original.impl().context->Ledger());
    original.Feed(Tokens(at, 90));
    restored.Feed(Tokens(at, 90));
    EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(original))) << at;
    original.Rewind(75);
    restored.Rewind(75);
    EXPECT_TRUE(SameBits(LogitsOf(restored), LogitsOf(original))) << at;
  }
  std::filesystem::remove(path);
}

TEST_P(FixedState, AClonesStateIsItsOwn) {
  TestSession session(model_, Options(), budget_, TestDevice());
  session.Feed(Tokens(0, 100));
  Session clone = session.Clone();
  session.Feed(Tokens(300, 50));
  clone.Feed(Tokens(100, 50));
  TestSession straight(model_, Options(), budget_, TestDevice());
  straight.Feed(Tokens(0, 150));
  EXPECT_TRUE(SameBits(LogitsOf(clone), LogitsOf(straight)));
  EXPECT_FALSE(SameBits(LogitsOf(session), LogitsOf(straight)));
}

TEST_P(FixedState, TheLedgerNamesTheState) {
  TestSession session(model_, Options(), budget_, TestDevice());
  session.Feed(tokens_);
  const std::vector<LedgerRange> ledger = session.impl().context->Ledger();
  ASSERT_FALSE(ledger.empty());
  if (has_attention()) {
    EXPECT_EQ(ledger.back().fate, TokenFate::kWindow);
    const std::vector<LedgerRange> merged = MergeLedger(ledger);
    ASSERT_EQ(merged.size(), 3u);
    EXPECT_EQ(merged[1].fate, TokenFate::kState);  // what left the window
    return;
  }
  ASSERT_EQ(ledger.size(), 1u);
  EXPECT_EQ(ledger[0].fate, TokenFate::kState);
  EXPECT_EQ(ledger[0].begin, 0);
  EXPECT_EQ(ledger[0].end, 400);
}

INSTANTIATE_TEST_SUITE_P(Goldens, FixedState,
                         ::testing::Values("mamba2", "lfm2", "granite-hybrid", "nemotron-h", "falcon-h1",
                                           "qwen3-next", "mamba", "jamba", "recurrent-gemma", "rwkv4",
                                           "kimi-linear", "zamba2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace mneme
