#include "context/recurrent/recurrent_state.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "kernels/cpu_device.h"
#include "kernels/recur/recur_test_util.h"

namespace mneme {
namespace {

using testing::ChannelShape;
using testing::ConvolutionShape;
using testing::DeltaShape;
using testing::LruShape;
using testing::RecurData;
using testing::ScanShape;
using testing::SelectiveShape;
using testing::WkvShape;

// Layers of every kind, no two of one shape.
RecurrentShape MixedShape() {
  RecurShape other = DeltaShape();
  other.num_value_heads = 2;
  other.key_dim = 9;
  other.value_dim = 70;
  other.conv_width = 2;
  return {.layers = {DeltaShape(), ConvolutionShape(), ScanShape(), other, SelectiveShape(), LruShape(),
                     WkvShape(), ChannelShape()}};
}

constexpr int64_t kMaxRewind = 70;  // reaches over two borders
constexpr RecurrentSettings kSettings = {.max_chunk = 600, .max_rewind = kMaxRewind};

// What the layers of a model are given for the tokens of one text.
class Text {
 public:
  Text(const RecurrentShape& shape, int64_t num_tokens, uint64_t seed) {
    for (const RecurShape& layer : shape.layers) {
      layers_.emplace_back(layer, static_cast<size_t>(num_tokens), seed + layers_.size());
    }
  }
  // Another text for the same model.
  Text Detour(const RecurrentShape& shape, uint64_t seed) const {
    Text detour = *this;
    Text other(shape, static_cast<int64_t>(layers_.front().num_tokens), seed);
    for (size_t i = 0; i < layers_.size(); ++i) {
      detour.layers_[i].x = other.layers_[i].x;
      detour.layers_[i].log_decay = other.layers_[i].log_decay;
      detour.layers_[i].beta = other.layers_[i].beta;
      detour.layers_[i].keys = other.layers_[i].keys;
      detour.layers_[i].queries = other.layers_[i].queries;
    }
    return detour;
  }
  size_t num_layers() const { return layers_.size(); }
  const RecurData& layer(size_t i) const { return layers_[i]; }

 private:
  std::vector<RecurData> layers_;
};

// The outputs of one layer after the other.
using Outputs = std::vector<std::vector<float>>;

void RunLayer(RecurrentState& state, const Text& text, size_t layer, int64_t from, int64_t count, float* out,
              Device& device) {
  const RecurData& data = text.layer(layer);
  const RecurCall rows = data.Rows(static_cast<size_t>(from), static_cast<size_t>(count), out);
  RecurCall call = state.Plan(layer, rows.x, rows.log_decay, rows.beta, rows.out);
  call.conv_weight = rows.conv_weight;
  call.conv_bias = rows.conv_bias;
  call.skip = rows.skip;
  call.keys = rows.keys;
  call.queries = rows.queries;
  call.rate = rows.rate;
  call.boost = rows.boost;
  const size_t floats = RecurScratchFloats(data.shape, call.num_rows, device.num_threads());
  const DeviceMemory scratch = device.Allocate(floats * sizeof(float), DeviceMemoryUse::kWork);
  device.Recur({&call, 1}, static_cast<float*>(scratch.get()));
}

// Feeds tokens [from, to) of the text, which stand at the end of the stream.
Outputs Feed(RecurrentState& state, const Text& text, int64_t from, int64_t to, int64_t chunk,
             Device& device) {
  EXPECT_EQ(state.num_tokens(), from);
  Outputs outputs;
  for (size_t i = 0; i < text.num_layers(); ++i) {
    outputs.emplace_back(static_cast<size_t>(to - from) * text.layer(i).shape.value_channels());
  }
  for (int64_t begin = from; begin < to; begin += chunk) {
    const int64_t count = std::min(chunk, to - begin);
    state.Begin(count);
    for (size_t i = 0; i < text.num_layers(); ++i) {
      const size_t at = static_cast<size_t>(begin - from) * text.layer(i).shape.value_channels();
      RunLayer(state, text, i, begin, count, outputs[i].data() + at, device);
    }
    state.Commit();
  }
  return outputs;
}

// Whether `part` is what `whole` has for the tokens from `first` on.
bool IsPart(const Text& text, const Outputs& part, const Outputs& whole, int64_t first) {
  for (size_t i = 0; i < part.size(); ++i) {
    const size_t at = static_cast<size_t>(first) * text.layer(i).shape.value_channels();
    if (at + part[i].size() > whole[i].size()) return false;
    if (std::memcmp(part[i].data(), whole[i].data() + at, part[i].size() * sizeof(float)) != 0) return false;
  }
  return true;
}

std::string StateOf(const RecurrentState& state) {
  BufferWriter writer;
  state.Save(writer);
  return writer.buffer();
}

TEST(RecurrentState, ChunksAndThreadsDoNotChangeABit) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 600, 1);
  Budget budget;
  CpuDevice one(1), two(2);
  RecurrentState straight(shape, kSettings, budget);
  const Outputs expected = Feed(straight, text, 0, 600, 600, one);
  const std::string end = StateOf(straight);
  for (const int64_t chunk : {1, 7, 64, 512}) {
    for (CpuDevice* const device : {&one, &two}) {
      RecurrentState state(shape, kSettings, budget);
      EXPECT_TRUE(IsPart(text, Feed(state, text, 0, 600, chunk, *device), expected, 0)) << chunk;
      EXPECT_TRUE(StateOf(state) == end) << chunk;
    }
  }
}

