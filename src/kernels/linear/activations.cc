// Rounding of activations to blocks of 8-bit and of 16-bit integers.
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "kernels/linear/layout.h"
#include "kernels/linear/linear.h"
#include "kernels/simd/targets.h"

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear/activations.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

// Targets that convert to half precision in one instruction.
#undef MNEME_ACTIVATIONS_FULL_TILES
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SSE4
#define MNEME_ACTIVATIONS_FULL_TILES 0
#else
#define MNEME_ACTIVATIONS_FULL_TILES 1
#endif

HWY_BEFORE_NAMESPACE();
namespace mneme::linear::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

struct RoundedBlock {
  int32_t low;  // sum of the first 16 values
  int32_t high;
};

struct BlockScale {
  float scale;    // NaN if a value is NaN or infinite
  float exact;    // before rounding to half precision
  float inverse;  // what values are multiplied with; 0: all become 0
};

// The nearest half-precision number where that is a normal one, else the value itself.
HWY_INLINE float RoundToHalf(float value) {
  const float magnitude = std::abs(value);
  if (!(magnitude >= 0x1p-14f && magnitude < 65504.0f)) return value;
#if !MNEME_ACTIVATIONS_FULL_TILES
  return F16ToF32(F32ToF16(value));
#else
  const hn::FixedTag<float, 4> df;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  return hn::GetLane(hn::PromoteTo(df, hn::DemoteTo(dh, hn::Set(df, value))));
#endif
}

// Scale of 32 or 256 values: the largest magnitude becomes 127. The scale of 32 is rounded to half precision
// where that is a normal number (as is the sum of the block, which weights with a minimum are multiplied
// with), and the one of 256 is the reciprocal of its inverse: so the peers that models are compared with
// round the same way, and logits agree beyond the noise of the rounding itself.
HWY_INLINE BlockScale ScaleOf(const float* HWY_RESTRICT x, size_t count) {
  const hn::CappedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  constexpr size_t kLanes = HWY_MIN(HWY_LANES(float), size_t{16});
  // Magnitudes compare like their bits, and NaN above infinity above every number.
  auto largest = hn::Zero(di);
  for (size_t i = 0; i < count; i += kLanes) {
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(hn::LoadU(df, x + i))));
  }
  const int32_t bits = hn::GetLane(hn::MaxOfLanes(di, largest));
  const float magnitude = std::bit_cast<float>(bits);
  if (bits >= 0x7F800000) return {.scale = std::bit_cast<float>(0x7FC00000), .exact = 0, .inverse = 0};
  if (magnitude < kTiny) return {.scale = 0, .exact = 0, .inverse = 0};
  const float inverse = 127.0f / magnitude;
  if (count > kBlockCols) return {.scale = 1.0f / inverse, .exact = 1.0f / inverse, .inverse = inverse};
  const float scale = magnitude / 127.0f;
  return {.scale = RoundToHalf(scale), .exact = scale, .inverse = inverse};
}

HWY_INLINE RoundedBlock QuantiseBlock(const float* HWY_RESTRICT x, float factor, int8_t* HWY_RESTRICT q) {
  const hn::CappedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<int8_t, decltype(df)> dq;
  constexpr size_t kLanes = HWY_MIN(HWY_LANES(float), size_t{16});
  if (factor == 0.0f) {
    std::memset(q, 0, kBlockCols);
    return {.low = 0, .high = 0};
  }
  const auto inverse = hn::Set(df, factor);
  int32_t sums[2];
  for (size_t half = 0; half < 2; ++half) {
    auto sum = hn::Zero(di);
    for (size_t i = half * 16; i < half * 16 + 16; i += kLanes) {
      const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), inverse));
      sum = hn::Add(sum, rounded);
      hn::StoreU(hn::DemoteTo(dq, rounded), dq, q + i);
    }
    sums[half] = hn::GetLane(hn::SumOfLanes(di, sum));
  }
  return {.low = sums[0], .high = sums[1]};
}

