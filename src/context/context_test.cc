// Contexts against a brute-force definition that knows neither policies nor rings nor blocks: for every
// query, a list of (token, distance) pairs made the way the papers describe it, and one softmax in double
// precision.
#include "context/context.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <functional>
#include <initializer_list>
#include <string>

#include "base/error.h"
#include "base/random.h"
#include "base/testing.h"
#include "context/context_test_util.h"
#include "context/policy.h"
#include "context/registry.h"
#include "context/span_context.h"
#include "kernels/cpu_device.h"
#include "kv/eviction.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

Rule DenseRule() {
  return [](int64_t index) {
    std::vector<Seen> seen;
    for (int64_t j = 0; j <= index; ++j) seen.push_back({j, index - j});
    return seen;
  };
}

Rule WindowRule(int64_t window) {
  return [=](int64_t index) {
    std::vector<Seen> seen;
    for (int64_t j = std::max<int64_t>(0, index - window + 1); j <= index; ++j)
      seen.push_back({j, index - j});
    return seen;
  };
}

// The cache of the paper, token by token: append, attend with positions in the cache, drop the oldest that is
// not a sink.
Rule SinksRule(int64_t sinks, int64_t window) {
  return [=](int64_t index) {
    std::deque<int64_t> cache;
    for (int64_t j = 0; j < index; ++j) {
      cache.push_back(j);
      if (static_cast<int64_t>(cache.size()) > sinks + window) cache.erase(cache.begin() + sinks);
    }
    cache.push_back(index);
    std::vector<Seen> seen;
    for (size_t at = 0; at < cache.size(); ++at) {
      seen.push_back({cache[at], static_cast<int64_t>(cache.size() - 1 - at)});
    }
    return seen;
  };
}

Rule LambdaRule(int64_t starts, int64_t window, int64_t distance) {
  return [=](int64_t index) {
    std::vector<Seen> seen;
    for (int64_t j = 0; j <= index; ++j) {
      if (index - j < window) {
        seen.push_back({j, index - j});
      } else if (j < starts) {
        seen.push_back({j, std::min(distance, index)});
      }
    }
    return seen;
  };
}

Rule MiddleRule(int64_t starts, int64_t window, int64_t distance, int64_t capacity) {
  return [=](int64_t index) {
    std::vector<Seen> seen;
    for (int64_t j = starts; j <= index - window; ++j) {
      if (j > index - window - capacity) seen.push_back({j, distance});
    }
    return seen;
  };
}

struct Case {
  const char* spec;
  Rule rule;
  int64_t top_k = 0;
  Rule middle = nullptr;
};

std::vector<Case> Cases() {
  return {
      {"dense", DenseRule()},
      {"window:window=37", WindowRule(37)},
      {"window:window=1", WindowRule(1)},
      {"window:window=1000", WindowRule(1000)},
      {"sinks:sinks=4,window=3", SinksRule(4, 3)},
      {"sinks:sinks=4,window=70", SinksRule(4, 70)},
      {"sinks:sinks=0,window=20", SinksRule(0, 20)},
      {"sinks:sinks=5,window=0", SinksRule(5, 0)},
      {"sinks:sinks=100,window=30", SinksRule(100, 30)},
      {"sinks:sinks=64,window=40", SinksRule(64, 40)},
      {"sinks:sinks=4,window=1000", SinksRule(4, 1000)},
      {"lambda:starts=10,window=32", LambdaRule(10, 32, 32)},
      {"lambda:starts=0,window=50", LambdaRule(0, 50, 50)},
      {"lambda:starts=90,window=20,distance=64", LambdaRule(90, 20, 64)},
      {"lambda:starts=3,window=1,distance=400", LambdaRule(3, 1, 400)},
      {"lambda:starts=4,window=30,top_k=5,from_layer=0,middle_distance=15,middle_tokens=60",
       LambdaRule(4, 30, 30), 5, MiddleRule(4, 30, 15, 60)},
      {"lambda:starts=0,window=16,top_k=1000,from_layer=0,middle_distance=9,middle_tokens=1000",
       LambdaRule(0, 16, 16), 1000, MiddleRule(0, 16, 9, 1000)},
      {"xl:segment=24,previous=1", XlRule(24, 1)},
      {"xl:segment=10,previous=0", XlRule(10, 0)},
      {"xl:segment=7,previous=4", XlRule(7, 4)},
  };
}

