#include "formats/quant.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "formats/quant_blocks.h"

namespace mneme {
namespace {

// The structs have alignment 2 and the data may have none: work on a copy, which compilers keep in place
// where it makes no difference.
template <typename Block>
Block LoadBlock(const uint8_t* data) {
  Block block;
  std::memcpy(&block, data, sizeof(Block));
  return block;
}

// Products of a 11-bit half, a scale of at most 8 bits and a level of at most 6 fit the 24 bits of a float,
// so every multiplication below is exact and only the one subtraction or addition of a minimum rounds.

void DecodeBlock(const BlockQ8_0& block, float* out) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(block.qs[i]);
}

void DecodeBlock(const BlockQ4_0& block, float* out) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block.qs[i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block.qs[i] >> 4) - 8);
  }
}

void DecodeBlock(const BlockQ4_1& block, float* out) {
  const float d = F16ToF32(block.d);
  const float m = F16ToF32(block.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block.qs[i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block.qs[i] >> 4) + m;
  }
}

// Levels 0..31 of a Q5 block.
void UnpackQ5(const uint8_t* qh, const uint8_t* qs, int* levels) {
  uint32_t high;
  std::memcpy(&high, qh, 4);
  for (int i = 0; i < 16; ++i) {
    levels[i] = (qs[i] & 15) | static_cast<int>(((high >> i) & 1u) << 4);
    levels[i + 16] = (qs[i] >> 4) | static_cast<int>(((high >> (i + 16)) & 1u) << 4);
  }
}

void DecodeBlock(const BlockQ5_0& block, float* out) {
  const float d = F16ToF32(block.d);
  int levels[32];
  UnpackQ5(block.qh, block.qs, levels);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(levels[i] - 16);
}

void DecodeBlock(const BlockQ5_1& block, float* out) {
  const float d = F16ToF32(block.d);
  const float m = F16ToF32(block.m);
  int levels[32];
  UnpackQ5(block.qh, block.qs, levels);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(levels[i]) + m;
}

void DecodeBlock(const BlockQ2_K& block, float* out) {
  const float d = F16ToF32(block.d);
  const float dmin = F16ToF32(block.dmin);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * static_cast<float>(block.scales[sub] & 15);
    const float minimum = dmin * static_cast<float>(block.scales[sub] >> 4);
    const uint8_t* qs = block.qs + 32 * (sub / 8) + 16 * (sub % 2);
    const int shift = 2 * (sub % 8 / 2);
    float* to = out + 16 * sub;
    for (int i = 0; i < 16; ++i) to[i] = scale * static_cast<float>((qs[i] >> shift) & 3) - minimum;
  }
}

int UnpackQ3Scale(const uint8_t* scales, int sub) {
  const int low = sub < 8 ? scales[sub] & 15 : scales[sub - 8] >> 4;
  const int high = (scales[8 + sub % 4] >> (2 * (sub / 4))) & 3;
  return (low | (high << 4)) - 32;
}

void DecodeBlock(const BlockQ3_K& block, float* out) {
  const float d = F16ToF32(block.d);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * static_cast<float>(UnpackQ3Scale(block.scales, sub));
    const uint8_t* qs = block.qs + 32 * (sub / 8) + 16 * (sub % 2);
    const uint8_t* hmask = block.hmask + 16 * (sub % 2);
    const int shift = 2 * (sub % 8 / 2);
    const int bit = sub / 2;
    float* to = out + 16 * sub;
    for (int i = 0; i < 16; ++i) {
      const int level = ((qs[i] >> shift) & 3) | (((hmask[i] >> bit) & 1) << 2);
      to[i] = scale * static_cast<float>(level - 4);
    }
  }
}

void DecodeBlock(const BlockQ4_K& block, float* out) {
  const float d = F16ToF32(block.d);
  const float dmin = F16ToF32(block.dmin);
  for (int sub = 0; sub < 8; ++sub) {
    uint8_t scale_level, minimum_level;
    UnpackScaleMin(block.scales, sub, &scale_level, &minimum_level);
    const float scale = d * static_cast<float>(scale_level);
    const float minimum = dmin * static_cast<float>(minimum_level);
    const uint8_t* qs = block.qs + 32 * (sub / 2);
    const int shift = 4 * (sub % 2);
    float* to = out + 32 * sub;
    for (int i = 0; i < 32; ++i) to[i] = scale * static_cast<float>((qs[i] >> shift) & 15) - minimum;
  }
}

