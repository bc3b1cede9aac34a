// Attention over bfloat16 keys and values: products of pairs into float32. No include guard, as pairs-inl.h.
//
// Keys are pairs of dimensions, values pairs of tokens (kv_block.h). Every element of a product takes its
// pairs one after the other in order, whatever the tile.
//
// The instruction takes subnormal numbers for zero, in the sums too. That leaves rows independent of their
// neighbours: a pair of weight zero adds nothing to a sum that is not subnormal, and every row that sees a
// token of a block adds a pair of its own before and after.

#include "kernels/simd/pairs-inl.h"

#if MNEME_PAIRS_NATIVE
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme {
namespace HWY_NAMESPACE {
namespace MNEME_PAIRS_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// acc[r][v] += pair a[r * a_stride] times the pairs b[v * kLanes + lane]. With kMasked, only the halves of b
// in mask exist.
template <size_t R, size_t NV, bool kMasked>
HWY_INLINE void AddPairs(const uint32_t* HWY_RESTRICT b, uint32_t mask, const uint32_t* HWY_RESTRICT a,
                         size_t a_stride, VF (&acc)[R][NV]) {
  const DU du;
  VU columns[NV];
  MNEME_UNROLL
  for (size_t v = 0; v < NV; ++v) {
    columns[v] = hn::LoadU(du, b + v * kLanes);
    if constexpr (kMasked) columns[v] = hn::And(columns[v], hn::Set(du, mask));
  }
  MNEME_UNROLL
  for (size_t r = 0; r < R; ++r) {
    const VU factor = hn::Set(du, LoadPair(a + r * a_stride));
    MNEME_UNROLL
    for (size_t v = 0; v < NV; ++v) acc[r][v] = AddProducts(acc[r][v], factor, columns[v]);
  }
}

template <size_t R, size_t NV>
HWY_INLINE void ScoreColumns(PairScoreArgs& args, size_t column) {
  const DF d;
  VF acc[R][NV];
  MNEME_UNROLL
  for (size_t r = 0; r < R; ++r) {
    MNEME_UNROLL
    for (size_t v = 0; v < NV; ++v) acc[r][v] = hn::Zero(d);
  }
  const uint32_t* HWY_RESTRICT keys = args.keys + column;
  const uint32_t* HWY_RESTRICT q = args.q;
  for (size_t i = 0; i < args.num_pairs; ++i, ++q, keys += kBlockTokens) {
    args.prefetcher.Step<(NV * kLanes * 4 + 63) / 64>();
    AddPairs<R, NV, false>(keys, 0, q, args.num_pairs, acc);
  }
  MNEME_UNROLL
  for (size_t r = 0; r < R; ++r) {
    MNEME_UNROLL
    for (size_t v = 0; v < NV; ++v) {
      hn::Store(acc[r][v], d, args.s + r * kBlockTokens + column + v * kLanes);
    }
  }
}

// s[r][t] = <q_r, k_t> for the tokens [begin, end) of a block and those that share a vector with them.
template <size_t R>
HWY_NOINLINE void ScoreRows(PairScoreArgs args) {
  constexpr size_t NV = kVectorsOf(R);
  const size_t end = hwy::RoundUpTo(args.end, kLanes);
  size_t column = args.begin / kLanes * kLanes;
  for (; column + NV * kLanes <= end; column += NV * kLanes) ScoreColumns<R, NV>(args, column);
  if constexpr (NV > 2) {
    for (; column + 2 * kLanes <= end; column += 2 * kLanes) ScoreColumns<R, 2>(args, column);
  }
  if constexpr (NV > 1) {
    for (; column < end; column += kLanes) ScoreColumns<R, 1>(args, column);
  }
}

// 2^x for x <= 126, for weights that are rounded to bfloat16 next: relative error 7.6e-5; 0 for x < -125. A
// product keeps a NaN, which arithmetic on exponent bits does not.
HWY_INLINE VF Exp2ForRounding(VF x) {
  const DF d;
  VF r;
  const VF power = NearestPower(d, x, r);
  VF poly = hn::Set(d, 0.055171669074864f);
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.2426111221943308f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.6932609854573362f));
  poly = hn::MulAdd(poly, r, hn::Set(d, 0.9999280735404956f));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -125.0f)), hn::Mul(poly, power));
}

