// Memory layout of the block encodings, as GGUF files hold them: little-endian, no padding. Kernels read
// these structs directly; the scalar codecs over them are in formats/quant.h.
//
// A field of type uint16_t whose name starts with d or m is an IEEE binary16; a byte e is a power of two.
// "Value i" is the i-th of the block's 32 or 256 values.
#pragma once

#include <cstdint>

namespace mneme {

inline constexpr int kBlockValues = 32;        // values in a block of Q4_0 .. Q8_0, MXFP4, IQ4_NL
inline constexpr int kSuperBlockValues = 256;  // values in a block of Q2_K .. Q6_K, IQ4_XS

// value i = d * qs[i]
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// value i = d * (q_i - 8); q_i is the low nibble of qs[i] for i < 16, else the high nibble of qs[i - 16].
struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

// value i = d * q_i + m; nibbles as in Q4_0.
struct BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

// value i = d * (q_i - 16); low four bits of q_i as in Q4_0, the fifth is bit i of qh read as one
// little-endian 32-bit word.
struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

// value i = d * q_i + m; q_i as in Q5_0.
struct BlockQ5_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qh[4];
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

// 16 sub-blocks of 16. value i = d * (scales[s] & 15) * q_i - dmin * (scales[s] >> 4), s = i / 16.
// Half h = i / 128, group g = i % 128 / 32: q_i is bits 2g..2g+1 of qs[32 * h + i % 32].
struct BlockQ2_K {
  uint8_t scales[16];
  uint8_t qs[64];
  uint16_t d;
  uint16_t dmin;
};
static_assert(sizeof(BlockQ2_K) == 84);

// 16 sub-blocks of 16. value i = d * (scale_s - 32) * (q_i - 4), s = i / 16.
// q_i: low two bits placed as in Q2_K; third bit is bit i / 32 of hmask[i % 32].
// scale_s, 6 bits: low four in scales[s % 8] (low nibble for s < 8, else high), high two in bits
// 2 * (s / 4).. of scales[8 + s % 4].
struct BlockQ3_K {
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  uint16_t d;
};
static_assert(sizeof(BlockQ3_K) == 110);

// 8 sub-blocks of 32. value i = d * scale_s * q_i - dmin * min_s, s = i / 32.
// Pairs p = i / 64: q_i is the low (i % 64 < 32) or high nibble of qs[32 * p + i % 32].
// scale_s and min_s, 6 bits each: see UnpackScaleMin in quant.h.
struct BlockQ4_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

// As Q4_K with a fifth bit: bit i / 32 of qh[i % 32].
struct BlockQ5_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

// 16 sub-blocks of 16. value i = d * scales[s] * (q_i - 32), s = i / 16.
// Half h = i / 128, group g = i % 128 / 32, l = i % 32: low four bits of q_i are the low (g < 2) or high
// nibble of ql[64 * h + 32 * (g % 2) + l], high two are bits 2g..2g+1 of qh[32 * h + l].
struct BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210);

// Eight levels of four bits and their negatives, in halves: those of an E2M1 float (OCP Microscaling Formats
// 1.0, section 5.3.3), 0, 0.5, 1, 1.5, 2, 3, 4, 6.
inline constexpr int8_t kMxfp4Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// value i = 2^(e - 128) * kMxfp4Levels[q_i]; nibbles as in Q4_0.
struct BlockMXFP4 {
  uint8_t e;
  uint8_t qs[16];
};
static_assert(sizeof(BlockMXFP4) == 17);

// Levels that lie denser around zero, as the values of weights do.
inline constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

// value i = d * kIq4Levels[q_i]; nibbles as in Q4_0.
struct BlockIQ4_NL {
  uint16_t d;
  uint8_t qs[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);

// 8 sub-blocks of 32. value i = d * (scale_s - 32) * kIq4Levels[q_i], s = i / 32; nibbles of the 16 bytes
// from qs[16 * s] as in Q4_0. scale_s, 6 bits: low four the low (s even) or high nibble of scales_l[s / 2],
// high two bits 2s and 2s + 1 of scales_h.
struct BlockIQ4_XS {
  uint16_t d;
  uint16_t scales_h;
  uint8_t scales_l[4];
  uint8_t qs[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136);

// Scale number s of the latter, -32 .. 31.
inline int UnpackScaleIQ4_XS(uint16_t scales_h, const uint8_t* scales_l, int s) {
  return (((scales_l[s / 2] >> (4 * (s % 2))) & 15) | (((scales_h >> (2 * s)) & 3) << 4)) - 32;
}

}  // namespace mneme
