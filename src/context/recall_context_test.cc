// Recall against attention from its definition, over the slices that it says came back; and against itself:
// chunks, threads, states, forks and rewinds change no bit.
#include "context/recall_context.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "context/context_test_util.h"
#include "context/registry.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

constexpr int64_t kSlice = static_cast<int64_t>(kBlockTokens);

ContextShape RecallShape(Positions positions = Positions::kRopeHalves, size_t num_layers = 1) {
  ContextShape shape = MakeShape(positions, num_layers);
  shape.trained_length = 4096;
  // Wide enough that a random key is no rival of the one that is asked for.
  for (LayerAttention& layer : shape.layers) layer.key_dim = 64;
  shape.recall.heads = {{0, 1}, {0, 4}};
  return shape;
}

std::vector<Seen> DenseSeen(int64_t index) {
  std::vector<Seen> seen;
  for (int64_t j = 0; j <= index; ++j) seen.push_back({j, index - j});
  return seen;
}

// What a row sees: sinks, slices in stream order, window, at distances as if nothing lay between them.
Rule PackedRule(int64_t sinks, int64_t window, const std::vector<RecalledSlice>& slices) {
  return [=](int64_t index) {
    std::vector<Seen> seen;
    if (index <= sinks + window) return DenseSeen(index);
    const auto num_slices = static_cast<int64_t>(slices.size());
    for (int64_t j = 0; j < sinks; ++j) seen.push_back({j, sinks + num_slices * kSlice + window - j});
    for (int64_t i = 0; i < num_slices; ++i) {
      for (int64_t offset = 0; offset < kSlice; ++offset) {
        const int64_t token = slices[static_cast<size_t>(i)].begin + offset;
        if (token >= sinks && token < index - window)
          seen.push_back({token, (num_slices - i) * kSlice + window - offset});
      }
    }
    for (int64_t j = index - window; j <= index; ++j) seen.push_back({j, index - j});
    return seen;
  };
}

// Reads a turn again as a session does. Returns how many rows.
int64_t Replayed(Context& context, const Stream& stream, int64_t chunk, Device& device,
                 std::vector<float>* out, size_t num_layers = 1) {
  const int64_t end = context.num_tokens();
  const int64_t count = context.Replay(INT64_MAX, device);
  EXPECT_EQ(context.num_tokens(), end - count);
  if (count > 0) *out = FeedTokens(context, stream, end - count, end, chunk, device, num_layers);
  return count;
}

void ExpectRowsNear(const std::vector<float>& out, const Stream& stream, int64_t first, const Rule& rule) {
  const size_t width = stream.layer.num_heads * stream.layer.value_dim;
  for (size_t row = 0; row * width < out.size(); ++row) {
    const std::vector<double> expected = BruteForce(stream, first + static_cast<int64_t>(row), rule);
    double error = 0, size = 1e-9;
    for (size_t i = 0; i < width; ++i) {
      error = std::max(error, std::abs(expected[i] - static_cast<double>(out[row * width + i])));
      size = std::max(size, std::abs(expected[i]));
    }
    ASSERT_LT(error / size, 2e-4) << "row " << first + static_cast<int64_t>(row);
  }
}

std::set<int64_t> BeginsOf(const Context& context) {
  std::set<int64_t> begins;
  for (const RecalledSlice& slice : context.Recalled()) begins.insert(slice.begin);
  return begins;
}

// Makes the query of `row` ask for token `token` with every head.
void Plant(Stream* stream, int64_t row, int64_t token, float strength = 6.0f) {
  const LayerAttention& layer = stream->layer;
  const size_t group = layer.num_heads / layer.num_kv_heads;
  for (size_t head = 0; head < layer.num_heads; ++head) {
    float* const q = stream->q.data() + (static_cast<size_t>(row) * layer.num_heads + head) * layer.key_dim;
    const float* const k = stream->K(token) + head / group * layer.key_dim;
    for (size_t i = 0; i < layer.key_dim; ++i) q[i] = strength * k[i];
  }
}

