// The encoder. Block encodings store x as scale * level (symmetric) or scale * level + minimum (affine). For
// fixed levels the best scale and minimum are a least-squares solution; for a fixed scale the best levels are
// the nearest ones. The search tries several scales, solves for the best parameters of the levels each gives,
// and keeps the best; the parameters are then rounded to what the block can hold and the levels chosen anew
// for the rounded ones, so that rounding a scale never costs more than it must.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/half.h"
#include "formats/quant.h"
#include "formats/quant_blocks.h"

namespace mneme {
namespace {

constexpr float kMaxHalf = 65504.0f;
// Below this a block is all zeros: its scale would be far below the smallest binary16 (6e-8), and reciprocals
// could overflow.
constexpr float kTiny = 1e-20f;

// Nearest integer, half to even, for |x| < 2^22; unlike nearbyint it vectorises on every target.
inline float Nearest(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

inline float NearestLevel(float x, float low, float high) {
  return Nearest(std::min(std::max(x, low), high));
}

// Rounded to binary16, but never from non-zero to zero: the smallest scale is still better than none.
uint16_t HalfScale(float scale) {
  const uint16_t half = F32ToF16(scale);
  if (scale != 0 && (half & 0x7FFFu) == 0) return half | 1;
  return half;
}

float Reciprocal(float x) { return x == 0 ? 0.0f : 1.0f / x; }

// Sums over a sub-block are kept in eight lanes, because compilers may not reorder float additions
// themselves.
constexpr int kLanes = 8;
struct LaneSum {
  float lanes[kLanes] = {};
  float Total() const {
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
  }
};

float ExtremeOf(const float* x, int count) {  // the value of largest magnitude, with its sign
  float extreme = 0;
  for (int i = 0; i < count; ++i) {
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  return extreme;
}

// Symmetric: levels low..high with |low| >= high.

template <int kCount>
float BestSymmetricScale(const float* x, float low, float high) {
  const float extreme = ExtremeOf(x, kCount);
  if (std::abs(extreme) < kTiny) return 0;
  float best_score = 0, best_scale = 0;
  // The extreme value on the longer side first, then on the shorter one (scale of the other sign), with up to
  // one level of clipping and half a level of slack.
  for (const float target : {low, high}) {
    for (int step = -5; step <= 10; ++step) {
      const float magnitude = std::abs(target) + 0.1f * static_cast<float>(step);
      const float inverse = std::copysign(magnitude, target) / extreme;
      LaneSum xq, qq;
      for (int i = 0; i < kCount; i += kLanes) {
        for (int l = 0; l < kLanes; ++l) {
          const float q = NearestLevel(x[i + l] * inverse, low, high);
          xq.lanes[l] += x[i + l] * q;
          qq.lanes[l] += q * q;
        }
      }
      // The squared error of the best scale xq / qq is sum(x^2) - xq^2 / qq.
      const float product = xq.Total(), square = qq.Total();
      if (square > 0 && product * product > best_score * square) {
        best_score = product * product / square;
        best_scale = product / square;
      }
    }
  }
  // Squares of values near kTiny underflow, and then nothing beats a score of zero.
  return best_scale != 0 ? best_scale : extreme / low;
}

template <int kCount>
float SymmetricError(const float* x, float scale, float low, float high) {
  const float inverse = Reciprocal(scale);
  LaneSum error;
  for (int i = 0; i < kCount; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float q = NearestLevel(x[i + l] * inverse, low, high);
      const float difference = x[i + l] - scale * q;
      error.lanes[l] += difference * difference;
    }
  }
  return error.Total();
}

// Levels minus low, from 0 on.
template <int kCount>
void SymmetricLevels(const float* x, float scale, float low, float high, uint8_t* levels) {
  const float inverse = Reciprocal(scale);
  for (int i = 0; i < kCount; ++i) {
    levels[i] = static_cast<uint8_t>(NearestLevel(x[i] * inverse, low, high) - low);
  }
}

// Affine: levels 0..high, x near scale * level - minimum.

struct Affine {
  float scale = 0;
  float minimum = 0;
};

// With floor_at_zero the minimum may not be negative (all K encodings subtract a non-negative one).
template <int kCount>
Affine BestAffine(const float* x, float high, bool floor_at_zero) {
  float low_value = *std::min_element(x, x + kCount);
  const float high_value = *std::max_element(x, x + kCount);
  if (floor_at_zero) low_value = std::min(low_value, 0.0f);
  const float range = high_value - low_value;
  if (range < kTiny) return {0, -low_value};
  float y[kCount];  // from 0 to range, so that a large common offset costs no precision
  LaneSum y_lanes;
  for (int i = 0; i < kCount; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      y[i + l] = x[i + l] - low_value;
      y_lanes.lanes[l] += y[i + l];
    }
  }
  const float sum_y = y_lanes.Total();
  constexpr float kN = kCount;
  Affine best{range / high, -low_value};
  float best_gain = -std::numeric_limits<float>::infinity();
  for (int step = -10; step <= 8; ++step) {
    const float inverse = (high + 0.1f * static_cast<float>(step)) / range;
    LaneSum q_lanes, qq_lanes, yq_lanes;
    for (int i = 0; i < kCount; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const float q = NearestLevel(y[i + l] * inverse, 0, high);
        q_lanes.lanes[l] += q;
        qq_lanes.lanes[l] += q * q;
        yq_lanes.lanes[l] += y[i + l] * q;
      }
    }
    const float q = q_lanes.Total(), qq = qq_lanes.Total(), yq = yq_lanes.Total();
    const float determinant = kN * qq - q * q;
    if (determinant <= 0) continue;
    float scale = (kN * yq - sum_y * q) / determinant;
    float offset = (sum_y - scale * q) / kN;
    if (floor_at_zero && offset + low_value > 0) {
      offset = -low_value;
      scale = (yq - offset * q) / qq;
    }
    if (!(scale > 0)) continue;
    // How much of sum(y^2) the fit explains, for any scale and offset.
    const float gain = 2 * (scale * yq + offset * sum_y) -
                       (scale * scale * qq + 2 * scale * offset * q + kN * offset * offset);
    if (gain > best_gain) {
      best_gain = gain;
      best = {scale, -(offset + low_value)};
    }
  }
  return best;
}

template <int kCount>
float AffineError(const float* x, const Affine& affine, float high) {
  const float inverse = Reciprocal(affine.scale);
  LaneSum error;
  for (int i = 0; i < kCount; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float q = NearestLevel((x[i + l] + affine.minimum) * inverse, 0, high);
      const float difference = x[i + l] - (affine.scale * q - affine.minimum);
      error.lanes[l] += difference * difference;
    }
  }
  return error.Total();
}

