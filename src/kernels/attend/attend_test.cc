#include "kernels/attend/attend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "base/half.h"

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#include "kernels/attend/attend_test_util.h"
#include "kernels/simd/test_util.h"

namespace mneme {
namespace {

using testing::AttendCase;
using testing::AttendOutput;
using testing::ForEachTarget;
using testing::RunAttend;
using testing::ShareOfBound;

constexpr std::array kEncodings = {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0,
                                   Encoding::kQ4_0};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

KvLayout Layout(size_t heads, size_t key_dim, size_t value_dim, Encoding k = Encoding::kF32,
                Encoding v = Encoding::kF32) {
  return {heads, key_dim, value_dim, k, v};
}

AttendOutput Attended(const AttendCase& c, ThreadPool& pool) {
  return RunAttend(c.shape, {&c.span, 1}, pool);
}
double Share(const AttendCase& c, ThreadPool& pool) {
  return ShareOfBound(c.shape, {&c.span, 1}, Attended(c, pool));
}

TEST(AttendTest, EveryPairOfEncodingsAgreesWithTheReference) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    uint32_t seed = 1;
    for (const Encoding k : kEncodings) {
      for (const Encoding v : kEncodings) {
        SCOPED_TRACE(std::string(EncodingName(k)) + "/" + std::string(EncodingName(v)));
        for (const size_t rows : {1, 3, 13}) {
          AttendCase c(Layout(2, 64, 64, k, v), 2, rows, 150, ++seed, 5);
          c.MakeCausal();
          EXPECT_LE(Share(c, pool), 1) << rows;
        }
      }
    }
  });
}

// Values that are the last of the keys: what is computed is what two copies would give, to the bit where
// products are of float32.
TEST(AttendTest, ValuesInKeysAreReadOutOfThem) {
  ThreadPool pool(2);
  ForEachTarget([&] {
    uint32_t seed = 100;
    for (const Encoding encoding : kEncodings) {
      for (const auto& [key_dim, value_dim] : {std::pair<size_t, size_t>{96, 64}, {576, 512}, {42, 34}}) {
        if (!CanKeepValuesInKeys(encoding, key_dim, value_dim)) continue;
        SCOPED_TRACE(std::string(EncodingName(encoding)) + " " + std::to_string(key_dim));
        KvLayout layout = Layout(1, key_dim, value_dim, encoding, encoding);
        for (const size_t rows : {1, 3, 11}) {
          AttendCase twice(layout, 5, rows, 150, ++seed, 5);
          layout.values_in_keys = true;
          AttendCase once(layout, 5, rows, 150, seed, 5);
          layout.values_in_keys = false;
          std::vector<float> k(key_dim);
          for (size_t t = 0; t < 150; ++t) {
            twice.Fill(k);
            twice.Store(t, k.data(), k.data() + key_dim - value_dim);
            once.Store(t, k.data(), nullptr);
          }
          twice.MakeCausal();
          once.MakeCausal();
          const AttendOutput out = Attended(once, pool);
          EXPECT_LE(testing::ErrorAgainstReference(once.shape, {&once.span, 1}, out), kAttendError) << rows;
          if (encoding != Encoding::kBF16) {
            EXPECT_EQ(out, Attended(twice, pool)) << rows;
          }
        }
      }
    }
  });
}

TEST(AttendTest, AnyHeadDimension) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    const std::pair<size_t, size_t> dims[] = {{8, 8},    {12, 12},   {64, 128}, {80, 80}, {96, 96},
                                              {128, 64}, {256, 256}, {2, 34},   {6, 44},  {192, 128}};
    for (const auto& [key_dim, value_dim] : dims) {
      for (const Encoding encoding : kEncodings) {
        SCOPED_TRACE(std::to_string(key_dim) + "/" + std::to_string(value_dim) + " " +
                     std::string(EncodingName(encoding)));
        for (const size_t rows : {1, 10}) {
          AttendCase c(Layout(1, key_dim, value_dim, encoding, encoding), 1, rows, 97, 7, 60);
          c.MakeCausal();
          EXPECT_LE(Share(c, pool), 1);
        }
      }
    }
    for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0}) {
      AttendCase c(Layout(2, 7, 33, encoding, encoding), 1, 9, 70, 8);
      EXPECT_LE(Share(c, pool), 1) << "odd dimensions, " << EncodingName(encoding);
    }
  });
}