// SoftmaxRow with weights as pairs of tokens, rounded, and their sum that of the rounded ones: values that
// are all alike come out as they are. Weights of tokens that share no pair of vectors with [low, high) are
// not written.
inline void SoftmaxRow(const LogitRule& rule, int32_t low, int32_t high, float* HWY_RESTRICT s,
                       uint32_t* HWY_RESTRICT p, float* reference, float* HWY_RESTRICT lane_sums,
                       float* correction) {
  const DF d;
  constexpr size_t kStep = 2 * kLanes;
  const size_t first = static_cast<size_t>(low) / kStep * kStep;
  const size_t last = std::min(kBlockTokens, hwy::RoundUpTo(static_cast<size_t>(high), kStep));
  FinishLogits(rule, low, high, first, last, s);
  VF largest = hn::Set(d, kMinusInfinity);
  for (size_t t = first; t < last; t += kStep) {
    largest = hn::Max(largest, hn::Max(hn::Load(d, s + t), hn::Load(d, s + t + kLanes)));
  }
  *correction = MoveReference(largest, reference);
  const VF from = hn::Set(d, FiniteReference(*reference));
  VF sums = hn::Mul(hn::LoadU(d, lane_sums), hn::Set(d, *correction));
  for (size_t t = first; t < last; t += kStep) {
    const RoundedPairs pairs(Exp2ForRounding(hn::Sub(hn::Load(d, s + t), from)),
                             Exp2ForRounding(hn::Sub(hn::Load(d, s + t + kLanes), from)));
    pairs.Store(p + t / 2);
    sums = pairs.AddTo(sums);
  }
  hn::StoreU(sums, d, lane_sums);
}

template <size_t R, size_t NV>
HWY_INLINE void ValueColumns(PairValueArgs& args, size_t column) {
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
  // What lies in the other half of a pair that is cut must not be multiplied: it may be NaN.
  constexpr size_t kStride = kBlockTokens / 2;
  const uint32_t* HWY_RESTRICT p = args.p + args.begin / 2;
  const uint32_t* HWY_RESTRICT values = args.values + args.begin / 2 * args.value_dim + column;
  if (args.begin % 2 != 0) {
    AddPairs<R, NV, true>(values, 0xFFFF0000u, p++, kStride, acc);
    values += args.value_dim;
  }
  for (const uint32_t* end = args.p + args.end / 2; p < end; values += args.value_dim) {
    args.prefetcher.Step<(NV * kLanes * 4 + 63) / 64>();
    AddPairs<R, NV, false>(values, 0, p++, kStride, acc);
  }
  if (args.end % 2 != 0) AddPairs<R, NV, true>(values, 0x0000FFFFu, p, kStride, acc);
  MNEME_UNROLL
  for (size_t r = 0; r < R; ++r) {
    MNEME_UNROLL
    for (size_t v = 0; v < NV; ++v) {
      hn::StoreU(acc[r][v], d, acc_rows + r * args.acc_stride + v * kLanes);
    }
  }
}

// acc[r][columns] = acc[r][columns] * corrections[r] + sum over tokens in [begin, end) of p[r][t] * v[t].
template <size_t R>
HWY_NOINLINE void ValueRows(PairValueArgs args) {
  constexpr size_t NV = kVectorsOf(R);
  size_t column = 0;
  for (; column + NV * kLanes <= args.num_columns; column += NV * kLanes) ValueColumns<R, NV>(args, column);
  if constexpr (NV > 2) {
    for (; column + 2 * kLanes <= args.num_columns; column += 2 * kLanes) ValueColumns<R, 2>(args, column);
  }
  if constexpr (NV > 1) {
    for (; column < args.num_columns; column += kLanes) ValueColumns<R, 1>(args, column);
  }
}

inline void ScoreRowsOf(size_t rows, const PairScoreArgs& args) {
  WithRows(rows, [&](auto count) { ScoreRows<decltype(count)::value>(args); });
}
inline void ValueRowsOf(size_t rows, const PairValueArgs& args) {
  WithRows(rows, [&](auto count) { ValueRows<decltype(count)::value>(args); });
}

constexpr PairKernels kKernels = {RoundPairs, ScoreRowsOf, SoftmaxRow, ValueRowsOf};

}  // namespace MNEME_PAIRS_NAMESPACE
}  // namespace HWY_NAMESPACE
}  // namespace mneme
#if MNEME_PAIRS_NATIVE
HWY_POP_ATTRIBUTES
#else
HWY_AFTER_NAMESPACE();
#endif
