// Products of float weights packed as blocks of 16-bit integers with activations rounded to such blocks.
// Included by linear.cc once per target.
//
// Per block of 32 columns the products are summed in int32, exactly: 32 * 8191^2 < 2^31. Each strip of
// kInt16StripBlocks blocks is summed from zero,
//   strip += float(dot) * scale_x
// and then enters the output, sum += strip * scale_w, in this order on every target and in every tile size.
#include <cstring>

#include "kernels/linear/layout.h"
#include "kernels/linear/tile-inl.h"

#if defined(MNEME_KERNELS_LINEAR_INT16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_LINEAR_INT16_INL_H_
#undef MNEME_KERNELS_LINEAR_INT16_INL_H_
#else
#define MNEME_KERNELS_LINEAR_INT16_INL_H_
#endif

#include "hwy/highway.h"

#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme::linear::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// sum plus the products of both pairs of int16 in each lane.
HWY_INLINE VI AddPairs(VI sum, VI a, VI b) {
#if MNEME_LINEAR_VNNI
  return VI{_mm512_dpwssd_epi32(sum.raw, a.raw, b.raw)};
#elif HWY_TARGET == HWY_AVX3
  return hn::Add(sum, VI{_mm512_madd_epi16(a.raw, b.raw)});
#elif HWY_TARGET == HWY_AVX2
  return hn::Add(sum, VI{_mm256_madd_epi16(a.raw, b.raw)});
#elif HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  return hn::Add(sum, VI{_mm_madd_epi16(a.raw, b.raw)});
#else
  const auto low = [](VI pair) HWY_ATTR { return hn::ShiftRight<16>(hn::ShiftLeft<16>(pair)); };
  const auto high = [](VI pair) HWY_ATTR { return hn::ShiftRight<16>(pair); };
  return hn::Add(hn::Add(sum, hn::Mul(low(a), low(b))), hn::Mul(high(a), high(b)));
#endif
}

// A strip, or its last part, of kGroups groups.
struct Int16Strip {
  const uint8_t* weights[kGroups];  // of its first block
  const uint8_t* scales[kGroups];   // [16] float
  size_t first_block;
  size_t blocks;
};

// dots[v][i] = the products of one block: weights `at` each group, kRows rows of activations.
template <size_t kRows>
HWY_INLINE void Int16BlockDots(const uint8_t* const* at, const uint8_t* HWY_RESTRICT values,
                               VI (&dots)[kVectors][kRows]) {
  constexpr size_t kPerGroup = kGroupRows / kLanes;
  const DI di;
  MNEME_LINEAR_UNROLL(16)
  for (size_t v = 0; v < kVectors; ++v) {
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) dots[v][i] = hn::Zero(di);
  }
  MNEME_LINEAR_UNROLL(16)
  for (size_t pair = 0; pair < kBlockCols / 2; ++pair) {
    VI w[kVectors];
    MNEME_LINEAR_UNROLL(16)
    for (size_t v = 0; v < kVectors; ++v) {
      const uint8_t* from = at[v / kPerGroup] + pair * kPairColBytes + v % kPerGroup * kLanes * 4;
      w[v] = hn::LoadU(di, reinterpret_cast<const int32_t*>(from));
    }
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      const VI x = hn::Set(di, LoadWord(values + i * kInt16RowBytes + pair * 4));
      MNEME_LINEAR_UNROLL(16)
      for (size_t v = 0; v < kVectors; ++v) dots[v][i] = AddPairs(dots[v][i], w[v], x);
    }
  }
}

// The products of kRows rows of activations from `first_row` of the tile.
template <size_t kRows>
HWY_NOINLINE void Int16TileKernel(const Int16Strip& strip, const Int16TileView& tile, size_t first_row,
                                  const TileSums& sums_at) {
  constexpr size_t kPerGroup = kGroupRows / kLanes;
  const DF df;
  // A full tile has its row count at compile time: addresses become constants.
  const size_t tile_rows = kRows == kActTile ? kActTile : tile.rows;
  const uint8_t* HWY_RESTRICT values = tile.values(strip.first_block) + first_row * kInt16RowBytes;
  const uint8_t* HWY_RESTRICT scales_x = tile.scales(strip.first_block) + first_row * 4;
  const uint8_t* at[kGroups];
  for (size_t g = 0; g < kGroups; ++g) at[g] = strip.weights[g];
  VF strips[kVectors][kRows];
  MNEME_LINEAR_UNROLL(16)
  for (size_t v = 0; v < kVectors; ++v) {
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) strips[v][i] = hn::Zero(df);
  }
  MNEME_LINEAR_UNROLL(1)  // unrolled, every load moves on by more than prefetchers follow
  for (size_t b = 0; b < strip.blocks; ++b) {
    VI dots[kVectors][kRows];
    Int16BlockDots<kRows>(at, values, dots);
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      const VF scale_x = hn::Set(df, LoadFloat(scales_x + i * 4));
      MNEME_LINEAR_UNROLL(16)
      for (size_t v = 0; v < kVectors; ++v)
        strips[v][i] = hn::MulAdd(hn::ConvertTo(df, dots[v][i]), scale_x, strips[v][i]);
    }
    values += tile_rows * kInt16RowBytes;
    scales_x += tile_rows * 4;
    MNEME_LINEAR_UNROLL(2)
    for (size_t g = 0; g < kGroups; ++g) at[g] += kInt16BlockBytes;
  }
  MNEME_LINEAR_UNROLL(16)
  for (size_t v = 0; v < kVectors; ++v) {
    const uint8_t* scales = strip.scales[v / kPerGroup] + v % kPerGroup * kLanes * 4;
    const VF scale_w = hn::LoadU(df, reinterpret_cast<const float*>(scales));
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      const float* from = sums_at.from + (first_row + i) * sums_at.from_stride + v * kLanes;
      float* to = sums_at.to + (first_row + i) * sums_at.to_stride + v * kLanes;
      hn::StoreU(hn::MulAdd(strips[v][i], scale_w, hn::LoadU(df, from)), df, to);
    }
  }
}

// sums.to = sums.from + the strip's products, for all rows of the tile.
inline void MultiplyInt16Tile(const Int16Strip& strip, const Int16TileView& tile, const TileSums& sums) {
  size_t row = 0;
  for (; row + kTileRows <= tile.rows; row += kTileRows) Int16TileKernel<kTileRows>(strip, tile, row, sums);
  switch (tile.rows - row) {
    case 1:
      return Int16TileKernel<1>(strip, tile, row, sums);
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    case 2:
      return Int16TileKernel<2>(strip, tile, row, sums);
    case 3:
      return Int16TileKernel<3>(strip, tile, row, sums);
    case 4:
      return Int16TileKernel<4>(strip, tile, row, sums);
    case 5:
      return Int16TileKernel<5>(strip, tile, row, sums);
#endif
    default:
      return;
  }
}

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