template <int kCount>
void AffineLevels(const float* x, const Affine& affine, float high, uint8_t* levels) {
  const float inverse = Reciprocal(affine.scale);
  for (int i = 0; i < kCount; ++i) {
    levels[i] = static_cast<uint8_t>(NearestLevel((x[i] + affine.minimum) * inverse, 0, high));
  }
}

// Blocks of 32.

void PackNibbles(const uint8_t* levels, uint8_t* qs) {
  for (int i = 0; i < 16; ++i) {
    qs[i] = static_cast<uint8_t>((levels[i] & 15) | ((levels[i + 16] & 15) << 4));
  }
}

void PackFifthBits(const uint8_t* levels, uint8_t* qh) {
  uint32_t high = 0;
  for (int i = 0; i < 32; ++i) high |= static_cast<uint32_t>(levels[i] >> 4) << i;
  std::memcpy(qh, &high, 4);
}

void Encode(const float* x, BlockQ8_0* block) {
  block->d = HalfScale(std::abs(ExtremeOf(x, 32)) / 127);
  const float inverse = Reciprocal(F16ToF32(block->d));
  for (int i = 0; i < 32; ++i) block->qs[i] = static_cast<int8_t>(NearestLevel(x[i] * inverse, -127, 127));
}

template <int kLow, int kHigh>
uint16_t EncodeSymmetric32(const float* x, uint8_t* levels) {
  const uint16_t d = HalfScale(BestSymmetricScale<32>(x, kLow, kHigh));
  SymmetricLevels<32>(x, F16ToF32(d), kLow, kHigh, levels);
  return d;
}