// Rounding of keys, values and probabilities at float32, in a softmax of a few hundred terms.
constexpr double kF32Tolerance = 2e-5;

TEST(Context, MatchesTheDefinitionEveryPolicyEveryPositionKind) {  // T5 - T9, T11 - T14
  CpuDevice device(2);
  constexpr int64_t kTokens = 211;
  for (const Positions positions :
       {Positions::kRopeHalves, Positions::kRopeInterleavedPartial, Positions::kAlibi}) {
    const ContextShape shape = MakeShape(positions);
    const Stream stream(shape.layers[0], kTokens, 1);
    for (const Case& test : Cases()) {
      Budget budget;
      const auto context = MakeContext(shape, Settings(test.spec), budget, 2);
      const std::vector<float> out = FeedTokens(*context, stream, 0, kTokens, 13, device);
      const size_t row_values = 6 * 16;
      for (int64_t index = 0; index < kTokens; ++index) {
        const std::vector<double> expected = BruteForce(stream, index, test.rule, test.top_k, test.middle);
        const std::span<const float> row(out.data() + static_cast<size_t>(index) * row_values, row_values);
        ASSERT_LT(RelativeDifference(row, expected), kF32Tolerance) << test.spec << " token " << index;
      }
    }
  }
}

TEST(Context, ChunksAndThreadsChangeNoBit) {  // T10, T44
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 300, 2);
  for (const Case& test : Cases()) {
    std::vector<float> first;
    for (const int64_t chunk : {1, 7, 64}) {
      for (const size_t threads : {1, 3}) {
        CpuDevice device(threads);
        Budget budget;
        const auto context = MakeContext(shape, Settings(test.spec), budget, threads);
        const std::vector<float> out = FeedTokens(*context, stream, 0, 300, chunk, device);
        if (first.empty()) first = out;
        ASSERT_TRUE(out == first) << test.spec << " chunk " << chunk << " threads " << threads;
      }
    }
  }
}

TEST(Context, EveryEncodingWithEveryPolicy) {
  struct Row {
    Encoding encoding;
    double tolerance;  // half a step of the encoding on keys (through the softmax) and values
  };
  const Row rows[] = {
      {Encoding::kF16, 2e-3}, {Encoding::kBF16, 1.5e-2}, {Encoding::kQ8_0, 2e-2}, {Encoding::kQ4_0, 0.3}};
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 150, 3);
  for (const Case& test : Cases()) {
    if (test.top_k > 0 && test.top_k < 100) continue;  // the choice itself depends on rounding
    for (const Row& row : rows) {
      Budget budget;
      const auto context = MakeContext(shape, Settings(test.spec, row.encoding), budget, 1);
      const std::vector<float> out = FeedTokens(*context, stream, 0, 150, 32, device);
      std::vector<double> expected;
      for (int64_t index = 0; index < 150; ++index) {
        const auto values = BruteForce(stream, index, test.rule, test.top_k, test.middle);
        expected.insert(expected.end(), values.begin(), values.end());
      }
      const double difference = RelativeDifference(out, expected);
      EXPECT_LT(difference, row.tolerance) << test.spec << " " << EncodingName(row.encoding);
      EXPECT_GT(difference, 1e-6) << "the encoding was not used: " << test.spec;
    }
  }
}

TEST(Context, ModelWindowsSoftCapsAndSinkLogitsHoldInsideEveryPolicy) {
  CpuDevice device(1);
  ContextShape shape = MakeShape(Positions::kRopeHalves, 2);
  shape.layers[0].layer_window = 33;
  shape.layers[0].soft_cap = 2.0f;
  shape.layers[0].sink_logits = {0.5f, -1, 2, 0, 1, 3};
  const Stream stream(shape.layers[0], 180, 4);
  for (const Case& test : Cases()) {
    if (test.top_k > 0) continue;
    Budget budget;
    const auto context = MakeContext(shape, Settings(test.spec), budget, 1);
    const std::vector<float> out = FeedTokens(*context, stream, 0, 180, 17, device, 1);
    for (int64_t index = 0; index < 180; ++index) {
      const std::vector<double> expected = BruteForce(stream, index, test.rule);
      const std::span<const float> row(out.data() + static_cast<size_t>(index) * 96, 96);
      ASSERT_LT(RelativeDifference(row, expected), kF32Tolerance) << test.spec << " token " << index;
    }
  }
}

