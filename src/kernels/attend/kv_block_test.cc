#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/aligned.h"
#include "base/error.h"
#include "kernels/attend/attend.h"

namespace mneme {
namespace {

constexpr std::array kEncodings = {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0,
                                   Encoding::kQ4_0};

// Largest error of a stored value, given the largest magnitude of its group of 32.
double ErrorBound(Encoding encoding, double value, double group_maximum) {
  switch (encoding) {
    case Encoding::kF32:
      return 0;
    case Encoding::kF16:
      return std::abs(value) * 0x1p-11 + 0x1p-25;
    case Encoding::kBF16:
      return std::abs(value) * 0x1p-8;
    case Encoding::kQ8_0:
      return group_maximum / 127 * 0.5 + group_maximum * 0x1p-10;
    default:
      return group_maximum / 8 * 1.0 + group_maximum * 0x1p-10;  // the end opposite to the extreme is clipped
  }
}

struct Token {
  std::vector<float> k, v;
};

Token RandomToken(const KvLayout& layout, std::mt19937& random, float size = 1.0f) {
  std::normal_distribution<float> normal(0.0f, size);
  Token token{std::vector<float>(layout.num_kv_heads * layout.key_dim),
              std::vector<float>(layout.num_kv_heads * layout.value_dim)};
  for (float& x : token.k) x = normal(random);
  for (float& x : token.v) x = normal(random);
  return token;
}

void ExpectClose(Encoding encoding, const std::vector<float>& stored, const std::vector<float>& loaded,
                 size_t dim) {
  for (size_t head = 0; head < stored.size(); head += dim) {
    for (size_t begin = 0; begin < dim; begin += 32) {
      const size_t end = std::min(dim, begin + 32);
      double maximum = 0;
      for (size_t i = begin; i < end; ++i) {
        maximum = std::max(maximum, std::abs(double{stored[head + i]}));
      }
      for (size_t i = begin; i < end; ++i) {
        const double value = stored[head + i];
        EXPECT_LE(std::abs(value - loaded[head + i]), ErrorBound(encoding, value, maximum))
            << EncodingName(encoding) << " dim " << dim << " at " << i;
      }
    }
  }
}

TEST(KvBlockTest, RoundTripWithinTheErrorOfTheEncoding) {
  std::mt19937 random(1);
  for (const Encoding k : kEncodings) {
    for (const Encoding v : kEncodings) {
      for (const size_t dim : {2, 8, 12, 32, 64, 80, 128}) {
        const KvLayout layout{2, dim, dim == 64 ? 48 : dim, k, v};
        ASSERT_EQ(layout.block_bytes() % 64, 0u);
        const auto block = MakeAligned<uint8_t>(layout.block_bytes());
        KvClear(layout, block.get());
        std::vector<Token> tokens;
        for (size_t slot = 0; slot < kBlockTokens; ++slot) {
          tokens.push_back(RandomToken(layout, random, slot % 2 == 0 ? 1.0f : 100.0f));
        }
        for (size_t i = 0; i < kBlockTokens; ++i) {  // in scattered order: neighbours must not be disturbed
          const size_t slot = i * 37 % kBlockTokens;
          KvStore(layout, block.get(), slot, tokens[slot].k.data(), tokens[slot].v.data());
        }
        Token loaded = tokens[0];
        for (size_t slot = 0; slot < kBlockTokens; ++slot) {
          KvLoad(layout, block.get(), slot, loaded.k.data(), loaded.v.data());
          ExpectClose(k, tokens[slot].k, loaded.k, layout.key_dim);
          ExpectClose(v, tokens[slot].v, loaded.v, layout.value_dim);
        }
      }
    }
  }
}

TEST(KvBlockTest, ValuesInKeysTakeNoRoom) {
  std::mt19937 random(7);
  for (const Encoding encoding : kEncodings) {
    KvLayout layout{2, 96, 64, encoding, encoding};
    const size_t twice = layout.block_bytes();
    layout.values_in_keys = true;
    EXPECT_LT(layout.block_bytes(), twice * 2 / 3);
    const auto block = MakeAligned<uint8_t>(layout.block_bytes()),
               copy = MakeAligned<uint8_t>(layout.block_bytes());
    KvClear(layout, block.get());
    KvClear(layout, copy.get());
    const Token token = RandomToken(layout, random);
    KvStore(layout, block.get(), 9, token.k.data(), token.v.data());
    KvCopy(layout, block.get(), 9, copy.get(), 50);
    Token loaded = token;
    KvLoad(layout, copy.get(), 50, loaded.k.data(), loaded.v.data());
    ExpectClose(encoding, token.k, loaded.k, 96);
    for (size_t head = 0; head < 2; ++head) {
      for (size_t i = 0; i < 64; ++i) EXPECT_EQ(loaded.v[head * 64 + i], loaded.k[head * 96 + 32 + i]);
    }
  }
  EXPECT_FALSE(CanKeepValuesInKeys(Encoding::kQ8_0, 80, 64));  // scales are of groups of 32
  EXPECT_TRUE(CanKeepValuesInKeys(Encoding::kF16, 80, 64));
}

TEST(KvBlockTest, CopyIsExactAndLeavesOthersAlone) {
  std::mt19937 random(2);
  for (const Encoding k : kEncodings) {
    for (const Encoding v : kEncodings) {
      const KvLayout layout{3, 40, 72, k, v};
      const auto from = MakeAligned<uint8_t>(layout.block_bytes());
      const auto to = MakeAligned<uint8_t>(layout.block_bytes());
      KvClear(layout, from.get());
      KvClear(layout, to.get());
      const Token a = RandomToken(layout, random), b = RandomToken(layout, random);
      KvStore(layout, from.get(), 63, a.k.data(), a.v.data());
      KvStore(layout, to.get(), 6, b.k.data(), b.v.data());
      Token before = b, after = b, source = a, target = a;
      KvLoad(layout, to.get(), 6, before.k.data(), before.v.data());
      KvCopy(layout, from.get(), 63, to.get(), 7);
      KvLoad(layout, to.get(), 6, after.k.data(), after.v.data());
      EXPECT_EQ(before.k, after.k);
      EXPECT_EQ(before.v, after.v);
      KvLoad(layout, from.get(), 63, source.k.data(), source.v.data());
      KvLoad(layout, to.get(), 7, target.k.data(), target.v.data());
      EXPECT_EQ(source.k, target.k);
      EXPECT_EQ(source.v, target.v);
      KvCopy(layout, to.get(), 7, from.get(), 0);
      KvCopy(layout, from.get(), 0, to.get(), 0);
      KvLoad(layout, to.get(), 0, target.k.data(), target.v.data());
      EXPECT_EQ(source.k, target.k);
    }
  }
}

TEST(KvBlockTest, NonFiniteAndExtremeValues) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> k = {1.0f, infinity, NAN, -2.0f};
  const std::vector<float> v = {0.0f, 0.0f, 1e-30f, -1e-30f};
  for (const Encoding encoding : kEncodings) {
    const KvLayout layout{1, 4, 4, encoding, encoding};
    const auto block = MakeAligned<uint8_t>(layout.block_bytes());
    KvClear(layout, block.get());
    KvStore(layout, block.get(), 1, k.data(), v.data());
    std::vector<float> k2(4), v2(4);
    KvLoad(layout, block.get(), 1, k2.data(), v2.data());
    const bool integer = encoding == Encoding::kQ8_0 || encoding == Encoding::kQ4_0;
    EXPECT_NEAR(k2[0], 1.0f, 0.01f);
    EXPECT_NEAR(k2[3], -2.0f, 0.01f);
    EXPECT_EQ(k2[1], integer ? 0.0f : infinity);
    EXPECT_EQ(std::isnan(k2[2]), !integer);
    for (const float x : v2) EXPECT_LE(std::abs(x), 1e-20f);
  }
  // Beyond what a float16 scale can hold: clipped, not wrapped.
  const KvLayout layout{1, 4, 4, Encoding::kQ8_0, Encoding::kQ4_0};
  const auto block = MakeAligned<uint8_t>(layout.block_bytes());
  KvClear(layout, block.get());
  const std::vector<float> huge = {1e30f, -1e30f, 0.0f, 1.0f};
  KvStore(layout, block.get(), 0, huge.data(), huge.data());
  std::vector<float> k2(4), v2(4);
  KvLoad(layout, block.get(), 0, k2.data(), v2.data());
  EXPECT_NEAR(k2[0], 127 * 65504.0f, 1.0f);
  EXPECT_NEAR(k2[1], -127 * 65504.0f, 1.0f);
  EXPECT_NEAR(v2[0], 8 * 65504.0f, 1.0f);
}

TEST(KvBlockTest, LayoutsThatCannotBeHeldAreRefused) {
  const auto kind = [](const KvLayout& layout) {
    try {
      CheckKvLayout(layout);
    } catch (const Error& error) {
      EXPECT_GT(std::string(error.what()).size(), 20u);
      return error.kind() == ErrorKind::kUnsupported;
    }
    return false;
  };
  EXPECT_TRUE(kind({1, 7, 8, Encoding::kQ4_0, Encoding::kF16}));
  EXPECT_TRUE(kind({1, 8, 7, Encoding::kF16, Encoding::kQ4_0}));
  EXPECT_TRUE(kind({1, 8, 8, Encoding::kQ4_K, Encoding::kF16}));
  EXPECT_TRUE(kind({1, 8, 8, Encoding::kF16, Encoding::kI8}));
  EXPECT_TRUE(kind({0, 8, 8, Encoding::kF16, Encoding::kF16}));
  EXPECT_TRUE(kind({1, 0, 8, Encoding::kF16, Encoding::kF16}));
  EXPECT_TRUE(kind({1, size_t{1} << 40, 8, Encoding::kF16, Encoding::kF16}));
  EXPECT_FALSE(kind({1, 7, 9, Encoding::kQ8_0, Encoding::kF16}));
}

}  // namespace
}  // namespace mneme