// kRows: rows of the tile, 0 if known only at run time. Blocks from `first_block`, where a scale begins.
template <size_t kRows>
HWY_INLINE void QuantiseRows(const float* x, size_t stride, size_t scale_blocks, size_t first_block,
                             const ActTileView& tile) {
  const size_t rows = kRows != 0 ? kRows : tile.rows;
  for (size_t row = 0; row < rows; ++row) {
    BlockScale scale{};
    for (size_t block = first_block; block < tile.blocks; ++block) {
      alignas(64) int8_t q[kBlockCols];
      const float* const from = x + row * stride + block * kBlockCols;
      if (block % scale_blocks == 0) scale = ScaleOf(from, scale_blocks * kBlockCols);
      const RoundedBlock rounded = QuantiseBlock(from, scale.inverse, q);
      uint8_t* values = tile.values(block) + row * 4;
      for (size_t step = 0; step < kStepsPerBlock; ++step)
        std::memcpy(values + step * rows * 4, q + step * 4, 4);
      const auto store = [&](uint8_t* plane, size_t index, auto value)
                             HWY_ATTR { std::memcpy(plane + (index * rows + row) * 4, &value, 4); };
      store(tile.heads(block), 0, scale.scale);
      store(tile.heads(block), 1, -128 * (rounded.low + rounded.high));
      store(tile.halves(block), 0, -128 * rounded.low);
      store(tile.halves(block), 1, -128 * rounded.high);
      const float sum = static_cast<float>(rounded.low + rounded.high);
      store(tile.sums(block), 0, scale_blocks == 1 ? -RoundToHalf(scale.exact * sum) : -scale.scale * sum);
      store(tile.half_sums(block), 0, -scale.scale * static_cast<float>(rounded.low));
      store(tile.half_sums(block), 1, -scale.scale * static_cast<float>(rounded.high));
    }
  }
}

#if MNEME_ACTIVATIONS_FULL_TILES

// A full tile, block by block: what belongs to a row is in a lane of two vectors, rows 0 to 3 and rows 4, 5,
// 4 and 5, because the planes are interleaved like that. Gives the bits that QuantiseRows gives.
using D4 = hn::FixedTag<float, 4>;
using D4I = hn::FixedTag<int32_t, 4>;
using V4 = hn::Vec<D4>;
using V4I = hn::Vec<D4I>;
static_assert(kActTile == 6);

// Stores the lanes of six rows one after the other.
template <class D, class V>
HWY_INLINE void StoreSix(D d, V low, V high, uint8_t* HWY_RESTRICT plane) {
  const hn::Half<D> half;
  auto* to = reinterpret_cast<hn::TFromD<D>*>(plane);
  hn::StoreU(low, d, to);
  hn::StoreU(hn::LowerHalf(half, high), half, to + 4);
}

struct Maximum {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Max(a, b);
  }
};
struct Sum {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Add(a, b);
  }
};

template <class D, class V, class Op>
HWY_INLINE V4I FoldTo4(D d, V v, const Op& op) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return FoldTo4(half, op(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), op);
  }
}

// Lane i: `op` over all lanes of the i-th vector.
template <class D, class V, class Op>
HWY_INLINE V4I Reduce4(D d, V a, V b, V c, V e, const Op& op) {
  const hn::Repartition<int64_t, D> d64;
  const V ab = op(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const V ce = op(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto ab64 = hn::BitCast(d64, ab), ce64 = hn::BitCast(d64, ce);
  return FoldTo4(d,
                 op(hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64)),
                    hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64))),
                 op);
}

HWY_INLINE V4 RoundToHalf4(V4 value) {
  const D4 d;
  const hn::Rebind<hwy::float16_t, D4> dh;
  const V4 magnitude = hn::Abs(value);
  const auto normal =
      hn::And(hn::Ge(magnitude, hn::Set(d, 0x1p-14f)), hn::Lt(magnitude, hn::Set(d, 65504.0f)));
  return hn::IfThenElse(normal, hn::PromoteTo(d, hn::DemoteTo(dh, value)), value);
}

// BlockScale of four rows.
struct Scales4 {
  V4 scale, exact, inverse;
};

HWY_INLINE Scales4 ScalesOf(V4I bits, bool is_wide) {
  const D4 d;
  const V4 magnitude = hn::BitCast(d, bits);
  const auto finite =
      hn::MaskFromVec(hn::BitCast(d, hn::VecFromMask(D4I(), hn::Lt(bits, hn::Set(D4I(), 0x7F800000)))));
  const auto usual = hn::And(finite, hn::Ge(magnitude, hn::Set(d, kTiny)));
  const V4 inverse = hn::IfThenElseZero(usual, hn::Div(hn::Set(d, 127.0f), magnitude));
  V4 exact = is_wide ? hn::Div(hn::Set(d, 1.0f), inverse) : hn::Div(magnitude, hn::Set(d, 127.0f));
  exact = hn::IfThenElseZero(usual, exact);
  const V4 scale = is_wide ? exact : RoundToHalf4(exact);
  const V4 nan = hn::Set(d, std::bit_cast<float>(0x7FC00000));
  return {.scale = hn::IfThenElse(finite, scale, nan), .exact = exact, .inverse = inverse};
}

