// The tile kernel of integer weights: kGroups groups of 16 rows, up to kTileRows rows of activations, one
// chunk of columns. Included by linear.cc once per target.
//
// Per block of 32 columns the products are summed in int32, exactly, then enter the float sum as
//   sum += scale_w * float(dot) * scale_x  [+ minimum * (-scale_x * sum_x)]
// in this order on every target and in every tile size.
#include <bit>
#include <cstring>

#include "kernels/linear/layout.h"
#include "kernels/linear/scales-inl.h"
#include "kernels/simd/targets.h"

#if defined(MNEME_KERNELS_LINEAR_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_LINEAR_TILE_INL_H_
#undef MNEME_KERNELS_LINEAR_TILE_INL_H_
#else
#define MNEME_KERNELS_LINEAR_TILE_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"

// Loops over arrays of vectors are unrolled so that the arrays live in registers. Sanitizers check every
// access; unrolled, that takes minutes to compile.
#undef MNEME_LINEAR_UNROLL
#if defined(MNEME_SANITIZED)
#define MNEME_LINEAR_UNROLL(factor)
#else
#define MNEME_LINEAR_UNROLL(factor) HWY_UNROLL(factor)
#endif

// Highway 1.0.3 names AVX-512 with VNNI as a target but compiles it without the flag.
#undef MNEME_LINEAR_VNNI
#if HWY_TARGET == HWY_AVX3_DL
#define MNEME_LINEAR_VNNI 1
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
#define MNEME_LINEAR_VNNI 0
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme::linear::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr size_t kGroups = 2;
constexpr size_t kTileRows = 6;
#else
constexpr size_t kGroups = 1;
constexpr size_t kTileRows = 2;
#endif

// Up to so many rows of activations, weights are read group after group; beyond, chunk after chunk.
constexpr size_t kFewRows = 4 * kActTile;

// Running sums of a few rows: [row][group][16].
struct Totals {
  alignas(64) float values[kFewRows][kGroups * kGroupRows];
};

using DI = hn::CappedTag<int32_t, 16>;
using DF = hn::CappedTag<float, 16>;
using VI = hn::Vec<DI>;
using VF = hn::Vec<DF>;
constexpr size_t kLanes = HWY_MIN(HWY_LANES(int32_t), size_t{16});
constexpr size_t kVectors = kGroups * kGroupRows / kLanes;

HWY_INLINE int32_t LoadWord(const uint8_t* from) {
  int32_t word;
  std::memcpy(&word, from, 4);
  return word;
}
HWY_INLINE float LoadFloat(const uint8_t* from) {
  float value;
  std::memcpy(&value, from, 4);
  return value;
}

// Where a tile's sums start from and where they go, [row][kGroups * 16] each; the two may be the same.
struct TileSums {
  const float* from;
  size_t from_stride;
  float* to;
  size_t to_stride;
};

#if HWY_TARGET == HWY_SCALAR

template <bool kHalves, bool kMinimum>
void TileScalar(const UnpackedChunk& chunk, const ActTileView& tile, size_t row, size_t first_block,
                size_t blocks, const float* from, float* to) {
  constexpr size_t kParts = kHalves ? 2 : 1;
  float sums[kGroupRows] = {};
  for (size_t b = 0; b < blocks; ++b) {
    const size_t act_block = first_block + b;
    float scale_x;
    std::memcpy(&scale_x, tile.heads(act_block) + row * 4, 4);
    for (size_t n = 0; n < kGroupRows; ++n) {
      float scaled = 0;
      for (size_t part = 0; part < kParts; ++part) {
        int32_t dot = 0;
        for (size_t step = part * 4; step < (part + 1) * 8 / kParts; ++step) {
          for (size_t c = 0; c < 4; ++c) {
            const int w = chunk.weights[((b * 8 + step) * kGroupRows + n) * 4 + c];
            const uint8_t x = tile.values(act_block)[(step * tile.rows + row) * 4 + c];
            dot += (w - (kMinimum ? 0 : 128)) * static_cast<int8_t>(x);
          }
        }
        scaled += chunk.scales[(b * kParts + part) * kGroupRows + n] * static_cast<float>(dot);
      }
      sums[n] += scaled * scale_x;
      for (size_t part = 0; kMinimum && part < kParts; ++part) {
        float sum_x;
        std::memcpy(
            &sum_x,
            (kHalves ? tile.half_sums(act_block) : tile.sums(act_block)) + (part * tile.rows + row) * 4, 4);
        sums[n] += chunk.mins[(b * kParts + part) * kGroupRows + n] * sum_x;
      }
    }
  }
  for (size_t n = 0; n < kGroupRows; ++n) to[n] = from[n] + sums[n];
}