TEST(AttendTest, AnyGroupAndRowCount) {
  ThreadPool pool(2);
  for (const size_t group : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 71}) {
    for (const size_t rows : {1, 2, 5, 17, 50}) {
      if (group * rows > 400) continue;
      for (const Encoding keys : {Encoding::kF16, Encoding::kBF16}) {
        const Encoding values = keys == Encoding::kF16 ? Encoding::kQ8_0 : Encoding::kBF16;
        AttendCase c(Layout(group > 8 ? 1 : 3, 32, 32, keys, values), group, rows, 130, 11);
        c.MakeCausal(100);
        EXPECT_LE(Share(c, pool), 1) << group << " x " << rows;
      }
    }
  }
}

TEST(AttendTest, RandomRangesIncludingEmptyOnes) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    for (uint32_t seed = 0; seed < 12; ++seed) {
      const Encoding encoding = seed % 2 == 0 ? Encoding::kF16 : Encoding::kBF16;
      AttendCase c(Layout(2, 32, 48, encoding, encoding), 3, 20, 300, seed, seed * 5);
      c.MakeRandomRanges();
      EXPECT_LE(Share(c, pool), 1) << seed;
    }
  });
}

TEST(AttendTest, NoVisibleKeyGivesZeroAndMinusInfinity) {
  ThreadPool pool(1);
  AttendCase c(Layout(1, 16, 16), 2, 2, 64, 3);
  c.end[1] = 0;
  const AttendOutput result = Attended(c, pool);
  for (size_t i = 32; i < 64; ++i) EXPECT_EQ(result.out[i], 0.0f);
  EXPECT_EQ(result.lse[2], -kInfinity);
  EXPECT_TRUE(std::isfinite(result.lse[0]));
  const AttendOutput nothing = RunAttend(c.shape, {}, pool);
  EXPECT_EQ(nothing.lse[0], -kInfinity);
  EXPECT_EQ(nothing.out[0], 0.0f);
}

TEST(AttendTest, SoftCapAlibiSinksAndFactors) {
  ThreadPool pool(1);
  std::vector<float> factors;
  for (int i = 0; i < 32; ++i) factors.push_back(0.5f + 0.07f * static_cast<float>(i % 9));
  const std::vector<float> slopes = {0.5f, 0.03f, 0.0f, 1.0f, 0.25f, 0.004f};
  const std::vector<float> sinks = {0.0f, 3.0f, -2.0f, 20.0f, -kInfinity, 1.0f};
  ForEachTarget([&] {
    for (int flags = 1; flags < 32; ++flags) {
      for (const size_t rows : {1, 20}) {
        const Encoding encoding = flags & 8 ? Encoding::kBF16 : Encoding::kF32;
        AttendCase c(Layout(2, 32, 32, encoding, encoding), 3, rows, 200, 5, 9);
        c.MakeCausal();
        if (flags & 1) c.shape.soft_cap = 5.0f;
        if (flags & 2) c.shape.alibi_slopes = slopes.data();
        if (flags & 4) c.shape.sink_logits = sinks.data();
        if (flags & 16) c.shape.query_factors = factors.data();
        c.begin[0] = c.end[0];  // the first row sees only its sink logit
        EXPECT_LE(Share(c, pool), 1) << flags << " rows " << rows;
      }
    }
  });
}

TEST(AttendTest, AlibiLosesNothingAtEndlessDistances) {
  ThreadPool pool(1);
  const std::vector<float> slopes = {0.5f, 0.01f};
  AttendCase c(Layout(1, 32, 32), 2, 3, 200, 6);
  c.shape.alibi_slopes = slopes.data();
  for (const int step : {0, 1}) {
    c.span.distance_step = step;
    for (size_t r = 0; r < 3; ++r) c.distance[r] = (int64_t{1} << 33) + 200 + static_cast<int64_t>(r);
    EXPECT_LE(Share(c, pool), 1) << step;
  }
}

// T4.
TEST(AttendTest, AddingAConstantPerRowToTheBiasChangesNothing) {
  ThreadPool pool(1);
  const std::vector<float> slopes = {0.5f, 0.01f};
  AttendCase c(Layout(1, 32, 32), 2, 3, 200, 6);
  c.shape.alibi_slopes = slopes.data();
  const AttendOutput before = Attended(c, pool);
  for (size_t r = 0; r < 3; ++r) c.distance[r] += 1000 * static_cast<int64_t>(r + 1);
  const AttendOutput after = Attended(c, pool);
  EXPECT_LT(testing::RelativeDifference(before.out, after.out), 1e-6);
  EXPECT_NEAR(before.lse[0] - after.lse[0], 500.0, 1e-3);
}

