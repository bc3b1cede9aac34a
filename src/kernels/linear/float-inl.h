// Products of float weights (f32, f16, bf16) with float32 activations. Included by linear.cc once per target.
//
// Packed weights: lanes are output rows; each strip of 128 columns is summed from zero by one chain of fused
// multiply-adds, and the strips are added in order. Stored weights: lanes are columns, one vector of sums per
// output over all columns, added up at the end.
#include <cstring>

#include "base/half.h"
#include "kernels/linear/layout.h"
#include "kernels/linear/tile-inl.h"

#if defined(MNEME_KERNELS_LINEAR_FLOAT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_LINEAR_FLOAT_INL_H_
#undef MNEME_KERNELS_LINEAR_FLOAT_INL_H_
#else
#define MNEME_KERNELS_LINEAR_FLOAT_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::linear::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DFloat = hn::CappedTag<float, 16>;
using VFloat = hn::Vec<DFloat>;
constexpr size_t kFloatLanes = HWY_MIN(HWY_LANES(float), size_t{16});
constexpr size_t kFloatVectors = kGroups * kGroupRows / kFloatLanes;

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr size_t kPackedRows = 12;  // rows of activations per tile: 24 of 32 registers hold sums
constexpr size_t kStoredRows = 6;
#else
constexpr size_t kPackedRows = 6;
constexpr size_t kStoredRows = 2;
#endif
constexpr size_t kStoredWeights = 4;  // weight rows per tile of the stored form

// Loads kFloatLanes weights as float.
template <Encoding kEncoding>
HWY_INLINE VFloat LoadWeights(const uint8_t* from) {
  const DFloat df;
  if constexpr (kEncoding == Encoding::kF32) {
    return hn::LoadU(df, reinterpret_cast<const float*>(from));
  } else if constexpr (kEncoding == Encoding::kF16) {
#if HWY_TARGET == HWY_SCALAR
    uint16_t half;
    std::memcpy(&half, from, 2);
    return hn::Set(df, F16ToF32(half));
#else
    const hn::Rebind<hwy::float16_t, DFloat> dh;
    return hn::PromoteTo(df, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(from)));
#endif
  } else {
    const hn::Rebind<uint16_t, DFloat> dh;
    const hn::RebindToUnsigned<DFloat> du;
    const auto bits = hn::PromoteTo(du, hn::LoadU(dh, reinterpret_cast<const uint16_t*>(from)));
    return hn::BitCast(df, hn::ShiftLeft<16>(bits));
  }
}

template <Encoding kEncoding>
constexpr size_t kWeightBytes = kEncoding == Encoding::kF32 ? 4 : 2;

// totals[i] += sum over `cols` columns, at most a strip. Activations of row i, column k at x[i * row_step +
// k], row_step being kRowStep unless that is 0. One strip at a time, also where registers would hold several:
// weights then are read as one run per group.
template <Encoding kEncoding, size_t kRows, size_t kRowStep>
HWY_INLINE void PackedStrip(const uint8_t* const* HWY_RESTRICT weights, const float* HWY_RESTRICT x,
                            size_t row_step, size_t cols, float* HWY_RESTRICT totals, size_t out_stride) {
  constexpr size_t kColBytes = kGroupRows * kWeightBytes<kEncoding>;
  constexpr size_t kPerGroup = kGroupRows / kFloatLanes;
  const DFloat df;
  VFloat sums[kFloatVectors][kRows];
  MNEME_LINEAR_UNROLL(16)
  for (size_t v = 0; v < kFloatVectors; ++v) {
    MNEME_LINEAR_UNROLL(12)
    for (size_t i = 0; i < kRows; ++i) sums[v][i] = hn::Zero(df);
  }
  for (size_t k = 0; k < cols; ++k) {
    VFloat w[kFloatVectors];
    MNEME_LINEAR_UNROLL(16)
    for (size_t v = 0; v < kFloatVectors; ++v) {
      w[v] = LoadWeights<kEncoding>(weights[v / kPerGroup] + k * kColBytes +
                                    v % kPerGroup * kFloatLanes * kWeightBytes<kEncoding>);
    }
    MNEME_LINEAR_UNROLL(12)
    for (size_t i = 0; i < kRows; ++i) {
      const VFloat value = hn::Set(df, x[i * (kRowStep != 0 ? kRowStep : row_step) + k]);
      MNEME_LINEAR_UNROLL(16)
      for (size_t v = 0; v < kFloatVectors; ++v) sums[v][i] = hn::MulAdd(w[v], value, sums[v][i]);
    }
  }
  MNEME_LINEAR_UNROLL(12)
  for (size_t i = 0; i < kRows; ++i) {
    MNEME_LINEAR_UNROLL(16)
    for (size_t v = 0; v < kFloatVectors; ++v) {
      float* to = totals + i * out_stride + v * kFloatLanes;
      hn::StoreU(hn::Add(hn::LoadU(df, to), sums[v][i]), df, to);
    }
  }
}

