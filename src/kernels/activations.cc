// Rounding of activations to 8-bit blocks.
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"
#include "kernels/linear.h"
#include "kernels/linear_layout.h"
#include "kernels/simd_targets.h"

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activations.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::linear::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A block whose largest magnitude is below this counts as zero: 127 / magnitude would overflow.
constexpr float kTiny = 1e-30f;

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
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SSE4
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

// kRows: rows of the tile, 0 if known only at run time.
template <size_t kRows>
HWY_INLINE void QuantiseRows(const float* x, size_t stride, size_t scale_blocks, const ActTileView& tile) {
  const size_t rows = kRows != 0 ? kRows : tile.rows;
  for (size_t row = 0; row < rows; ++row) {
    BlockScale scale{};
    for (size_t block = 0; block < tile.blocks; ++block) {
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

void QuantiseTile(const float* x, size_t stride, size_t scale_blocks, const ActTileView& tile) {
  if (tile.rows == 1) return QuantiseRows<1>(x, stride, scale_blocks, tile);
  if (tile.rows == kActTile) return QuantiseRows<kActTile>(x, stride, scale_blocks, tile);
  QuantiseRows<0>(x, stride, scale_blocks, tile);
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

ActivationRows::ActivationRows(size_t max_rows, size_t max_cols)
    : max_rows_(max_rows), max_cols_(max_cols), quantised_(MakeAligned<uint8_t>(Bytes(max_rows, max_cols))) {}

size_t ActivationRows::Bytes(size_t max_rows, size_t max_cols) {
  return max_rows * linear::QuantisedRowBytes(max_cols);
}

void ActivationRows::Set(const float* x, size_t num_rows, size_t num_cols, size_t stride, ActivationForm form,
                         ThreadPool& pool) {
  MNEME_CHECK(num_rows <= max_rows_ && num_cols <= max_cols_);
  x_ = x;
  num_rows_ = num_rows;
  num_cols_ = num_cols;
  stride_ = stride;
  has_quantised_ = form != ActivationForm::kFloat;
  if (!has_quantised_) return;
  const size_t scale_blocks = form == ActivationForm::kBlocks256 ? 256 / linear::kBlockCols : 1;
  MNEME_CHECK(num_cols % (scale_blocks * linear::kBlockCols) == 0);
  quantised_row_bytes_ = linear::QuantisedRowBytes(num_cols);
  const size_t num_tiles = linear::CeilDivide(num_rows, linear::kActTile);
  const auto quantise = [&](size_t tile, size_t) {
    linear::QuantiseTileDispatch(x + tile * linear::kActTile * stride, stride, scale_blocks,
                                 linear::TileOf(*this, tile));
  };
  if (num_rows * num_cols < kValuesWorthSharing) {
    for (size_t tile = 0; tile < num_tiles; ++tile) quantise(tile, 0);
  } else {
    pool.Run(num_tiles, quantise);
  }
}

}  // namespace mneme
#endif  // HWY_ONCE
