// The kernel that decoding one token spends its time in: one row of activations, packed integer weights.
// Memory sets its pace, so it does nothing but read on: no calls, no scratch.
// Included by linear.cc once per target.
//
// Order of operations as in linear_tile-inl.h, so the bits are those of any other number of rows.
#include "kernels/linear_layout.h"
#include "kernels/linear_tile-inl.h"

#if defined(MNEME_KERNELS_LINEAR_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_LINEAR_ROW_INL_H_
#undef MNEME_KERNELS_LINEAR_ROW_INL_H_
#else
#define MNEME_KERNELS_LINEAR_ROW_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"

#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme::linear::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

// How far ahead of its reads a decoding thread asks for memory. Units of two blocks need no asking: cores and
// their prefetchers follow them. The longer units of super-blocks they lose.
template <ChunkLayout kLayout>
constexpr size_t kAheadBytes = kLayout == ChunkLayout::kQ4_K   ? 2 * UnitBytes(kLayout)
                               : kLayout == ChunkLayout::kQ6_K ? UnitBytes(kLayout)
                                                               : 0;

// Asks for the line that is read kAheadBytes after `from`.
template <ChunkLayout kLayout>
HWY_INLINE void AskAhead(const uint8_t* from) {
  if constexpr (kAheadBytes<kLayout> != 0) hwy::Prefetch(from + kAheadBytes<kLayout>);
}

// Scales and minimums of q4_k, taken from a unit's head block by block; blocks from the fourth on, kLate,
// keep theirs elsewhere than the first four. UnitScales expands all of them first, which pays for several
// rows; with one row it costs a twentieth of the speed.
template <bool kLate>
struct HeadScalesQ4_K {
  const uint8_t* HWY_RESTRICT head = nullptr;

  HWY_INLINE VF Scale(size_t block, size_t lane) const {
    const DI di;
    const VI own = Load(0, block, lane);
    if constexpr (!kLate) return Scaled(0, hn::And(own, hn::Set(di, 63)), lane);
    return Scaled(0, WithHighBits(hn::And(Load(2, block, lane), hn::Set(di, 15)), own), lane);
  }
  HWY_INLINE VF Minimum(size_t block, size_t lane) const {
    const VI own = Load(1, block, lane);
    if constexpr (!kLate) return Scaled(kGroupRows * 2, hn::And(own, hn::Set(DI(), 63)), lane);
    return Scaled(kGroupRows * 2, WithHighBits(hn::ShiftRight<4>(Load(2, block, lane)), own), lane);
  }

 private:
  // Plane `plane` of [4 blocks][16 rows] bytes.
  HWY_INLINE VI Load(size_t plane, size_t block, size_t lane) const {
    const hn::Rebind<uint8_t, DF> db;
    const uint8_t* from = head + kUnitFactorBytes + (plane * 4 + block % 4) * kGroupRows + lane;
    return hn::PromoteTo(DI(), hn::LoadU(db, from));
  }
  static HWY_INLINE VI WithHighBits(VI low, VI own) {
    return hn::Or(low, hn::And(hn::ShiftRight<2>(own), hn::Set(DI(), 48)));
  }
  HWY_INLINE VF Scaled(size_t factors, VI value, size_t lane) const {
    return hn::Mul(LoadFactors(head + factors, lane), hn::ConvertTo(DF(), value));
  }
};

// What block `block` of a unit adds for the outputs of one vector, but for the activations' scale: scale_w *
// dot.
template <ChunkLayout kLayout, class Scales>
HWY_INLINE VF ScaledBlock(const uint8_t* HWY_RESTRICT weights, size_t lane,
                          const uint8_t* HWY_RESTRICT values, const uint8_t* HWY_RESTRICT corrections,
                          const Scales& scales, size_t block) {
  constexpr size_t kParts = kLayout == ChunkLayout::kQ6_K ? 2 : 1;
  constexpr size_t kSteps = kStepsPerBlock / kParts;
  constexpr bool kIsNibbles = LayoutBlockBytes(kLayout) == kBlockBytes / 2;
  using DotType = Dot<kOffsetOf<kLayout, kLayout == ChunkLayout::kQ4_K> >;
  const DI di;
  VF scaled = hn::Zero(DF());
  MNEME_LINEAR_UNROLL(2)
  for (size_t part = 0; part < kParts; ++part) {
    VI dot = DotType::kCorrect ? StartOf<kLayout>(corrections + part * 4) : hn::Zero(di);
    MNEME_LINEAR_UNROLL(8)
    for (size_t step = part * kSteps; step < (part + 1) * kSteps; ++step) {
      if (lane == 0 && step % 2 == 0) AskAhead<kLayout>(weights + step / 2 * 64);
      if (lane == 0 && !kIsNibbles && step % 4 == 1)
        AskAhead<kLayout>(weights + kBlockBytes / 2 + step / 4 * 64);
      const DotType prepared(LoadStep<kLayout>(weights, step, lane * 4));
      dot = prepared.Add(dot, hn::Set(di, LoadWord(values + step * 4)));
    }
    const VF value = hn::ConvertTo(DF(), dot);
    const VF scale = scales.Scale(block * kParts + part, lane);
    scaled = part == 0 ? hn::Mul(value, scale) : hn::MulAdd(value, scale, scaled);
  }
  return scaled;
}