template <Encoding kEncoding, size_t kRows, size_t kRowStep>
HWY_NOINLINE void PackedFloatTile(const uint8_t* const* weights, const float* x, size_t row_step, size_t cols,
                                  float* totals, size_t out_stride) {
  constexpr size_t kColBytes = kGroupRows * kWeightBytes<kEncoding>;
  const uint8_t* at[kGroups];
  for (size_t g = 0; g < kGroups; ++g) at[g] = weights[g];
  while (cols > 0) {
    const size_t count = std::min(cols, kStripCols);
    PackedStrip<kEncoding, kRows, kRowStep>(at, x, row_step, count, totals, out_stride);
    for (size_t g = 0; g < kGroups; ++g) at[g] += count * kColBytes;
    x += count;
    cols -= count;
  }
}

// Rows of activations as they lie, at most 6.
template <Encoding kEncoding>
void PackedFloatDirect(const uint8_t* const* weights, const float* x, size_t stride, size_t rows, size_t cols,
                       float* totals, size_t out_stride) {
  switch (rows) {
    case 1:
      return PackedFloatTile<kEncoding, 1, 0>(weights, x, stride, cols, totals, out_stride);
    case 2:
      return PackedFloatTile<kEncoding, 2, 0>(weights, x, stride, cols, totals, out_stride);
    case 3:
      return PackedFloatTile<kEncoding, 3, 0>(weights, x, stride, cols, totals, out_stride);
    case 4:
      return PackedFloatTile<kEncoding, 4, 0>(weights, x, stride, cols, totals, out_stride);
    case 5:
      return PackedFloatTile<kEncoding, 5, 0>(weights, x, stride, cols, totals, out_stride);
    default:
      return PackedFloatTile<kEncoding, 6, 0>(weights, x, stride, cols, totals, out_stride);
  }
}

// Distance of the rows of a tile's copy: rows of activations are often whole pages apart, where all of them
// meet in one set of the first-level cache.
constexpr size_t kCopyStep = kFloatChunkCols + 16;

// x[rows][cols], rows `stride` apart, to out[kFloatTile][kCopyStep]. Other rows of `out` keep what they held.
inline void CopyActivations(const float* HWY_RESTRICT x, size_t stride, size_t rows, size_t cols,
                            float* HWY_RESTRICT out) {
  for (size_t i = 0; i < rows; ++i) std::memcpy(out + i * kCopyStep, x + i * stride, cols * sizeof(float));
}

// Activations as CopyActivations leaves them; rows beyond `rows` are computed and not used.
template <Encoding kEncoding>
void PackedFloatCopied(const uint8_t* const* weights, const float* x, size_t rows, size_t cols, float* totals,
                       size_t out_stride) {
  if constexpr (kPackedRows == kFloatTile) {
    if (rows > 6)
      return PackedFloatTile<kEncoding, kFloatTile, kCopyStep>(weights, x, 0, cols, totals, out_stride);
    return PackedFloatTile<kEncoding, 6, kCopyStep>(weights, x, 0, cols, totals, out_stride);
  } else {
    for (size_t row = 0; row < rows; row += 6) {
      PackedFloatTile<kEncoding, 6, kCopyStep>(weights, x + row * kCopyStep, 0, cols,
                                               totals + row * out_stride, out_stride);
    }
  }
}

