#include "kernels/recur/recur.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/random.h"
#include "base/testing.h"
#include "kernels/recur/recur_test_util.h"
#include "kernels/simd/test_util.h"

namespace mneme {
namespace {

using testing::ChannelShape;
using testing::ConvolutionShape;
using testing::DeltaShape;
using testing::ForEachTarget;
using testing::LruShape;
using testing::RecurData;
using testing::RelativeDifference;
using testing::ScanShape;
using testing::SelectiveShape;
using testing::WkvShape;

// A stream that keeps everything: slot i is border i, block i, token i.
class Stream {
 public:
  Stream(const RecurData& data, size_t num_threads) : data_(data), pool_(num_threads) {
    const size_t blocks = data.num_tokens / kRecurBlockTokens + 1;
    const RecurShape& shape = data.shape;
    states_ = MakeAligned<float>((blocks + 1) * shape.state_floats());
    ClearState(shape, states_.get());
    keys_ = MakeAligned<float>(blocks * shape.key_floats());
    updates_ = MakeAligned<float>(blocks * shape.update_floats());
    sums_ = MakeAligned<double>(blocks * shape.sum_doubles());
    // What nobody wrote must not matter.
    std::fill_n(keys_.get(), blocks * shape.key_floats(), NAN);
    std::fill_n(updates_.get(), blocks * shape.update_floats(), NAN);
    inputs_.resize((data.num_tokens + kMaxConvWidth) * shape.num_channels());
  }

  // keeps: also blocks that lie inside a chunk, and the borders between them.
  RecurCall Call(size_t first, size_t count, float* out, bool keeps = true) {
    const size_t block = first / kRecurBlockTokens;
    const size_t num_blocks = NumRecurBlocks(static_cast<int64_t>(first), count);
    const size_t num_borders = NumRecurBorders(static_cast<int64_t>(first), count);
    border_slots_.clear();
    block_slots_.clear();
    for (size_t i = 0; i < num_blocks; ++i) {
      const bool is_inside = i < num_borders && (i > 0 || first % kRecurBlockTokens == 0);
      block_slots_.push_back(keeps || !is_inside ? static_cast<int32_t>(block + i) : -1);
    }
    for (size_t i = 0; i < num_borders; ++i) {
      border_slots_.push_back(static_cast<int32_t>(block + 1 + (keeps ? i : num_borders - 1)));
    }
    RecurCall call = data_.Rows(first, count, out);
    call.stream.states = states_.get();
    call.stream.state_slot = static_cast<int32_t>(block);
    call.stream.border_slots = border_slots_.data();
    call.stream.keys = keys_.get();
    call.stream.updates = updates_.get();
    call.stream.sums = sums_.get();
    call.stream.block_slots = block_slots_.data();
    call.stream.inputs = inputs_.data();
    call.stream.num_input_slots = data_.num_tokens + kMaxConvWidth;
    call.stream.input_slot = first;
    return call;
  }

  std::vector<float> Run(size_t chunk, bool keeps = true) {
    std::vector<float> out(data_.num_tokens * data_.shape.value_channels());
    for (size_t first = 0; first < data_.num_tokens; first += chunk) {
      const size_t count = std::min(chunk, data_.num_tokens - first);
      const RecurCall call = Call(first, count, out.data() + first * data_.shape.value_channels(), keeps);
      RunCalls({&call, 1});
    }
    return out;
  }
  void RunCalls(std::span<const RecurCall> calls) {
    size_t num_rows = 0;
    for (const RecurCall& call : calls) num_rows += call.num_rows;
    const size_t floats = RecurScratchFloats(data_.shape, num_rows, pool_.num_threads());
    const auto scratch = MakeAligned<float>(floats + 16);
    std::fill_n(scratch.get(), floats + 16, 12345.0f);
    Recur(calls, scratch.get(), pool_);
    for (size_t i = 0; i < 16; ++i) ASSERT_EQ(scratch[floats + i], 12345.0f) << "wrote behind its scratch";
  }

