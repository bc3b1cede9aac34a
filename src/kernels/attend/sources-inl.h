// Where attention reads matrices from: K or V of one head and block in each encoding, as vectors of float32,
// and the two products over them. Per SIMD target.
//
// Both products are C[r][column] = sum over i of A[r][i] * B[i][column], one fused multiply-add after the
// other in the order of i for every element of C, whatever the tile: the grouping of rows and columns into
// tiles can be chosen for speed and never changes a bit.

#if defined(MNEME_KERNELS_ATTEND_SOURCES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_ATTEND_SOURCES_INL_H_
#undef MNEME_KERNELS_ATTEND_SOURCES_INL_H_
#else
#define MNEME_KERNELS_ATTEND_SOURCES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/attend/kv_block.h"
#include "kernels/simd/targets.h"
#include "kernels/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Registers decide the tile: 32 hold 6 rows x 4 vectors, 16 hold 6 x 2.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || (HWY_TARGET == HWY_NEON && HWY_ARCH_ARM_A64)
constexpr size_t kVectorsOf(size_t rows) { return rows <= 6 ? 4 : 2; }
#else
constexpr size_t kVectorsOf(size_t rows) { return rows <= 2 ? 4 : rows <= 6 ? 2 : 1; }
#endif

// float16 as float32. Highway's own emulation, where the target has no instruction, turns infinity and NaN
// into finite numbers.
HWY_INLINE VF LoadF16(const uint16_t* data) {
  const DF d;
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  const hn::RebindToUnsigned<DF> du;
  const auto half = hn::PromoteTo(du, hn::LoadU(hn::Rebind<uint16_t, DF>(), data));
  const auto shifted = hn::ShiftLeft<13>(hn::And(half, hn::Set(du, 0x7FFF)));
  // Moves the exponent from bias 15 to 127, subnormals included.
  const VF magnitude = hn::Mul(hn::BitCast(d, shifted), hn::Set(d, 0x1p112f));
  const auto not_finite = hn::VecFromMask(du, hn::Gt(shifted, hn::Set(du, 0x7BFFu << 13)));
  const auto bits = hn::Or(hn::BitCast(du, magnitude), hn::And(not_finite, hn::Set(du, 0x7F800000u)));
  return hn::BitCast(d, hn::Or(bits, hn::ShiftLeft<16>(hn::And(half, hn::Set(du, 0x8000)))));
#else
  return hn::PromoteTo(
      d, hn::LoadU(hn::Rebind<hwy::float16_t, DF>(), reinterpret_cast<const hwy::float16_t*>(data)));
#endif
}

// Lines to ask for while computing on others. One row of queries uses memory far faster than the hardware
// prefetchers, which stop at every page and every head, would bring it. A step of a product asks for as much
// as it reads: asked for in haste, lines wait for each other and the processor for them, and then memory is
// idle.
struct Prefetcher {
  const uint8_t* next = nullptr;
  const uint8_t* end = nullptr;
  template <size_t kLines>
  HWY_INLINE void Step() {
    if (next >= end) return;
    MNEME_UNROLL
    for (size_t i = 0; i < kLines; ++i) hwy::Prefetch(next + i * 64);
    next += kLines * 64;
  }
};

// A source gives B[i][column .. column + kLanes), kVectorBytes of memory with its part of the scales. kOdd: i
// is known to be odd (even otherwise) wherever the encoding packs two i in a byte.
struct F32Source {
  static constexpr bool kInCache = false;
  static constexpr size_t kVectorBytes = kLanes * 4;
  const float* data;
  size_t stride;
  template <bool kOdd>
  HWY_INLINE VF Load(size_t i, size_t column) const {
    return hn::LoadU(DF(), data + i * stride + column);
  }
};

// What DecodeKeys and DecodeValues wrote.
struct DecodedSource : F32Source {
  static constexpr bool kInCache = true;
};

struct F16Source {
  static constexpr bool kInCache = false;
  static constexpr size_t kVectorBytes = kLanes * 2;
  const uint16_t* data;
  size_t stride;
  template <bool kOdd>
  HWY_INLINE VF Load(size_t i, size_t column) const {
    return LoadF16(data + i * stride + column);
  }
};

// Keys: a pair holds dimensions i and i + 1 of one token.
struct BF16KeySource {
  static constexpr bool kInCache = false;
  static constexpr size_t kVectorBytes = kLanes * 2;
  const uint32_t* data;
  template <bool kOdd>
  HWY_INLINE VF Load(size_t i, size_t column) const {
    const VU pairs = hn::LoadU(DU(), data + i / 2 * kBlockTokens + column);
    return hn::BitCast(DF(), kOdd ? hn::And(pairs, hn::Set(DU(), 0xFFFF0000u)) : hn::ShiftLeft<16>(pairs));
  }
};

struct Q8Source {
  static constexpr bool kInCache = false;
  static constexpr size_t kVectorBytes = kLanes + (kLanes + 15) / 16;
  const int8_t* data;
  size_t stride;
  template <bool kOdd>
  HWY_INLINE VF Load(size_t i, size_t column) const {
    return hn::ConvertTo(
        DF(), hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<int8_t, DF>(), data + i * stride + column)));
  }
};

