// Recall over a store on disk: the bits of one in memory, whatever happens in between; and what is damaged is
// said and left out.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "context/context_test_util.h"
#include "context/registry.h"
#include "kernels/cpu_device.h"

namespace mneme {
namespace {

using namespace testing;  // NOLINT: the helpers of this folder's tests

namespace fs = std::filesystem;

constexpr const char* kSpec = "recall:sinks=4,window=100,budget=256,keep=8192,replay=40,gate=0";

struct StoreTest : ::testing::Test {
  StoreTest()
      : shape(MakeShape(Positions::kRopeHalves, 2)),
        folder(::testing::TempDir() + "/recall-store-" + std::to_string(::getpid())) {
    shape.trained_length = 4096;
    for (LayerAttention& layer : shape.layers) layer.key_dim = 64;
    shape.recall.heads = {{0, 1}, {1, 4}};
    fs::remove_all(folder);
    on_disk = Settings(kSpec);
    on_disk.store.path = folder;
  }
  ~StoreTest() override { fs::remove_all(folder); }

  std::unique_ptr<Context> Make(const ContextSettings& settings) {
    return MakeContext(shape, settings, budget, 1);
  }
  std::unique_ptr<Context> Restored(const std::string& state) {
    auto context = Make(on_disk);
    BufferReader reader(state);
    context->Restore(reader);
    EXPECT_EQ(reader.remaining_bytes(), 0u);
    return context;
  }

  // Rows [begin, end) as a turn, read again with what came back.
  std::vector<float> Turn(Context& context, const Stream& stream, int64_t begin, int64_t end) {
    context.BeginTurn();
    std::vector<float> out = FeedTokens(context, stream, begin, end, 16, device, 2);
    const int64_t count = context.Replay(INT64_MAX, device);
    if (count > 0) {
      const std::vector<float> again = FeedTokens(context, stream, end - count, end, 16, device, 2);
      out.insert(out.end(), again.begin(), again.end());
    }
    return out;
  }

  ContextShape shape;
  std::string folder;
  ContextSettings on_disk;
  Budget budget;
  CpuDevice device{1};
};

// The query of row begin + i asks for token 300 + 64 * i with every head.
void AskForSlices(Stream* stream, int64_t begin, int64_t count) {
  const LayerAttention& layer = stream->layer;
  const size_t group = layer.num_heads / layer.num_kv_heads;
  for (int64_t i = 0; i < count; ++i) {
    for (size_t head = 0; head < layer.num_heads; ++head) {
      float* const q =
          stream->q.data() + (static_cast<size_t>(begin + i) * layer.num_heads + head) * layer.key_dim;
      const float* const k = stream->K(300 + 64 * i) + head / group * layer.key_dim;
      for (size_t j = 0; j < layer.key_dim; ++j) q[j] = 12.0f * k[j];
    }
  }
}

int64_t NumOf(const Context& context, TokenFate fate) {
  int64_t count = 0;
  for (const LedgerRange& range : context.Ledger()) {
    if (range.fate == fate) count += range.end - range.begin;
  }
  return count;
}

TEST_F(StoreTest, BitsAreThoseOfAStoreInMemory) {
  Stream stream(shape.layers[0], 2000, 3);
  AskForSlices(&stream, 1200, 3);
  AskForSlices(&stream, 1700, 5);
  const auto in_memory = Make(Settings(kSpec));
  auto stored = Make(on_disk);
  EXPECT_LT(PeakContextBytes(shape, on_disk, -1, 1).kv_bytes,
            PeakContextBytes(shape, Settings(kSpec), -1, 1).kv_bytes);
  for (Context* context : {in_memory.get(), stored.get()})
    FeedTokens(*context, stream, 0, 1200, 64, device, 2);
  ASSERT_TRUE(Turn(*in_memory, stream, 1200, 1230) == Turn(*stored, stream, 1200, 1230));
  EXPECT_FALSE(stored->Recalled().empty());
  // A state in the middle; what comes after it is done twice, as after a kill.
  const std::string state = StateOf(*stored);
  EXPECT_LT(state.size(), StateOf(*in_memory).size());
  FeedTokens(*stored, stream, 1300, 1700, 64, device, 2);  // other text
  stored.reset();
  stored = Restored(state);
  const auto copy = stored->Fork();
  const std::vector<float> expected = FeedTokens(*in_memory, stream, 1230, 1700, 64, device, 2);
  EXPECT_TRUE(FeedTokens(*stored, stream, 1230, 1700, 64, device, 2) == expected);
  EXPECT_TRUE(FeedTokens(*copy, stream, 1230, 1700, 16, device, 2) == expected);
  const std::vector<float> turn = Turn(*in_memory, stream, 1700, 1720);
  EXPECT_TRUE(Turn(*stored, stream, 1700, 1720) == turn);
  EXPECT_TRUE(Turn(*copy, stream, 1700, 1720) == turn);
  for (Context* context : {in_memory.get(), stored.get(), copy.get()}) context->Rewind(20);
  EXPECT_TRUE(Turn(*stored, stream, 1700, 1715) == Turn(*in_memory, stream, 1700, 1715));
  EXPECT_EQ(NumOf(*stored, TokenFate::kDamaged), 0);
  EXPECT_TRUE(stored->Ledger() == in_memory->Ledger());
}

TEST_F(StoreTest, WhatIsDamagedIsSaidAndDoesNotComeBack) {
  Stream stream(shape.layers[0], 1400, 4);
  AskForSlices(&stream, 1200, 4);
  std::string state;
  std::vector<int64_t> begins;
  {
    const auto context = Make(on_disk);
    FeedTokens(*context, stream, 0, 1200, 64, device, 2);
    state = StateOf(*context);
    Turn(*context, stream, 1200, 1230);
    for (const RecalledSlice& slice : context->Recalled()) begins.push_back(slice.begin);
    ASSERT_FALSE(begins.empty());
  }
  // Once in what is read at the start, once in what is read when it comes back.
  const std::string path = folder + "/slices-000000";
  const std::string whole = ReadWholeFile(path);
  for (const size_t part : {size_t{3}, size_t{5}, size_t{7}}) {
    std::string bytes = whole;
    for (size_t at = whole.size() / 16 * part; at < whole.size() / 16 * (part + 1); at += 64) bytes[at] ^= 8;
    std::ofstream(path, std::ios::binary) << bytes;
    const auto context = Restored(state);
    Turn(*context, stream, 1200, 1230);
    const int64_t damaged = NumOf(*context, TokenFate::kDamaged);
    EXPECT_GT(damaged, 0);
    EXPECT_LE(damaged, 4 * 64);
    for (const LedgerRange& range : context->Ledger()) {
      if (range.fate != TokenFate::kDamaged) continue;
      for (const RecalledSlice& slice : context->Recalled())
        EXPECT_TRUE(slice.begin + 64 <= range.begin || slice.begin >= range.end);
    }
    for (const RecalledSlice& slice : context->Recalled()) EXPECT_EQ(slice.tokens, TestIds(slice.begin, 64));
  }
}

TEST_F(StoreTest, WhatStoresNothingRefusesAFolder) {
  ContextSettings settings = Settings("sinks:sinks=4,window=100");
  settings.store.path = folder;
  EXPECT_THROW(Make(settings), Error);
  EXPECT_FALSE(fs::exists(folder));
}

}  // namespace
}  // namespace mneme