// Chunks in the place of windows: of the positions where keys and queries stand, whatever the policy.
TEST(Context, ModelChunksHoldInsideEveryPolicy) {
  CpuDevice device(1);
  ContextShape shape = MakeShape(Positions::kRopeHalves, 1);
  shape.layers[0].layer_window = 41;
  shape.layers[0].is_chunked = true;
  const Stream stream(shape.layers[0], 180, 4);
  for (const Position start : {Position{0}, Position{100}}) {
    for (const Case& test : Cases()) {
      if (std::string_view(test.spec).starts_with("lambda")) continue;  // has keys that stand nowhere
      ContextSettings settings = Settings(test.spec);
      settings.start_position = start;
      Budget budget;
      const auto context = MakeContext(shape, settings, budget, 1);
      const std::vector<float> out = FeedTokens(*context, stream, 0, 180, 17, device);
      for (int64_t index = 0; index < 180; ++index) {
        const Rule in_chunk = [&](int64_t at) {
          std::vector<Seen> keys = test.rule(at);
          const auto chunk = [&](int64_t place) {
            return std::floor(static_cast<double>(start + place) / 41.0);
          };
          std::erase_if(keys,
                        [&](Seen seen) { return chunk(seen.token) != chunk(seen.token + seen.distance); });
          return keys;
        };
        const std::vector<double> expected = BruteForce(stream, index, in_chunk);
        const std::span<const float> row(out.data() + static_cast<size_t>(index) * 96, 96);
        ASSERT_LT(RelativeDifference(row, expected), kF32Tolerance)
            << test.spec << " token " << index << " from " << start;
      }
    }
  }
}

TEST(Context, PositionTwoToTheThirtyThree) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 200, 5);
  for (const Case& test : Cases()) {
    ContextSettings settings = Settings(test.spec);
    settings.start_position = Position{1} << 33;
    Budget budget;
    const auto context = MakeContext(shape, settings, budget, 1);
    const std::vector<float> out = FeedTokens(*context, stream, 0, 200, 50, device);
    for (int64_t index = 0; index < 200; index += 9) {
      const std::vector<double> expected = BruteForce(stream, index, test.rule, test.top_k, test.middle);
      const std::span<const float> row(out.data() + static_cast<size_t>(index) * 96, 96);
      ASSERT_LT(RelativeDifference(row, expected), kF32Tolerance) << test.spec << " token " << index;
    }
    EXPECT_EQ(context->Ledger().back().end, (Position{1} << 33) + 200);
  }
}

TEST(Context, RewindIsExactAndSoIsItsState) {  // T40
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 260, 6);
  const Stream detour(shape.layers[0], 260, 7);
  for (const Case& test : Cases()) {
    for (const int64_t at : {5, 63, 64, 65, 130, 199}) {
      Budget budget;
      const auto context = MakeContext(shape, Settings(test.spec), budget, 1);
      FeedTokens(*context, stream, 0, at, 11, device);
      const std::string before = StateOf(*context);
      FeedTokens(*context, detour, at, at + 18, 6, device);
      ASSERT_GE(context->MaxRewind(), 18) << test.spec;
      context->Rewind(18);
      EXPECT_EQ(context->num_tokens(), at);
      EXPECT_TRUE(StateOf(*context) == before) << test.spec << " at " << at;
      const std::vector<float> after = FeedTokens(*context, stream, at, at + 60, 9, device);
      const auto straight = MakeContext(shape, Settings(test.spec), budget, 1);
      FeedTokens(*straight, stream, 0, at, 11, device);
      ASSERT_TRUE(after == FeedTokens(*straight, stream, at, at + 60, 9, device))
          << test.spec << " at " << at;
      EXPECT_THROW(context->Rewind(21), Error);
      EXPECT_EQ(context->num_tokens(), at + 60);
    }
  }
}