// T1.
TEST(AttendTest, MergeOfTwoSpansIsTheUnion) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    for (const int32_t cut : {1, 63, 64, 100, 299}) {
      AttendCase c(Layout(2, 64, 64), 2, 9, 300, 21, 3);
      const AttendOutput whole = Attended(c, pool);
      std::vector<int32_t> at(9, cut);
      KvSpan left = c.span, right = c.span;
      left.end = at.data();
      right.begin = at.data();
      const KvSpan both[] = {left, right};
      const AttendOutput together = RunAttend(c.shape, both, pool);
      EXPECT_LT(testing::RelativeDifference(whole.out, together.out), 1e-6) << cut;
      AttendOutput a = RunAttend(c.shape, {&left, 1}, pool);
      const AttendOutput b = RunAttend(c.shape, {&right, 1}, pool);
      MergePartials(9, 4, 64, a.out.data(), a.lse.data(), b.out.data(), b.lse.data());
      EXPECT_LT(testing::RelativeDifference(whole.out, a.out), 1e-6) << cut;
      EXPECT_LT(testing::RelativeDifference(whole.lse, a.lse), 1e-6) << cut;
    }
  });
}

TEST(AttendTest, MergeWithNothingIsTheIdentity) {
  ThreadPool pool(1);
  AttendCase c(Layout(1, 32, 32), 2, 3, 100, 22);
  const AttendOutput some = Attended(c, pool);
  AttendOutput nothing{std::vector<float>(some.out.size(), 0.0f),
                       std::vector<float>(some.lse.size(), -kInfinity)};
  AttendOutput left = some;
  MergePartials(3, 2, 32, left.out.data(), left.lse.data(), nothing.out.data(), nothing.lse.data());
  EXPECT_EQ(left, some);
  MergePartials(3, 2, 32, nothing.out.data(), nothing.lse.data(), some.out.data(), some.lse.data());
  EXPECT_EQ(nothing, some);
  AttendOutput none{{0, 0}, {-kInfinity}};
  MergePartials(1, 1, 2, none.out.data(), none.lse.data(), none.out.data(), none.lse.data());
  EXPECT_EQ(none.lse[0], -kInfinity);
  EXPECT_EQ(none.out[0], 0.0f);
}

// T2.
TEST(AttendTest, SinkLogitZeroIsSoftmaxOffByOne) {
  ThreadPool pool(1);
  const std::vector<float> zero = {0.0f, 0.0f};
  AttendCase c(Layout(1, 32, 32), 2, 3, 90, 23);
  AttendOutput merged = Attended(c, pool);
  const AttendOutput extra{std::vector<float>(merged.out.size(), 0.0f),
                           std::vector<float>(merged.lse.size(), 0.0f)};
  MergePartials(3, 2, 32, merged.out.data(), merged.lse.data(), extra.out.data(), extra.lse.data());
  c.shape.sink_logits = zero.data();
  const AttendOutput with_sink = Attended(c, pool);
  EXPECT_LT(testing::RelativeDifference(merged.out, with_sink.out), 1e-6);
  EXPECT_LT(testing::RelativeDifference(merged.lse, with_sink.lse), 1e-6);
  // All logits to -infinity: output 0, and the sink's own log-sum-exp.
  c.shape.alibi_slopes = zero.data();
  const std::vector<float> steep = {1e30f, 1e30f};
  c.shape.alibi_slopes = steep.data();
  const AttendOutput far = Attended(c, pool);
  for (const float value : far.out) EXPECT_EQ(value, 0.0f);
  EXPECT_EQ(far.lse[0], 0.0f);
}

// Rows alone, in chunks of any size, on any number of threads, with the span starting earlier or later: the
// same bits.
TEST(AttendTest, ARowDependsOnItsKeysAlone) {
  ThreadPool one(1), two(2), three(3);
  ForEachTarget([&] {
    for (const Encoding encoding : {Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0}) {
      for (const size_t group : {1, 4}) {
        constexpr size_t kRows = 70;
        AttendCase c(Layout(2, 32, 48, encoding, encoding), group, kRows, 1500, 31, 17);
        c.MakeCausal(1200);
        c.span.first_block_number = 5;
        const AttendOutput all = Attended(c, one);
        EXPECT_EQ(Attended(c, two), all);
        EXPECT_EQ(Attended(c, three), all);
        const size_t heads = c.shape.num_heads;
        for (const size_t chunk : {1, 3, 16}) {
          for (size_t row = 0; row + chunk <= kRows; row += 19) {
            AttendShape shape = c.shape;
            shape.num_rows = chunk;
            // The window's span starts at the first block that these rows see.
            const int64_t skip = (c.begin[row] + 17) / 64;
            const int32_t first_key = skip == 0 ? 0 : static_cast<int32_t>(skip * 64) - 17;
            std::vector<int32_t> begin, end;
            for (size_t r = row; r < row + chunk; ++r) {
              begin.push_back(c.begin[r] - first_key);
              end.push_back(c.end[r] - first_key);
            }
            KvSpan span = c.span;
            span.first_slot = skip == 0 ? 17 : 0;
            span.blocks += skip;
            span.first_block_number += skip;
            span.begin = begin.data();
            span.end = end.data();
            span.q += row * heads * 32;
            span.distance += row;
            for (ThreadPool* pool : {&one, &three}) {
              const AttendOutput part = RunAttend(shape, {&span, 1}, *pool);
              EXPECT_TRUE(std::equal(part.out.begin(), part.out.end(), all.out.begin() + row * heads * 48))
                  << "chunk " << chunk << " row " << row << " group " << group;
              EXPECT_TRUE(std::equal(part.lse.begin(), part.lse.end(), all.lse.begin() + row * heads));
            }
          }
        }
      }
    }
  });
}