#else  // HWY_TARGET != HWY_SCALAR

using DU8 = hn::CappedTag<uint8_t, 64>;
using VU8 = hn::Vec<DU8>;

// Products of 4 weight bytes with 4 activations, added to each int32 lane. The bytes hold q + kOffset (below
// 64 where that is 0). Weights are prepared once and used for all rows of activations. Where the instruction
// takes unsigned bytes, kCorrect: the sum starts at -kOffset * sum of the activations.
#if MNEME_LINEAR_VNNI

template <int kOffset>
struct Dot {
  static constexpr bool kCorrect = kOffset != 0;
  VU8 weights;
  HWY_INLINE explicit Dot(VU8 w) : weights(w) {}
  HWY_INLINE VI Add(VI sum, VI x) const { return VI{_mm512_dpbusd_epi32(sum.raw, weights.raw, x.raw)}; }
};

#elif HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128

#if HWY_TARGET == HWY_AVX3
HWY_INLINE VI PairwiseProducts(VU8 a, VU8 b) {
  return VI{_mm512_madd_epi16(_mm512_maddubs_epi16(a.raw, b.raw), _mm512_set1_epi16(1))};
}
HWY_INLINE VU8 WithSignOf(VU8 x, VU8 w) {
  return VU8{_mm512_mask_sub_epi8(x.raw, _mm512_movepi8_mask(w.raw), _mm512_setzero_si512(), x.raw)};
}
HWY_INLINE VU8 Magnitude(VU8 w) { return VU8{_mm512_abs_epi8(w.raw)}; }
#elif HWY_TARGET == HWY_AVX2
HWY_INLINE VI PairwiseProducts(VU8 a, VU8 b) {
  return VI{_mm256_madd_epi16(_mm256_maddubs_epi16(a.raw, b.raw), _mm256_set1_epi16(1))};
}
HWY_INLINE VU8 WithSignOf(VU8 x, VU8 w) { return VU8{_mm256_sign_epi8(x.raw, w.raw)}; }
HWY_INLINE VU8 Magnitude(VU8 w) { return VU8{_mm256_abs_epi8(w.raw)}; }
#else
HWY_INLINE VI PairwiseProducts(VU8 a, VU8 b) {
  return VI{_mm_madd_epi16(_mm_maddubs_epi16(a.raw, b.raw), _mm_set1_epi16(1))};
}
HWY_INLINE VU8 WithSignOf(VU8 x, VU8 w) { return VU8{_mm_sign_epi8(x.raw, w.raw)}; }
HWY_INLINE VU8 Magnitude(VU8 w) { return VU8{_mm_abs_epi8(w.raw)}; }
#endif

// The 16-bit sums of pairs must not saturate: 2 * 128 * 127 fits, 2 * 255 * 127 would not. So signed weights
// give their sign to the activations.
template <int kOffset>
struct Dot {
  static constexpr bool kCorrect = false;
  VU8 weights;
  VU8 magnitudes;
  HWY_INLINE explicit Dot(VU8 w)
      : weights(kOffset != 0 ? hn::Sub(w, hn::Set(DU8(), kOffset)) : w),
        magnitudes(kOffset != 0 ? Magnitude(weights) : w) {}
  HWY_INLINE VI Add(VI sum, VI x) const {
    const VU8 bytes = hn::BitCast(DU8(), x);
    return hn::Add(sum, PairwiseProducts(magnitudes, kOffset != 0 ? WithSignOf(bytes, weights) : bytes));
  }
};

#elif HWY_ARCH_ARM_A64 && defined(__ARM_FEATURE_DOTPROD)

template <int kOffset>
struct Dot {
  static constexpr bool kCorrect = false;
  int8x16_t weights;
  HWY_INLINE explicit Dot(VU8 w) : weights(vreinterpretq_s8_u8(hn::Sub(w, hn::Set(DU8(), kOffset)).raw)) {}
  HWY_INLINE VI Add(VI sum, VI x) const {
    return VI{vdotq_s32(sum.raw, weights, vreinterpretq_s8_s32(x.raw))};
  }
};

#else

