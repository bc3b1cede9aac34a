// What `--context` says: words that are wrong, sizes at their limits and beyond, what is chosen where nothing
// is said.
#include "context/registry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing.h"
#include "context/context_test_util.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

TEST(Context, SpecsThatAreWrongAreNamed) {
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  for (const char* spec :
       {"", "sink", "sinks:", "sinks:window", "sinks:window=", "sinks:widow=3", "sinks:window=3,window=4",
        "window:window=0", "sinks:window=-1", "sinks:window=x", "dense:window=3", "xl:segment=0"}) {
    ContextSettings settings = Settings(spec);
    if (std::string_view(spec) == "sinks:") continue;  // no options: the defaults
    EXPECT_THROW(ResolveContext(shape, settings, SIZE_MAX, -1), Error) << spec;
  }
  ContextSettings pinned = Settings("window:window=30");
  pinned.num_pinned = 5;
  EXPECT_THROW(ResolveContext(shape, pinned, SIZE_MAX, -1), Error);
  ContextShape learned = shape;
  learned.learned_positions = true;
  EXPECT_THROW(ResolveContext(learned, Settings("sinks"), SIZE_MAX, -1), Error);
}

// Every key of every context at its limits and far beyond, alone and with every other: refused by name, or a
// context that keeps its word.
TEST(Context, ExtremeSizesAreRefusedOrHeld) {
  ContextShape shape = MakeShape(Positions::kRopeHalves, 2);
  for (LayerAttention& layer : shape.layers) layer.memory_gate.assign(layer.num_heads, 0.5f);
  shape.memory.segment = 8;
  const Stream stream(shape.layers[0], 8, 17);
  CpuDevice device(1);
  const std::vector<std::string> values = {"0",
                                           "1",
                                           "7",
                                           "1073741823",
                                           "1073741824",
                                           "1073741825",
                                           "4294967294",
                                           "4294967296",
                                           "1099511627776",
                                           "1099511627777",
                                           "4611686018427387904",
                                           "9223372036854775807"};
  size_t num_made = 0, num_refused = 0;
  const auto attempt = [&](const std::string& spec) {
    try {
      ContextSettings settings = Settings(spec.c_str());
      settings = ResolveContext(shape, settings, size_t{4} << 20, -1).settings;
      SpanList spans;
      settings.policy->View(int64_t{1} << 50, &spans);
      for (size_t i = 0; i < spans.size(); ++i) {
        EXPECT_LE(spans[i].end - spans[i].begin,
                  i + 1 < spans.size() || spec != "dense" ? kMostTokens : INT64_MAX)
            << spec;
      }
      const ContextBytes bytes = PeakContextBytes(shape, settings, -1, 1);
      Budget budget(size_t{4} << 20);
      const auto context = MakeContext(shape, settings, budget, 1);
      EXPECT_EQ(budget.used_bytes(), bytes.total()) << spec;
      FeedTokens(*context, stream, 0, 8, 5, device, 2);
      EXPECT_EQ(context->Ledger().back().end, 8) << spec;
      ++num_made;
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::kInput || error.kind() == ErrorKind::kBudget) << spec;
      ++num_refused;
    }
  };
  for (const PolicyRow& row : PolicyTable()) {
    if (row.make == nullptr) continue;
    for (const PolicyKey& a : row.keys) {
      for (const PolicyKey& b : row.keys) {
        if (!a.words.empty() || !b.words.empty() || &b < &a) continue;
        for (const std::string& x : values) {
          const std::string spec = std::string(row.name) + ":" + std::string(a.name) + "=" + x;
          if (&a == &b) attempt(spec);
          for (const std::string& y : values) {
            if (&a != &b) attempt(spec + "," + std::string(b.name) + "=" + y);
          }
        }
      }
    }
  }
  EXPECT_GT(num_made, 100u);
  EXPECT_GT(num_refused, 1000u);
  EXPECT_THROW(ResolveContext(shape, Settings("xl:segment=4294967296,previous=4294967294"), SIZE_MAX, -1),
               Error);
}