TEST(Recall, WithoutABudgetOrATurnItIsSinksBitForBit) {
  CpuDevice device(1);
  for (const Positions positions :
       {Positions::kRopeHalves, Positions::kRopeInterleavedPartial, Positions::kAlibi}) {
    const ContextShape shape = RecallShape(positions);
    const Stream stream(shape.layers[0], 700, 1);
    Budget budget;
    const auto sinks = MakeContext(shape, Settings("sinks:sinks=4,window=100"), budget, 1);
    const std::vector<float> expected = FeedTokens(*sinks, stream, 0, 700, 50, device);
    for (const char* spec :
         {"recall:sinks=4,window=100,budget=0,keep=1024", "recall:sinks=4,window=100,budget=256,keep=1024"}) {
      const auto context = MakeContext(shape, Settings(spec), budget, 1);
      ASSERT_TRUE(FeedTokens(*context, stream, 0, 700, 50, device) == expected) << spec;
      if (std::string(spec).find("budget=0") == std::string::npos) continue;
      EXPECT_EQ(context->Replay(INT64_MAX, device), 0);
    }
  }
}

TEST(Recall, ReplayedRowsSeeWhatCameBackAtPackedPlaces) {
  CpuDevice device(2);
  for (const Positions positions :
       {Positions::kRopeHalves, Positions::kRopeInterleavedPartial, Positions::kAlibi}) {
    const ContextShape shape = RecallShape(positions);
    Stream stream(shape.layers[0], 900, 2);
    Plant(&stream, 861, 70);
    Plant(&stream, 880, 400);
    Budget budget;
    const auto context = MakeContext(
        shape, Settings("recall:sinks=4,window=130,budget=256,keep=4096,replay=60,gate=0"), budget, 1);
    FeedTokens(*context, stream, 0, 850, 64, device);
    context->BeginTurn();
    FeedTokens(*context, stream, 850, 900, 13, device);
    std::vector<float> out;
    ASSERT_EQ(Replayed(*context, stream, 7, device, &out), 50);
    const std::vector<RecalledSlice> slices = context->Recalled();
    ASSERT_EQ(slices.size(), 4u);
    ExpectRowsNear(out, stream, 850, PackedRule(4, 130, slices));
    for (const RecalledSlice& slice : slices) EXPECT_EQ(slice.tokens, TestIds(slice.begin, kSlice));
    // A choice that stays needs no second reading.
    EXPECT_EQ(context->Replay(INT64_MAX, device), 0);
  }
}

TEST(Recall, EveryPlaceOfTheStreamIsFound) {
  CpuDevice device(1);
  const ContextShape shape = RecallShape();
  constexpr int64_t kTokens = 1000;
  Stream stream(shape.layers[0], kTokens + 1, 3);
  Budget budget;
  const auto read = MakeContext(
      shape, Settings("recall:sinks=4,window=64,budget=64,keep=4096,replay=4,next=no"), budget, 1);
  FeedTokens(*read, stream, 0, kTokens, 64, device);
  // Complete slices behind the window; of the first one what is no sink.
  for (int64_t token = 4; token + kSlice + 64 < kTokens; token += token < 140 ? 1 : 37) {
    Plant(&stream, kTokens, token, 10.0f);
    const auto context = read->Fork();
    context->BeginTurn();
    FeedTokens(*context, stream, kTokens, kTokens + 1, 1, device);
    std::vector<float> out;
    ASSERT_EQ(Replayed(*context, stream, 1, device, &out), 1) << token;
    ASSERT_EQ(BeginsOf(*context), std::set<int64_t>{token / kSlice * kSlice}) << token;
  }
}