TEST(AttendTest, LongContextSharedByThreads) {
  ThreadPool one(1), three(3);
  for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0}) {
    AttendCase c(Layout(1, 64, 64, encoding, encoding), 4, 1, 5000, 41);
    const AttendOutput result = Attended(c, three);
    EXPECT_EQ(result, Attended(c, one));
    EXPECT_LE(ShareOfBound(c.shape, {&c.span, 1}, result), 1);
  }
  // More splits than one wave of three threads holds.
  AttendCase c(Layout(1, 8, 8), 1, 1, 60000, 42);
  EXPECT_EQ(Attended(c, three), Attended(c, one));
}

// What one KV head of a case and its queries give with nothing beside them.
AttendOutput OneHeadAlone(const AttendCase& c, size_t kv_head, ThreadPool& pool) {
  const size_t group = c.shape.num_heads / c.shape.layout.num_kv_heads;
  const size_t values = group * c.shape.layout.key_dim;
  AttendShape shape = c.shape;
  shape.layout.num_kv_heads = 1;
  shape.num_heads = group;
  if (shape.alibi_slopes != nullptr) shape.alibi_slopes += kv_head * group;
  std::vector<const uint8_t*> blocks;
  const size_t last = c.span.first_slot + static_cast<size_t>(*std::max_element(c.end.begin(), c.end.end()));
  for (size_t b = 0; b * kBlockTokens < last; ++b)
    blocks.push_back(c.span.blocks[b] + kv_head * shape.layout.block_bytes());
  std::vector<float> q;
  for (size_t row = 0; row < shape.num_rows; ++row) {
    const auto at = c.q.begin() + static_cast<ptrdiff_t>((row * c.shape.num_heads + kv_head * group) *
                                                         c.shape.layout.key_dim);
    q.insert(q.end(), at, at + static_cast<ptrdiff_t>(values));
  }
  KvSpan span = c.span;
  span.blocks = blocks.data();
  span.q = q.data();
  return RunAttend(shape, {&span, 1}, pool);
}

// A few together and more than go together; whole and by splits.
TEST(AttendTest, HeadsThatGoTogetherGiveTheBitsOfEachAlone) {
  const std::vector<float> slopes(60, 0.03f);
  for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0}) {
    for (const size_t num_kv_heads : {2, 5, 8, 19}) {
      constexpr size_t kGroup = 3, kRows = 2, kDim = 32;
      AttendCase c(Layout(num_kv_heads, kDim, kDim, encoding, encoding), kGroup, kRows, 3000, 71, 9);
      c.begin = {0, 40};
      c.Bind();
      if (num_kv_heads == 5) c.shape.alibi_slopes = slopes.data();
      for (const size_t num_threads : {1, 2, 4}) {
        ThreadPool pool(num_threads);
        const AttendOutput together = Attended(c, pool);
        for (size_t head = 0; head < num_kv_heads; ++head) {
          const AttendOutput alone = OneHeadAlone(c, head, pool);
          for (size_t i = 0; i < kRows * kGroup; ++i) {
            const size_t pair = i / kGroup * c.shape.num_heads + head * kGroup + i % kGroup;
            ASSERT_EQ(together.lse[pair], alone.lse[i]);
            for (size_t d = 0; d < kDim; ++d)
              ASSERT_EQ(together.out[pair * kDim + d], alone.out[i * kDim + d])
                  << EncodingName(encoding) << ", head " << head << " of " << num_kv_heads;
          }
        }
      }
    }
  }
}