// Even and odd bytes as int16: the sum of two products of signed bytes fits.
template <int kOffset>
struct Dot {
  using DI16 = hn::Repartition<int16_t, DI>;
  static constexpr bool kCorrect = false;
  hn::Vec<DI16> even;
  hn::Vec<DI16> odd;
  HWY_INLINE explicit Dot(VU8 w) {
    const auto words = hn::BitCast(DI16(), kOffset != 0 ? hn::Sub(w, hn::Set(DU8(), kOffset)) : w);
    even = hn::ShiftRight<8>(hn::ShiftLeft<8>(words));
    odd = hn::ShiftRight<8>(words);
  }
  HWY_INLINE VI Add(VI sum, VI x) const {
    const auto words = hn::BitCast(DI16(), x);
    const auto x_even = hn::ShiftRight<8>(hn::ShiftLeft<8>(words));
    const auto products =
        hn::BitCast(DI(), hn::Add(hn::Mul(even, x_even), hn::Mul(odd, hn::ShiftRight<8>(words))));
    return hn::Add(sum,
                   hn::Add(hn::ShiftRight<16>(products), hn::ShiftRight<16>(hn::ShiftLeft<16>(products))));
  }
};

#endif

// The bits of each byte moved up, or with a distance below zero down; into some of the others, bits of its
// neighbour.
HWY_INLINE VU8 MoveBits(VU8 bytes, int distance) {
  const auto words = hn::BitCast(hn::Repartition<uint16_t, DU8>(), bytes);
  const auto moved = distance == 4    ? hn::ShiftLeft<4>(words)
                     : distance == 3  ? hn::ShiftLeft<3>(words)
                     : distance == 2  ? hn::ShiftLeft<2>(words)
                     : distance == 1  ? hn::ShiftLeft<1>(words)
                     : distance == 0  ? words
                     : distance == -1 ? hn::ShiftRight<1>(words)
                     : distance == -2 ? hn::ShiftRight<2>(words)
                     : distance == -3 ? hn::ShiftRight<3>(words)
                     : distance == -4 ? hn::ShiftRight<4>(words)
                     : distance == -5 ? hn::ShiftRight<5>(words)
                                      : hn::ShiftRight<6>(words);
  return hn::BitCast(DU8(), moved);
}

// Steps that one line of a plane of so many bits holds: of a byte's fields the lowest is that of the first.
constexpr size_t StepsPerLine(size_t bits) { return bits == 0 ? kStepsPerBlock : 8 / bits; }

// The lines of a block's planes in which a step lies, for lanes from `at` of the group.
template <ChunkLayout kLayout>
HWY_INLINE VU8 LoadLow(const uint8_t* HWY_RESTRICT block, size_t step, size_t at) {
  return hn::LoadU(DU8(), block + step / StepsPerLine(TraitsOf(kLayout).low_bits) * 64 + at);
}
template <ChunkLayout kLayout>
HWY_INLINE VU8 LoadHigh(const uint8_t* HWY_RESTRICT block, size_t step, size_t at) {
  constexpr LayoutTraits kTraits = TraitsOf(kLayout);
  if constexpr (kTraits.high_bits == 0) return hn::Zero(DU8());
  return hn::LoadU(DU8(),
                   block + PlaneBytes(kTraits.low_bits) + step / StepsPerLine(kTraits.high_bits) * 64 + at);
}

// Bytes of step `step` out of its lines.
template <ChunkLayout kLayout>
HWY_INLINE VU8 StepOf(VU8 low_line, VU8 high_line, size_t step) {
  constexpr LayoutTraits kTraits = TraitsOf(kLayout);
  constexpr int kLow = static_cast<int>(kTraits.low_bits);
  constexpr int kHigh = static_cast<int>(kTraits.high_bits);
  const DU8 d;
  if constexpr (kLow == 8) return low_line;
  const int place = static_cast<int>(step % StepsPerLine(kLow));
  const VU8 low = hn::And(MoveBits(low_line, -kLow * place), hn::Set(d, (1 << kLow) - 1));
  if constexpr (kTraits.levels != Levels::kNone)
    return hn::TableLookupBytes(hn::LoadDup128(d, BytesOf(kTraits.levels).bytes), low);
  if constexpr (kHigh == 0) return low;
  const int high_place = static_cast<int>(step % StepsPerLine(kHigh));
  const VU8 high = MoveBits(high_line, kLow - kHigh * high_place);
  return hn::OrAnd(low, high, hn::Set(d, ((1 << kHigh) - 1) << kLow));
}