// Values of six rows of 32 bytes to [8 steps][6 rows][4].
HWY_INLINE void InterleaveSix(const int8_t (*q)[kBlockCols], uint8_t* HWY_RESTRICT values) {
  const D4I d;
  const hn::Repartition<int64_t, D4I> d64;
  for (size_t step = 0; step < kStepsPerBlock; step += 4) {
    const auto row = [&](size_t i)
                         HWY_ATTR { return hn::Load(d, reinterpret_cast<const int32_t*>(q[i] + step * 4)); };
    const V4I r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3), r4 = row(4), r5 = row(5);
    const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
    const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
    const auto low45 = hn::BitCast(d64, hn::InterleaveLower(d, r4, r5));
    const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
    const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
    const auto high45 = hn::BitCast(d64, hn::InterleaveUpper(d, r4, r5));
    uint8_t* const to = values + step * kActTile * 4;
    const auto store = [&](size_t i, auto four, auto two) HWY_ATTR {
      StoreSix(d, hn::BitCast(d, four), hn::BitCast(d, two), to + i * kActTile * 4);
    };
    store(0, hn::InterleaveLower(d64, low01, low23), low45);
    store(1, hn::InterleaveUpper(d64, low01, low23), hn::InterleaveUpper(d64, low45, low45));
    store(2, hn::InterleaveLower(d64, high01, high23), high45);
    store(3, hn::InterleaveUpper(d64, high01, high23), hn::InterleaveUpper(d64, high45, high45));
  }
}

// All planes but the values, of four rows: written by StoreSix with those of the other two.
struct Planes4 {
  V4 scale, sum, low_sum, high_sum;
  V4I all, low, high;
};

HWY_INLINE Planes4 PlanesOf(const Scales4& scales, V4I low, V4I high, bool is_wide) {
  const D4 d;
  const V4I minus = hn::Set(D4I(), -128);
  const V4I all = hn::Add(low, high);
  const V4 negative = hn::Neg(scales.scale);
  const V4 sum = hn::ConvertTo(d, all);
  return {.scale = scales.scale,
          .sum = is_wide ? hn::Mul(negative, sum) : hn::Neg(RoundToHalf4(hn::Mul(scales.exact, sum))),
          .low_sum = hn::Mul(negative, hn::ConvertTo(d, low)),
          .high_sum = hn::Mul(negative, hn::ConvertTo(d, high)),
          .all = hn::Mul(all, minus),
          .low = hn::Mul(low, minus),
          .high = hn::Mul(high, minus)};
}