TEST(Context, RestoredContextContinuesWithTheSameBits) {  // T41
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 300, 8);
  for (const Encoding encoding :
       {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0}) {
    for (const Case& test : Cases()) {
      for (const int64_t at : {0, 1, 64, 101, 200}) {
        Budget budget;
        const auto context = MakeContext(shape, Settings(test.spec, encoding), budget, 1);
        FeedTokens(*context, stream, 0, at, 30, device);
        const std::string state = StateOf(*context);
        const auto restored = MakeContext(shape, Settings(test.spec, encoding), budget, 1);
        BufferReader reader(state);
        restored->Restore(reader);
        EXPECT_EQ(reader.remaining_bytes(), 0u);
        EXPECT_EQ(restored->Ledger(), context->Ledger());
        EXPECT_EQ(restored->MaxRewind(), context->MaxRewind());
        EXPECT_TRUE(StateOf(*restored) == state);
        ASSERT_TRUE(FeedTokens(*restored, stream, at, at + 90, 16, device) ==
                    FeedTokens(*context, stream, at, at + 90, 16, device))
            << test.spec << " " << EncodingName(encoding) << " at " << at;
      }
    }
  }
}

TEST(Context, TruncatedAndHostileStatesAreRefused) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 100, 9);
  for (const char* spec :
       {"dense", "sinks:sinks=4,window=20", "lambda:starts=4,window=20,top_k=3,from_layer=0"}) {
    Budget budget;
    const auto context = MakeContext(shape, Settings(spec), budget, 1);
    FeedTokens(*context, stream, 0, 100, 30, device);
    const std::string state = StateOf(*context);
    for (size_t length = 0; length < state.size(); length += 97) {
      const auto restored = MakeContext(shape, Settings(spec), budget, 1);
      BufferReader reader(std::string_view(state).substr(0, length));
      EXPECT_THROW(restored->Restore(reader), Error) << spec << " cut at " << length;
    }
    for (size_t byte = 0; byte < 40; ++byte) {
      std::string bad = state;
      bad[byte] = static_cast<char>(bad[byte] ^ 0xFF);
      const auto restored = MakeContext(shape, Settings(spec), budget, 1);
      BufferReader reader(bad);
      try {
        restored->Restore(reader);
      } catch (const Error&) {
      }
    }
  }
}

// A state made for one policy is not taken for another's, whatever its sizes say.
TEST(Context, StatesOfOtherPoliciesAreRefusedOrHoldTogether) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 400, 18);
  for (const Case& from : Cases()) {
    for (const Case& to : Cases()) {
      Budget budget;
      const auto context = MakeContext(shape, Settings(from.spec), budget, 1);
      FeedTokens(*context, stream, 0, 300, 50, device);
      const std::string state = StateOf(*context);
      const auto other = MakeContext(shape, Settings(to.spec), budget, 1);
      BufferReader reader(state);
      try {
        other->Restore(reader);
      } catch (const Error&) {
        continue;
      }
      if (reader.remaining_bytes() > 0) continue;  // the session refuses it
      StateOf(*other);
      FeedTokens(*other, stream, 300, 400, 50, device);
      StateOf(*other);
      other->Rewind(other->MaxRewind());
    }
  }
}

TEST(Context, StatesDoNotDependOnTheChunk) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 400, 19);
  for (const Case& test : Cases()) {
    std::string first;
    for (const int64_t chunk : {1, 7, 64, 200}) {
      ContextSettings settings = Settings(test.spec);
      settings.max_chunk = chunk;
      Budget budget;
      const auto context = MakeContext(shape, settings, budget, 1);
      FeedTokens(*context, stream, 0, 290, chunk, device);
      context->Rewind(13);
      const std::string state = StateOf(*context);
      if (first.empty()) first = state;
      EXPECT_TRUE(state == first) << test.spec << " chunk " << chunk;
      // And one of any chunk goes into a context of any other.
      settings.max_chunk = 3;
      const auto small = MakeContext(shape, settings, budget, 1);
      BufferReader reader(state);
      small->Restore(reader);
      EXPECT_EQ(reader.remaining_bytes(), 0u);
      ASSERT_TRUE(FeedTokens(*small, stream, 277, 400, 3, device) ==
                  FeedTokens(*context, stream, 277, 400, chunk, device))
          << test.spec << " chunk " << chunk;
    }
  }
}