// Bytes of step `step` of the block at `block`, for lanes from `at` of the group.
template <ChunkLayout kLayout>
HWY_INLINE VU8 LoadStep(const uint8_t* HWY_RESTRICT block, size_t step, size_t at) {
  return StepOf<kLayout>(LoadLow<kLayout>(block, step, at), LoadHigh<kLayout>(block, step, at), step);
}

// What the bytes of a layout exceed the signed value by.
template <ChunkLayout kLayout, bool kMinimum>
constexpr int kOffsetOf = kMinimum ? 0 : TraitsOf(kLayout).offset;

// What a sum of unsigned products starts from: the activations hold -128 * sum.
template <ChunkLayout kLayout>
HWY_INLINE VI StartOf(const uint8_t* correction) {
  constexpr auto kOffset = static_cast<unsigned>(TraitsOf(kLayout).offset);
  static_assert(std::has_single_bit(kOffset) && kOffset <= 128);
  const VI start = hn::Set(DI(), LoadWord(correction));
  return hn::ShiftRight<std::countr_zero(128 / kOffset)>(start);
}

// Half-precision factors of 16 rows from `lane`.
HWY_INLINE VF LoadFactors(const uint8_t* factors, size_t lane) {
  const DF df;
  const hn::Rebind<hwy::float16_t, DF> dh;
  return hn::PromoteTo(df, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(factors) + lane));
}

// The same of a super-block, [16] d and [16] dmin, from number `first`. Those of one unit lie together; two
// units' are joined in a register: joined in memory, they would be loaded wider than they were stored.
template <ChunkLayout kLayout, size_t kAtOnce>
HWY_INLINE VF SuperFactors(const uint8_t* super_block, size_t first) {
  static_assert(kAtOnce <= 2 * kUnitSuperFactors);
  const hn::CappedTag<uint16_t, kAtOnce> d16;
  const hn::Rebind<hwy::float16_t, DF> dh;
  const auto at = [&](size_t i) HWY_ATTR {
    return reinterpret_cast<const uint16_t*>(super_block + SuperFactorOffset(kLayout, i));
  };
  if constexpr (kAtOnce <= kUnitSuperFactors) {
    return hn::PromoteTo(DF(), hn::BitCast(dh, hn::LoadU(d16, at(first))));
  } else {
    const hn::Half<decltype(d16)> half;
    const auto all =
        hn::Combine(d16, hn::LoadU(half, at(first + kUnitSuperFactors)), hn::LoadU(half, at(first)));
    return hn::PromoteTo(DF(), hn::BitCast(dh, all));
  }
}

template <typename Byte>
HWY_INLINE VI LoadBytes(const Byte* bytes, size_t lane) {
  const hn::Rebind<Byte, DF> db;
  return hn::PromoteTo(DI(), hn::LoadU(db, bytes + lane));
}

// 2^(e - 128), which is no normal number for the smallest two e.
HWY_INLINE VF PowersOfTwo(VI e) {
  const DI di;
  const VI one = hn::Set(di, 1);
  const VI normal = hn::ShiftLeft<23>(hn::Sub(e, one));
  const VI small = hn::ShiftLeft<21>(hn::Add(e, one));
  return hn::BitCast(DF(), hn::IfThenElse(hn::Gt(e, one), normal, small));
}

