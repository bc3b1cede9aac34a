// Products of float weights packed as pairs of bfloat16 with activations rounded to bfloat16. Included by
// linear.cc once per target and kind of instruction, as pairs-inl.h. No include guard.
//
// Lanes are output rows; each piece of kPairPiece pairs of columns is summed from zero, pair after pair, and
// the pieces are added in order.
#include "kernels/simd/pairs-inl.h"

#if MNEME_PAIRS_NATIVE
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace mneme {
namespace HWY_NAMESPACE {
namespace MNEME_PAIRS_NAMESPACE {

inline void RoundRows(const float* x, size_t stride, size_t rows, size_t cols, uint32_t* out) {
  for (size_t i = 0; i < rows; ++i) RoundPairs(x + i * stride, 1.0f, cols, out + i * linear::kPairStep);
}

// totals[i][kGroups * 16] += the products of num_pairs pairs, at most kPairPiece. weights: kGroups pointers
// to [num_pairs][16]; x as RoundRows leaves it.
template <size_t kRows>
HWY_NOINLINE void PairTile(const uint8_t* const* HWY_RESTRICT weights, const uint32_t* HWY_RESTRICT x,
                           size_t num_pairs, float* HWY_RESTRICT totals, size_t out_stride) {
  constexpr size_t kPerGroup = linear::kGroupRows / kLanes;
  constexpr size_t kVectors = linear::HWY_NAMESPACE::kGroups * kPerGroup;
  const DF d;
  const DU du;
  VF sums[kVectors][kRows];
  MNEME_LINEAR_UNROLL(16)
  for (size_t v = 0; v < kVectors; ++v) {
    MNEME_LINEAR_UNROLL(12)
    for (size_t i = 0; i < kRows; ++i) sums[v][i] = hn::Zero(d);
  }
  for (size_t k = 0; k < num_pairs; ++k) {
    VU w[kVectors];
    MNEME_LINEAR_UNROLL(16)
    for (size_t v = 0; v < kVectors; ++v) {
      const auto* from = reinterpret_cast<const uint32_t*>(weights[v / kPerGroup]);
      w[v] = hn::LoadU(du, from + k * linear::kGroupRows + v % kPerGroup * kLanes);
    }
    MNEME_LINEAR_UNROLL(12)
    for (size_t i = 0; i < kRows; ++i) {
      const VU pair = hn::Set(du, LoadPair(x + i * linear::kPairStep + k));
      MNEME_LINEAR_UNROLL(16)
      for (size_t v = 0; v < kVectors; ++v) sums[v][i] = AddProducts(sums[v][i], w[v], pair);
    }
  }
  MNEME_LINEAR_UNROLL(12)
  for (size_t i = 0; i < kRows; ++i) {
    MNEME_LINEAR_UNROLL(16)
    for (size_t v = 0; v < kVectors; ++v) {
      float* to = totals + i * out_stride + v * kLanes;
      hn::StoreU(hn::Add(hn::LoadU(d, to), sums[v][i]), d, to);
    }
  }
}

// Rows beyond `rows` of a tile are computed and not used.
inline void MultiplyPairTile(const uint8_t* const* weights, const uint32_t* x, size_t rows, size_t num_pairs,
                             float* totals, size_t out_stride) {
  constexpr size_t kMost = linear::HWY_NAMESPACE::kPackedRows;
  for (; rows > kMost; rows -= kMost, x += kMost * linear::kPairStep, totals += kMost * out_stride)
    PairTile<kMost>(weights, x, num_pairs, totals, out_stride);
  const auto tile = rows <= 1   ? PairTile<1>
                    : rows <= 2 ? PairTile<2>
                    : rows <= 4 ? PairTile<4>
                    : rows <= 6 ? PairTile<6>
                                : PairTile<kMost>;
  tile(weights, x, num_pairs, totals, out_stride);
}

constexpr LinearPairKernels kLinearPairs = {RoundRows, MultiplyPairTile};

}  // namespace MNEME_PAIRS_NAMESPACE
}  // namespace HWY_NAMESPACE
}  // namespace mneme
#if MNEME_PAIRS_NATIVE
HWY_POP_ATTRIBUTES
#else
HWY_AFTER_NAMESPACE();
#endif