void Encode(const float* x, BlockQ4_0* block) {
  uint8_t levels[32];
  block->d = EncodeSymmetric32<-8, 7>(x, levels);
  PackNibbles(levels, block->qs);
}

void Encode(const float* x, BlockQ5_0* block) {
  uint8_t levels[32];
  block->d = EncodeSymmetric32<-16, 15>(x, levels);
  PackNibbles(levels, block->qs);
  PackFifthBits(levels, block->qh);
}

template <typename Block>
void EncodeAffine32(const float* x, float high, Block* block, uint8_t* levels) {
  const Affine best = BestAffine<32>(x, high, false);
  // The search may put the minimum a little beyond the values.
  block->m = F32ToF16(std::clamp(-best.minimum, -kMaxHalf, kMaxHalf));
  block->d = HalfScale(best.scale);
  AffineLevels<32>(x, {F16ToF32(block->d), -F16ToF32(block->m)}, high, levels);
}

void Encode(const float* x, BlockQ4_1* block) {
  uint8_t levels[32];
  EncodeAffine32(x, 15, block, levels);
  PackNibbles(levels, block->qs);
}

void Encode(const float* x, BlockQ5_1* block) {
  uint8_t levels[32];
  EncodeAffine32(x, 31, block, levels);
  PackNibbles(levels, block->qs);
  PackFifthBits(levels, block->qh);
}

// Super-blocks of 256 with an integer scale per sub-block under one binary16 scale.

struct SymmetricSuper {
  uint16_t d = 0;
  int scales[16] = {};
  float error = std::numeric_limits<float>::infinity();
};

// Integer scales for a given d: the nearest to the wanted scale or a neighbour, whichever loses least.
void ChooseScales(const float* x, const float* wanted, float low, float high, int scale_low, int scale_high,
                  SymmetricSuper* super) {
  const float d = F16ToF32(super->d);
  const float inverse = Reciprocal(d);
  super->error = 0;
  for (int sub = 0; sub < 16; ++sub) {
    const float limit_low = static_cast<float>(scale_low), limit_high = static_cast<float>(scale_high);
    const int nearest = static_cast<int>(NearestLevel(wanted[sub] * inverse, limit_low, limit_high));
    float best = std::numeric_limits<float>::infinity();
    for (int scale = std::max(nearest - 1, scale_low); scale <= std::min(nearest + 1, scale_high); ++scale) {
      const float error = SymmetricError<16>(x + 16 * sub, d * static_cast<float>(scale), low, high);
      if (error < best) {
        best = error;
        super->scales[sub] = scale;
      }
    }
    super->error += best;
  }
}

void SuperLevels(const float* x, const SymmetricSuper& super, float low, float high, uint8_t* levels) {
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = F16ToF32(super.d) * static_cast<float>(super.scales[sub]);
    SymmetricLevels<16>(x + 16 * sub, scale, low, high, levels + 16 * sub);
  }
}

SymmetricSuper EncodeSymmetricSuper(const float* x, float low, float high, int scale_low, int scale_high,
                                    uint8_t* levels) {
  float wanted[16];
  for (int sub = 0; sub < 16; ++sub) wanted[sub] = BestSymmetricScale<16>(x + 16 * sub, low, high);
  SymmetricSuper best;
  // The scale of largest magnitude takes the end of the range with one more step.
  best.d = HalfScale(ExtremeOf(wanted, 16) / static_cast<float>(scale_low));
  ChooseScales(x, wanted, low, high, scale_low, scale_high, &best);
  SuperLevels(x, best, low, high, levels);
  // One refinement: the best d for these levels, then scales and levels for that d.
  double product = 0, square = 0;
  for (int i = 0; i < 256; ++i) {
    const float unit = static_cast<float>(best.scales[i / 16]) * (static_cast<float>(levels[i]) + low);
    product += static_cast<double>(x[i]) * unit;
    square += static_cast<double>(unit) * unit;
  }
  if (square == 0) return best;
  SymmetricSuper refined;
  refined.d = HalfScale(static_cast<float>(product / square));
  ChooseScales(x, wanted, low, high, scale_low, scale_high, &refined);
  if (refined.error < best.error) {
    best = refined;
    SuperLevels(x, best, low, high, levels);
  }
  return best;
}