// One row of activations and whole rows of packed weights: kGroups groups, each read from end to end. totals
// [kGroups][16] += the products.
template <ChunkLayout kLayout>
HWY_NOINLINE void RowKernel(const uint8_t* const* HWY_RESTRICT packed, const ActTileView& tile,
                            float* HWY_RESTRICT totals) {
  constexpr bool kMinimum = kLayout == ChunkLayout::kQ4_K;
  constexpr bool kHalves = kLayout == ChunkLayout::kQ6_K;
  constexpr size_t kUnit = UnitBlocks(kLayout);
  constexpr size_t kPerGroup = kGroupRows / kLanes;
  const DF df;
  const uint8_t* HWY_RESTRICT values = tile.values(0);
  const uint8_t* HWY_RESTRICT heads = tile.heads(0);
  const uint8_t* HWY_RESTRICT corrections = kHalves ? tile.halves(0) : tile.heads(0) + 4;
  const uint8_t* HWY_RESTRICT sums_x = tile.sums(0);
  const uint8_t* at[kGroups];
  for (size_t g = 0; g < kGroups; ++g) at[g] = packed[g];
  for (size_t first = 0, blocks; first < tile.blocks; first += blocks) {
    blocks = ChunkBlocksAt(first, tile.blocks);
    VF sums[kVectors];
    MNEME_LINEAR_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) sums[v] = hn::Zero(df);
    for (size_t unit = 0; unit < blocks; unit += kUnit) {
      MNEME_LINEAR_UNROLL(2)
      for (size_t g = 0; g < kGroups; ++g) {
        for (size_t line = 0; line < UnitHeadBytes(kLayout); line += 64) AskAhead<kLayout>(at[g] + line);
      }
      const auto add = [&](size_t j, const auto& scales) HWY_ATTR {
        const VF scale_x = hn::Set(df, LoadFloat(heads));
        MNEME_LINEAR_UNROLL(8)
        for (size_t v = 0; v < kVectors; ++v) {
          const size_t g = v / kPerGroup;
          const size_t lane = v % kPerGroup * kLanes;
          const uint8_t* weights = at[g] + UnitHeadBytes(kLayout) + j * LayoutBlockBytes(kLayout);
          const VF scaled = ScaledBlock<kLayout>(weights, lane, values, corrections, scales[g], j);
          sums[v] = hn::MulAdd(scaled, scale_x, sums[v]);
          if constexpr (kMinimum)
            sums[v] = hn::MulAdd(scales[g].Minimum(j, lane), hn::Set(df, LoadFloat(sums_x)), sums[v]);
        }
        values += kBlockCols;
        heads += 8;
        corrections += 8;
        sums_x += 4;
      };
      const size_t count = HWY_MIN(kUnit, blocks - unit);
      if constexpr (kLayout == ChunkLayout::kQ4_K) {
        HeadScalesQ4_K<false> early[kGroups];
        HeadScalesQ4_K<true> late[kGroups];
        for (size_t g = 0; g < kGroups; ++g) early[g].head = late[g].head = at[g];
        MNEME_LINEAR_UNROLL(1)
        for (size_t j = 0; j < HWY_MIN(count, size_t{4}); ++j) add(j, early);
        MNEME_LINEAR_UNROLL(1)
        for (size_t j = 4; j < count; ++j) add(j, late);
      } else {
        UnitScales<kLayout> scales[kGroups];
        for (size_t g = 0; g < kGroups; ++g) scales[g].Set(at[g]);
        if constexpr (kUnit == 2) {
          add(0, scales);
          if (count == 2) add(1, scales);
        } else {
          for (size_t j = 0; j < count; ++j) add(j, scales);
        }
      }
      MNEME_LINEAR_UNROLL(2)
      for (size_t g = 0; g < kGroups; ++g)
        at[g] += UnitHeadBytes(kLayout) + count * LayoutBlockBytes(kLayout);
    }
    MNEME_LINEAR_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v)
      hn::StoreU(hn::Add(hn::LoadU(df, totals + v * kLanes), sums[v]), df, totals + v * kLanes);
  }
}

// As RowKernel.
inline void MultiplyRow(ChunkLayout layout, const uint8_t* const* packed, const ActTileView& tile,
                        float* totals) {
  const auto run = layout == ChunkLayout::kQ8_0   ? RowKernel<ChunkLayout::kQ8_0>
                   : layout == ChunkLayout::kQ4_0 ? RowKernel<ChunkLayout::kQ4_0>
                   : layout == ChunkLayout::kQ4_K ? RowKernel<ChunkLayout::kQ4_K>
                                                  : RowKernel<ChunkLayout::kQ6_K>;
  run(packed, tile, totals);
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