TEST(Recall, BitsDoNotDependOnChunksThreadsOrStates) {
  for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kQ8_0}) {
    const ContextShape shape = RecallShape(Positions::kRopeHalves, 3);
    Stream stream(shape.layers[0], 1100, 4);
    for (int64_t row = 900; row < 1100; row += 17) Plant(&stream, row, row - 640);
    const std::string spec = "recall:sinks=4,window=100,budget=256,keep=4096,replay=50,from_layer=1";
    ContextShape with_heads = shape;
    with_heads.recall.heads = {{1, 0}, {2, 3}};
    std::vector<float> expected;
    for (const auto& [chunk, threads] : {std::pair<int64_t, size_t>(64, 1), {1, 2}, {7, 1}, {50, 2}}) {
      CpuDevice device(threads);
      Budget budget;
      auto context = MakeContext(with_heads, Settings(spec.c_str(), encoding), budget, threads);
      FeedTokens(*context, stream, 0, 900, chunk, device, 3);
      context->BeginTurn();
      FeedTokens(*context, stream, 900, 940, chunk, device, 3);
      std::vector<float> out;
      EXPECT_GT(Replayed(*context, stream, chunk, device, &out, 3), 0);
      // A state in the middle of a turn, then a fork.
      FeedTokens(*context, stream, 940, 1000, chunk, device, 3);
      context->BeginTurn();
      FeedTokens(*context, stream, 1000, 1020, chunk, device, 3);
      auto restored = MakeContext(with_heads, Settings(spec.c_str(), encoding), budget, threads);
      const std::string state = StateOf(*context);
      BufferReader reader(state);
      restored->Restore(reader);
      EXPECT_EQ(reader.remaining_bytes(), 0u);
      EXPECT_TRUE(StateOf(*restored) == state);
      const auto fork = restored->Fork();
      std::vector<std::vector<float>> all;
      for (Context* one : {context.get(), restored.get(), fork.get()}) {
        std::vector<float> rows = FeedTokens(*one, stream, 1020, 1040, chunk, device, 3);
        std::vector<float> again;
        EXPECT_GT(Replayed(*one, stream, chunk, device, &again, 3), 0);
        rows.insert(rows.end(), again.begin(), again.end());
        const std::vector<float> last = FeedTokens(*one, stream, 1040, 1100, chunk, device, 3);
        rows.insert(rows.end(), last.begin(), last.end());
        all.push_back(std::move(rows));
      }
      EXPECT_TRUE(all[0] == all[1]);
      EXPECT_TRUE(all[0] == all[2]);
      if (expected.empty()) expected = all[0];
      EXPECT_TRUE(expected == all[0]) << "chunk " << chunk;
    }
  }
}

TEST(Recall, ARewindBringsBackWhatWasThere) {
  CpuDevice device(1);
  const ContextShape shape = RecallShape();
  Stream stream(shape.layers[0], 900, 5);
  for (int64_t row = 700; row < 900; row += 9) Plant(&stream, row, 20 + row * 7 % 400);
  Budget budget;
  const auto context =
      MakeContext(shape, Settings("recall:sinks=4,window=100,budget=256,keep=4096,replay=60"), budget, 1);
  FeedTokens(*context, stream, 0, 700, 64, device);
  context->BeginTurn();
  FeedTokens(*context, stream, 700, 720, 64, device);
  std::vector<float> out;
  ASSERT_EQ(Replayed(*context, stream, 64, device, &out), 20);
  const std::set<int64_t> first = BeginsOf(*context);
  const std::vector<float> after = FeedTokens(*context, stream, 720, 730, 64, device);
  context->BeginTurn();
  FeedTokens(*context, stream, 730, 750, 64, device);
  ASSERT_EQ(Replayed(*context, stream, 64, device, &out), 20);
  EXPECT_NE(BeginsOf(*context), first);
  context->Rewind(30);  // over the second choice, to the middle of what followed the first
  EXPECT_EQ(BeginsOf(*context), first);
  EXPECT_TRUE(FeedTokens(*context, stream, 720, 730, 64, device) == after);
  context->Rewind(30);  // over the first
  EXPECT_TRUE(context->Recalled().empty());
}

