// Products of rows with panels of 64 columns, in registers. Included by recur.cc once per target.
//
// Every output is one chain of fused multiply-adds over the rows of the panel, in order, whatever the tile.

#if defined(MNEME_KERNELS_RECUR_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_RECUR_PANEL_INL_H_
#undef MNEME_KERNELS_RECUR_PANEL_INL_H_
#else
#define MNEME_KERNELS_RECUR_PANEL_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/recur/job.h"
#include "kernels/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::HWY_NAMESPACE {
namespace {

// A tile is so many rows by so many vectors: 24 sums of 32 registers, or 12 of 16.
constexpr size_t kTileRows = 6;
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr size_t kTileVectors = 4;
#else
constexpr size_t kTileVectors = 2;
#endif
constexpr size_t kTileColumns = kTileVectors * kLanes;
static_assert(kRecurPanel % kTileColumns == 0);

// Rows of a panel that are asked for ahead where a single token reads what no cache has.
constexpr size_t kAheadRows = 32;

template <size_t kRows, size_t kVectors>
using Tile = VF[kRows][kVectors];

template <size_t kRows, size_t kVectors>
HWY_INLINE void ClearTile(Tile<kRows, kVectors>& sums) {
  MNEME_UNROLL for (size_t r = 0; r < kRows; ++r) {
    MNEME_UNROLL for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(DF());
  }
}

// sums[r] += sum over k < depth of x[r * stride + k] * panel[k]. Asks for the panel kAhead rows ahead, and
// for as much of what follows it.
template <size_t kRows, size_t kVectors, size_t kAhead = 0>
HWY_INLINE void AddProducts(const float* HWY_RESTRICT x, size_t stride, const float* HWY_RESTRICT panel,
                            size_t depth, Tile<kRows, kVectors>& sums) {
  const DF d;
  for (size_t k = 0; k < depth; ++k) {
    VF columns[kVectors];
    MNEME_UNROLL for (size_t v = 0; v < kVectors; ++v) {
      columns[v] = hn::Load(d, panel + k * kRecurPanel + v * kLanes);
      if constexpr (kAhead > 0) hwy::Prefetch(panel + (k + kAhead) * kRecurPanel + v * kLanes);
    }
    MNEME_UNROLL for (size_t r = 0; r < kRows; ++r) {
      const VF factor = hn::Set(d, x[r * stride + k]);
      MNEME_UNROLL for (size_t v = 0; v < kVectors; ++v) {
        sums[r][v] = hn::MulAdd(factor, columns[v], sums[r][v]);
      }
    }
  }
}

// out[r] = the products of x[r] with kVectors vectors of columns.
template <size_t kRows, size_t kVectors, size_t kAhead = 0>
HWY_INLINE void StoreProducts(const float* x, size_t stride, const float* panel, size_t depth, float* out) {
  Tile<kRows, kVectors> sums;
  ClearTile<kRows, kVectors>(sums);
  AddProducts<kRows, kVectors, kAhead>(x, stride, panel, depth, sums);
  MNEME_UNROLL for (size_t r = 0; r < kRows; ++r) {
    MNEME_UNROLL for (size_t v = 0; v < kVectors; ++v) {
      hn::Store(sums[r][v], DF(), out + r * kRecurPanel + v * kLanes);
    }
  }
}

// The rows of one token with `end` keys: those lines of the panel that hold them, once.
template <size_t kRows>
HWY_INLINE void TokenTimesKeys(const float* x, size_t key_dim, const float* keys, size_t end, float* out) {
  size_t column = 0;
  const auto tile = [&](auto step) HWY_ATTR {
    constexpr size_t kVectors = decltype(step)::value;
    // All but the last vector have only keys that are seen.
    for (; column + (kVectors - 1) * kLanes < end; column += kVectors * kLanes) {
      StoreProducts<kRows, kVectors, kAheadRows>(x, key_dim, keys + column, key_dim, out + column);
    }
  };
  tile(std::integral_constant<size_t, 4>());
  tile(std::integral_constant<size_t, 3>());
  tile(std::integral_constant<size_t, 2>());
  tile(std::integral_constant<size_t, 1>());
}

// out[row][i] = x_row . k_i for the rows of a block's tokens, per_token of each, and the keys up to the
// token's own; what stands behind those is not used.
inline void RowsTimesKeys(const float* x, size_t per_token, const BlockRows& rows, size_t key_dim,
                          const float* keys, float* out) {
  const size_t num_keys = rows.offset + rows.count();
  if (rows.count() == 1) {
    if (per_token == 2) return TokenTimesKeys<2>(x, key_dim, keys, num_keys, out);
    return TokenTimesKeys<1>(x, key_dim, keys, num_keys, out);
  }
  const size_t end = rows.count() * per_token;
  for (size_t column = 0; column < num_keys; column += 2 * kLanes) {
    // Earlier tokens do not see these keys.
    size_t row = column > rows.offset ? (column - rows.offset) * per_token : 0;
    const auto tile = [&](auto step) HWY_ATTR {
      constexpr size_t kStep = decltype(step)::value;
      for (; row + kStep <= end; row += kStep) {
        StoreProducts<kStep, 2>(x + row * key_dim, key_dim, keys + column, key_dim,
                                out + row * kRecurPanel + column);
      }
    };
    tile(std::integral_constant<size_t, kTileRows>());
    tile(std::integral_constant<size_t, 2>());
    tile(std::integral_constant<size_t, 1>());
  }
}

}  // namespace
}  // namespace mneme::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