TEST(Context, ExtremeNumbersBesideTheSpecAreRefused) {
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const auto refuse = [&](const char* what, int64_t ContextSettings::*number, int64_t value) {
    ContextSettings settings = Settings("sinks:sinks=4,window=20");
    settings.*number = value;
    Budget budget;
    for (const auto& attempt :
         std::initializer_list<std::function<void()>>{[&] { ResolveContext(shape, settings, SIZE_MAX, -1); },
                                                      [&] { PeakContextBytes(shape, settings, -1, 1); },
                                                      [&] { MakeContext(shape, settings, budget, 1); }}) {
      try {
        attempt();
        ADD_FAILURE() << what << " " << value << " was taken";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
      }
    }
    EXPECT_EQ(budget.peak_bytes(), 0u);
  };
  for (const int64_t value : {int64_t{-1}, int64_t{1} << 61, INT64_MAX, INT64_MIN}) {
    refuse("chunk", &ContextSettings::max_chunk, value);
    refuse("rewind", &ContextSettings::max_rewind, value);
    refuse("pinned", &ContextSettings::num_pinned, value);
    refuse("start", &ContextSettings::start_position, value);
  }
  refuse("pinned", &ContextSettings::num_pinned, int64_t{1} << 56);
}

TEST(Context, AutoSaysWhatAndWhy) {
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const ResolvedContext dense = ResolveContext(shape, Settings("auto"), SIZE_MAX, 100);
  EXPECT_EQ(dense.settings.spec, "dense");
  EXPECT_NE(dense.reason.find("trained length of 256"), std::string::npos) << dense.reason;
  const ResolvedContext endless = ResolveContext(shape, Settings("auto"), SIZE_MAX, -1);
  EXPECT_EQ(endless.settings.spec, "sinks:sinks=4,window=251");
  const size_t half = PeakContextBytes(shape, endless.settings, -1, 1).total() * 97 / 100;
  const ResolvedContext capped = ResolveContext(shape, Settings("auto"), half, 100000);
  EXPECT_LE(PeakContextBytes(shape, capped.settings, -1, 1).total(), half);
  EXPECT_NE(capped.settings.spec, endless.settings.spec);
  EXPECT_THROW(ResolveContext(shape, Settings("auto"), 1000, -1), Error);
  ContextSettings pinned = Settings("auto");
  pinned.num_pinned = 40;
  EXPECT_EQ(ResolveContext(shape, pinned, SIZE_MAX, -1).settings.spec, "sinks:sinks=40,window=215");
}

TEST(Context, TheModelSaysHowManySinksItWasTrainedWith) {
  ContextShape shape = MakeShape(Positions::kRopeHalves);
  const auto resolved = [&](const char* spec) {
    return ResolveContext(shape, Settings(spec), SIZE_MAX, -1).settings.spec;
  };
  EXPECT_EQ(resolved("sinks"), "sinks:sinks=4,window=251");
  shape.num_sinks = 1;
  EXPECT_EQ(resolved("sinks"), "sinks:sinks=1,window=254");
  EXPECT_EQ(resolved("sinks:sinks=auto,window=20"), "sinks:sinks=1,window=20");
  EXPECT_EQ(resolved("auto"), "sinks:sinks=1,window=254");
  EXPECT_EQ(resolved("sinks:sinks=6"), "sinks:sinks=6,window=249");
}

TEST(Context, WhatPinningRaisedIsMeantByTheSameWords) {
  EXPECT_TRUE(ContextAgrees("sinks:sinks=4,window=200", "sinks:sinks=20,window=200", 20));
  EXPECT_TRUE(ContextAgrees("lambda:starts=4", "lambda:starts=20,window=64,distance=64,top_k=0", 20));
  EXPECT_FALSE(ContextAgrees("sinks:sinks=4,window=200", "sinks:sinks=20,window=200", 0));
  EXPECT_FALSE(ContextAgrees("sinks:sinks=25,window=200", "sinks:sinks=20,window=200", 20));
  EXPECT_FALSE(ContextAgrees("sinks:window=4", "sinks:sinks=20,window=200", 20));
}

}  // namespace
}  // namespace mneme