void QuantiseFullTile(const float* x, size_t stride, size_t scale_blocks, const ActTileView& tile) {
  const hn::CappedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<int8_t, decltype(df)> dq;
  using VI = hn::Vec<decltype(di)>;
  constexpr size_t kLanes = HWY_MIN(HWY_LANES(float), size_t{16});
  constexpr size_t kRowBytes = kActTile * 4;
  const bool is_wide = scale_blocks > 1;
  const D4 d4;
  const D4I d4i;
  Scales4 first{hn::Zero(d4), hn::Zero(d4), hn::Zero(d4)};
  Scales4 last = first;
  alignas(64) float inverses[8];
  alignas(64) int8_t q[kActTile][kBlockCols];
  for (size_t block = 0; block < tile.blocks; ++block) {
    const float* const from = x + block * kBlockCols;
    if (block % scale_blocks == 0) {
      const auto largest = [&](size_t row) HWY_ATTR {
        VI largest_bits = hn::Zero(di);
        for (size_t i = 0; i < scale_blocks * kBlockCols; i += kLanes) {
          const auto value = hn::LoadU(df, from + row * stride + i);
          largest_bits = hn::Max(largest_bits, hn::BitCast(di, hn::Abs(value)));
        }
        return largest_bits;
      };
      const VI row4 = largest(4), row5 = largest(5);
      first = ScalesOf(Reduce4(di, largest(0), largest(1), largest(2), largest(3), Maximum()), is_wide);
      last = ScalesOf(Reduce4(di, row4, row5, row4, row5, Maximum()), is_wide);
      hn::Store(first.inverse, d4, inverses);
      hn::Store(last.inverse, d4, inverses + 4);
    }
    VI sums[2][kActTile];
    for (size_t row = 0; row < kActTile; ++row) {
      const auto inverse = hn::Set(df, inverses[row]);
      const auto keep = hn::RebindMask(di, hn::Ne(inverse, hn::Zero(df)));
      for (size_t half = 0; half < 2; ++half) {
        VI sum = hn::Zero(di);
        for (size_t i = half * 16; i < half * 16 + 16; i += kLanes) {
          const auto value = hn::Mul(hn::LoadU(df, from + row * stride + i), inverse);
          const VI rounded = hn::IfThenElseZero(keep, hn::NearestInt(value));
          sum = hn::Add(sum, rounded);
          hn::StoreU(hn::DemoteTo(dq, rounded), dq, q[row] + i);
        }
        sums[half][row] = sum;
      }
    }
    InterleaveSix(q, tile.values(block));
    const Planes4 a = PlanesOf(first, Reduce4(di, sums[0][0], sums[0][1], sums[0][2], sums[0][3], Sum()),
                               Reduce4(di, sums[1][0], sums[1][1], sums[1][2], sums[1][3], Sum()), is_wide);
    const Planes4 b = PlanesOf(last, Reduce4(di, sums[0][4], sums[0][5], sums[0][4], sums[0][5], Sum()),
                               Reduce4(di, sums[1][4], sums[1][5], sums[1][4], sums[1][5], Sum()), is_wide);
    StoreSix(d4, a.scale, b.scale, tile.heads(block));
    StoreSix(d4i, a.all, b.all, tile.heads(block) + kRowBytes);
    StoreSix(d4i, a.low, b.low, tile.halves(block));
    StoreSix(d4i, a.high, b.high, tile.halves(block) + kRowBytes);
    StoreSix(d4, a.sum, b.sum, tile.sums(block));
    StoreSix(d4, a.low_sum, b.low_sum, tile.half_sums(block));
    StoreSix(d4, a.high_sum, b.high_sum, tile.half_sums(block) + kRowBytes);
  }
}

// Stores lane i of a and of b one after the other, for i from 0 on.
template <class VA, class VB>
HWY_INLINE void StorePairs(VA a, VB b, uint8_t* HWY_RESTRICT plane) {
  const D4I d;
  const V4I first = hn::BitCast(d, a), second = hn::BitCast(d, b);
  auto* to = reinterpret_cast<int32_t*>(plane);
  hn::StoreU(hn::InterleaveLower(d, first, second), d, to);
  hn::StoreU(hn::InterleaveUpper(d, first, second), d, to + 4);
}

// One row, four blocks at a time: decoding waits for it between any two products. What belongs to a block is
// in a lane. Gives the bits that QuantiseRows gives.
void QuantiseOneRow(const float* HWY_RESTRICT x, size_t scale_blocks, const ActTileView& tile) {
  const hn::CappedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<int8_t, decltype(df)> dq;
  using VI = hn::Vec<decltype(di)>;
  constexpr size_t kLanes = HWY_MIN(HWY_LANES(float), size_t{16});
  constexpr size_t kStep = 4;
  const bool is_wide = scale_blocks > 1;
  const D4 d4;
  Scales4 scales{hn::Zero(d4), hn::Zero(d4), hn::Zero(d4)};
  alignas(64) float inverses[kStep];
  const size_t num_whole = tile.blocks / kStep * kStep;
  for (size_t block = 0; block < num_whole; block += kStep) {
    const float* const from = x + block * kBlockCols;
    const auto largest = [&](size_t first, size_t count) HWY_ATTR {
      VI bits = hn::Zero(di);
      for (size_t i = first * kBlockCols; i < (first + count) * kBlockCols; i += kLanes)
        bits = hn::Max(bits, hn::BitCast(di, hn::Abs(hn::LoadU(df, from + i))));
      return bits;
    };
    if (!is_wide) {
      scales = ScalesOf(Reduce4(di, largest(0, 1), largest(1, 1), largest(2, 1), largest(3, 1), Maximum()),
                        is_wide);
    } else if (block % scale_blocks == 0) {
      const VI bits = largest(0, scale_blocks);
      scales = ScalesOf(Reduce4(di, bits, bits, bits, bits, Maximum()), is_wide);
    }
    hn::Store(scales.inverse, d4, inverses);
    VI sums[2][kStep];
    for (size_t i = 0; i < kStep; ++i) {
      const auto inverse = hn::Set(df, inverses[i]);
      const auto keep = hn::RebindMask(di, hn::Ne(inverse, hn::Zero(df)));
      auto* const values = reinterpret_cast<int8_t*>(tile.values(block + i));
      for (size_t half = 0; half < 2; ++half) {
        VI sum = hn::Zero(di);
        for (size_t n = half * 16; n < half * 16 + 16; n += kLanes) {
          const auto value = hn::Mul(hn::LoadU(df, from + i * kBlockCols + n), inverse);
          const VI rounded = hn::IfThenElseZero(keep, hn::NearestInt(value));
          sum = hn::Add(sum, rounded);
          hn::StoreU(hn::DemoteTo(dq, rounded), dq, values + n);
        }
        sums[half][i] = sum;
      }
    }
    const Planes4 planes =
        PlanesOf(scales, Reduce4(di, sums[0][0], sums[0][1], sums[0][2], sums[0][3], Sum()),
                 Reduce4(di, sums[1][0], sums[1][1], sums[1][2], sums[1][3], Sum()), is_wide);
    StorePairs(planes.scale, planes.all, tile.heads(block));
    StorePairs(planes.low, planes.high, tile.halves(block));
    hn::StoreU(planes.sum, d4, reinterpret_cast<float*>(tile.sums(block)));
    StorePairs(planes.low_sum, planes.high_sum, tile.half_sums(block));
  }
  QuantiseRows<1>(x, 0, scale_blocks, num_whole, tile);
}