// Scales and minimums of a unit, made where they are used. Part: a block, or half of one.
template <ChunkLayout kLayout>
class UnitScales {
 public:
  // Unit `unit` of a chunk; those of six bits in order.
  HWY_INLINE void Set(const uint8_t* head, size_t unit) {
    head_ = head;
    if constexpr (kHead == UnitHead::kSixBits) {
      if (unit % kSuperUnits == 0) {
        for (size_t lane = 0; lane < 2 * kGroupRows; lane += kLanes)
          hn::Store(SuperFactors<kLayout, kLanes>(head, lane), DF(), factors_ + lane);
      }
      UnpackScalePlanes(head, scales_, mins_);
    }
  }
  HWY_INLINE VF Scale(size_t part, size_t lane) const {
    if constexpr (kHead == UnitHead::kSixBits) {
      return Times(hn::Load(DF(), factors_ + lane), LoadBytes(scales_ + part * kGroupRows, lane));
    } else if constexpr (kHead == UnitHead::kNibbles) {
      const VI pair = LoadBytes(head_ + kUnitFactorBytes + part * kGroupRows, lane);
      return Times(LoadFactors(head_, lane), hn::And(pair, hn::Set(DI(), 15)));
    } else if constexpr (kHead == UnitHead::kBytes) {
      const auto* scales = reinterpret_cast<const int8_t*>(head_ + kUnitFactorBytes);
      return Times(LoadFactors(head_, lane), LoadBytes(scales + part * kGroupRows, lane));
    } else if constexpr (kHead == UnitHead::kPowers) {
      return PowersOfTwo(LoadBytes(head_ + part * kGroupRows, lane));
    } else {
      return LoadFactors(head_ + part * kGroupRows * 2, lane);
    }
  }
  // Where there is one.
  HWY_INLINE VF Minimum(size_t part, size_t lane) const {
    if constexpr (kHead == UnitHead::kSixBits) {
      return Times(hn::Load(DF(), factors_ + kGroupRows + lane), LoadBytes(mins_ + part * kGroupRows, lane));
    } else if constexpr (kHead == UnitHead::kNibbles) {
      const VI pair = LoadBytes(head_ + kUnitFactorBytes + part * kGroupRows, lane);
      return Times(LoadFactors(head_ + kGroupRows * 2, lane), hn::ShiftRight<4>(pair));
    } else {
      static_assert(kHead == UnitHead::kFactorsMinimums);
      return LoadFactors(head_ + kUnitFactorBytes + part * kGroupRows * 2, lane);
    }
  }

 private:
  static constexpr UnitHead kHead = TraitsOf(kLayout).head;
  static constexpr size_t kBytes = kHead == UnitHead::kSixBits ? 2 * kGroupRows : 1;

  static HWY_INLINE VF Times(VF factor, VI scale) { return hn::Mul(factor, hn::ConvertTo(DF(), scale)); }

  const uint8_t* head_ = nullptr;
  alignas(64) float factors_[kBytes];
  alignas(64) uint8_t scales_[kBytes];
  alignas(64) uint8_t mins_[kBytes];
};

// Scale and minimum of part `part` of block `b` of a chunk.
template <size_t kParts, ChunkLayout kLayout>
HWY_INLINE VF ScaleOf(const UnpackedChunk& chunk, const UnitScales<kLayout>& scales, size_t b, size_t part,
                      size_t lane) {
  if constexpr (kLayout == ChunkLayout::kBytes) {
    return hn::LoadU(DF(), chunk.scales + (b * kParts + part) * kGroupRows + lane);
  } else {
    return scales.Scale(b % UnitBlocks(kLayout) * kParts + part, lane);
  }
}

template <size_t kParts, ChunkLayout kLayout>
HWY_INLINE VF MinimumOf(const UnpackedChunk& chunk, const UnitScales<kLayout>& scales, size_t b, size_t part,
                        size_t lane) {
  if constexpr (kLayout == ChunkLayout::kBytes) {
    return hn::LoadU(DF(), chunk.mins + (b * kParts + part) * kGroupRows + lane);
  } else {
    return scales.Minimum(b % UnitBlocks(kLayout) * kParts + part, lane);
  }
}

// Asks for block `b`'s part of what is read after the chunk.
template <ChunkLayout kLayout>
HWY_INLINE void AskForNext(const UnpackedChunk& chunk, size_t b) {
  if (chunk.next == nullptr) return;
  constexpr size_t kShare = BlockShareBytes(kLayout);
  if (kLayout != ChunkLayout::kBytes && chunk.next_bytes == kShare) {  // one tile, which asks for all
    MNEME_LINEAR_UNROLL(9)
    for (size_t at = 0; at < kShare; at += 64) hwy::Prefetch(chunk.next + b * kShare + at);
  } else {
    const uint8_t* from = chunk.next + b * chunk.next_bytes;
    for (size_t at = 0; at < chunk.next_bytes; at += 64) hwy::Prefetch(from + at);
  }
}