void Encode(const float* x, BlockQ6_K* block) {
  uint8_t levels[256];
  const SymmetricSuper super = EncodeSymmetricSuper(x, -32, 31, -128, 127, levels);
  block->d = super.d;
  for (int sub = 0; sub < 16; ++sub) block->scales[sub] = static_cast<int8_t>(super.scales[sub]);
  for (int half = 0; half < 2; ++half) {
    for (int l = 0; l < 32; ++l) {
      const uint8_t* q = levels + 128 * half + l;
      block->ql[64 * half + l] = static_cast<uint8_t>((q[0] & 15) | ((q[64] & 15) << 4));
      block->ql[64 * half + 32 + l] = static_cast<uint8_t>((q[32] & 15) | ((q[96] & 15) << 4));
      block->qh[32 * half + l] =
          static_cast<uint8_t>((q[0] >> 4) | ((q[32] >> 4) << 2) | ((q[64] >> 4) << 4) | ((q[96] >> 4) << 6));
    }
  }
}

// The two low bits of each level, as Q2_K and Q3_K lay them out.
void PackTwoBits(const uint8_t* levels, uint8_t* qs) {
  for (int half = 0; half < 2; ++half) {
    for (int l = 0; l < 32; ++l) {
      const uint8_t* q = levels + 128 * half + l;
      qs[32 * half + l] =
          static_cast<uint8_t>((q[0] & 3) | ((q[32] & 3) << 2) | ((q[64] & 3) << 4) | ((q[96] & 3) << 6));
    }
  }
}

void Encode(const float* x, BlockQ3_K* block) {
  uint8_t levels[256];
  const SymmetricSuper super = EncodeSymmetricSuper(x, -4, 3, -32, 31, levels);
  block->d = super.d;
  std::memset(block->scales, 0, sizeof(block->scales));
  for (int sub = 0; sub < 16; ++sub) {
    const int scale = super.scales[sub] + 32;
    block->scales[sub % 8] |= static_cast<uint8_t>((scale & 15) << (sub < 8 ? 0 : 4));
    block->scales[8 + sub % 4] |= static_cast<uint8_t>((scale >> 4) << (2 * (sub / 4)));
  }
  PackTwoBits(levels, block->qs);
  std::memset(block->hmask, 0, sizeof(block->hmask));
  for (int i = 0; i < 256; ++i) {
    block->hmask[i % 32] |= static_cast<uint8_t>((levels[i] >> 2) << (i / 32));
  }
}

template <int kSubs>
struct AffineSuper {
  uint16_t d = 0;
  uint16_t dmin = 0;
  int scales[kSubs] = {};
  int minima[kSubs] = {};
  float error = std::numeric_limits<float>::infinity();
  Affine At(int sub) const {
    return {F16ToF32(d) * static_cast<float>(scales[sub]), F16ToF32(dmin) * static_cast<float>(minima[sub])};
  }
};

// Integer scales and minima for given d and dmin: the nearest or their neighbours, whichever pair loses
// least.
template <int kSubs>
void ChooseScales(const float* x, const Affine* wanted, float high, int limit, AffineSuper<kSubs>* super) {
  constexpr int kCount = 256 / kSubs;
  const float d = F16ToF32(super->d), dmin = F16ToF32(super->dmin);
  const float d_inverse = Reciprocal(d), dmin_inverse = Reciprocal(dmin);
  const float top = static_cast<float>(limit);
  super->error = 0;
  for (int sub = 0; sub < kSubs; ++sub) {
    const int scale_near = static_cast<int>(NearestLevel(wanted[sub].scale * d_inverse, 0, top));
    const int minimum_near = static_cast<int>(NearestLevel(wanted[sub].minimum * dmin_inverse, 0, top));
    float best = std::numeric_limits<float>::infinity();
    for (int scale = std::max(scale_near - 1, 0); scale <= std::min(scale_near + 1, limit); ++scale) {
      for (int m = std::max(minimum_near - 1, 0); m <= std::min(minimum_near + 1, limit); ++m) {
        const Affine affine{d * static_cast<float>(scale), dmin * static_cast<float>(m)};
        const float error = AffineError<kCount>(x + kCount * sub, affine, high);
        if (error < best) {
          best = error;
          super->scales[sub] = scale;
          super->minima[sub] = m;
        }
      }
    }
    super->error += best;
  }
}