// Tables of some positions, one after the other.
class Tables {
 public:
  Tables(const Rope& rope, size_t count, Position first) : values_(count * rope.rotary_dim) {
    for (size_t i = 0; i < count; ++i) {
      float* const table = values_.data() + i * rope.rotary_dim;
      RopeTable(rope, first + static_cast<Position>(i), table);
      rows_.push_back(table);
    }
  }
  const float* const* rows() const { return rows_.data(); }

 private:
  std::vector<float> values_;
  std::vector<const float*> rows_;
};

// A call that stores and rotates gives the bits of storing and rotating first: by whole heads, by splits, and
// with several tiles per head.
TEST(AttendTest, StoresAndRotatesWhatItThenReads) {
  constexpr size_t kDim = 16, kKvHeads = 3, kGroup = 3;
  Rope rope{.rotary_dim = 8, .frequencies = {1.0, 0.3, 0.1, 0.03}};
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const struct { size_t num_rows, num_keys; } shapes[] = {{1, 70}, {1, 3000}, {20, 70}};
  for (const auto& [num_rows, num_keys] : shapes) {
    for (const Encoding encoding : {Encoding::kF16, Encoding::kBF16}) {
      AttendCase c(Layout(kKvHeads, kDim, kDim, encoding, encoding), kGroup, num_rows, num_keys, 58);
      c.MakeCausal();
      const size_t first = num_keys - num_rows;
      const Tables tables(rope, num_rows, static_cast<Position>(first));
      std::vector<float> k(num_rows * kKvHeads * kDim), v(k.size()), rotated_k(k.size());
      for (float& x : k) x = normal(random);
      for (float& x : v) x = normal(random);
      std::vector<float> rotated_q(c.q.size());
      for (size_t row = 0; row < num_rows; ++row) {
        const size_t at = row * kKvHeads * kDim;
        Rotate(rope, tables.rows()[row], k.data() + at, kKvHeads, kDim, rotated_k.data() + at);
        Rotate(rope, tables.rows()[row], c.q.data() + at * kGroup, kKvHeads * kGroup, kDim,
               rotated_q.data() + at * kGroup);
      }
      const std::vector<float> factors = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8};
      const bool has_factors = encoding == Encoding::kF16;
      for (size_t i = 0; has_factors && i < rotated_q.size(); ++i) rotated_q[i] *= factors[i % kDim];
      for (const size_t num_threads : {1, 2, 3}) {
        ThreadPool pool(num_threads);
        for (size_t row = 0; row < num_rows; ++row) {
          const size_t at = row * kKvHeads * kDim;
          c.Store(first + row, rotated_k.data() + at, v.data() + at);
        }
        KvSpan plain = c.span;
        plain.q = rotated_q.data();
        const AttendOutput expected = RunAttend(c.shape, {&plain, 1}, pool);
        const std::vector<float> nothing(kKvHeads * kDim, NAN);
        for (size_t row = 0; row < num_rows; ++row) c.Store(first + row, nothing.data(), nothing.data());
        AttendCall call{.shape = c.shape, .k = k.data(), .v = v.data()};
        call.shape.rope = &rope;
        if (has_factors) call.shape.query_factors = factors.data();
        KvSpan span = c.span;
        span.rope = tables.rows();
        const KvWrite write{.blocks = c.blocks(),
                            .first_token = static_cast<int64_t>(first),
                            .num_rows = num_rows,
                            .rope = tables.rows()};
        call.writes = {&write, 1};
        call.spans = {&span, 1};
        EXPECT_EQ(RunAttend(call, pool), expected)
            << num_rows << " rows of " << num_keys << ", " << num_threads << " threads";
      }
    }
  }
}

// Calls of several sessions, with one row and with many, short and long.
TEST(AttendTest, SessionsTogetherGiveTheBitsOfEachAlone) {
  std::vector<AttendCase> cases;
  const struct { size_t num_rows, num_keys; } shapes[] = {{1, 70}, {1, 3000}, {20, 90}, {1, 500}, {3, 1500}};
  for (const auto& [num_rows, num_keys] : shapes) {
    cases.emplace_back(Layout(2, 32, 32, Encoding::kF16, Encoding::kF16), 3, num_rows, num_keys, 21);
    cases.back().MakeCausal();
  }
  for (AttendCase& c : cases) c.Bind();
  for (const size_t num_threads : {1, 2, 4}) {
    ThreadPool pool(num_threads);
    for (const size_t count : {size_t{2}, cases.size()}) {
      std::vector<AttendCall> calls;
      std::vector<std::vector<float>> outs;
      for (size_t i = 0; i < count; ++i) {
        outs.emplace_back(cases[i].shape.num_rows * cases[i].shape.num_heads * 32, NAN);
        calls.push_back({.shape = cases[i].shape, .spans = {&cases[i].span, 1}, .out = outs.back().data()});
      }
      testing::AttendGuarded(calls, pool);
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(outs[i], Attended(cases[i], pool).out) << i;
    }
  }
}