HWY_INLINE VF FromNibbles(hn::Vec<DI> nibbles) {
  return hn::ConvertTo(DF(), hn::Sub(nibbles, hn::Set(DI(), 8)));
}

// Keys: a byte holds dimensions i and i + 1 of one token.
struct Q4KeySource {
  static constexpr bool kInCache = false;
  static constexpr size_t kVectorBytes = (kLanes + 1) / 2 + (kLanes + 15) / 16;
  const uint8_t* data;
  template <bool kOdd>
  HWY_INLINE VF Load(size_t i, size_t column) const {
    const auto bytes =
        hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<uint8_t, DF>(), data + i / 2 * kBlockTokens + column));
    return FromNibbles(kOdd ? hn::ShiftRight<4>(bytes) : hn::And(bytes, hn::Set(DI(), 15)));
  }
};

// Values in whole groups: a byte holds values j and j + 16 of a group of one token.
struct Q4ValueSource {
  static constexpr bool kInCache = false;
  static constexpr size_t kVectorBytes = (kLanes + 1) / 2 + (kLanes + 15) / 16;
  const uint8_t* data;
  size_t stride;  // bytes per token
  template <bool kOdd>
  HWY_INLINE VF Load(size_t i, size_t column) const {
    const size_t in_group = column % kKvGroup;
    const uint8_t* from = data + i * stride + column / kKvGroup * (kKvGroup / 2) + in_group % 16;
    const auto bytes = hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<uint8_t, DF>(), from));
    return FromNibbles(in_group >= 16 ? hn::ShiftRight<4>(bytes) : hn::And(bytes, hn::Set(DI(), 15)));
  }
};

HWY_INLINE VF LoadScales(const uint8_t* scales, size_t column) {
  return LoadF16(reinterpret_cast<const uint16_t*>(scales) + column);
}

// acc[r][v] += sum over i in [begin, end) of a[r * kRow + i * kStep] * B[i][column + v * kLanes]. begin is
// even where the source packs pairs. With kGroup, every kKvGroup columns have their own A, kGroup floats
// apart.
template <size_t R, size_t NV, size_t kRow, size_t kStep, size_t kGroup, bool kOdd, class Source>
HWY_INLINE void MultiplyStep(const Source& b, size_t i, size_t column, const float* HWY_RESTRICT a,
                             VF (&acc)[R][NV]) {
  const DF d;
  VF columns[NV];
  MNEME_UNROLL
  for (size_t v = 0; v < NV; ++v) columns[v] = b.template Load<kOdd>(i, column + v * kLanes);
  MNEME_UNROLL
  for (size_t r = 0; r < R; ++r) {
    MNEME_UNROLL
    for (size_t v = 0; v < NV; ++v) {
      const VF factor = hn::Set(d, a[v * kLanes / kKvGroup * kGroup + r * kRow + i * kStep]);
      acc[r][v] = hn::MulAdd(factor, columns[v], acc[r][v]);
    }
  }
}

template <size_t R, size_t NV, size_t kRow, size_t kStep, size_t kGroup, class Source>
HWY_INLINE void Multiply(const Source& b, size_t begin, size_t end, size_t column,
                         const float* HWY_RESTRICT a, Prefetcher& prefetcher, VF (&acc)[R][NV]) {
  size_t i = begin;
  for (; i + 2 <= end; i += 2) {
    if constexpr (!Source::kInCache) prefetcher.Step<(2 * NV * Source::kVectorBytes + 63) / 64>();
    MultiplyStep<R, NV, kRow, kStep, kGroup, false>(b, i, column, a, acc);
    MultiplyStep<R, NV, kRow, kStep, kGroup, true>(b, i + 1, column, a, acc);
  }
  if (i < end) MultiplyStep<R, NV, kRow, kStep, kGroup, false>(b, i, column, a, acc);
}

// s[r][t] = <q_r, k_t> for the 64 tokens of a block. q packed [key_dim][R]. scales null: none; else one
// float16 per group of dimensions and token, applied to the sum over the group.
template <size_t R, class Source>
HWY_NOINLINE void ScoreRows(const Source& keys, const uint8_t* scales, size_t key_dim,
                            const float* HWY_RESTRICT q, Prefetcher prefetcher, float* HWY_RESTRICT s) {
  const DF d;
  constexpr size_t NV = kVectorsOf(R);
  for (size_t column = 0; column < kBlockTokens; column += NV * kLanes) {
    const size_t step = scales == nullptr ? key_dim : kKvGroup;
    for (size_t begin = 0; begin < key_dim; begin += step) {
      VF acc[R][NV];
      MNEME_UNROLL
      for (size_t r = 0; r < R; ++r) {
        MNEME_UNROLL
        for (size_t v = 0; v < NV; ++v) acc[r][v] = hn::Zero(d);
      }
      Multiply<R, NV, 1, R, 0>(keys, begin, std::min(key_dim, begin + step), column, q, prefetcher, acc);
      MNEME_UNROLL
      for (size_t v = 0; v < NV; ++v) {
        const size_t at = column + v * kLanes;
        if (scales == nullptr) {
          MNEME_UNROLL
          for (size_t r = 0; r < R; ++r) hn::Store(acc[r][v], d, s + r * kBlockTokens + at);
          continue;
        }
        const VF scale = LoadScales(scales, begin / kKvGroup * kBlockTokens + at);
        MNEME_UNROLL
        for (size_t r = 0; r < R; ++r) {
          float* sum = s + r * kBlockTokens + at;
          const VF scaled =
              begin == 0 ? hn::Mul(scale, acc[r][v]) : hn::MulAdd(scale, acc[r][v], hn::Load(d, sum));
          hn::Store(scaled, d, sum);
        }
      }
    }
  }
}