template <int kSubs>
void SuperLevels(const float* x, const AffineSuper<kSubs>& super, float high, uint8_t* levels) {
  constexpr int kCount = 256 / kSubs;
  for (int sub = 0; sub < kSubs; ++sub) {
    AffineLevels<kCount>(x + kCount * sub, super.At(sub), high, levels + kCount * sub);
  }
}

// The d and dmin that fit best for fixed levels, scales and minima; false if they are not determined.
template <int kSubs>
bool RefitSuper(const float* x, const AffineSuper<kSubs>& super, const uint8_t* levels, float* d,
                float* dmin) {
  double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
  for (int i = 0; i < 256; ++i) {
    const int sub = i / (256 / kSubs);
    const double a = super.scales[sub] * levels[i];
    const double b = -super.minima[sub];
    aa += a * a;
    ab += a * b;
    bb += b * b;
    xa += x[i] * a;
    xb += x[i] * b;
  }
  const double determinant = aa * bb - ab * ab;
  if (determinant <= 1e-9 * aa * bb) return false;
  *d = static_cast<float>((xa * bb - xb * ab) / determinant);
  *dmin = static_cast<float>((xb * aa - xa * ab) / determinant);
  return *d > 0 && *dmin > 0 && *d <= kMaxHalf && *dmin <= kMaxHalf;
}

// `limit` is the largest integer scale and minimum.
template <int kSubs>
AffineSuper<kSubs> EncodeAffineSuper(const float* x, float high, int limit, uint8_t* levels) {
  constexpr int kCount = 256 / kSubs;
  Affine wanted[kSubs];
  float max_scale = 0, max_minimum = 0;
  for (int sub = 0; sub < kSubs; ++sub) {
    wanted[sub] = BestAffine<kCount>(x + kCount * sub, high, true);
    max_scale = std::max(max_scale, wanted[sub].scale);
    max_minimum = std::max(max_minimum, wanted[sub].minimum);
  }
  AffineSuper<kSubs> best;
  best.d = HalfScale(max_scale / static_cast<float>(limit));
  best.dmin = HalfScale(max_minimum / static_cast<float>(limit));
  ChooseScales(x, wanted, high, limit, &best);
  SuperLevels(x, best, high, levels);
  float d, dmin;
  if (!RefitSuper(x, best, levels, &d, &dmin)) return best;
  AffineSuper<kSubs> refined;
  refined.d = HalfScale(d);
  refined.dmin = HalfScale(dmin);
  ChooseScales(x, wanted, high, limit, &refined);
  if (refined.error < best.error) {
    best = refined;
    SuperLevels(x, best, high, levels);
  }
  return best;
}

void Encode(const float* x, BlockQ2_K* block) {
  uint8_t levels[256];
  const AffineSuper<16> super = EncodeAffineSuper<16>(x, 3, 15, levels);
  block->d = super.d;
  block->dmin = super.dmin;
  for (int sub = 0; sub < 16; ++sub) {
    block->scales[sub] = static_cast<uint8_t>(super.scales[sub] | (super.minima[sub] << 4));
  }
  PackTwoBits(levels, block->qs);
}

// Inverse of UnpackScaleMin.
void PackScaleMins(const AffineSuper<8>& super, uint8_t* packed) {
  for (int i = 0; i < 4; ++i) {
    const int scale = super.scales[i + 4], minimum = super.minima[i + 4];
    packed[i] = static_cast<uint8_t>(super.scales[i] | ((scale >> 4) << 6));
    packed[i + 4] = static_cast<uint8_t>(super.minima[i] | ((minimum >> 4) << 6));
    packed[i + 8] = static_cast<uint8_t>((scale & 15) | ((minimum & 15) << 4));
  }
}