// The keys with the largest logits and no others, the older of two that are equal, at one distance.
TEST(AttendTest, TopKTakesTheKeysWithTheLargestLogits) {
  constexpr int64_t kTop = 7;
  const std::vector<float> slopes = {0.5f, 0.25f, 0.1f, 0.05f};
  AttendCase near(Layout(2, 16, 16), 2, 3, 100, 31), middle(Layout(2, 16, 16), 2, 3, 300, 32, 9);
  near.Bind();
  middle.begin = {0, 20, 290};  // the last sees too few to choose from
  middle.end = {300, 250, 295};
  middle.distance.assign(3, 40);
  middle.Bind();
  std::vector<float> k(2 * 16, 0.25f), v(2 * 16, 3.0f);
  for (size_t t = 100; t < 110; ++t) middle.Store(t, k.data(), v.data());  // ties
  near.shape.alibi_slopes = slopes.data();
  middle.span.distance_step = 0;
  middle.span.top_k = kTop;
  middle.span.q = near.q.data();
  const KvSpan spans[] = {near.span, middle.span};
  ThreadPool one(1), three(3);
  const AttendOutput got = RunAttend(near.shape, spans, three);
  EXPECT_EQ(got, RunAttend(near.shape, spans, one));
  // Each row and head alone, with the chosen keys as a span of their own.
  for (size_t row = 0; row < 3; ++row) {
    for (size_t head = 0; head < 4; ++head) {
      std::vector<std::pair<float, int32_t>> order;
      std::vector<float> scores(300);
      ScoreKeys(near.shape, middle.span, near.q.data() + (row * 4 + head) * 16, head / 2,
                static_cast<size_t>(middle.begin[row]), static_cast<size_t>(middle.end[row]), scores.data());
      for (int32_t t = middle.begin[row]; t < middle.end[row]; ++t)
        order.emplace_back(-scores[static_cast<size_t>(t - middle.begin[row])], t);
      std::sort(order.begin(), order.end());
      order.resize(std::min<size_t>(order.size(), kTop));
      AttendCase chosen(Layout(2, 16, 16), 2, 3, order.size(), 33);
      for (size_t i = 0; i < order.size(); ++i) {
        const size_t place = 9 + static_cast<size_t>(order[i].second);
        KvLoad(near.shape.layout, middle.span.blocks[place / kBlockTokens], place % kBlockTokens, k.data(),
               v.data());
        chosen.Store(i, k.data(), v.data());
      }
      chosen.distance.assign(3, 40);
      chosen.Bind();
      chosen.span.distance_step = 0;
      chosen.span.q = near.q.data();
      const KvSpan both[] = {near.span, chosen.span};
      const AttendOutput expected = RunAttend(near.shape, both, one);
      const size_t pair = row * 4 + head;
      EXPECT_NEAR(got.lse[pair], expected.lse[pair], 1e-5);
      for (size_t d = 0; d < 16; ++d)
        EXPECT_NEAR(got.out[pair * 16 + d], expected.out[pair * 16 + d], 1e-5) << row << " " << head;
    }
  }
}

TEST(AttendTest, ManySpans) {
  ThreadPool one(1), three(3);
  std::vector<AttendCase> cases;
  std::vector<KvSpan> spans;
  cases.reserve(40);
  for (uint32_t i = 0; i < 40; ++i) {
    cases.emplace_back(Layout(2, 32, 32, Encoding::kF16, Encoding::kF16), 2, 3, 20 + 7 * i, 50 + i, i);
    cases.back().MakeRandomRanges();
    cases.back().Bind();
    spans.push_back(cases.back().span);
  }
  const AttendOutput result = RunAttend(cases[0].shape, spans, three);
  EXPECT_EQ(result, RunAttend(cases[0].shape, spans, one));
  EXPECT_LE(ShareOfBound(cases[0].shape, spans, result), 1);
}