TEST(Context, ForksShareAndGoTheirOwnWays) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves, 2);
  const Stream stream(shape.layers[0], 400, 20);
  const Stream detour(shape.layers[0], 400, 21);
  for (const Case& test : Cases()) {
    for (const int64_t at : {0, 1, 63, 64, 100, 230}) {
      Budget budget;
      const auto context = MakeContext(shape, Settings(test.spec), budget, 1);
      FeedTokens(*context, stream, 0, at, 30, device, 2);
      const size_t alone = budget.used_bytes();
      const auto fork = context->Fork();
      EXPECT_EQ(budget.used_bytes(), 2 * alone) << test.spec;
      EXPECT_TRUE(StateOf(*fork) == StateOf(*context));
      EXPECT_EQ(fork->Ledger(), context->Ledger());
      EXPECT_EQ(fork->MaxRewind(), context->MaxRewind());
      // The two by turns, then each against a stream that was never shared.
      const auto straight = MakeContext(shape, Settings(test.spec), budget, 1);
      const auto bent = MakeContext(shape, Settings(test.spec), budget, 1);
      FeedTokens(*straight, stream, 0, at, 30, device, 2);
      FeedTokens(*bent, stream, 0, at, 30, device, 2);
      for (int64_t begin = at; begin < at + 150; begin += 25) {
        ASSERT_TRUE(FeedTokens(*fork, detour, begin, begin + 25, 25, device, 2) ==
                    FeedTokens(*bent, detour, begin, begin + 25, 25, device, 2))
            << test.spec << " at " << begin;
        ASSERT_TRUE(FeedTokens(*context, stream, begin, begin + 25, 10, device, 2) ==
                    FeedTokens(*straight, stream, begin, begin + 25, 25, device, 2))
            << test.spec << " at " << begin;
      }
      fork->Rewind(15);
      bent->Rewind(15);
      EXPECT_TRUE(StateOf(*fork) == StateOf(*bent));
    }
  }
}

// A context that is gone while its fork lives on gives back all that is its own.
TEST(Context, WhatAForkTookIsGivenBack) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 400, 22);
  for (const Case& test : Cases()) {
    Budget budget;
    auto context = MakeContext(shape, Settings(test.spec), budget, 1);
    FeedTokens(*context, stream, 0, 200, 30, device);
    const size_t alone = budget.used_bytes();
    auto fork = context->Fork();
    fork.reset();
    EXPECT_EQ(budget.used_bytes(), alone) << test.spec;
    fork = context->Fork();
    context.reset();
    EXPECT_EQ(budget.used_bytes(), alone) << test.spec;
    FeedTokens(*fork, stream, 200, 400, 30, device);
    fork.reset();
    EXPECT_EQ(budget.used_bytes(), 0u) << test.spec;
  }
}

TEST(Context, AForkThatDoesNotFitIsRefused) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 200, 23);
  for (const Case& test : Cases()) {
    Budget budget(PeakContextBytes(shape, Settings(test.spec), 300, 1).total() * 3 / 2);
    const auto context = MakeContext(shape, Settings(test.spec), budget, 1);
    FeedTokens(*context, stream, 0, 200, 30, device);
    const std::string before = StateOf(*context);
    if (std::string(test.spec) == "dense") continue;
    const size_t used = budget.used_bytes();
    EXPECT_THROW(context->Fork(), Error) << test.spec;
    EXPECT_EQ(budget.used_bytes(), used);
    EXPECT_TRUE(StateOf(*context) == before);
  }
}

// ---- what leaves

// A window whose blocks go to a sink, beside a second track of unrotated keys in some layers.
class EvictingPolicy : public Policy {
 public:
  std::span<const Track> tracks() const override { return tracks_; }
  void View(int64_t index, SpanList* spans) const override {
    spans->Add({.begin = std::max<int64_t>(0, index - 99), .end = index + 1, .query_at = index});
  }
  int64_t seen_for() const override { return 100; }
  std::string Describe() const override { return "evicting"; }

