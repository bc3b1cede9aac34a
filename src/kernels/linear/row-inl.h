// The kernel that decoding one token spends its time in: one row of activations, packed integer weights.
// Memory sets its pace, so it does nothing but read on: no calls, no scratch.
// Included by linear.cc once per target.
//
// Order of operations as in tile-inl.h, so the bits are those of any other number of rows.
#include <array>
#include <type_traits>
#include <utility>

#include "kernels/linear/layout.h"
#include "kernels/linear/tile-inl.h"

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

// How far ahead of its reads a decoding thread asks for memory: what 16 blocks take. With q8_0, whose lines
// take the fewest instructions, a core's prefetchers keep up by themselves; with the others they fall behind
// by a sixth, and by two fifths where units are long.
template <ChunkLayout kLayout>
constexpr size_t kAheadBytes = kLayout == ChunkLayout::kQ8_0 ? 0 : BlockShareBytes(kLayout) * kChunkBlocks;

// Asks for the line that is read kAheadBytes after `from`.
template <ChunkLayout kLayout>
HWY_INLINE void AskAhead(const uint8_t* from) {
  if constexpr (kAheadBytes<kLayout> != 0) hwy::Prefetch(from + kAheadBytes<kLayout>);
}

// For step `step` of a block its part of the block's lines, in the order in which they lie.
template <ChunkLayout kLayout>
HWY_INLINE void AskAheadForStep(const uint8_t* block, size_t step) {
  constexpr size_t kLines = LayoutBlockBytes(kLayout) / 64;
  const size_t end = CeilDivide((step + 1) * kLines, kStepsPerBlock);
  for (size_t line = CeilDivide(step * kLines, kStepsPerBlock); line < end; ++line)
    AskAhead<kLayout>(block + line * 64);
}

// Hides from the compiler that `v` lies in memory too. Left alone, compilers read a line again for each of
// its steps, as an operand; while memory is awaited that takes more places in the queue of loads.
HWY_INLINE void KeepInRegister(VU8& v) {
#if HWY_ARCH_X86 && !HWY_COMPILER_MSVC && HWY_TARGET != HWY_EMU128
#if HWY_TARGET <= HWY_AVX3
  asm("" : "+v"(v.raw));
#else
  asm("" : "+x"(v.raw));
#endif
#else
  (void)v;
#endif
}

// Scales and minimums of six bits, made where they are used; factors are widened once per super-block.
// UnitScales expands a unit first, which pays for several rows only.
template <ChunkLayout kLayout>
class RowSixBits {
 public:
  // As UnitScales::Set.
  HWY_INLINE void Set(const uint8_t* head, size_t unit) {
    head_ = head;
    if (unit % kSuperUnits != 0) return;
    MNEME_LINEAR_UNROLL(8)
    for (size_t v = 0; v < 2 * kPerGroup; ++v) factors_[v] = SuperFactors<kLayout, kLanes>(head, v * kLanes);
  }
  HWY_INLINE VF Scale(size_t block, size_t lane) const {
    return hn::Mul(factors_[lane / kLanes], hn::ConvertTo(DF(), Low(block, lane)));
  }
  HWY_INLINE VF Minimum(size_t block, size_t lane) const {
    const VI minimum = block == 0 ? Low(2, lane) : High(lane);
    return hn::Mul(factors_[kPerGroup + lane / kLanes], hn::ConvertTo(DF(), minimum));
  }

 private:
  static constexpr size_t kPerGroup = kGroupRows / kLanes;

  HWY_INLINE VI Plane(size_t plane, size_t lane) const {
    const hn::Rebind<uint8_t, DF> db;
    return hn::PromoteTo(DI(), hn::LoadU(db, head_ + plane * kGroupRows + lane));
  }
  HWY_INLINE VI Low(size_t plane, size_t lane) const {
    return hn::And(Plane(plane, lane), hn::Set(DI(), 63));
  }
  HWY_INLINE VI High(size_t lane) const {
    const VI low = hn::ShiftRight<6>(Plane(0, lane));
    const VI middle = hn::And(hn::ShiftRight<4>(Plane(1, lane)), hn::Set(DI(), 12));
    return hn::Or(hn::Or(low, middle), hn::And(hn::ShiftRight<2>(Plane(2, lane)), hn::Set(DI(), 48)));
  }

  const uint8_t* head_ = nullptr;
  VF factors_[2 * kPerGroup];
};

template <ChunkLayout kLayout>
using RowScales = std::conditional_t<TraitsOf(kLayout).head == UnitHead::kSixBits, RowSixBits<kLayout>,
                                     UnitScales<kLayout> >;

// The products of one part of a block, for the outputs of one vector.
template <ChunkLayout kLayout>
HWY_INLINE VI DotOfPart(const uint8_t* HWY_RESTRICT weights, size_t lane, const uint8_t* HWY_RESTRICT values,
                        const uint8_t* HWY_RESTRICT corrections, size_t part) {
  constexpr LayoutTraits kTraits = TraitsOf(kLayout);
  constexpr size_t kSteps = kStepsPerBlock / PartsOf(kLayout);
  using DotType = Dot<kTraits.offset>;
  const DI di;
  VI dot = hn::Zero(di);
  if constexpr (DotType::kCorrect) dot = StartOf<kLayout>(corrections + part * 4);
  VU8 low = hn::Zero(DU8());
  VU8 high = hn::Zero(DU8());
  MNEME_LINEAR_UNROLL(8)
  for (size_t step = part * kSteps; step < (part + 1) * kSteps; ++step) {
    if (lane == 0) AskAheadForStep<kLayout>(weights, step);
    if (step % HWY_MIN(kSteps, StepsPerLine(kTraits.low_bits)) == 0) {
      low = LoadLow<kLayout>(weights, step, lane * 4);
      if constexpr (kTraits.low_bits < 8) KeepInRegister(low);
    }
    if (step % HWY_MIN(kSteps, StepsPerLine(kTraits.high_bits)) == 0) {
      high = LoadHigh<kLayout>(weights, step, lane * 4);
      if constexpr (kTraits.high_bits != 0) KeepInRegister(high);
    }
    const DotType prepared(StepOf<kLayout>(low, high, step));
    dot = prepared.Add(dot, hn::Set(di, LoadWord(values + step * 4)));
  }
  return dot;
}