// The products of kRows rows of activations from `first_row` of the tile.
template <ChunkLayout kLayout, bool kHalves, bool kMinimum, size_t kRows>
HWY_NOINLINE void TileKernel(const UnpackedChunk* HWY_RESTRICT chunks, const ActTileView& tile,
                             size_t first_row, size_t first_block, size_t blocks, const TileSums& sums_at) {
  using DotType = Dot<kOffsetOf<kLayout, kMinimum> >;
  constexpr size_t kParts = kHalves ? 2 : 1;
  constexpr size_t kSteps = kStepsPerBlock / kParts;
  constexpr size_t kPerGroup = kGroupRows / kLanes;
  constexpr size_t kUnit = UnitBlocks(kLayout);
  const DI di;
  const DF df;
  // A full tile has its row count at compile time: addresses become constants.
  const size_t tile_rows = kRows == kActTile ? kActTile : tile.rows;
  const size_t step_bytes = tile_rows * 4;
  const uint8_t* HWY_RESTRICT values = tile.values(first_block) + first_row * 4;
  const uint8_t* HWY_RESTRICT heads = tile.heads(first_block) + first_row * 4;
  const uint8_t* HWY_RESTRICT halves = tile.halves(first_block) + first_row * 4;
  const uint8_t* HWY_RESTRICT sums =
      (kHalves ? tile.half_sums(first_block) : tile.sums(first_block)) + first_row * 4;

  MNEME_LINEAR_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    MNEME_LINEAR_UNROLL(2)
    for (size_t g = 0; g < kGroups; ++g)
      hwy::Prefetch(sums_at.to + (first_row + i) * sums_at.to_stride + g * kGroupRows);
  }
  UnitScales<kLayout> scales[kGroups];
  VF float_sums[kVectors][kRows];
  MNEME_LINEAR_UNROLL(8)
  for (size_t v = 0; v < kVectors; ++v) {
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) float_sums[v][i] = hn::Zero(df);
  }
  for (size_t b = 0; b < blocks; ++b) {
    if (kTileRows == kActTile || first_row == 0) {  // the first of the kernels that make a tile
      MNEME_LINEAR_UNROLL(2)
      for (size_t g = 0; g < kGroups; ++g) AskForNext<kLayout>(chunks[g], b);
    }
    if constexpr (kLayout != ChunkLayout::kBytes) {
      MNEME_LINEAR_UNROLL(2)
      for (size_t g = 0; g < kGroups; ++g) {
        if (b % kUnit == 0) scales[g].Set(chunks[g].weights + b / kUnit * UnitBytes(kLayout), b / kUnit);
      }
    }
    VF scaled[kVectors][kRows];
    MNEME_LINEAR_UNROLL(2)
    for (size_t part = 0; part < kParts; ++part) {
      VI dots[kVectors][kRows];
      MNEME_LINEAR_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) {
        VI start = hn::Zero(di);
        if constexpr (DotType::kCorrect) {
          start =
              StartOf<kLayout>(kHalves ? halves + (part * tile_rows + i) * 4 : heads + (tile_rows + i) * 4);
        }
        MNEME_LINEAR_UNROLL(8)
        for (size_t v = 0; v < kVectors; ++v) dots[v][i] = start;
      }
      MNEME_LINEAR_UNROLL(8)
      for (size_t s = 0; s < kSteps; ++s) {
        const size_t step = part * kSteps + s;
        const uint8_t* HWY_RESTRICT x = values + step * step_bytes;
        MNEME_LINEAR_UNROLL(8)
        for (size_t v = 0; v < kVectors; ++v) {
          const uint8_t* block = chunks[v / kPerGroup].weights + BlockOffset(kLayout, b);
          const DotType dot(LoadStep<kLayout>(block, step, v % kPerGroup * kLanes * 4));
          MNEME_LINEAR_UNROLL(8)
          for (size_t i = 0; i < kRows; ++i)
            dots[v][i] = dot.Add(dots[v][i], hn::Set(di, LoadWord(x + i * 4)));
        }
      }
      MNEME_LINEAR_UNROLL(8)
      for (size_t v = 0; v < kVectors; ++v) {
        const VF scale =
            ScaleOf<kParts>(chunks[v / kPerGroup], scales[v / kPerGroup], b, part, v % kPerGroup * kLanes);
        MNEME_LINEAR_UNROLL(8)
        for (size_t i = 0; i < kRows; ++i) {
          const VF dot = hn::ConvertTo(df, dots[v][i]);
          scaled[v][i] = part == 0 ? hn::Mul(dot, scale) : hn::MulAdd(dot, scale, scaled[v][i]);
        }
      }
    }
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      const VF scale_x = hn::Set(df, LoadFloat(heads + i * 4));
      MNEME_LINEAR_UNROLL(8)
      for (size_t v = 0; v < kVectors; ++v)
        float_sums[v][i] = hn::MulAdd(scaled[v][i], scale_x, float_sums[v][i]);
    }
    if constexpr (kMinimum) {
      MNEME_LINEAR_UNROLL(2)
      for (size_t part = 0; part < kParts; ++part) {
        MNEME_LINEAR_UNROLL(8)
        for (size_t v = 0; v < kVectors; ++v) {
          const VF minimum = MinimumOf<kParts>(chunks[v / kPerGroup], scales[v / kPerGroup], b, part,
                                               v % kPerGroup * kLanes);
          MNEME_LINEAR_UNROLL(8)
          for (size_t i = 0; i < kRows; ++i) {
            const VF sum_x = hn::Set(df, LoadFloat(sums + (part * tile_rows + i) * 4));
            float_sums[v][i] = hn::MulAdd(minimum, sum_x, float_sums[v][i]);
          }
        }
      }
    }
    values += kStepsPerBlock * step_bytes;
    heads += 2 * step_bytes;
    halves += 2 * step_bytes;
    sums += kParts * step_bytes;
  }
  MNEME_LINEAR_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    MNEME_LINEAR_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) {
      const float* from = sums_at.from + (first_row + i) * sums_at.from_stride + v * kLanes;
      float* to = sums_at.to + (first_row + i) * sums_at.to_stride + v * kLanes;
      hn::StoreU(hn::Add(hn::LoadU(df, from), float_sums[v][i]), df, to);
    }
  }
}