 private:
  const std::array<Track, 2> tracks_ = {
      Track{.keep_last = 100},
      Track{.frame = KeyFrame::kNone, .keep_last = 130, .from_layer = 1, .evicts = true}};
};

// Keeps what it is given, and can be full.
struct TestSink : public EvictionSink {
  void Evict(const EvictedSlice& slice) override {
    if (is_full) Fail(ErrorKind::kFile, "the disk is full");
    blocks.push_back(slice.block);
    tokens.insert(tokens.end(), slice.tokens.begin(), slice.tokens.end());
    layers.emplace_back(slice.layers.begin(), slice.layers.end());
  }
  bool is_full = false;
  std::vector<int64_t> blocks;
  std::vector<TokenId> tokens;
  std::vector<std::vector<BlockRef>> layers;
};

void ExpectWholeSlices(const TestSink& sink, const ContextShape& shape, const Stream& stream) {
  const LayerAttention& layer = shape.layers[0];
  const KvLayout layout{.num_kv_heads = layer.num_kv_heads,
                        .key_dim = layer.key_dim,
                        .value_dim = layer.value_dim,
                        .key_encoding = Encoding::kF32,
                        .value_encoding = Encoding::kF32};
  std::vector<float> k(32), v(32);
  for (size_t i = 0; i < sink.blocks.size(); ++i) {
    ASSERT_EQ(sink.blocks[i], static_cast<int64_t>(i));  // once each, in stream order
    ASSERT_EQ(sink.layers[i].size(), 2u);                // of three layers, those that have the track
    for (const BlockRef& block : sink.layers[i]) {
      for (size_t slot = 0; slot < kBlockTokens; ++slot) {
        const auto index = static_cast<int64_t>(i * kBlockTokens + slot);
        KvLoad(layout, block.get(), slot, k.data(), v.data());
        ASSERT_TRUE(std::equal(k.begin(), k.end(), stream.K(index))) << index;
        ASSERT_TRUE(std::equal(v.begin(), v.end(), stream.V(index))) << index;
      }
    }
  }
  EXPECT_EQ(sink.tokens, TestIds(0, static_cast<int64_t>(sink.blocks.size() * kBlockTokens)));
}

TEST(Context, WhatLeavesATrackThatEvictsGoesToTheSinkOnceAndWhole) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves, 3);
  const Stream stream(shape.layers[0], 1000, 24);
  const Stream detour(shape.layers[0], 1000, 25);
  for (const int64_t chunk : {1, 13, 64}) {
    Budget budget;
    TestSink sink;
    SpanContext context(shape, Settings("dense"), std::make_shared<EvictingPolicy>(), budget, &sink);
    for (int64_t end = 100; end <= 1000; end += 100) {
      FeedTokens(context, stream, end - 100, end, chunk, device, 3);
      // A rewind and another text: what left before it is not what was taken back.
      if (end == 1000) break;
      FeedTokens(context, detour, end, end + 20, chunk, device, 3);
      context.Rewind(20);
    }
    // All that no rewind can reach: blocks before 1000 - chunk - slack - 20 - 130, at most.
    EXPECT_GE(sink.blocks.size(), static_cast<size_t>((1000 - 64 - 20 - 20 - 130) / 64));
    ExpectWholeSlices(sink, shape, stream);
  }
}

TEST(Context, AFullSinkRefusesTheChunkAndIsAskedAgain) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves, 3);
  const Stream stream(shape.layers[0], 1000, 26);
  Budget budget;
  TestSink sink;
  SpanContext context(shape, Settings("dense"), std::make_shared<EvictingPolicy>(), budget, &sink);
  FeedTokens(context, stream, 0, 200, 20, device, 3);
  sink.is_full = true;
  EXPECT_THROW(FeedTokens(context, stream, 200, 600, 20, device, 3), Error);
  const int64_t stopped_at = context.num_tokens();
  EXPECT_LT(stopped_at, 600);
  EXPECT_THROW(context.Begin(TestIds(stopped_at, 20)), Error);
  EXPECT_EQ(context.num_tokens(), stopped_at);
  sink.is_full = false;
  FeedTokens(context, stream, stopped_at, 1000, 20, device, 3);
  ExpectWholeSlices(sink, shape, stream);
}