TEST(Recall, WhatIsForgottenIsSaidAndNotFound) {
  CpuDevice device(1);
  const ContextShape shape = RecallShape();
  Stream stream(shape.layers[0], 4001, 6);
  Budget budget;
  const auto context = MakeContext(
      shape, Settings("recall:sinks=4,window=64,budget=64,keep=1024,replay=4,next=no"), budget, 1);
  Plant(&stream, 4000, 100, 10.0f);
  FeedTokens(*context, stream, 0, 4000, 64, device);
  context->BeginTurn();
  FeedTokens(*context, stream, 4000, 4001, 1, device);
  std::vector<float> out;
  Replayed(*context, stream, 1, device, &out);
  EXPECT_FALSE(BeginsOf(*context).contains(64));
  // The ledger covers the stream without a gap, and says what is stored, back and gone.
  int64_t at = 0, dropped = 0, recalled = 0;
  for (const LedgerRange& range : context->Ledger()) {
    EXPECT_EQ(range.begin, at);
    at = range.end;
    if (range.fate == TokenFate::kDropped) dropped += range.end - range.begin;
    if (range.fate == TokenFate::kRecalled) recalled += range.end - range.begin;
  }
  EXPECT_EQ(at, context->num_tokens());
  EXPECT_GT(dropped, 2000);
  EXPECT_EQ(recalled, kSlice * static_cast<int64_t>(context->Recalled().size()));
}

TEST(Recall, LayersWithAWindowOfTheirOwnKeepToIt) {
  CpuDevice device(1);
  ContextShape shape = RecallShape(Positions::kRopeHalves, 2);
  shape.layers[0].layer_window = 50;
  shape.recall.heads = {{1, 0}};
  Stream stream(shape.layers[0], 700, 7);
  const Stream global(shape.layers[1], 700, 7);
  Budget budget;
  const auto context =
      MakeContext(shape, Settings("recall:sinks=4,window=100,budget=128,keep=4096,replay=60"), budget, 1);
  const auto sinks = MakeContext(shape, Settings("sinks:sinks=4,window=100"), budget, 1);
  for (int64_t row = 600; row < 620; ++row) Plant(&stream, row, row - 400);
  FeedTokens(*context, stream, 0, 600, 64, device, 2);
  context->BeginTurn();
  FeedTokens(*context, stream, 600, 620, 64, device, 2);
  ASSERT_EQ(context->Replay(INT64_MAX, device), 20);
  FeedTokens(*sinks, stream, 0, 600, 64, device, 2);
  std::vector<float> with(20 * 96), without(20 * 96);
  for (Context* one : {context.get(), sinks.get()}) one->Begin(TestIds(600, 20));
  AttendLayer(*context, 0, stream.Q(600), stream.K(600), stream.V(600), with.data(), device);
  AttendLayer(*sinks, 0, stream.Q(600), stream.K(600), stream.V(600), without.data(), device);
  EXPECT_TRUE(with == without);
  AttendLayer(*context, 1, stream.Q(600), stream.K(600), stream.V(600), with.data(), device);
  AttendLayer(*sinks, 1, stream.Q(600), stream.K(600), stream.V(600), without.data(), device);
  EXPECT_FALSE(with == without);
}

TEST(Recall, PeakBytesAreWhatIsReserved) {
  const ContextShape shape = RecallShape();
  const ContextSettings settings = Settings("recall:sinks=4,window=100,budget=256,keep=4096");
  Budget budget;
  const auto context = MakeContext(shape, settings, budget, 1);
  EXPECT_EQ(budget.used_bytes(), PeakContextBytes(shape, settings, -1, 1).total());
  Budget tight(budget.used_bytes() - 1);
  EXPECT_THROW(MakeContext(shape, settings, tight, 1), Error);
  EXPECT_EQ(tight.used_bytes(), 0u);
}

}  // namespace
}  // namespace mneme