#endif  // MNEME_ACTIVATIONS_FULL_TILES

void QuantiseTile(const float* x, size_t stride, size_t scale_blocks, const ActTileView& tile) {
#if MNEME_ACTIVATIONS_FULL_TILES
  if (tile.rows == 1) return QuantiseOneRow(x, scale_blocks, tile);
  if (tile.rows == kActTile) return QuantiseFullTile(x, stride, scale_blocks, tile);
#else
  if (tile.rows == 1) return QuantiseRows<1>(x, stride, scale_blocks, 0, tile);
#endif
  QuantiseRows<0>(x, stride, scale_blocks, 0, tile);
}

// One block of 32 values as 16-bit integers; returns the scale.
HWY_INLINE float QuantiseInt16Block(const float* HWY_RESTRICT x, int16_t* HWY_RESTRICT q) {
  const hn::CappedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<int16_t, decltype(df)> dq;
  constexpr size_t kLanes = HWY_MIN(HWY_LANES(float), size_t{16});
  auto largest = hn::Zero(di);
  for (size_t i = 0; i < kBlockCols; i += kLanes)
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(hn::LoadU(df, x + i))));
  const int32_t bits = hn::GetLane(hn::MaxOfLanes(di, largest));
  const float magnitude = std::bit_cast<float>(bits);
  if (bits >= 0x7F800000 || magnitude < kTiny) {
    std::memset(q, 0, kInt16RowBytes);
    return bits >= 0x7F800000 ? std::bit_cast<float>(0x7FC00000) : 0.0f;
  }
  constexpr float kMost = kInt16Most;
  const auto inverse = hn::Set(df, kMost / magnitude);
  for (size_t i = 0; i < kBlockCols; i += kLanes)
    hn::StoreU(hn::DemoteTo(dq, hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), inverse))), dq, q + i);
  return magnitude * (1.0f / kMost);
}