TEST(RecurrentState, TenThousandRewindsEqualTheStraightRun) {
  const RecurrentShape shape = MixedShape();
  constexpr int64_t kTokens = 1200;
  const Text text(shape, kTokens + kMaxRewind, 2);
  const Text detour = text.Detour(shape, 1000);
  Budget budget;
  CpuDevice device(1);
  RecurrentState straight(shape, kSettings, budget), state(shape, kSettings, budget);
  const Outputs expected = Feed(straight, text, 0, kTokens, 600, device);
  Random random(3);
  int64_t at = 0;
  for (int pair = 0; pair < 10'000; ++pair) {
    // Mostly a few tokens, now and then so many that two borders are crossed there and back.
    const auto most = static_cast<uint64_t>(pair % 50 == 0 ? kMaxRewind : 4);
    const auto count = static_cast<int64_t>(1 + random.Below(most));
    Feed(state, detour, at, at + count, static_cast<int64_t>(1 + random.Below(9)), device);
    ASSERT_GE(state.MaxRewind(), count);
    state.Rewind(count);
    if (pair * kTokens / 10'000 < at) continue;
    const int64_t next = std::min<int64_t>(kTokens, at + 1 + static_cast<int64_t>(random.Below(2)));
    ASSERT_TRUE(IsPart(text, Feed(state, text, at, next, 2, device), expected, at)) << pair << " at " << at;
    at = next;
  }
  EXPECT_GE(at, kTokens - 2);
  Feed(state, text, at, kTokens, 600, device);
  // What was taken back left nothing behind, but for how far can be taken back now.
  Feed(state, text, kTokens, kTokens + kMaxRewind, 3, device);
  Feed(straight, text, kTokens, kTokens + kMaxRewind, 70, device);
  EXPECT_TRUE(StateOf(state) == StateOf(straight));
}

TEST(RecurrentState, RewindsOverBordersInBothDirections) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 500, 4);
  const Text detour = text.Detour(shape, 2000);
  Budget budget;
  CpuDevice device(2);
  RecurrentState straight(shape, kSettings, budget);
  const Outputs expected = Feed(straight, text, 0, 500, 500, device);
  for (const int64_t at : {0, 1, 3, 62, 63, 64, 65, 127, 128, 129, 190, 300}) {
    for (const int64_t count : {int64_t{1}, int64_t{2}, int64_t{63}, int64_t{64}, int64_t{65}, kMaxRewind}) {
      RecurrentState state(shape, kSettings, budget);
      if (at > 0) Feed(state, text, 0, at, 33, device);
      Feed(state, detour, at, at + count, count, device);
      state.Rewind(count);
      ASSERT_TRUE(IsPart(text, Feed(state, text, at, at + 150, 40, device), expected, at))
          << at << " " << count;
      // Also where the tokens taken back came in one chunk with some that stay.
      state.Rewind(kMaxRewind);
      const int64_t left = at + 150 - kMaxRewind;
      ASSERT_TRUE(IsPart(text, Feed(state, text, left, at + 160, 500, device), expected, left)) << at;
    }
  }
}