TEST(Context, EvictionGoesOnWhereASavedStreamStopped) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves, 3);
  const Stream stream(shape.layers[0], 1000, 27);
  for (const int64_t at : {0, 10, 250, 333, 512}) {
    Budget budget;
    TestSink sink;
    std::string state;
    {
      SpanContext context(shape, Settings("dense"), std::make_shared<EvictingPolicy>(), budget, &sink);
      FeedTokens(context, stream, 0, at, 50, device, 3);
      state = StateOf(context);
    }
    SpanContext context(shape, Settings("dense"), std::make_shared<EvictingPolicy>(), budget, &sink);
    BufferReader reader(state);
    context.Restore(reader);
    EXPECT_EQ(reader.remaining_bytes(), 0u);
    FeedTokens(context, stream, at, 1000, 50, device, 3);
    EXPECT_GT(sink.blocks.size(), 10u);
    ExpectWholeSlices(sink, shape, stream);
  }
}

TEST(Context, AbortLeavesTheStreamAsItWas) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves, 2);
  const Stream stream(shape.layers[0], 300, 10);
  const Stream other(shape.layers[0], 300, 11);
  for (const Case& test : Cases()) {
    Budget budget;
    const auto context = MakeContext(shape, Settings(test.spec), budget, 1);
    const auto straight = MakeContext(shape, Settings(test.spec), budget, 1);
    FeedTokens(*context, stream, 0, 150, 31, device, 2);
    FeedTokens(*straight, stream, 0, 150, 31, device, 2);
    std::vector<float> sink(64 * 96);
    context->Begin(TestIds(150, 64));
    AttendLayer(*context, 0, other.Q(150), other.K(150), other.V(150), sink.data(), device);
    context->Abort();
    EXPECT_EQ(context->num_tokens(), 150);
    ASSERT_TRUE(FeedTokens(*context, stream, 150, 250, 20, device, 2) ==
                FeedTokens(*straight, stream, 150, 250, 20, device, 2))
        << test.spec;
  }
}

TEST(Context, BytesStayWithinTheFormula) {  // T15
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves, 2);
  const Stream stream(shape.layers[0], 2000, 12);
  for (const Case& test : Cases()) {
    const ContextSettings settings = Settings(test.spec);
    Budget budget;
    const auto context = MakeContext(shape, settings, budget, 1);
    const size_t at_start = budget.used_bytes();
    FeedTokens(*context, stream, 0, 2000, 64, device, 2);
    const ContextBytes peak = PeakContextBytes(shape, settings, 2000, 1);
    if (peak.is_bounded) {
      EXPECT_EQ(budget.peak_bytes(), at_start) << test.spec;
      EXPECT_EQ(peak.total(), at_start) << test.spec;
    } else {
      EXPECT_LE(budget.peak_bytes(MemoryTag::kKv), peak.kv_bytes) << test.spec;
    }
  }
}

TEST(Context, SegmentsWithAllOfThePastAreDenseAndWithoutAnyAreAlone) {  // T38
  CpuDevice device(1);
  for (const Positions positions : {Positions::kRopeHalves, Positions::kAlibi}) {
    const ContextShape shape = MakeShape(positions);
    const Stream stream(shape.layers[0], 160, 16);
    const auto outputs = [&](const char* spec, int64_t from, int64_t to) {
      Budget budget;
      const auto context = MakeContext(shape, Settings(spec), budget, 1);
      return FeedTokens(*context, stream, from, to, 24, device);
    };
    // Segment by segment with the whole past cached: one pass, bit for bit.
    EXPECT_TRUE(outputs("xl:segment=16,previous=100", 0, 160) == outputs("dense", 0, 160));
    // No past: every segment is a stream of its own (positions differ, distances do not).
    const std::vector<float> alone = outputs("xl:segment=16,previous=0", 0, 160);
    const std::vector<float> fresh = outputs("dense", 48, 64);
    EXPECT_LT(RelativeDifference(std::span(alone).subspan(48 * 96, 16 * 96), fresh), kF32Tolerance);
  }
}