// out[i][n] = sum over columns, for kRows rows of x and kStoredWeights rows of weights.
template <Encoding kEncoding, size_t kRows>
HWY_NOINLINE void StoredFloatTile(const uint8_t* const* HWY_RESTRICT weights, const float* HWY_RESTRICT x,
                                  size_t stride, size_t cols, float (*HWY_RESTRICT out)[kStoredWeights]) {
  const DFloat df;
  VFloat sums[kStoredWeights][kRows];
  MNEME_LINEAR_UNROLL(4)
  for (size_t n = 0; n < kStoredWeights; ++n) {
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) sums[n][i] = hn::Zero(df);
  }
  const auto step = [&](const uint8_t* const* w, const float* const* values) HWY_ATTR {
    VFloat columns[kRows];
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) columns[i] = hn::LoadU(df, values[i]);
    MNEME_LINEAR_UNROLL(4)
    for (size_t n = 0; n < kStoredWeights; ++n) {
      const VFloat row = LoadWeights<kEncoding>(w[n]);
      MNEME_LINEAR_UNROLL(8)
      for (size_t i = 0; i < kRows; ++i) sums[n][i] = hn::MulAdd(row, columns[i], sums[n][i]);
    }
  };
  const size_t whole = cols / kFloatLanes * kFloatLanes;
  for (size_t k = 0; k < whole; k += kFloatLanes) {
    const uint8_t* w[kStoredWeights];
    const float* values[kRows];
    MNEME_LINEAR_UNROLL(4)
    for (size_t n = 0; n < kStoredWeights; ++n) w[n] = weights[n] + k * kWeightBytes<kEncoding>;
    MNEME_LINEAR_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) values[i] = x + i * stride + k;
    step(w, values);
  }
  if (whole < cols) {  // the last columns, padded with zeros
    uint8_t padded[kStoredWeights][kFloatLanes * 4] = {};
    float last[kRows][kFloatLanes] = {};
    const uint8_t* w[kStoredWeights];
    const float* values[kRows];
    for (size_t n = 0; n < kStoredWeights; ++n) {
      std::memcpy(padded[n], weights[n] + whole * kWeightBytes<kEncoding>,
                  (cols - whole) * kWeightBytes<kEncoding>);
      w[n] = padded[n];
    }
    for (size_t i = 0; i < kRows; ++i) {
      std::memcpy(last[i], x + i * stride + whole, (cols - whole) * 4);
      values[i] = last[i];
    }
    step(w, values);
  }
  MNEME_LINEAR_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    MNEME_LINEAR_UNROLL(4)
    for (size_t n = 0; n < kStoredWeights; ++n) out[i][n] = hn::GetLane(hn::SumOfLanes(df, sums[n][i]));
  }
}

template <Encoding kEncoding>
void StoredFloatRows(const uint8_t* const* weights, const float* x, size_t stride, size_t rows, size_t cols,
                     float (*out)[kStoredWeights]) {
  switch (rows) {
    case 1:
      return StoredFloatTile<kEncoding, 1>(weights, x, stride, cols, out);
    case 2:
      return StoredFloatTile<kEncoding, 2>(weights, x, stride, cols, out);
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    case 3:
      return StoredFloatTile<kEncoding, 3>(weights, x, stride, cols, out);
    case 4:
      return StoredFloatTile<kEncoding, 4>(weights, x, stride, cols, out);
    case 5:
      return StoredFloatTile<kEncoding, 5>(weights, x, stride, cols, out);
    case 6:
      return StoredFloatTile<kEncoding, 6>(weights, x, stride, cols, out);
#endif
    default:
      return;
  }
}

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