void QuantiseInt16Tile(const float* x, size_t stride, size_t cols, const Int16TileView& tile) {
  for (size_t row = 0; row < tile.rows; ++row) {
    for (size_t block = 0; block < tile.blocks; ++block) {
      const float* from = x + row * stride + block * kBlockCols;
      float last[kBlockCols];
      if ((block + 1) * kBlockCols > cols) {
        std::memset(last, 0, sizeof(last));
        std::memcpy(last, from, (cols - block * kBlockCols) * sizeof(float));
        from = last;
      }
      int16_t* const q = reinterpret_cast<int16_t*>(tile.values(block) + row * kInt16RowBytes);
      const float scale = QuantiseInt16Block(from, q);
      std::memcpy(tile.scales(block) + row * 4, &scale, 4);
    }
  }
}

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mneme {
namespace linear {

HWY_EXPORT(QuantiseTile);

void QuantiseTileDispatch(const float* x, size_t stride, size_t scale_blocks, const ActTileView& tile) {
  HWY_DYNAMIC_DISPATCH(QuantiseTile)(x, stride, scale_blocks, tile);
}

HWY_EXPORT(QuantiseInt16Tile);

void QuantiseInt16TileDispatch(const float* x, size_t stride, size_t cols, const Int16TileView& tile) {
  HWY_DYNAMIC_DISPATCH(QuantiseInt16Tile)(x, stride, cols, tile);
}

void DequantiseInt16Row(const ActivationRows& x, size_t row, float* out) {
  const Int16TileView tile = Int16TileOf(x, row / kActTile);
  for (size_t i = 0; i < x.num_cols(); ++i) {
    const size_t block = i / kBlockCols;
    float scale;
    std::memcpy(&scale, tile.scales(block) + row % kActTile * 4, 4);
    int16_t q;
    std::memcpy(&q, tile.values(block) + row % kActTile * kInt16RowBytes + i % kBlockCols * 2, 2);
    out[i] = scale * static_cast<float>(q);
  }
}

void DequantiseRow(const ActivationRows& x, size_t row, float* out) {
  const ActTileView tile = TileOf(x, row / kActTile);
  const size_t in_tile = row % kActTile;
  for (size_t i = 0; i < x.num_cols(); ++i) {
    const size_t block = i / kBlockCols;
    const size_t step = i % kBlockCols / 4;
    float scale;
    std::memcpy(&scale, tile.heads(block) + in_tile * 4, 4);
    const uint8_t byte = tile.values(block)[(step * tile.rows + in_tile) * 4 + i % 4];
    out[i] = scale * static_cast<float>(static_cast<int8_t>(byte));
  }
}

}  // namespace linear

namespace {
// Below this many values the rounding takes about as long as waking the other threads.
constexpr size_t kValuesWorthSharing = 16384;
}  // namespace

ActivationRows::ActivationRows(size_t max_rows, size_t max_cols, ActivationForm most)
    : max_rows_(max_rows),
      max_cols_(max_cols),
      most_(most),
      owned_(MakeAligned<uint8_t>(Bytes(max_rows, max_cols, most))) {
  Place(owned_.get());
}

ActivationRows::ActivationRows(uint8_t* memory, size_t max_rows, size_t max_cols, ActivationForm most)
    : max_rows_(max_rows), max_cols_(max_cols), most_(most) {
  Place(memory);
}

void ActivationRows::Place(uint8_t* memory) {
  if (most_.block8 != 0) {
    quantised_ = memory;
    memory += max_rows_ * linear::QuantisedRowBytes(max_cols_);
  }
  if (most_.int16) int16_ = memory;
}

size_t ActivationRows::Bytes(size_t max_rows, size_t max_cols, ActivationForm most) {
  return max_rows * ((most.block8 != 0 ? linear::QuantisedRowBytes(max_cols) : 0) +
                     (most.int16 ? linear::Int16RowBytes(max_cols) : 0));
}

void ActivationRows::Set(const float* x, size_t num_rows, size_t num_cols, size_t stride, ActivationForm form,
                         ThreadPool& pool) {
  MNEME_CHECK(num_rows <= max_rows_ && num_cols <= max_cols_);
  MNEME_CHECK((form.block8 == 0 || most_.block8 != 0) && (!form.int16 || most_.int16));
  x_ = x;
  num_rows_ = num_rows;
  num_cols_ = num_cols;
  stride_ = stride;
  form_ = form;
  if (form == ActivationForm::kFloat) return;
  const size_t scale_blocks = form.block8 == 256 ? 256 / linear::kBlockCols : 1;
  MNEME_CHECK(form.block8 == 0 || num_cols % (scale_blocks * linear::kBlockCols) == 0);
  quantised_row_bytes_ = linear::QuantisedRowBytes(num_cols);
  const size_t num_tiles = linear::CeilDivide(num_rows, linear::kActTile);
  const auto quantise = [&](size_t tile, size_t) {
    const float* const rows = x + tile * linear::kActTile * stride;
    if (form.block8 != 0)
      linear::QuantiseTileDispatch(rows, stride, scale_blocks, linear::TileOf(*this, tile));
    if (form.int16)
      linear::QuantiseInt16TileDispatch(rows, stride, num_cols, linear::Int16TileOf(*this, tile));
  };
  if (num_rows * num_cols < kValuesWorthSharing) {
    for (size_t tile = 0; tile < num_tiles; ++tile) quantise(tile, 0);
  } else {
    pool.Run(num_tiles, quantise);
  }
}

}  // namespace mneme
#endif  // HWY_ONCE
