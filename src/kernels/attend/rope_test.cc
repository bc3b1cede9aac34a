#include "kernels/attend/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/simd/test_util.h"

namespace mneme {
namespace {

using testing::ForEachTarget;

Rope MakeRope(size_t rotary_dim, RopeLayout layout, double base = 1e4) {
  Rope rope;
  rope.layout = layout;
  rope.rotary_dim = rotary_dim;
  for (size_t f = 0; f < rotary_dim / 2; ++f) {
    rope.frequencies.push_back(
        std::pow(base, -2.0 * static_cast<double>(f) / static_cast<double>(rotary_dim)));
  }
  return rope;
}

// A float with 113 bits: the error of a hundred doublings below stays far under what is tested.
#if defined(__SIZEOF_FLOAT128__)
using Wide = __float128;
#else
using Wide = long double;
#endif

struct Angle {
  double cosine, sine;
};

// cos and sin of position * frequency by long division: the product of the two integers is exact in 128 bits
// and goes through the reduction modulo 2 pi bit by bit.
Angle ExactAngle(Position position, double frequency) {
  int exponent;
  const double fraction = std::frexp(frequency, &exponent);
  const auto mantissa = static_cast<__int128>(std::ldexp(fraction, 53));
  __int128 product = mantissa * position;  // below 2^53 * 2^41
  const bool negative = product < 0;
  if (negative) product = -product;
  exponent -= 53;
  // 2 pi to 113 bits.
  const Wide two_pi = static_cast<Wide>(0x1.921fb54442d18p+2) + static_cast<Wide>(0x1.1a62633145c06p-52) +
                      static_cast<Wide>(0x1.c1cd129024e08p-106);
  Wide angle = 0;
  for (int bit = 100; bit >= 0; --bit) {
    angle = angle * 2;
    // The weight of one unit of `angle` is 2^exponent throughout: scale 2 pi instead of the angle.
    Wide turn = two_pi;
    for (int i = 0; i < -exponent; ++i) turn *= 2;
    for (int i = 0; i < exponent; ++i) turn /= 2;
    if ((product >> bit) & 1) angle += 1;
    while (angle >= turn) angle -= turn;
  }
  Wide radians = angle;
  for (int i = 0; i < -exponent; ++i) radians /= 2;
  const long double reduced = static_cast<long double>(radians);
  return {static_cast<double>(std::cos(reduced)),
          static_cast<double>(std::sin(negative ? -reduced : reduced))};
}

TEST(RopeTest, TableIsExactAtAnyPosition) {
  for (const double base : {1e4, 5e5}) {
    const Rope rope = MakeRope(128, RopeLayout::kHalves, base);
    for (const int shift : {0, 5, 20, 33, 40}) {
      for (const Position offset : {Position{0}, Position{1}, Position{-12345}}) {
        const Position position = (shift % 2 == 0 ? 1 : -1) * ((Position{1} << shift) - offset);
        std::vector<Angle> angles;
        for (const double frequency : rope.frequencies) angles.push_back(ExactAngle(position, frequency));
        ForEachTarget([&] {
          std::vector<float> table(128);
          RopeTable(rope, position, table.data());
          for (size_t f = 0; f < 64; ++f) {
            ASSERT_NEAR(table[f], angles[f].cosine, 1e-7) << position << " " << f;
            ASSERT_NEAR(table[64 + f], angles[f].sine, 1e-7) << position << " " << f;
          }
        });
      }
    }
  }
}

TEST(RopeTest, TheOracleItselfIsRight) {
  // Small angles against the C library, and a large one whose value is known: cos(2^40), sin(2^40).
  for (const Position position : {1, 2, 3, 33, 1000}) {
    const Angle angle = ExactAngle(position, 1.0);
    EXPECT_NEAR(angle.cosine, std::cos(static_cast<double>(position)), 1e-15);
    EXPECT_NEAR(angle.sine, std::sin(static_cast<double>(position)), 1e-15);
  }
  // glibc reduces large arguments exactly.
  const Angle angle = ExactAngle(Position{1} << 40, 1.0);
  EXPECT_NEAR(angle.cosine, std::cos(0x1p40), 1e-15);
  EXPECT_NEAR(angle.sine, std::sin(0x1p40), 1e-15);
}

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

std::vector<float> Rotated(const Rope& rope, Position position, const std::vector<float>& x) {
  std::vector<float> table(rope.rotary_dim), out(x.size());
  RopeTable(rope, position, table.data());
  Rotate(rope, table.data(), x.data(), 1, x.size(), out.data());
  return out;
}

std::vector<float> RandomVector(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) value = normal(random);
  return x;
}

// T3: scores depend on the difference of positions alone, at the beginning and after a billion tokens.
TEST(RopeTest, ScoresDependOnTheDifferenceAlone) {
  const std::vector<float> q = RandomVector(80, 1), k = RandomVector(80, 2);
  const double size = std::sqrt(Dot(q, q) * Dot(k, k));
  for (const RopeLayout layout : {RopeLayout::kHalves, RopeLayout::kInterleaved}) {
    const Rope rope = MakeRope(64, layout);
    ForEachTarget([&] {
      const double near = Dot(Rotated(rope, 300, q), Rotated(rope, 17, k));
      for (const int shift : {12, 20, 33, 40}) {
        const Position far = Position{1} << shift;
        const double score = Dot(Rotated(rope, far + 300, q), Rotated(rope, far + 17, k));
        EXPECT_NEAR(score, near, 1e-6 * size) << shift;
      }
    });
  }
}

TEST(RopeTest, RotationsAddUpAndZeroIsTheIdentity) {
  const std::vector<float> x = RandomVector(70, 3);
  for (const RopeLayout layout : {RopeLayout::kHalves, RopeLayout::kInterleaved}) {
    const Rope rope = MakeRope(66, layout);
    ForEachTarget([&] {
      EXPECT_EQ(Rotated(rope, 0, x), x);
      const std::vector<float> twice = Rotated(rope, 1000, Rotated(rope, 234, x));
      const std::vector<float> once = Rotated(rope, 1234, x);
      for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(twice[i], once[i], 2e-6);
      for (size_t i = 66; i < 70; ++i) EXPECT_EQ(once[i], x[i]);
    });
  }
}

TEST(RopeTest, LayoutsAreAPermutationOfEachOther) {
  const Rope halves = MakeRope(48, RopeLayout::kHalves);
  const Rope interleaved = MakeRope(48, RopeLayout::kInterleaved);
  const std::vector<float> x = RandomVector(48, 4);
  std::vector<float> permuted(48);
  for (size_t f = 0; f < 24; ++f) {
    permuted[2 * f] = x[f];
    permuted[2 * f + 1] = x[24 + f];
  }
  const std::vector<float> a = Rotated(halves, 77, x), b = Rotated(interleaved, 77, permuted);
  for (size_t f = 0; f < 24; ++f) {
    EXPECT_EQ(a[f], b[2 * f]);
    EXPECT_EQ(a[24 + f], b[2 * f + 1]);
  }
}

TEST(RopeTest, HeadsInPlaceMagnitudeAndNoTable) {
  Rope rope = MakeRope(32, RopeLayout::kInterleaved);
  rope.magnitude = 1.25f;
  std::vector<float> x = RandomVector(120, 5), out(120);
  std::vector<float> table(32);
  RopeTable(rope, 9, table.data());
  EXPECT_NEAR(table[0], 1.25 * std::cos(9.0), 2e-7);
  Rotate(rope, table.data(), x.data(), 3, 40, out.data());
  std::vector<float> in_place = x;
  Rotate(rope, table.data(), in_place.data(), 3, 40, in_place.data());
  EXPECT_EQ(in_place, out);
  EXPECT_NEAR(out[40], x[40] * table[0] - x[41] * table[16], 1e-6);
  Rotate(rope, nullptr, x.data(), 3, 40, out.data());
  EXPECT_EQ(out, x);
}

}  // namespace
}  // namespace mneme