  // S at a border, [num_value_heads, key_dim, value_dim].
  std::vector<float> State(size_t border) const {
    const RecurShape& shape = data_.shape;
    std::vector<float> state;
    for (size_t head = 0; head < shape.num_value_heads; ++head) {
      for (size_t i = 0; i < shape.key_dim; ++i) {
        for (size_t c = 0; c < shape.value_dim; ++c) {
          const size_t panel = head * shape.num_panels() + c / kRecurPanel;
          state.push_back(states_[border * shape.state_floats() + (panel * shape.key_dim + i) * kRecurPanel +
                                  c % kRecurPanel]);
        }
      }
    }
    return state;
  }

 private:
  const RecurData& data_;
  ThreadPool pool_;
  AlignedArray<float> states_, keys_, updates_;
  AlignedArray<double> sums_;
  std::vector<float> inputs_;
  std::vector<int32_t> border_slots_, block_slots_;
};

struct Expected {
  explicit Expected(const RecurData& data)
      : out(data.num_tokens * data.shape.value_channels()),
        state(data.shape.num_value_heads * data.shape.key_dim * data.shape.value_dim) {
    RecurReference(data.Rows(0, data.num_tokens, nullptr), out.data(), state.data());
  }
  std::vector<double> out, state;
};

// Per head, over all tokens.
template <typename A, typename B>
double WorstHead(const RecurShape& shape, const A& a, const B& b) {
  double worst = 0;
  for (size_t head = 0; head < shape.num_value_heads; ++head) {
    std::vector<double> of_a, of_b;
    for (size_t at = head * shape.value_dim; at < a.size(); at += shape.value_channels()) {
      of_a.insert(of_a.end(), a.begin() + static_cast<ptrdiff_t>(at),
                  a.begin() + static_cast<ptrdiff_t>(at + shape.value_dim));
      of_b.insert(of_b.end(), b.begin() + static_cast<ptrdiff_t>(at),
                  b.begin() + static_cast<ptrdiff_t>(at + shape.value_dim));
    }
    worst = std::max(worst, RelativeDifference(of_a, of_b));
  }
  return worst;
}

std::vector<RecurShape> Shapes() {
  RecurShape tiled = DeltaShape();
  tiled.is_tiled = true;
  tiled.conv_width = 2;
  RecurShape wide = DeltaShape();
  wide.key_dim = 128;
  wide.value_dim = 128;
  wide.query_scale = 0.0883883f;
  RecurShape uneven = DeltaShape();
  uneven.num_value_heads = 2;
  uneven.key_dim = 7;
  uneven.value_dim = 67;
  uneven.conv_width = 8;
  RecurShape scan = ScanShape();
  scan.key_dim = 64;
  scan.value_dim = 64;
  RecurShape selective = SelectiveShape();
  selective.key_dim = 16;
  selective.value_dim = 64;
  RecurShape uneven_channels = ChannelShape();
  uneven_channels.key_dim = 7;
  uneven_channels.value_dim = 67;
  return {DeltaShape(),       tiled,     wide,       uneven,     ScanShape(),      scan,
          ConvolutionShape(), selective, LruShape(), WkvShape(), SelectiveShape(), ChannelShape(),
          uneven_channels};
}

TEST(Recur, MatchesTheRunningRecurrenceOnEveryTarget) {
  for (const RecurShape& shape : Shapes()) {
    const RecurData data(shape, 4 * kRecurBlockTokens, 1);
    const Expected expected(data);
    ForEachTarget([&] {
      Stream stream(data, 2);
      EXPECT_LT(WorstHead(shape, stream.Run(100), expected.out), kRecurError) << shape.key_dim;
      if (shape.rule == RecurRule::kWkv) return;  // the twin has none
      EXPECT_LT(RelativeDifference(stream.State(4), expected.state), kRecurError) << shape.key_dim;
    });
  }
}

TEST(Recur, BitsDoNotDependOnChunksOrThreads) {
  for (const RecurShape& shape : Shapes()) {
    const RecurData data(shape, 512 + 37, 2);
    ForEachTarget([&] {
      const std::vector<float> one = Stream(data, 1).Run(1);
      for (const size_t chunk : {7, 64, 512}) {
        for (const size_t num_threads : {1, 2}) {
          for (const bool keeps : {true, false}) {
            EXPECT_TRUE(Stream(data, num_threads).Run(chunk, keeps) == one)
                << shape.key_dim << " chunk " << chunk << ", " << num_threads << " threads, keeps " << keeps;
          }
        }
      }
    });
  }
}

// Sums by blocks are the recurrence itself: in double precision nothing but rounding lies between them.
TEST(Recur, TheSumsOfABlockAreTheRecurrence) {
  RecurShape delta = {.num_key_heads = 1, .num_value_heads = 1, .key_dim = 9, .value_dim = 5};
  RecurShape channels_decay = delta, scan = delta;
  channels_decay.decays_by_channel = true;
  scan.rule = RecurRule::kScan;
  for (RecurShape shape : {delta, channels_decay, scan}) {
    shape.conv_width = 1;
    shape.conv_activates = false;
    const size_t channels = shape.num_channels();
    RecurData data(shape, 3 * kRecurBlockTokens, 3);
    std::fill(data.conv_weight.begin(), data.conv_weight.end(), 1.0f);
    std::fill(data.conv_bias.begin(), data.conv_bias.end(), 0.0f);
    std::fill(data.skip.begin(), data.skip.end(), 0.0f);
    const Expected expected(data);
    std::vector<double> state(9 * 5), out;
    for (size_t block = 0; block < 3; ++block) {
      std::vector<double> q, k, v, a, beta, rows(kRecurBlockTokens * 5);
      for (size_t t = block * kRecurBlockTokens; t < (block + 1) * kRecurBlockTokens; ++t) {
        const float* const x = data.x.data() + t * channels;
        double norms[2] = {};
        for (size_t i = 0; i < 18; ++i) norms[i / 9] += double{x[i]} * x[i];
        for (size_t i = 0; i < 9; ++i) q.push_back(x[i] / std::sqrt(norms[0] + double{kRecurNormEpsilon}));
        for (size_t i = 9; i < 18; ++i) k.push_back(x[i] / std::sqrt(norms[1] + double{kRecurNormEpsilon}));
        v.insert(v.end(), x + 18, x + 23);
        for (size_t i = 0; i < shape.num_decays(); ++i) {
          a.push_back(data.log_decay[t * shape.num_decays() + i]);
        }
        beta.push_back(data.beta[t]);
      }
      RecurBlockReference(shape, q.data(), k.data(), v.data(), a.data(), beta.data(), kRecurBlockTokens,
                          rows.data(), state.data());
      out.insert(out.end(), rows.begin(), rows.end());
    }
    EXPECT_LT(RelativeDifference(out, expected.out), 1e-13);
    EXPECT_LT(RelativeDifference(state, expected.state), 1e-13);
  }
}

// A token that forgets all, and then ones that forget next to nothing: sums of a in float32 would lose the
// decays of the latter.
TEST(Recur, WhatForgetsAllDoesNotBlurWhatFollows) {
  for (const RecurShape& shape : {DeltaShape(), ChannelShape(), ScanShape(), SelectiveShape(), LruShape()}) {
    for (const float deep : {-20.0f, -300.0f, -1e6f}) {
      RecurData data(shape, 3 * kRecurBlockTokens, 4);
      for (size_t i = 0; i < data.log_decay.size(); ++i) {
        const size_t token = i / shape.num_decays() % kRecurBlockTokens;
        data.log_decay[i] = token < 40 ? deep : -0.0123f;
      }
      const Expected expected(data);
      ForEachTarget(
          [&] { EXPECT_LT(WorstHead(shape, Stream(data, 1).Run(50), expected.out), kRecurError) << deep; });
    }
  }
}

TEST(Recur, NothingIsForgottenWithoutDecay) {
  RecurShape shape = ScanShape();
  RecurData data(shape, 20 * kRecurBlockTokens, 5);
  std::fill(data.log_decay.begin(), data.log_decay.end(), 0.0f);
  const Expected expected(data);
  Stream stream(data, 2);
  EXPECT_LT(WorstHead(shape, stream.Run(512), expected.out), kRecurError);
  EXPECT_LT(RelativeDifference(stream.State(20), expected.state), kRecurError);
}

// A decay near 1 is taken thousands of times: its rounding must not add up.
TEST(Recur, SlowDecaysStayExact) {
  for (const RecurShape& shape : {SelectiveShape(), LruShape()}) {
    RecurData data(shape, 60 * kRecurBlockTokens, 10);
    std::fill(data.log_decay.begin(), data.log_decay.end(), -3e-4f);
    const Expected expected(data);
    Stream stream(data, 2);
    EXPECT_LT(WorstHead(shape, stream.Run(512), expected.out), kRecurError);
    EXPECT_LT(RelativeDifference(stream.State(60), expected.state), kRecurError);
  }
}

TEST(Recur, WeightsOfAnySizeKeepWkvInRange) {
  RecurData data(WkvShape(), 5 * kRecurBlockTokens, 11);
  for (size_t i = 0; i < data.beta.size(); ++i) data.beta[i] *= 60;  // e^k would be up to e^500
  const Expected expected(data);
  ForEachTarget(
      [&] { EXPECT_LT(WorstHead(data.shape, Stream(data, 2).Run(33), expected.out), kRecurError); });
}

TEST(Recur, NanOfAWeightStaysToo) {
  const RecurData data(WkvShape(), 100, 12);
  RecurData bad = data;
  bad.beta[70 * data.shape.num_gates()] = NAN;
  ForEachTarget([&] {
    const std::vector<float> out = Stream(bad, 1).Run(9);
    for (size_t row = 0; row < 100; ++row) {
      EXPECT_EQ(std::isnan(out[row * data.shape.value_channels()]), row >= 70) << row;
    }
  });
}

// From the head a stream goes on as from the border and the tokens since.
TEST(Recur, HeadsAreAShortCut) {
  for (const RecurShape& shape : {SelectiveShape(), LruShape(), WkvShape()}) {
    const RecurData data(shape, 200, 13);
    ForEachTarget([&] {
      Stream stream(data, 2);
      const auto heads = MakeAligned<float>(2 * shape.state_floats());
      std::vector<float> out(200 * shape.value_channels());
      for (size_t first = 0, step = 0; first < 200; ++step) {
        const size_t count = std::min<size_t>(1 + step % 3 * 7, 200 - first);
        RecurCall call = stream.Call(first, count, out.data() + first * shape.value_channels());
        if (step > 0) call.stream.head = heads.get() + (step - 1) % 2 * shape.state_floats();
        call.stream.next_head = heads.get() + step % 2 * shape.state_floats();
        stream.RunCalls({&call, 1});
        first += count;
      }
      EXPECT_TRUE(out == Stream(data, 1).Run(200));
    });
  }
}

TEST(Recur, DecaysBelowTheFloorForgetAllAndStayFinite) {
  for (const RecurShape& shape : {DeltaShape(), ChannelShape()}) {
    RecurData data(shape, 100, 6);
    RecurData floor = data;
    for (size_t i = 0; i < data.log_decay.size(); i += 7) {
      data.log_decay[i] = -std::numeric_limits<float>::infinity();
      floor.log_decay[i] = -1e6f;
    }
    const std::vector<float> out = Stream(data, 1).Run(33);
    EXPECT_EQ(out, Stream(floor, 1).Run(33));
    for (const float value : out) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST(Recur, NanStaysInItsRowAndLaterOnes) {
  for (const RecurShape& shape : {DeltaShape(), ChannelShape(), ScanShape(), ConvolutionShape(),
                                  SelectiveShape(), LruShape(), WkvShape()}) {
    const RecurData data(shape, 200, 7);
    RecurData bad = data;
    constexpr size_t kBad = 70;
    bad.x[kBad * shape.num_channels() + (shape.is_stepped() ? 0 : shape.v_channel())] = NAN;
    ForEachTarget([&] {
      const std::vector<float> good = Stream(data, 1).Run(200);
      const std::vector<float> out = Stream(bad, 1).Run(200);
      const auto begin = static_cast<ptrdiff_t>(kBad * shape.value_channels());
      EXPECT_TRUE(std::equal(out.begin(), out.begin() + begin, good.begin()));
      EXPECT_TRUE(std::isnan(out[static_cast<size_t>(begin)]));
    });
  }
}

TEST(Recur, SeveralSessionsHaveTheBitsOfEachAlone) {
  for (const RecurShape& shape : {DeltaShape(), ChannelShape(), ScanShape(), ConvolutionShape(),
                                  SelectiveShape(), LruShape(), WkvShape()}) {
    const RecurData data(shape, 300, 8);
    Stream alone(data, 1);
    const std::vector<float> expected = alone.Run(300);
    Stream a(data, 2), b(data, 2), c(data, 2);
    std::vector<float> of_a(expected.size()), of_b(expected.size()), of_c(expected.size());
    for (size_t step = 0; step < 20; ++step) {  // 1, 9 and 15 rows
      const auto at = [&](std::vector<float>& out, size_t row) {
        return out.data() + row * shape.value_channels();
      };
      const RecurCall calls[] = {a.Call(step, 1, at(of_a, step)), b.Call(9 * step, 9, at(of_b, 9 * step)),
                                 c.Call(15 * step, 15, at(of_c, 15 * step))};
      a.RunCalls(calls);
    }
    const auto is_start = [&](const std::vector<float>& out, size_t rows) {
      return std::equal(out.begin(), out.begin() + static_cast<ptrdiff_t>(rows * shape.value_channels()),
                        expected.begin());
    };
    EXPECT_TRUE(is_start(of_a, 20));
    EXPECT_TRUE(is_start(of_b, 180));
    EXPECT_TRUE(is_start(of_c, 300));
  }
}

TEST(Recur, ConvolutionsOfEveryWidth) {
  for (size_t width = 1; width <= kMaxConvWidth; ++width) {
    for (const bool activates : {false, true}) {
      RecurShape shape = ConvolutionShape();
      shape.conv_width = width;
      shape.conv_activates = activates;
      const RecurData data(shape, 70, 9);
      const Expected expected(data);
      ForEachTarget(
          [&] { EXPECT_LT(RelativeDifference(Stream(data, 2).Run(11), expected.out), 1e-6) << width; });
    }
  }
}

TEST(Recur, CostIsWhatTheDefinitionReadsAndMultiplies) {
  RecurShape shape = {.num_key_heads = 2, .num_value_heads = 4, .key_dim = 8, .value_dim = 16};
  RecurCall call{.shape = &shape, .num_rows = 1};
  call.stream.first_index = 64 + 3;
  const double matrix = 4 * 8 * 16;
  const double convolution = 2.0 * 4 * (2 * 16 + 64);
  EXPECT_EQ(CostOf(call).bytes, 4 * (matrix + 3 * (16 + 64)));
  EXPECT_EQ(CostOf(call).flops, convolution + 2 * (2 * matrix + (3 + 4) * (16 + 64)));
  call.stream.first_index = 63;  // ends a block
  EXPECT_EQ(CostOf(call).flops, convolution + 2 * ((2 + 64) * matrix + (63 + 64) * (16 + 64)));
}

}  // namespace
}  // namespace mneme