void PackPairs(const uint8_t* levels, uint8_t* qs) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int l = 0; l < 32; ++l) {
      const uint8_t* q = levels + 64 * pair + l;
      qs[32 * pair + l] = static_cast<uint8_t>((q[0] & 15) | ((q[32] & 15) << 4));
    }
  }
}

void Encode(const float* x, BlockQ4_K* block) {
  uint8_t levels[256];
  const AffineSuper<8> super = EncodeAffineSuper<8>(x, 15, 63, levels);
  block->d = super.d;
  block->dmin = super.dmin;
  PackScaleMins(super, block->scales);
  PackPairs(levels, block->qs);
}

void Encode(const float* x, BlockQ5_K* block) {
  uint8_t levels[256];
  const AffineSuper<8> super = EncodeAffineSuper<8>(x, 31, 63, levels);
  block->d = super.d;
  block->dmin = super.dmin;
  PackScaleMins(super, block->scales);
  PackPairs(levels, block->qs);
  std::memset(block->qh, 0, sizeof(block->qh));
  for (int i = 0; i < 256; ++i) block->qh[i % 32] |= static_cast<uint8_t>((levels[i] >> 4) << (i / 32));
}

// Levels that are not evenly spaced.

uint8_t NearestIn(const int8_t* levels, float x) {
  uint8_t best = 0;
  for (uint8_t q = 1; q < 16; ++q) {
    if (std::abs(x - static_cast<float>(levels[q])) < std::abs(x - static_cast<float>(levels[best])))
      best = q;
  }
  return best;
}

// Nearest levels for the scale; returns the squared error.
float ChooseLevels(const float* x, const int8_t* levels, float scale, uint8_t* chosen) {
  const float inverse = Reciprocal(scale);
  float error = 0;
  for (int i = 0; i < 32; ++i) {
    chosen[i] = NearestIn(levels, x[i] * inverse);
    const float difference = x[i] - scale * static_cast<float>(levels[chosen[i]]);
    error += difference * difference;
  }
  return error;
}

// The power of two that loses least, of the one that puts the extreme at the highest level and its
// neighbours.
void Encode(const float* x, BlockMXFP4* block) {
  *block = BlockMXFP4{};
  const float extreme = std::abs(ExtremeOf(x, 32));
  if (extreme < kTiny) return;
  const int middle = std::ilogb(extreme / 12) + 128;
  float best = std::numeric_limits<float>::infinity();
  uint8_t levels[32], best_levels[32] = {};
  for (int e = std::max(middle - 1, 0); e <= std::min(middle + 2, 254); ++e) {
    const float error = ChooseLevels(x, kMxfp4Levels, std::ldexp(1.0f, e - 128), levels);
    if (error >= best) continue;
    best = error;
    block->e = static_cast<uint8_t>(e);
    std::memcpy(best_levels, levels, sizeof(levels));
  }
  PackNibbles(best_levels, block->qs);
}

// Scales that put the extreme at either end of the levels or a little beyond, each refitted to its levels.
void Encode(const float* x, BlockIQ4_NL* block) {
  *block = BlockIQ4_NL{};
  const float extreme = ExtremeOf(x, 32);
  if (std::abs(extreme) < kTiny) return;
  // No level is zero, so a block of values too small for any scale is better left at a scale of zero.
  float best = 0;
  for (int i = 0; i < 32; ++i) best += x[i] * x[i];
  uint8_t levels[32], best_levels[32] = {};
  for (const float end : {static_cast<float>(kIq4Levels[0]), static_cast<float>(kIq4Levels[15])}) {
    for (int step = -3; step <= 7; ++step) {
      ChooseLevels(x, kIq4Levels, extreme / (end * (1 + 0.03f * static_cast<float>(step))), levels);
      float product = 0, square = 0;
      for (int i = 0; i < 32; ++i) {
        const float level = kIq4Levels[levels[i]];
        product += x[i] * level;
        square += level * level;
      }
      const uint16_t d = HalfScale(product / square);
      const float error = ChooseLevels(x, kIq4Levels, F16ToF32(d), levels);
      if (error >= best) continue;
      best = error;
      block->d = d;
      std::memcpy(best_levels, levels, sizeof(levels));
    }
  }
  PackNibbles(best_levels, block->qs);
}