TEST(AttendTest, ASpansBiasCountsForAllItsKeys) {
  ThreadPool pool(2);
  ForEachTarget([&] {
    for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0}) {
      for (const size_t num_rows : {size_t{1}, size_t{30}}) {
        AttendCase a({.num_kv_heads = 2,
                      .key_dim = 32,
                      .value_dim = 32,
                      .key_encoding = encoding,
                      .value_encoding = encoding},
                     3, num_rows, 200, 61);
        a.shape.soft_cap = 20;
        std::vector<int32_t> middle(num_rows, 128);
        KvSpan first = a.span, second = a.span;
        first.end = middle.data();
        second.begin = middle.data();
        first.bias = -2.5f;
        const KvSpan spans[] = {first, second};
        EXPECT_LE(ShareOfBound(a.shape, spans, RunAttend(a.shape, spans, pool)), 1.0);
        // It is no bias of all: that would change nothing.
        first.bias = 0;
        const KvSpan plain[] = {first, second};
        EXPECT_FALSE(RunAttend(a.shape, plain, pool) == RunAttend(a.shape, spans, pool));
      }
    }
  });
}

TEST(AttendTest, NanInQueryOrVisibleKeySurfaces) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    for (const size_t rows : {1, 2, 20, 21}) {
      const Encoding encoding = rows % 2 == 0 ? Encoding::kF32 : Encoding::kBF16;
      AttendCase c(Layout(1, 16, 16, encoding, encoding), 1, rows, 100, 61);
      c.MakeCausal();
      c.q[3] = NAN;
      const AttendOutput bad_query = Attended(c, pool);
      EXPECT_TRUE(std::isnan(bad_query.out[0]));
      if (rows > 1) {
        EXPECT_TRUE(std::isfinite(bad_query.out[16]));
      }
      c.q[3] = 0;
      std::vector<float> k(16, NAN), v(16, 1.0f);
      c.Store(40, k.data(), v.data());
      const AttendOutput bad_key = Attended(c, pool);
      for (const float value : bad_key.out) EXPECT_TRUE(std::isnan(value));
    }
  });
}

TEST(AttendTest, WhatLiesInHiddenSlotsNeverMatters) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kBF16}) {
      AttendCase c(Layout(1, 16, 16, encoding, encoding), 2, 20, 150, 62);
      c.MakeCausal(70);
      const AttendOutput clean = Attended(c, pool);
      std::vector<float> k(16, kInfinity), v(16, NAN);
      c.Store(149, k.data(), v.data());  // seen by the last row alone
      c.Store(61, k.data(), v.data());   // seen by the first row alone
      const AttendOutput dirty = Attended(c, pool);
      EXPECT_TRUE(std::equal(clean.out.begin() + 32, clean.out.end() - 32, dirty.out.begin() + 32));
      EXPECT_TRUE(std::isnan(dirty.out.front()));
      EXPECT_TRUE(std::isnan(dirty.out.back()));
    }
  });
}

TEST(AttendTest, LargeLogitsDoNotOverflow) {
  ThreadPool pool(1);
  for (const Encoding encoding : {Encoding::kF32, Encoding::kBF16}) {
    AttendCase c(Layout(1, 16, 16, encoding, encoding), 1, 2, 100, 63);
    for (float& value : c.q) value *= 1e4f;
    const AttendOutput result = Attended(c, pool);
    for (const float value : result.out) EXPECT_TRUE(std::isfinite(value));
    EXPECT_TRUE(std::isfinite(result.lse[0]));
  }
}

// Logits that rise all along the keys, by more than the slack of the reference from block to block, and by
// less.
TEST(AttendTest, RisingLogits) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    for (const float slope : {0.01f, 0.08f, 0.5f, 3.0f}) {
      const std::vector<float> slopes = {slope};
      for (const Encoding encoding : {Encoding::kF32, Encoding::kBF16}) {
        AttendCase c(Layout(1, 32, 32, encoding, encoding), 1, 9, 700, 64);
        c.shape.alibi_slopes = slopes.data();
        EXPECT_LE(Share(c, pool), 1) << slope;
      }
    }
  });
}

// ---- bf16 where rounding has nothing to round: the bound of float32 holds.

TEST(AttendTest, RoundedQueriesLoseNothingMore) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    for (const size_t rows : {1, 13}) {
      AttendCase c(Layout(2, 48, 48, Encoding::kBF16, Encoding::kF32), 3, rows, 150, 72, 7);
      c.MakeCausal();
      // Queries are counted in units of log2: a scale of ln 2 / 8 makes that an eighth of them.
      c.shape.scale = static_cast<float>(std::log(2.0) / 8);
      for (float& value : c.q) value = BF16ToF32(F32ToBF16(value));
      EXPECT_LT(testing::ErrorAgainstReference(c.shape, {&c.span, 1}, Attended(c, pool)), kAttendError);
    }
  });
}

