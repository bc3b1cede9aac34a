#include "formats/quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "base/testing.h"
#include "formats/gguf.h"
#include "formats/quant_blocks.h"

namespace mneme {
namespace {

using testing::MaxDifference;
using testing::RelativeDifference;

constexpr Encoding kBlockEncodings[] = {
    Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_1, Encoding::kQ5_0, Encoding::kQ5_1,  Encoding::kQ2_K,
    Encoding::kQ3_K, Encoding::kQ4_K, Encoding::kQ5_K, Encoding::kQ6_K, Encoding::kMXFP4, Encoding::kIQ4_NL};

// Relative error of rounding normal values to evenly spaced levels, step / sqrt(12) with step = expected
// extent / number of steps. Extents in standard deviations: of 32 values max |x| 2.35 and max - min 4.14, of
// 16 values 2.07 and 3.53. A search for the best scale must stay below, rounding of scales included.
double PlainRoundingError(Encoding encoding) {
  constexpr double kRoot12 = 3.4641;
  switch (encoding) {
    case Encoding::kF16:
      return 0.0003;  // 2^-11 / sqrt(3)
    case Encoding::kBF16:
      return 0.0023;  // 2^-8 / sqrt(3)
    case Encoding::kQ8_0:
      return 2.35 / 127 / kRoot12;
    case Encoding::kQ4_0:
      return 2.35 / 8 / kRoot12;
    case Encoding::kQ5_0:
      return 2.35 / 16 / kRoot12;
    case Encoding::kQ4_1:
    case Encoding::kQ4_K:
      return 4.14 / 15 / kRoot12;
    case Encoding::kQ5_1:
    case Encoding::kQ5_K:
      return 4.14 / 31 / kRoot12;
    case Encoding::kQ2_K:
      return 3.53 / 3 / kRoot12;
    case Encoding::kQ3_K:
      return 2.07 / 4 / kRoot12;
    case Encoding::kQ6_K:
      return 2.07 / 32 / kRoot12;
    case Encoding::kMXFP4:
      return 0.125;  // levels between 4 and 6 times a power of two: no even steps, measured
    case Encoding::kIQ4_NL:
      return 2.35 / 8 / kRoot12;  // as Q4_0, whose steps are those of its widest
    default:
      return 0;
  }
}

std::vector<float> NormalValues(size_t count, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<uint8_t> EncodeVector(Encoding encoding, const std::vector<float>& values) {
  std::vector<uint8_t> blocks(EncodedBytes(encoding, values.size()));
  EncodeBlocks(encoding, values.data(), values.size(), blocks.data());
  return blocks;
}

std::vector<float> DecodeVector(Encoding encoding, const void* blocks, size_t count) {
  std::vector<float> values(count);
  DecodeBlocks(encoding, blocks, count, values.data());
  return values;
}

std::vector<float> RoundTrip(Encoding encoding, const std::vector<float>& values) {
  return DecodeVector(encoding, EncodeVector(encoding, values).data(), values.size());
}

template <typename Block>
std::vector<float> DecodeOne(Encoding encoding, const Block& block) {
  return DecodeVector(encoding, &block, EncodingBlockValues(encoding));
}

TEST(QuantDecode, HandBuiltBlocksOf32) {
  const uint16_t half = F32ToF16(0.5f);
  BlockQ8_0 q8{half, {}};
  q8.qs[0] = -128;
  q8.qs[31] = 127;
  EXPECT_EQ(DecodeOne(Encoding::kQ8_0, q8)[0], -64.0f);
  EXPECT_EQ(DecodeOne(Encoding::kQ8_0, q8)[31], 63.5f);

  BlockQ4_0 q4{half, {}};
  q4.qs[3] = 0xF1;  // value 3 has level 1, value 19 level 15
  const std::vector<float> v4 = DecodeOne(Encoding::kQ4_0, q4);
  EXPECT_EQ(v4[3], -3.5f);
  EXPECT_EQ(v4[19], 3.5f);
  EXPECT_EQ(v4[0], -4.0f);

  BlockQ4_1 q41{half, F32ToF16(10), {}};
  q41.qs[15] = 0x2F;
  EXPECT_EQ(DecodeOne(Encoding::kQ4_1, q41)[15], 17.5f);
  EXPECT_EQ(DecodeOne(Encoding::kQ4_1, q41)[31], 11.0f);

  BlockQ5_0 q5{half, {0, 0, 0x02, 0x80}, {}};  // fifth bits of values 17 and 31
  q5.qs[1] = 0x30;
  const std::vector<float> v5 = DecodeOne(Encoding::kQ5_0, q5);
  EXPECT_EQ(v5[1], -8.0f);
  EXPECT_EQ(v5[17], 0.5f * (3 + 16 - 16));
  EXPECT_EQ(v5[31], 0.0f);

  BlockQ5_1 q51{half, F32ToF16(-1), {0x01, 0, 0, 0}, {}};
  q51.qs[0] = 0x4F;
  EXPECT_EQ(DecodeOne(Encoding::kQ5_1, q51)[0], 0.5f * 31 - 1);
  EXPECT_EQ(DecodeOne(Encoding::kQ5_1, q51)[16], 0.5f * 4 - 1);
}

// By the definitions: E2M1 floats under a power of two, and levels out of a table.
TEST(QuantDecode, HandBuiltBlocksOfLevels) {
  BlockMXFP4 mx{};
  mx.e = 127;  // 2^0
  mx.qs[0] = 0x71;
  mx.qs[15] = 0xF9;
  const std::vector<float> v = DecodeOne(Encoding::kMXFP4, mx);
  EXPECT_EQ(v[0], 0.5f);
  EXPECT_EQ(v[16], 6.0f);
  EXPECT_EQ(v[15], -0.5f);
  EXPECT_EQ(v[31], -6.0f);
  EXPECT_EQ(v[1], 0.0f);
  mx.e = 0;  // 2^-127: half of it is no normal number
  EXPECT_EQ(DecodeOne(Encoding::kMXFP4, mx)[0], 0x1p-128f);

  BlockIQ4_NL nl{F32ToF16(0.5f), {}};
  nl.qs[2] = 0xF7;
  EXPECT_EQ(DecodeOne(Encoding::kIQ4_NL, nl)[2], -5.0f);
  EXPECT_EQ(DecodeOne(Encoding::kIQ4_NL, nl)[18], 56.5f);
  EXPECT_EQ(DecodeOne(Encoding::kIQ4_NL, nl)[0], -63.5f);

  BlockIQ4_XS xs{};
  xs.d = F32ToF16(0.5f);
  xs.scales_l[2] = 0x5A;           // sub-blocks 4 and 5: low bits 10 and 5
  xs.scales_h = 2 << 8 | 3 << 10;  // high bits 2 and 3
  xs.qs[16 * 5 + 1] = 0x80;        // value 161 has level 0, value 177 level 8
  const std::vector<float> x = DecodeOne(Encoding::kIQ4_XS, xs);
  EXPECT_EQ(x[161], 0.5f * (53 - 32) * -127);
  EXPECT_EQ(x[177], 0.5f * (53 - 32));
  EXPECT_EQ(x[128], 0.5f * (42 - 32) * -127);
  EXPECT_EQ(x[0], 0.5f * -32 * -127);
}

TEST(QuantDecode, HandBuiltSuperBlocks) {
  const uint16_t half = F32ToF16(0.5f), two = F32ToF16(2.0f);
  BlockQ2_K q2{};
  q2.d = half;
  q2.dmin = two;
  q2.scales[15] = 0x3A;         // last sub-block: scale 10, minimum 3
  q2.qs[32 + 31] = 0b11000000;  // value 255 has level 3
  EXPECT_EQ(DecodeOne(Encoding::kQ2_K, q2)[255], 0.5f * 10 * 3 - 2 * 3);
  EXPECT_EQ(DecodeOne(Encoding::kQ2_K, q2)[254], -6.0f);

  BlockQ3_K q3{};
  q3.d = half;
  q3.scales[1] = 0xF0;            // sub-block 9: low bits 15
  q3.scales[8 + 1] = 0b00110000;  // and high bits 3: 63 - 32 = 31
  q3.qs[32 + 16] = 0b00000010;    // value 144 has low bits 2
  q3.hmask[16] = 1 << 4;          // and the third: level 6
  EXPECT_EQ(DecodeOne(Encoding::kQ3_K, q3)[144], 0.5f * 31 * 2);
  EXPECT_EQ(DecodeOne(Encoding::kQ3_K, q3)[145], 0.5f * 31 * -4);

  BlockQ4_K q4{};
  q4.d = half;
  q4.dmin = two;
  q4.scales[3] = 0b10000000;  // bits 4, 5 of scale 7: 2
  q4.scales[7] = 0b01000000;  // bits 4, 5 of minimum 7: 1
  q4.scales[11] = 0x53;       // low bits: scale 3, minimum 5
  q4.qs[96 + 31] = 0xB0;
  EXPECT_EQ(DecodeOne(Encoding::kQ4_K, q4)[255], 0.5f * 35 * 11 - 2 * 21);

  BlockQ5_K q5{};
  q5.d = half;
  q5.dmin = two;
  q5.scales[2] = 7;  // scale and minimum of sub-block 2
  q5.scales[6] = 9;
  q5.qh[5] = 1 << 2;
  q5.qs[32 + 5] = 0x0C;
  EXPECT_EQ(DecodeOne(Encoding::kQ5_K, q5)[64 + 5], 0.5f * 7 * 28 - 2 * 9);

  BlockQ6_K q6{};
  q6.d = half;
  q6.scales[8 + 7] = -128;      // last sub-block
  q6.ql[64 + 32 + 31] = 0x10;   // value 255: low bits 1
  q6.qh[32 + 31] = 0b10000000;  // high bits 2: level 33
  EXPECT_EQ(DecodeOne(Encoding::kQ6_K, q6)[255], 0.5f * -128 * 1);
  EXPECT_EQ(DecodeOne(Encoding::kQ6_K, q6)[254], 0.5f * -128 * -32);
}

TEST(QuantDecode, EqualsReferenceOnRandomBytes) {
  std::mt19937 random(7);
  std::vector<Encoding> encodings(std::begin(kBlockEncodings), std::end(kBlockEncodings));
  encodings.push_back(Encoding::kIQ4_XS);
  for (const Encoding encoding : encodings) {
    const size_t count = 256 * 64;
    std::vector<uint8_t> blocks(EncodedBytes(encoding, count));
    for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random());
    const std::vector<float> values = DecodeVector(encoding, blocks.data(), count);
    std::vector<double> reference(count);
    DecodeBlocksReference(encoding, blocks.data(), count, reference.data());
    for (size_t i = 0; i < count; ++i) {
      const float rounded = static_cast<float>(reference[i]);
      ASSERT_TRUE(values[i] == rounded || (std::isnan(values[i]) && std::isnan(rounded)))
          << EncodingName(encoding) << " value " << i << ": " << values[i] << " against " << reference[i];
    }
  }
}

TEST(QuantDecode, PlainTypes) {
  const double doubles[] = {1.0 / 3, -1e300};
  EXPECT_EQ(DecodeVector(Encoding::kF64, doubles, 2)[0], static_cast<float>(1.0 / 3));
  EXPECT_EQ(DecodeVector(Encoding::kF64, doubles, 2)[1], -std::numeric_limits<float>::infinity());
  const uint16_t halves[] = {0x3C00, 0x0001, 0xFC00};
  EXPECT_EQ(DecodeVector(Encoding::kF16, halves, 3)[1], 0x1p-24f);
  EXPECT_EQ(DecodeVector(Encoding::kBF16, halves, 1)[0], 0.0078125f);
  // An odd address must do.
  std::vector<uint8_t> shifted(9);
  const float three = 3;
  std::memcpy(shifted.data() + 1, &three, 4);
  EXPECT_EQ(DecodeVector(Encoding::kF32, shifted.data() + 1, 1)[0], 3.0f);
}

TEST(QuantDecode, IntegersAreNotWeights) {
  for (const Encoding encoding : {Encoding::kI8, Encoding::kI16, Encoding::kI32, Encoding::kI64}) {
    uint64_t bytes = 0;
    float value = 0;
    double reference = 0;
    EXPECT_FALSE(CanDecode(encoding));
    EXPECT_THROW(DecodeBlocks(encoding, &bytes, 1, &value), Error);
    EXPECT_THROW(DecodeBlocksReference(encoding, &bytes, 1, &reference), Error);
    EXPECT_THROW(EncodeBlocks(encoding, &value, 1, &bytes), Error);
  }
}

TEST(QuantEncode, OneEncodingIsOnlyRead) {
  EXPECT_TRUE(CanDecode(Encoding::kIQ4_XS));
  EXPECT_FALSE(CanEncode(Encoding::kIQ4_XS));
  const std::vector<float> values(256, 1.0f);
  uint8_t block[136];
  EXPECT_THROW(EncodeBlocks(Encoding::kIQ4_XS, values.data(), 256, block), Error);
}

TEST(QuantEncode, ErrorOfNormalValuesIsBelowPlainRounding) {
  const std::vector<float> values = NormalValues(1 << 16, 0.02f, 1);
  for (const Encoding encoding :
       {Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_1, Encoding::kQ5_0,
        Encoding::kQ5_1, Encoding::kQ2_K, Encoding::kQ3_K, Encoding::kQ4_K, Encoding::kQ5_K, Encoding::kQ6_K,
        Encoding::kMXFP4, Encoding::kIQ4_NL}) {
    const double error = RelativeDifference(values, RoundTrip(encoding, values));
    EXPECT_LT(error, 1.01 * PlainRoundingError(encoding)) << EncodingName(encoding);
    EXPECT_GT(error, 0.5 * PlainRoundingError(encoding)) << EncodingName(encoding);
  }
  EXPECT_EQ(MaxDifference(values, RoundTrip(Encoding::kF32, values)), 0.0);
}

TEST(QuantEncode, LargestErrorOfQ8IsHalfAStep) {
  const std::vector<float> values = NormalValues(32 * 256, 1.0f, 3);
  const std::vector<float> decoded = RoundTrip(Encoding::kQ8_0, values);
  for (size_t block = 0; block < values.size(); block += 32) {
    float largest = 0;
    for (size_t i = block; i < block + 32; ++i) largest = std::max(largest, std::abs(values[i]));
    // Half a step, and the rounding of the scale to 11 bits, which acts 127 times at the end.
    const float bound = largest / 127 * (0.5f + 127.0f / 2048);
    for (size_t i = block; i < block + 32; ++i) EXPECT_LE(std::abs(values[i] - decoded[i]), bound);
  }
}

TEST(QuantEncode, RepresentableValuesComeBackExactly) {
  std::vector<float> symmetric4, symmetric5, affine4, affine5, eight;
  for (int i = 0; i < 32; ++i) {
    symmetric4.push_back(0.25f * static_cast<float>(i % 16 - 8));
    symmetric5.push_back(-0.25f * static_cast<float>(i - 16));
    affine4.push_back(3.0f + 0.25f * static_cast<float>(i % 16));
    affine5.push_back(-2.0f + 0.25f * static_cast<float>(i));
    eight.push_back(0.5f * static_cast<float>(127 - 8 * i));
  }
  EXPECT_EQ(RoundTrip(Encoding::kQ4_0, symmetric4), symmetric4);
  EXPECT_EQ(RoundTrip(Encoding::kQ5_0, symmetric5), symmetric5);
  EXPECT_EQ(RoundTrip(Encoding::kQ4_1, affine4), affine4);
  EXPECT_EQ(RoundTrip(Encoding::kQ5_1, affine5), affine5);
  EXPECT_EQ(RoundTrip(Encoding::kQ8_0, eight), eight);
  std::vector<float> floats4, levels4;
  for (int i = 0; i < 32; ++i) {
    floats4.push_back(0.125f * static_cast<float>(kMxfp4Levels[i % 16]));
    levels4.push_back(0.25f * static_cast<float>(kIq4Levels[i % 16]));
  }
  EXPECT_EQ(RoundTrip(Encoding::kMXFP4, floats4), floats4);
  EXPECT_EQ(RoundTrip(Encoding::kIQ4_NL, levels4), levels4);
}

TEST(QuantEncode, OddBlocksStayCloserThanZero) {
  std::vector<std::vector<float>> cases;
  for (const float value : {0.0f, 1.0f, -1.0f, 65504.0f, -65504.0f, 1e-7f, 1e-8f, 1e-30f, 1e-44f}) {
    cases.emplace_back(256, value);
    cases.emplace_back(256, 0.0f);
    cases.back()[77] = value;
    cases.emplace_back(256, value);
    for (size_t i = 0; i < 256; i += 3) cases.back()[i] = -value;
  }
  for (const Encoding encoding : kBlockEncodings) {
    for (const std::vector<float>& values : cases) {
      const std::vector<float> decoded = RoundTrip(encoding, values);
      double error = 0, norm = 0;
      for (size_t i = 0; i < 256; ++i) {
        ASSERT_TRUE(std::isfinite(decoded[i])) << EncodingName(encoding);
        error += std::pow(static_cast<double>(values[i]) - decoded[i], 2);
        norm += std::pow(values[i], 2);
      }
      EXPECT_LE(error, norm * 1.0001) << EncodingName(encoding) << " of " << values[77];
      if (norm <= 1e-9) continue;  // too small for binary16 scales
      EXPECT_LE(error, norm * 0.2) << EncodingName(encoding) << " of " << values[77];
    }
  }
}

TEST(QuantEncode, SmallWeightsSurviveTheRangeOfBinary16) {
  // 63 * 15 steps below 1e-5 lie under the smallest binary16; the scales must make up for it.
  const std::vector<float> values = NormalValues(256 * 16, 1e-5f, 4);
  for (const Encoding encoding : {Encoding::kQ4_K, Encoding::kQ5_K, Encoding::kQ6_K, Encoding::kQ3_K}) {
    EXPECT_LT(RelativeDifference(values, RoundTrip(encoding, values)), 1.2 * PlainRoundingError(encoding))
        << EncodingName(encoding);
  }
}

TEST(QuantEncode, RefusesWhatItCannotHoldWithItsIndex) {
  const auto message = [](Encoding encoding, float bad) -> std::string {
    std::vector<float> values(512, 1.0f);
    values[300] = bad;
    try {
      EncodeVector(encoding, values);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      return error.what();
    }
    return "";
  };
  for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0,
                                  Encoding::kQ4_0, Encoding::kQ4_K, Encoding::kQ6_K}) {
    for (const float bad :
         {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
      EXPECT_NE(message(encoding, bad).find("value 300 "), std::string::npos) << EncodingName(encoding);
    }
  }
  EXPECT_NE(message(Encoding::kF16, 65520.0f), "");
  EXPECT_EQ(message(Encoding::kF16, 65519.0f), "");
  EXPECT_NE(message(Encoding::kQ4_K, -65505.0f), "");
  EXPECT_NE(message(Encoding::kBF16, 3.4e38f), "");
  EXPECT_EQ(message(Encoding::kBF16, 3.389e38f), "");
}

TEST(QuantEncode, PartsAndThreadsGiveTheSameBytes) {
  const std::vector<float> values = NormalValues(256 * 32, 1.0f, 9);
  for (const Encoding encoding : {Encoding::kQ4_0, Encoding::kQ4_K}) {
    const std::vector<uint8_t> whole = EncodeVector(encoding, values);
    std::vector<uint8_t> parts(whole.size());
    std::vector<std::thread> threads;
    for (size_t part = 0; part < 4; ++part) {
      threads.emplace_back([&, part] {
        const size_t count = values.size() / 4;
        EncodeBlocks(encoding, values.data() + part * count, count, parts.data() + part * whole.size() / 4);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(parts, whole);
  }
}

// A peer's files: their blocks must decode to within the rounding error of the original weights, and ours
// must not be worse than theirs.
TEST(QuantConformance, AgreesWithAPeersFiles) {
  MNEME_REQUIRE_DATA(data);
  const std::string folder = data + "/conformance/models/llama-256";
  const GgufFile original(folder + ".gguf");
  for (const char* type : {"BF16", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q4_K_S",
                           "Q5_K_S", "Q6_K"}) {
    const GgufFile quantised(folder + "-" + type + ".gguf");
    int num_compared = 0;
    for (const char* name : {"token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_up.weight"}) {
      const GgufTensor* theirs = quantised.FindTensor(name);
      const GgufTensor* exact = original.FindTensor(name);
      ASSERT_TRUE(theirs != nullptr && exact != nullptr) << type << " " << name;
      ASSERT_EQ(theirs->shape, exact->shape);
      if (theirs->encoding == Encoding::kF32) continue;
      const size_t count = exact->num_values();
      const std::vector<float> weights = DecodeVector(Encoding::kF32, exact->data, count);
      const double their_error =
          RelativeDifference(DecodeVector(theirs->encoding, theirs->data, count), weights);
      EXPECT_LT(their_error, 1.15 * PlainRoundingError(theirs->encoding)) << type << " " << name;
      EXPECT_LT(RelativeDifference(RoundTrip(theirs->encoding, weights), weights), 1.002 * their_error)
          << type << " " << name;
      ++num_compared;
    }
    EXPECT_GE(num_compared, 2) << type;
  }
}

}  // namespace
}  // namespace mneme