// What a product with values needs besides the source.
struct ValueArgs {
  size_t begin, end;         // tokens
  const float* p;            // [R][kBlockTokens]
  const float* corrections;  // [R]
  float* acc;                // [R][acc_stride]
  size_t acc_stride;
  size_t num_columns;     // a multiple of kLanes
  const uint8_t* scales;  // null: none
  float* scaled_p;        // scratch used with scales: [2][kSmallTile][kBlockTokens]
  Prefetcher prefetcher;
};

// acc[r][columns] = acc[r][columns] * corrections[r] + sum over tokens in [begin, end) of p[r][t] * v[t].
template <size_t R, size_t NV, size_t kGroup, class Source>
HWY_INLINE void ValueColumns(const Source& values, ValueArgs& args, const float* HWY_RESTRICT p,
                             size_t column) {
  const DF d;
  float* HWY_RESTRICT acc_rows = args.acc + column;
  VF acc[R][NV];
  MNEME_UNROLL
  for (size_t r = 0; r < R; ++r) {
    const VF correction = hn::Set(d, args.corrections[r]);
    MNEME_UNROLL
    for (size_t v = 0; v < NV; ++v) {
      acc[r][v] = hn::Mul(correction, hn::LoadU(d, acc_rows + r * args.acc_stride + v * kLanes));
    }
  }
  Multiply<R, NV, kBlockTokens, 1, kGroup>(values, args.begin, args.end, column, p, args.prefetcher, acc);
  MNEME_UNROLL
  for (size_t r = 0; r < R; ++r) {
    MNEME_UNROLL
    for (size_t v = 0; v < NV; ++v) {
      hn::StoreU(acc[r][v], d, acc_rows + r * args.acc_stride + v * kLanes);
    }
  }
}

template <size_t R, class Source>
HWY_INLINE void ValueRange(const Source& values, ValueArgs& args, const float* p, size_t column,
                           size_t column_end) {
  constexpr size_t NV = kVectorsOf(R);
  for (; column + NV * kLanes <= column_end; column += NV * kLanes) {
    ValueColumns<R, NV, 0>(values, args, p, column);
  }
  if constexpr (NV > 2) {
    for (; column + 2 * kLanes <= column_end; column += 2 * kLanes) {
      ValueColumns<R, 2, 0>(values, args, p, column);
    }
  }
  if constexpr (NV > 1) {
    for (; column < column_end; column += kLanes) ValueColumns<R, 1, 0>(values, args, p, column);
  }
}

// The scale of a token belongs to its weight: scaled[r][t] = p[r][t] * scale[group][t].
template <size_t R>
HWY_INLINE void ScaleWeights(const ValueArgs& args, size_t group, float* HWY_RESTRICT scaled) {
  const DF d;
  for (size_t t = 0; t < kBlockTokens; t += kLanes) {
    const VF scale = LoadScales(args.scales, group * kBlockTokens + t);
    MNEME_UNROLL
    for (size_t r = 0; r < R; ++r) {
      const VF weight = hn::Load(d, args.p + r * kBlockTokens + t);
      hn::Store(hn::Mul(scale, weight), d, scaled + r * kBlockTokens + t);
    }
  }
}

template <size_t R, class Source>
HWY_NOINLINE void ValueRows(const Source& values, ValueArgs args) {
  if (args.scales == nullptr) return ValueRange<R>(values, args, args.p, 0, args.num_columns);
  size_t column = 0;
  // Two groups at once where the tile is that wide: twice the independent sums.
  constexpr size_t NV = kVectorsOf(R);
  if constexpr (NV * kLanes == 2 * kKvGroup) {
    for (; column + NV * kLanes <= args.num_columns; column += NV * kLanes) {
      ScaleWeights<R>(args, column / kKvGroup, args.scaled_p);
      ScaleWeights<R>(args, column / kKvGroup + 1, args.scaled_p + R * kBlockTokens);
      ValueColumns<R, NV, R * kBlockTokens>(values, args, args.scaled_p, column);
    }
  }
  for (; column < args.num_columns; column += kKvGroup) {
    ScaleWeights<R>(args, column / kKvGroup, args.scaled_p);
    ValueRange<R>(values, args, args.scaled_p, column, std::min(args.num_columns, column + kKvGroup));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