template <typename Block, int kValues>
void EncodeAll(const float* values, size_t num_values, uint8_t* out) {
  for (size_t i = 0; i < num_values; i += kValues, out += sizeof(Block)) {
    Block block;
    Encode(values + i, &block);
    std::memcpy(out, &block, sizeof(Block));
  }
}

template <uint16_t (*kConvert)(float)>
void EncodeHalves(const float* values, size_t num_values, uint8_t* out) {
  for (size_t i = 0; i < num_values; ++i) {
    const uint16_t half = kConvert(values[i]);
    std::memcpy(out + i * sizeof(half), &half, sizeof(half));
  }
}

// The largest magnitude that EncodeBlocks takes.
float EncodeLimit(Encoding encoding) {
  switch (encoding) {
    case Encoding::kF32:
      return std::numeric_limits<float>::max();
    case Encoding::kBF16:
      return std::bit_cast<float>(0x7F7F7FFFu);  // the next float rounds to infinity
    case Encoding::kF16:
      return std::bit_cast<float>(0x477FEFFFu);  // the float below 65520, which rounds to infinity
    default:
      return kMaxHalf;
  }
}

void CheckValues(Encoding encoding, const float* values, size_t num_values) {
  const float limit = EncodeLimit(encoding);
  int bad = 0;
  for (size_t i = 0; i < num_values; ++i) bad |= !(std::abs(values[i]) <= limit);  // NaN compares false
  if (bad == 0) return;
  const float* found =
      std::find_if(values, values + num_values, [&](float value) { return !(std::abs(value) <= limit); });
  Fail(ErrorKind::kInput, "value {} is {}, which {} cannot hold (the largest magnitude is {})",
       found - values, *found, EncodingName(encoding), limit);
}

}  // namespace

bool CanEncode(Encoding encoding) {
  return CanDecode(encoding) && encoding != Encoding::kF64 && encoding != Encoding::kIQ4_XS;
}

void EncodeBlocks(Encoding encoding, const float* values, size_t num_values, void* out) {
  MNEME_CHECK(num_values % EncodingBlockValues(encoding) == 0);
  if (!CanEncode(encoding)) {
    Fail(ErrorKind::kUnsupported, "weights cannot be encoded as {}", EncodingName(encoding));
  }
  if (num_values == 0) return;
  CheckValues(encoding, values, num_values);
  auto* to = static_cast<uint8_t*>(out);
  switch (encoding) {
    case Encoding::kF32:
      std::memcpy(to, values, num_values * sizeof(float));
      return;
    case Encoding::kF16:
      return EncodeHalves<F32ToF16>(values, num_values, to);
    case Encoding::kBF16:
      return EncodeHalves<F32ToBF16>(values, num_values, to);
    case Encoding::kQ8_0:
      return EncodeAll<BlockQ8_0, 32>(values, num_values, to);
    case Encoding::kQ4_0:
      return EncodeAll<BlockQ4_0, 32>(values, num_values, to);
    case Encoding::kQ4_1:
      return EncodeAll<BlockQ4_1, 32>(values, num_values, to);
    case Encoding::kQ5_0:
      return EncodeAll<BlockQ5_0, 32>(values, num_values, to);
    case Encoding::kQ5_1:
      return EncodeAll<BlockQ5_1, 32>(values, num_values, to);
    case Encoding::kQ2_K:
      return EncodeAll<BlockQ2_K, 256>(values, num_values, to);
    case Encoding::kQ3_K:
      return EncodeAll<BlockQ3_K, 256>(values, num_values, to);
    case Encoding::kQ4_K:
      return EncodeAll<BlockQ4_K, 256>(values, num_values, to);
    case Encoding::kQ5_K:
      return EncodeAll<BlockQ5_K, 256>(values, num_values, to);
    case Encoding::kQ6_K:
      return EncodeAll<BlockQ6_K, 256>(values, num_values, to);
    case Encoding::kMXFP4:
      return EncodeAll<BlockMXFP4, 32>(values, num_values, to);
    case Encoding::kIQ4_NL:
      return EncodeAll<BlockIQ4_NL, 32>(values, num_values, to);
    default:
      MNEME_CHECK(false);
  }
}

}  // namespace mneme