// sum += what block `block` of a unit adds to the outputs of one vector.
template <ChunkLayout kLayout>
HWY_INLINE VF AddBlock(VF sum, const uint8_t* HWY_RESTRICT weights, size_t lane,
                       const uint8_t* HWY_RESTRICT values, const uint8_t* HWY_RESTRICT corrections,
                       VF scale_x, const uint8_t* HWY_RESTRICT sums_x, const RowScales<kLayout>& scales,
                       size_t block) {
  constexpr size_t kParts = PartsOf(kLayout);
  VF scaled = hn::Zero(DF());
  MNEME_LINEAR_UNROLL(2)
  for (size_t part = 0; part < kParts; ++part) {
    const VF dot = hn::ConvertTo(DF(), DotOfPart<kLayout>(weights, lane, values, corrections, part));
    const VF scale = scales.Scale(block * kParts + part, lane);
    scaled = part == 0 ? hn::Mul(dot, scale) : hn::MulAdd(dot, scale, scaled);
  }
  sum = hn::MulAdd(scaled, scale_x, sum);
  if constexpr (TraitsOf(kLayout).kind.minimum) {
    MNEME_LINEAR_UNROLL(2)
    for (size_t part = 0; part < kParts; ++part) {
      const VF minimum = scales.Minimum(block * kParts + part, lane);
      sum = hn::MulAdd(minimum, hn::Set(DF(), LoadFloat(sums_x + part * 4)), sum);
    }
  }
  return sum;
}

// One row of activations and whole rows of packed weights: kGroups groups, each read from end to end. totals
// [kGroups][16] += the products.
template <ChunkLayout kLayout>
HWY_NOINLINE void RowKernel(const uint8_t* const* HWY_RESTRICT packed, const ActTileView& tile,
                            float* HWY_RESTRICT totals) {
  constexpr bool kHalves = TraitsOf(kLayout).kind.halves;
  constexpr size_t kUnit = UnitBlocks(kLayout);
  constexpr size_t kPerGroup = kGroupRows / kLanes;
  const DF df;
  const uint8_t* HWY_RESTRICT values = tile.values(0);
  const uint8_t* HWY_RESTRICT heads = tile.heads(0);
  const uint8_t* HWY_RESTRICT corrections = kHalves ? tile.halves(0) : tile.heads(0) + 4;
  const uint8_t* HWY_RESTRICT sums_x = kHalves ? tile.half_sums(0) : tile.sums(0);
  const uint8_t* at[kGroups];
  for (size_t g = 0; g < kGroups; ++g) at[g] = packed[g];
  for (size_t first = 0, blocks; first < tile.blocks; first += blocks) {
    blocks = ChunkBlocksAt(first, tile.blocks);
    VF sums[kVectors];
    MNEME_LINEAR_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) sums[v] = hn::Zero(df);
    RowScales<kLayout> scales[kGroups];
    for (size_t unit = 0; unit < blocks; unit += kUnit) {
      MNEME_LINEAR_UNROLL(2)
      for (size_t g = 0; g < kGroups; ++g) {
        for (size_t line = 0; line < UnitHeadBytes(kLayout); line += 64) AskAhead<kLayout>(at[g] + line);
      }
      const auto add = [&](size_t j) HWY_ATTR {
        const VF scale_x = hn::Set(df, LoadFloat(heads));
        MNEME_LINEAR_UNROLL(8)
        for (size_t v = 0; v < kVectors; ++v) {
          const size_t g = v / kPerGroup;
          const uint8_t* weights = at[g] + UnitHeadBytes(kLayout) + j * LayoutBlockBytes(kLayout);
          sums[v] = AddBlock<kLayout>(sums[v], weights, v % kPerGroup * kLanes, values, corrections, scale_x,
                                      sums_x, scales[g], j);
        }
        values += kBlockCols;
        heads += 8;
        corrections += 8;
        sums_x += PartsOf(kLayout) * 4;
      };
      const size_t count = HWY_MIN(kUnit, blocks - unit);
      MNEME_LINEAR_UNROLL(2)
      for (size_t g = 0; g < kGroups; ++g) scales[g].Set(at[g], unit / kUnit);
      if constexpr (kUnit == 2) {
        add(0);
        if (count == 2) add(1);
      } else {
        MNEME_LINEAR_UNROLL(1)  // unrolled, every load moves on by more than prefetchers follow
        for (size_t j = 0; j < count; ++j) add(j);
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

using RowFn = void (*)(const uint8_t* const* packed, const ActTileView& tile, float* totals);
template <size_t... kIndices>
constexpr std::array<RowFn, kNumPackedLayouts> RowFns(std::index_sequence<kIndices...>) {
  return {RowKernel<PackedLayoutAt(kIndices)>...};
}

// As RowKernel.
inline void MultiplyRow(ChunkLayout layout, const uint8_t* const* packed, const ActTileView& tile,
                        float* totals) {
  static constexpr auto kFns = RowFns(std::make_index_sequence<kNumPackedLayouts>());
  kFns[PackedIndex(layout)](packed, tile, totals);
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace mneme::linear::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