TEST(Context, CachePositionsOfThePaperExample) {  // T12
  const auto policy = MakeSinksPolicy(4, 3);
  SpanList spans;
  policy->View(9, &spans);
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0].begin, 0);
  EXPECT_EQ(spans[0].end, 4);
  EXPECT_EQ(spans[0].query_at, 7);  // query index 7: sinks at 7..4, window at 3..1, itself 0
  EXPECT_EQ(spans[1].begin, 6);
  EXPECT_EQ(spans[1].end, 10);
  EXPECT_EQ(spans[1].query_at, 9);
}

TEST(Context, LedgerCoversTheStream) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 200, 13);
  for (const Case& test : Cases()) {
    Budget budget;
    const auto context = MakeContext(shape, Settings(test.spec), budget, 1);
    EXPECT_TRUE(context->Ledger().empty());
    FeedTokens(*context, stream, 0, 200, 64, device);
    Position at = 0;
    for (const LedgerRange& range : context->Ledger()) {
      EXPECT_EQ(range.begin, at) << test.spec;
      EXPECT_LT(range.begin, range.end) << test.spec;
      at = range.end;
    }
    EXPECT_EQ(at, 200) << test.spec;
  }
  Budget budget;
  const auto context = MakeContext(shape, Settings("sinks:sinks=4,window=3"), budget, 1);
  FeedTokens(*context, stream, 0, 9, 4, device);
  const std::vector<LedgerRange> expected = {
      {0, 4, TokenFate::kSink}, {4, 6, TokenFate::kDropped}, {6, 9, TokenFate::kWindow}};
  EXPECT_EQ(context->Ledger(), expected);
}

TEST(Context, DenseRefusesPolitelyAtTheCap) {
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 600, 14);
  const ContextSettings settings = Settings("dense");
  Budget budget(PeakContextBytes(shape, settings, 256, 1).total());
  const auto context = MakeContext(shape, settings, budget, 1);
  FeedTokens(*context, stream, 0, 192, 64, device);
  try {
    FeedTokens(*context, stream, 192, 600, 64, device);
    FAIL() << "the cap did not hold";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBudget);
    EXPECT_NE(std::string(error.what()).find("full at token"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("--context sinks"), std::string::npos) << error.what();
  }
  EXPECT_GE(context->num_tokens(), 192);
  EXPECT_LE(budget.peak_bytes(), budget.cap_bytes());
}

TEST(Context, TextIsReadOnceAndItsPolicyShared) {
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  ContextSettings settings = ResolveContext(shape, Settings("sinks:window=30"), SIZE_MAX, -1).settings;
  EXPECT_EQ(settings.policy->Describe(), settings.spec);
  EXPECT_EQ(PolicyOf(shape, settings), settings.policy);
  settings.spec = "window:window=9";  // the policy no longer counts
  EXPECT_EQ(PolicyOf(shape, settings)->Describe(), "window:window=9");
  // What every policy says of itself makes it again.
  for (const Case& test : Cases()) {
    const std::string spec = PolicyOf(shape, Settings(test.spec))->Describe();
    EXPECT_EQ(PolicyOf(shape, Settings(spec.c_str()))->Describe(), spec);
  }
}

TEST(Context, WithoutSinksAndWithThemDifferAfterTheWindow) {
  // A test of the tests: the policies are not one and the same.
  CpuDevice device(1);
  const ContextShape shape = MakeShape(Positions::kRopeHalves);
  const Stream stream(shape.layers[0], 100, 15);
  std::vector<std::vector<float>> outputs;
  for (const char* spec : {"dense", "window:window=20", "sinks:sinks=4,window=20",
                           "lambda:starts=4,window=20", "xl:segment=20"}) {
    Budget budget;
    const auto context = MakeContext(shape, Settings(spec), budget, 1);
    outputs.push_back(FeedTokens(*context, stream, 0, 100, 32, device));
  }
  for (size_t a = 0; a < outputs.size(); ++a) {
    for (size_t b = 0; b < a; ++b)
      EXPECT_GT(RelativeDifference(outputs[a], outputs[b]), 1e-2) << a << " " << b;
  }
}

}  // namespace
}  // namespace mneme