TEST(RecurrentState, RestoredGoesOnWithTheSameBitsAndReadsOnlyWhatIsNew) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 520, 5);
  Budget budget;
  CpuDevice device(2);
  for (const int64_t at : {0, 1, 2, 63, 64, 65, 128, 133, 134, 135, 300}) {
    RecurrentState state(shape, kSettings, budget), restored(shape, kSettings, budget);
    if (at > 0) Feed(state, text, 0, at, 50, device);
    const std::string saved = StateOf(state);
    BufferReader reader(saved);
    restored.Restore(reader);
    EXPECT_EQ(reader.remaining_bytes(), 0u);
    EXPECT_EQ(restored.num_tokens(), at);
    EXPECT_EQ(restored.MaxRewind(), std::min(at, kMaxRewind));
    EXPECT_TRUE(StateOf(restored) == saved) << at;
    ASSERT_TRUE(IsPart(text, Feed(restored, text, at, at + 200, 9, device),
                       Feed(state, text, at, at + 200, 200, device), 0))
        << at;
    EXPECT_TRUE(StateOf(restored) == StateOf(state)) << at;
  }
}

TEST(RecurrentState, RestoredCanBeTakenBackAsFarAsTheOther) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 400, 6);
  Budget budget;
  CpuDevice device(1);
  for (const int64_t at : {20, 70, 128, 200}) {
    RecurrentState state(shape, kSettings, budget), restored(shape, kSettings, budget);
    Feed(state, text, 0, at, 64, device);
    if (at > 100) state.Rewind(10);
    const std::string saved = StateOf(state);
    BufferReader reader(saved);
    restored.Restore(reader);
    const int64_t count = state.MaxRewind();
    ASSERT_EQ(restored.MaxRewind(), count);
    state.Rewind(count);
    restored.Rewind(count);
    const int64_t left = state.num_tokens();
    EXPECT_TRUE(IsPart(text, Feed(restored, text, left, left + 100, 17, device),
                       Feed(state, text, left, left + 100, 100, device), 0))
        << at;
  }
}

TEST(RecurrentState, ForksEqualColdOnesAndGoTheirOwnWays) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 500, 7);
  const Text detour = text.Detour(shape, 3000);
  CpuDevice device(1);
  for (const int64_t at : {0, 5, 64, 130, 257}) {
    Budget budget;
    RecurrentState state(shape, kSettings, budget), cold(shape, kSettings, budget),
        bent(shape, kSettings, budget);
    if (at > 0) {
      Feed(state, text, 0, at, 30, device);
      Feed(cold, text, 0, at, 200, device);
      Feed(bent, text, 0, at, 200, device);
    }
    const size_t used = budget.used_bytes();
    const auto fork = state.Fork();
    EXPECT_EQ(budget.used_bytes(), used + used / 3);
    EXPECT_TRUE(StateOf(*fork) == StateOf(cold)) << at;
    for (int64_t begin = at; begin < at + 150; begin += 50) {
      ASSERT_TRUE(IsPart(text, Feed(state, text, begin, begin + 50, 13, device),
                         Feed(cold, text, begin, begin + 50, 50, device), 0));
      ASSERT_TRUE(IsPart(text, Feed(*fork, detour, begin, begin + 50, 50, device),
                         Feed(bent, detour, begin, begin + 50, 13, device), 0));
    }
    EXPECT_TRUE(StateOf(state) == StateOf(cold)) << at;
    EXPECT_TRUE(StateOf(*fork) == StateOf(bent)) << at;
    Budget full(used / 3);
    const RecurrentState alone(shape, kSettings, full);
    EXPECT_THROW(alone.Fork(), Error);
  }
}

TEST(RecurrentState, AnAbortedChunkLeavesEverythingAsItWas) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 900, 8);
  const Text detour = text.Detour(shape, 4000);
  Budget budget;
  CpuDevice device(2);
  for (const int64_t at : {0, 3, 64, 100, 191}) {
    for (const int64_t count : {1, 30, 64, 300, 600}) {
      for (const size_t num_layers : {size_t{0}, size_t{2}, shape.layers.size()}) {  // that were run
        RecurrentState state(shape, kSettings, budget), straight(shape, kSettings, budget);
        if (at > 0) {
          Feed(state, text, 0, at, 64, device);
          Feed(straight, text, 0, at, 64, device);
        }
        state.Begin(count);
        for (size_t i = 0; i < num_layers; ++i) {
          std::vector<float> out(static_cast<size_t>(count) * shape.layers[i].value_channels());
          RunLayer(state, detour, i, at, count, out.data(), device);
        }
        state.Abort();
        EXPECT_EQ(state.MaxRewind(), straight.MaxRewind());
        ASSERT_TRUE(StateOf(state) == StateOf(straight)) << at << " " << count << " " << num_layers;
        state.Rewind(state.MaxRewind());
        straight.Rewind(straight.MaxRewind());
        const int64_t left = state.num_tokens();
        ASSERT_TRUE(IsPart(text, Feed(state, text, left, left + 150, 150, device),
                           Feed(straight, text, left, left + 150, 29, device), 0));
      }
    }
  }
}

