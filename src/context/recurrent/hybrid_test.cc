// A model's layers with a state beside its attention, or alone.
#include "context/recurrent/hybrid.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "context/context_test_util.h"
#include "context/registry.h"
#include "kernels/recur/recur_test_util.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

ContextShape WithStates(size_t num_attention) {
  ContextShape shape = MakeShape(Positions::kRopeHalves, num_attention);
  shape.recurrent.layers = {ScanShape(), ConvolutionShape()};
  return shape;
}

// Tokens without a forward pass: what is stored is of no account.
void Feed(Context& context, int64_t count) {
  const std::vector<TokenId> token(1);
  for (int64_t i = 0; i < count; ++i) {
    context.Begin(token);
    context.Commit();
  }
}

TEST(HybridContext, WithoutAttentionEveryTokenIsInTheState) {
  const ContextShape shape = WithStates(0);
  const Budget budget;
  ContextSettings settings = Settings("dense");
  settings.start_position = 1000;
  const auto context = MakeContext(shape, settings, budget, 1);
  EXPECT_TRUE(context->Ledger().empty());
  Feed(*context, 300);
  const std::vector<LedgerRange> expected = {{1000, 1300, TokenFate::kState}};
  EXPECT_EQ(context->Ledger(), expected);
  context->Rewind(10);
  const std::vector<LedgerRange> shorter = {{1000, 1290, TokenFate::kState}};
  EXPECT_EQ(context->Ledger(), shorter);
  EXPECT_EQ(context->Fork()->Ledger(), shorter);
}

TEST(HybridContext, WhatAttentionDroppedIsInTheState) {
  const ContextShape shape = WithStates(1);
  const Budget budget;
  const auto context = MakeContext(shape, Settings("window:window=100"), budget, 1);
  Feed(*context, 300);
  ASSERT_FALSE(context->Ledger().empty());
  EXPECT_EQ(context->Ledger().front().fate, TokenFate::kState);
  EXPECT_EQ(context->Ledger().front().begin, 0);
  EXPECT_EQ(context->Ledger().back().fate, TokenFate::kWindow);
}

TEST(HybridContext, AModelWithoutAttentionTakesAsMuchForAnyStream) {
  const ContextShape shape = WithStates(0);
  const ResolvedContext resolved = ResolveContext(shape, Settings("auto"), SIZE_MAX, -1);
  EXPECT_EQ(resolved.settings.spec, "dense");
  EXPECT_NE(resolved.reason.find("no attention"), std::string::npos) << resolved.reason;
  const ContextBytes endless = PeakContextBytes(shape, resolved.settings, -1, 1);
  EXPECT_TRUE(endless.is_bounded);
  EXPECT_EQ(endless.total(), PeakContextBytes(shape, resolved.settings, 1, 1).total());
  EXPECT_GE(endless.kv_bytes,
            RecurrentState::PeakBytes(shape.recurrent, HybridContext::SettingsOf(resolved.settings)));
  EXPECT_NO_THROW(ResolveContext(shape, Settings("auto"), endless.total(), -1));
  for (const char* spec : {"auto", "dense", "sinks"}) {
    EXPECT_THROW(ResolveContext(shape, Settings(spec), endless.total() / 2, -1), Error) << spec;
  }
  // And it goes on beyond every length.
  const Budget budget(endless.total());
  const auto context = MakeContext(shape, resolved.settings, budget, 1);
  const size_t used = budget.used_bytes();
  Feed(*context, 20000);
  EXPECT_EQ(budget.used_bytes(), used);
  EXPECT_EQ(context->num_tokens(), 20000);
}

}  // namespace
}  // namespace mneme