void DecodeBlock(const BlockQ5_K& block, float* out) {
  const float d = F16ToF32(block.d);
  const float dmin = F16ToF32(block.dmin);
  for (int sub = 0; sub < 8; ++sub) {
    uint8_t scale_level, minimum_level;
    UnpackScaleMin(block.scales, sub, &scale_level, &minimum_level);
    const float scale = d * static_cast<float>(scale_level);
    const float minimum = dmin * static_cast<float>(minimum_level);
    const uint8_t* qs = block.qs + 32 * (sub / 2);
    const int shift = 4 * (sub % 2);
    float* to = out + 32 * sub;
    for (int i = 0; i < 32; ++i) {
      const int level = ((qs[i] >> shift) & 15) | (((block.qh[i] >> sub) & 1) << 4);
      to[i] = scale * static_cast<float>(level) - minimum;
    }
  }
}

void DecodeBlock(const BlockQ6_K& block, float* out) {
  const float d = F16ToF32(block.d);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * static_cast<float>(block.scales[sub]);
    const int group = sub % 8 / 2;
    const uint8_t* ql = block.ql + 64 * (sub / 8) + 32 * (group % 2) + 16 * (sub % 2);
    const uint8_t* qh = block.qh + 32 * (sub / 8) + 16 * (sub % 2);
    const int low_shift = group < 2 ? 0 : 4;
    float* to = out + 16 * sub;
    for (int i = 0; i < 16; ++i) {
      const int level = ((ql[i] >> low_shift) & 15) | (((qh[i] >> (2 * group)) & 3) << 4);
      to[i] = scale * static_cast<float>(level - 32);
    }
  }
}

// 16 bytes of nibbles that choose among 16 levels.
void DecodeLevels(const uint8_t* qs, const int8_t* levels, float scale, float* out) {
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(levels[qs[i] & 15]);
    out[i + 16] = scale * static_cast<float>(levels[qs[i] >> 4]);
  }
}

void DecodeBlock(const BlockMXFP4& block, float* out) {
  DecodeLevels(block.qs, kMxfp4Levels, std::ldexp(1.0f, block.e - 128), out);
}

void DecodeBlock(const BlockIQ4_NL& block, float* out) {
  DecodeLevels(block.qs, kIq4Levels, F16ToF32(block.d), out);
}

void DecodeBlock(const BlockIQ4_XS& block, float* out) {
  const float d = F16ToF32(block.d);
  for (int s = 0; s < 8; ++s) {
    const float scale = d * static_cast<float>(UnpackScaleIQ4_XS(block.scales_h, block.scales_l, s));
    DecodeLevels(block.qs + 16 * s, kIq4Levels, scale, out + 32 * s);
  }
}

template <typename Block, int kValues>
void DecodeAll(const uint8_t* data, size_t num_values, float* out) {
  const size_t num_blocks = num_values / kValues;
  for (size_t b = 0; b < num_blocks; ++b) {
    DecodeBlock(LoadBlock<Block>(data + b * sizeof(Block)), out + b * kValues);
  }
}

template <typename T, typename Convert>
void DecodePlain(const uint8_t* data, size_t num_values, float* out, Convert convert) {
  for (size_t i = 0; i < num_values; ++i) {
    T value;
    std::memcpy(&value, data + i * sizeof(T), sizeof(T));
    out[i] = convert(value);
  }
}

[[noreturn]] void FailDecode(Encoding encoding) {
  Fail(ErrorKind::kUnsupported, "numbers of type {} cannot be decoded as weights", EncodingName(encoding));
}

}  // namespace

bool CanDecode(Encoding encoding) {
  switch (encoding) {
    case Encoding::kI8:
    case Encoding::kI16:
    case Encoding::kI32:
    case Encoding::kI64:
      return false;
    default:
      return true;
  }
}

void DecodeBlocks(Encoding encoding, const void* blocks, size_t num_values, float* out) {
  MNEME_CHECK(num_values % EncodingBlockValues(encoding) == 0);
  if (num_values == 0) return;  // an empty tensor may come with null pointers
  const auto* data = static_cast<const uint8_t*>(blocks);
  switch (encoding) {
    case Encoding::kF32:
      std::memcpy(out, data, num_values * sizeof(float));
      return;
    case Encoding::kF16:
      return DecodePlain<uint16_t>(data, num_values, out, F16ToF32);
    case Encoding::kBF16:
      return DecodePlain<uint16_t>(data, num_values, out, BF16ToF32);
    case Encoding::kF64:
      return DecodePlain<double>(data, num_values, out, [](double x) { return static_cast<float>(x); });
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
  FailDecode(encoding);
}

}  // namespace mneme