TEST(AttendTest, WeightsThatArePowersOfTwoLoseNothing) {
  ThreadPool pool(1);
  const std::vector<float> slopes = {static_cast<float>(std::log(2.0)), 0.0f};
  ForEachTarget([&] {
    for (const size_t rows : {1, 13}) {
      AttendCase c(Layout(1, 16, 48, Encoding::kBF16, Encoding::kBF16), 2, rows, 150, 73, 7);
      c.MakeCausal(101);
      c.shape.alibi_slopes = slopes.data();
      std::fill(c.q.begin(), c.q.end(), 0.0f);
      EXPECT_LT(testing::ErrorAgainstReference(c.shape, {&c.span, 1}, Attended(c, pool)), kAttendError);
    }
  });
}

// A pair of bf16 whose other half is beyond the head belongs to no token: storing must write it too.
TEST(AttendTest, OddHeadsDependOnWhatWasStoredAlone) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    for (const size_t dim : {1, 7, 33}) {
      AttendCase c(Layout(1, dim, dim, Encoding::kBF16, Encoding::kBF16), 1, 3, 128, 77);
      c.StoreOverNans();
      EXPECT_LE(Share(c, pool), 1) << dim;
    }
  });
}

// Cases made to come near the bounds of bf16, which random numbers stay far below: errors of both signs add
// up.
TEST(AttendTest, RoundedQueriesComeNearTheirBound) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    AttendCase c(Layout(1, 2, 2, Encoding::kBF16, Encoding::kF32), 1, 1, 2, 75);
    c.shape.scale = static_cast<float>(std::log(2.0));
    c.q = {1.0038f, 1.0038f};  // just below the middle of 1 and the next bfloat16
    const std::vector<float> low = {-8, -8}, high = {8, 8}, one = {1, 1}, zero = {0, 0};
    c.Store(0, low.data(), one.data());
    c.Store(1, high.data(), zero.data());
    const double share = Share(c, pool);
    EXPECT_GT(share, 0.5);
    EXPECT_LE(share, 1);
  });
}

TEST(AttendTest, RoundedWeightsComeNearTheirBound) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    AttendCase c(Layout(1, 2, 2, Encoding::kF32, Encoding::kBF16), 1, 1, 42, 76);
    c.shape.scale = 1;
    c.q = {1, 0};
    const std::vector<float> one = {1, 1}, zero = {0, 0};
    for (size_t t = 0; t < 42; ++t) {
      // On both sides of the middle of 1/2 and the next bfloat16.
      const double weight = t == 0 ? 1 : t == 41 ? 0.5020 : 0.5019;
      const std::vector<float> k = {static_cast<float>(std::log(weight)), 0};
      c.Store(t, k.data(), t == 41 ? one.data() : zero.data());
    }
    const double share = Share(c, pool);
    EXPECT_GT(share, 0.5);
    EXPECT_LE(share, 1);
  });
}

TEST(AttendTest, ValuesThatAreAllAlikeComeOutAsTheyAre) {
  ThreadPool pool(1);
  ForEachTarget([&] {
    AttendCase c(Layout(1, 16, 33, Encoding::kBF16, Encoding::kBF16), 1, 10, 150, 74);
    c.MakeCausal(90);
    std::vector<float> k(16), v(33, 0.75f);
    for (size_t t = 0; t < 150; ++t) {
      c.Fill(k);
      c.Store(t, k.data(), v.data());
    }
    for (const float value : Attended(c, pool).out) EXPECT_NEAR(value, 0.75f, kAttendError);
  });
}

TEST(AttendTest, ScoreKeysAreTheLogits) {
  ForEachTarget([&] {
    for (const Encoding encoding : kEncodings) {
      for (const float cap : {0.0f, 2.0f}) {
        AttendCase c(Layout(2, 48, 16, encoding, Encoding::kF16), 1, 1, 200, 71, 30);
        c.shape.soft_cap = cap;
        std::vector<float> scores(120);
        ScoreKeys(c.shape, c.span, c.q.data() + 48, 1, 50, 170, scores.data());
        std::vector<float> k(96);
        for (size_t i = 0; i < scores.size(); ++i) {
          const size_t place = 30 + 50 + i;
          KvLoad(c.shape.layout, c.span.blocks[place / 64], place % 64, k.data(), nullptr);
          double logit = 0;
          for (size_t d = 0; d < 48; ++d) logit += double{c.q[48 + d]} * k[48 + d];
          logit *= c.shape.scale;
          if (cap != 0) logit = cap * std::tanh(logit / cap);
          EXPECT_NEAR(scores[i], logit, 5e-6) << i;
        }
      }
    }
  });
}

}  // namespace
}  // namespace mneme
