// The double-precision twin of the decoder: one value at a time, straight from the comments in
// quant_blocks.h.
#include "formats/quant.h"

#include <cmath>
#include <cstddef>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "formats/quant_blocks.h"

namespace mneme {
namespace {

double Half(uint16_t bits) { return F16ToF32(bits); }

int Nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

int FifthBit(const uint8_t* qh, int i) { return (qh[i / 8] >> (i % 8)) & 1; }

double ValueOf(const BlockQ8_0& b, int i) { return Half(b.d) * b.qs[i]; }
double ValueOf(const BlockQ4_0& b, int i) { return Half(b.d) * (Nibble(b.qs, i) - 8); }
double ValueOf(const BlockQ4_1& b, int i) { return Half(b.d) * Nibble(b.qs, i) + Half(b.m); }
double ValueOf(const BlockQ5_0& b, int i) {
  return Half(b.d) * (Nibble(b.qs, i) + 16 * FifthBit(b.qh, i) - 16);
}
double ValueOf(const BlockQ5_1& b, int i) {
  return Half(b.d) * (Nibble(b.qs, i) + 16 * FifthBit(b.qh, i)) + Half(b.m);
}

// The two bits of value i in the layout that Q2_K and Q3_K share.
int TwoBits(const uint8_t* qs, int i) { return (qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3; }

double ValueOf(const BlockQ2_K& b, int i) {
  const uint8_t packed = b.scales[i / 16];
  return Half(b.d) * (packed & 15) * TwoBits(b.qs, i) - Half(b.dmin) * (packed >> 4);
}

double ValueOf(const BlockQ3_K& b, int i) {
  const int s = i / 16;
  const int low = s < 8 ? b.scales[s % 8] & 15 : b.scales[s % 8] >> 4;
  const int scale = low + 16 * ((b.scales[8 + s % 4] >> (2 * (s / 4))) & 3);
  const int level = TwoBits(b.qs, i) + 4 * ((b.hmask[i % 32] >> (i / 32)) & 1);
  return Half(b.d) * (scale - 32) * (level - 4);
}

template <typename Block>
double ScaledValue(const Block& b, int i, int level) {
  uint8_t scale, minimum;
  UnpackScaleMin(b.scales, i / 32, &scale, &minimum);
  return Half(b.d) * scale * level - Half(b.dmin) * minimum;
}

double ValueOf(const BlockQ4_K& b, int i) {
  return ScaledValue(b, i, Nibble(b.qs + 32 * (i / 64) + 16 * (i % 32 / 16), i % 64 / 32 * 16 + i % 16));
}

double ValueOf(const BlockQ5_K& b, int i) {
  const int low = Nibble(b.qs + 32 * (i / 64) + 16 * (i % 32 / 16), i % 64 / 32 * 16 + i % 16);
  return ScaledValue(b, i, low + 16 * ((b.qh[i % 32] >> (i / 32)) & 1));
}

double ValueOf(const BlockQ6_K& b, int i) {
  const int half = i / 128, group = i % 128 / 32, l = i % 32;
  const uint8_t packed = b.ql[64 * half + 32 * (group % 2) + l];
  const int low = group < 2 ? packed & 15 : packed >> 4;
  const int level = low + 16 * ((b.qh[32 * half + l] >> (2 * group)) & 3);
  return Half(b.d) * b.scales[i / 16] * (level - 32);
}

double ValueOf(const BlockMXFP4& b, int i) {
  return std::ldexp(static_cast<double>(kMxfp4Levels[Nibble(b.qs, i)]), b.e - 128);
}
double ValueOf(const BlockIQ4_NL& b, int i) { return Half(b.d) * kIq4Levels[Nibble(b.qs, i)]; }

double ValueOf(const BlockIQ4_XS& b, int i) {
  const int s = i / 32;
  const int low = s % 2 == 0 ? b.scales_l[s / 2] & 15 : b.scales_l[s / 2] >> 4;
  const int scale = low + 16 * (b.scales_h / (1 << (2 * s)) % 4) - 32;
  return Half(b.d) * scale * kIq4Levels[Nibble(b.qs + 16 * s, i % 32)];
}

template <typename Block, int kValues>
void DecodeAll(const uint8_t* data, size_t num_values, double* out) {
  for (size_t i = 0; i < num_values; ++i) {
    Block block;
    std::memcpy(&block, data + i / kValues * sizeof(Block), sizeof(Block));
    out[i] = ValueOf(block, static_cast<int>(i % kValues));
  }
}

template <typename T>
T LoadAt(const uint8_t* data, size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

void DecodeBlocksReference(Encoding encoding, const void* blocks, size_t num_values, double* out) {
  MNEME_CHECK(num_values % EncodingBlockValues(encoding) == 0);
  const auto* data = static_cast<const uint8_t*>(blocks);
  switch (encoding) {
    case Encoding::kF32:
      for (size_t i = 0; i < num_values; ++i) out[i] = LoadAt<float>(data, i);
      return;
    case Encoding::kF16:
      for (size_t i = 0; i < num_values; ++i) out[i] = F16ToF32(LoadAt<uint16_t>(data, i));
      return;
    case Encoding::kBF16:
      for (size_t i = 0; i < num_values; ++i) out[i] = BF16ToF32(LoadAt<uint16_t>(data, i));
      return;
    case Encoding::kF64:
      for (size_t i = 0; i < num_values; ++i) out[i] = LoadAt<double>(data, i);
      return;
    case Encoding::kQ8_0:
      return DecodeAll<BlockQ8_0, 32>(data, num_values, out);
    case Encoding::kQ4_0:
      return DecodeAll<BlockQ4_0, 32>(data, num_values, out);
    case Encoding::kQ4_1:
      return DecodeAll<BlockQ4_1, 32>(data, num_values, out);
    case Encoding::kQ5_0:
      return DecodeAll<BlockQ5_0, 32>(data, num_values, out);
    case Encoding::kQ5_1:
      return DecodeAll<BlockQ5_1, 32>(data, num_values, out);
    case Encoding::kQ2_K:
      return DecodeAll<BlockQ2_K, 256>(data, num_values, out);
    case Encoding::kQ3_K:
      return DecodeAll<BlockQ3_K, 256>(data, num_values, out);
    case Encoding::kQ4_K:
      return DecodeAll<BlockQ4_K, 256>(data, num_values, out);
    case Encoding::kQ5_K:
      return DecodeAll<BlockQ5_K, 256>(data, num_values, out);
    case Encoding::kQ6_K:
      return DecodeAll<BlockQ6_K, 256>(data, num_values, out);
    case Encoding::kMXFP4:
      return DecodeAll<BlockMXFP4, 32>(data, num_values, out);
    case Encoding::kIQ4_NL:
      return DecodeAll<BlockIQ4_NL, 32>(data, num_values, out);
    case Encoding::kIQ4_XS:
      return DecodeAll<BlockIQ4_XS, 256>(data, num_values, out);
    case Encoding::kI8:
    case Encoding::kI16:
    case Encoding::kI32:
    case Encoding::kI64:
      break;
  }
  Fail(ErrorKind::kUnsupported, "numbers of type {} cannot be decoded as weights", EncodingName(encoding));
}

}  // namespace mneme