TEST(RecurrentState, ARewindTooFarIsRefusedAndChangesNothing) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 300, 9);
  Budget budget;
  CpuDevice device(1);
  RecurrentState state(shape, kSettings, budget);
  EXPECT_EQ(state.MaxRewind(), 0);
  EXPECT_THROW(state.Rewind(1), Error);
  Feed(state, text, 0, 50, 50, device);
  EXPECT_EQ(state.MaxRewind(), 50);
  Feed(state, text, 50, 200, 50, device);
  EXPECT_EQ(state.MaxRewind(), kMaxRewind);
  const std::string before = StateOf(state);
  for (const int64_t count : {int64_t{-1}, kMaxRewind + 1, int64_t{200}, INT64_MAX}) {
    try {
      state.Rewind(count);
      ADD_FAILURE() << count;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_NE(std::string(error.what()).find("70"), std::string::npos) << error.what();
    }
    EXPECT_TRUE(StateOf(state) == before);
  }
  state.Rewind(30);
  EXPECT_EQ(state.MaxRewind(), kMaxRewind - 30);
  state.Rewind(0);
  state.Rewind(kMaxRewind - 30);
  EXPECT_EQ(state.MaxRewind(), 0);
  EXPECT_EQ(state.num_tokens(), 200 - kMaxRewind);
}

TEST(RecurrentState, TokensTakenBackDoNotComeBackAsOnesThatCanBe) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 300, 14);
  Budget budget;
  CpuDevice device(1);
  RecurrentState state(shape, kSettings, budget), straight(shape, kSettings, budget);
  Feed(state, text, 0, 200, 50, device);
  state.Rewind(30);
  Feed(state, text, 170, 175, 5, device);
  // What lies before token 130 is gone, though 70 tokens are kept.
  EXPECT_EQ(state.MaxRewind(), 45);
  EXPECT_THROW(state.Rewind(46), Error);
  state.Rewind(45);
  const Outputs expected = Feed(straight, text, 0, 300, 300, device);
  EXPECT_TRUE(IsPart(text, Feed(state, text, 130, 300, 40, device), expected, 130));
}

TEST(RecurrentState, MemoryIsKnownBeforeAndDoesNotGrow) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 2000, 10);
  CpuDevice device(1);
  for (const int64_t max_rewind : {0, 1, 64, 65, 200}) {
    for (const int64_t max_chunk : {1, 64, 100, 600}) {
      const RecurrentSettings settings = {.max_chunk = max_chunk, .max_rewind = max_rewind};
      const size_t bytes = RecurrentState::PeakBytes(shape, settings);
      Budget small(bytes - 1);
      EXPECT_THROW(RecurrentState(shape, settings, small), Error);
      EXPECT_EQ(small.peak_bytes(), 0u);
      Budget budget(bytes);
      RecurrentState state(shape, settings, budget);
      EXPECT_EQ(budget.used_bytes(MemoryTag::kKv), bytes);
      const Outputs out = Feed(state, text, 0, max_chunk == 1 ? 300 : 2000, max_chunk, device);
      EXPECT_EQ(state.MaxRewind(), max_rewind);
      EXPECT_EQ(budget.peak_bytes(), bytes);
    }
  }
  const RecurrentShape hostile = {
      .layers = {{.num_key_heads = SIZE_MAX / 64, .num_value_heads = 1, .key_dim = 1, .value_dim = 1}}};
  EXPECT_EQ(RecurrentState::PeakBytes(hostile, kSettings), SIZE_MAX);
}