template <ChunkLayout kLayout, bool kHalves, bool kMinimum>
void TileOfKind(const UnpackedChunk* chunks, const ActTileView& tile, size_t first_block, size_t blocks,
                const TileSums& sums) {
  size_t row = 0;
  for (; row + kTileRows <= tile.rows; row += kTileRows) {
    TileKernel<kLayout, kHalves, kMinimum, kTileRows>(chunks, tile, row, first_block, blocks, sums);
  }
  switch (tile.rows - row) {
    case 1:
      return TileKernel<kLayout, kHalves, kMinimum, 1>(chunks, tile, row, first_block, blocks, sums);
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    case 2:
      return TileKernel<kLayout, kHalves, kMinimum, 2>(chunks, tile, row, first_block, blocks, sums);
    case 3:
      return TileKernel<kLayout, kHalves, kMinimum, 3>(chunks, tile, row, first_block, blocks, sums);
    case 4:
      return TileKernel<kLayout, kHalves, kMinimum, 4>(chunks, tile, row, first_block, blocks, sums);
    case 5:
      return TileKernel<kLayout, kHalves, kMinimum, 5>(chunks, tile, row, first_block, blocks, sums);
#endif
    default:
      return;
  }
}

#endif  // HWY_TARGET

// sums.to = sums.from + the chunk's products, for all rows of the tile.
inline void MultiplyTile(BlockKind kind, ChunkLayout layout, const UnpackedChunk* chunks,
                         const ActTileView& tile, size_t first_block, size_t blocks, const TileSums& sums) {
#if HWY_TARGET == HWY_SCALAR
  (void)layout;
  for (size_t row = 0; row < tile.rows; ++row) {
    const auto run = kind.halves ? (kind.minimum ? TileScalar<true, true> : TileScalar<true, false>)
                                 : (kind.minimum ? TileScalar<false, true> : TileScalar<false, false>);
    run(chunks[0], tile, row, first_block, blocks, sums.from + row * sums.from_stride,
        sums.to + row * sums.to_stride);
  }
#else
  constexpr ChunkLayout kBytes = ChunkLayout::kBytes;
  const auto run = layout == ChunkLayout::kQ8_0   ? TileOfKind<ChunkLayout::kQ8_0, false, false>
                   : layout == ChunkLayout::kQ4_0 ? TileOfKind<ChunkLayout::kQ4_0, false, false>
                   : layout == ChunkLayout::kQ4_K ? TileOfKind<ChunkLayout::kQ4_K, false, true>
                   : layout == ChunkLayout::kQ6_K ? TileOfKind<ChunkLayout::kQ6_K, true, false>
                   : kind.halves
                       ? (kind.minimum ? TileOfKind<kBytes, true, true> : TileOfKind<kBytes, true, false>)
                       : (kind.minimum ? TileOfKind<kBytes, false, true> : TileOfKind<kBytes, false, false>);
  run(chunks, tile, first_block, blocks, sums);
#endif
}

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