// The bits do not depend on how far back can be taken, nor on how large a chunk may be.
TEST(RecurrentState, SettingsDoNotChangeABit) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 600, 11);
  Budget budget;
  CpuDevice device(1);
  RecurrentState straight(shape, kSettings, budget);
  const Outputs expected = Feed(straight, text, 0, 600, 600, device);
  for (const int64_t max_rewind : {0, 1, 63, 300}) {
    for (const int64_t max_chunk : {1, 65, 256}) {
      RecurrentState state(shape, {.max_chunk = max_chunk, .max_rewind = max_rewind}, budget);
      EXPECT_TRUE(IsPart(text, Feed(state, text, 0, 600, max_chunk, device), expected, 0))
          << max_rewind << " " << max_chunk;
    }
  }
}

ErrorKind KindOfRestore(const RecurrentShape& shape, const std::string& saved,
                        RecurrentSettings settings = kSettings) {
  Budget budget;
  RecurrentState state(shape, settings, budget);
  BufferReader reader(saved);
  try {
    state.Restore(reader);
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "was restored";
  return ErrorKind::kInput;
}

TEST(RecurrentState, DamagedStatesAreRefused) {
  const RecurrentShape shape = MixedShape();
  const Text text(shape, 200, 12);
  Budget budget;
  CpuDevice device(1);
  RecurrentState state(shape, kSettings, budget);
  Feed(state, text, 0, 150, 150, device);
  const std::string saved = StateOf(state);
  for (size_t length = 0; length < saved.size(); length += 1 + saved.size() / 97) {
    EXPECT_EQ(KindOfRestore(shape, saved.substr(0, length)), ErrorKind::kFile) << length;
  }
  const auto with = [&saved](size_t at, auto value) {
    std::string changed = saved;
    std::memcpy(changed.data() + at, &value, sizeof(value));
    return changed;
  };
  for (const int64_t bad : {int64_t{-1}, int64_t{79}, INT64_MAX}) {  // tokens; 80 are the oldest
    EXPECT_EQ(KindOfRestore(shape, with(0, bad)), ErrorKind::kFile) << bad;
  }
  for (const int64_t bad : {int64_t{-1}, int64_t{79}, int64_t{151}, INT64_MIN}) {
    EXPECT_EQ(KindOfRestore(shape, with(8, bad)), ErrorKind::kFile) << bad;
  }
  EXPECT_EQ(KindOfRestore(shape, saved, {.max_chunk = 600, .max_rewind = 69}), ErrorKind::kFile);
  EXPECT_EQ(KindOfRestore(shape, with(16, uint64_t{6})), ErrorKind::kMismatch);
  for (size_t at = 24; at < 56; at += 8)
    EXPECT_EQ(KindOfRestore(shape, with(at, uint64_t{1})), ErrorKind::kMismatch);
  RecurrentShape other = shape;
  std::swap(other.layers[0], other.layers[2]);
  EXPECT_EQ(KindOfRestore(other, saved), ErrorKind::kMismatch);
}

TEST(RecurrentState, DecaysThatGrowAreRefused) {
  const RecurrentShape shape = {.layers = {DeltaShape()}};
  Text text(shape, 10, 13);
  Budget budget;
  CpuDevice device(1);
  RecurrentState state(shape, kSettings, budget);
  Feed(state, text, 0, 10, 10, device);
  const std::string saved = StateOf(state);
  const size_t inputs = 10 * shape.layers[0].num_channels() * sizeof(float);
  std::string changed = saved;
  const double growing = 1e-3;
  std::memcpy(changed.data() + changed.size() - inputs - sizeof(double), &growing, sizeof(growing));
  EXPECT_EQ(KindOfRestore(shape, changed), ErrorKind::kFile);
}

TEST(RecurrentState, StepsThatGrowAreRefused) {
  const RecurrentShape shape = {.layers = {LruShape()}};
  Text text(shape, 10, 15);
  Budget budget;
  CpuDevice device(1);
  RecurrentState state(shape, kSettings, budget);
  Feed(state, text, 0, 10, 10, device);
  const std::string saved = StateOf(state);
  // Behind the header, the border and the first nine tokens of the first panel.
  const size_t at = 56 + shape.layers[0].state_floats() * sizeof(float) + 9 * kRecurPanel * sizeof(float);
  std::string changed = saved;
  const float growing = 1e-3f;
  std::memcpy(changed.data() + at, &growing, sizeof(growing));
  EXPECT_EQ(KindOfRestore(shape, changed), ErrorKind::kFile);
}

}  // namespace
}  // namespace mneme
