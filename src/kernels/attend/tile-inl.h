// One tile of queries against blocks of keys: scores, online softmax, weighted values. Per SIMD target.

#if defined(MNEME_KERNELS_ATTEND_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_ATTEND_TILE_INL_H_
#undef MNEME_KERNELS_ATTEND_TILE_INL_H_
#else
#define MNEME_KERNELS_ATTEND_TILE_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/half.h"
#include "hwy/highway.h"
#include "kernels/attend/job.h"
#include "kernels/attend/softmax-inl.h"
#include "kernels/attend/sources-inl.h"
#include "kernels/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// ---- Encodings and tile heights to template arguments.

// Rows of the register tile that holds `rows` pairs; the rest are zero queries whose results nobody reads.
// Sanitized builds have fewer heights, for the sake of compile time.
#if defined(MNEME_SANITIZED)
inline size_t PadRows(size_t rows) { return rows == 1 ? 1 : rows <= 6 ? 6 : 8; }
#else
inline size_t PadRows(size_t rows) { return rows <= 4 ? rows : rows <= 6 ? 6 : 8; }
#endif

// Calls fn with PadRows' answer as a constant.
template <class Fn>
HWY_INLINE void WithRows(size_t rows, const Fn& fn) {
  switch (rows) {
    case 1:
      return fn(std::integral_constant<size_t, 1>());
#if !defined(MNEME_SANITIZED)
    case 2:
      return fn(std::integral_constant<size_t, 2>());
    case 3:
      return fn(std::integral_constant<size_t, 3>());
    case 4:
      return fn(std::integral_constant<size_t, 4>());
#endif
    case 6:
      return fn(std::integral_constant<size_t, 6>());
    default:
      return fn(std::integral_constant<size_t, 8>());
  }
}

template <class Source>
void ScoreRowsOf(const Source& keys, const uint8_t* scales, size_t key_dim, size_t rows, const float* q,
                 const Prefetcher& prefetcher, float* s) {
  WithRows(rows,
           [&](auto count) { ScoreRows<decltype(count)::value>(keys, scales, key_dim, q, prefetcher, s); });
}

template <class Source>
void ValueRowsOf(const Source& values, size_t rows, const ValueArgs& args) {
  WithRows(rows, [&](auto count) { ValueRows<decltype(count)::value>(values, args); });
}

template <class Fn>
HWY_INLINE void WithKeySource(Encoding encoding, const uint8_t* data, const Fn& fn) {
  switch (encoding) {
    case Encoding::kF32:
      return fn(F32Source{reinterpret_cast<const float*>(data), kBlockTokens});
    case Encoding::kF16:
      return fn(F16Source{reinterpret_cast<const uint16_t*>(data), kBlockTokens});
    case Encoding::kBF16:
      return fn(BF16KeySource{reinterpret_cast<const uint32_t*>(data)});
    case Encoding::kQ8_0:
      return fn(Q8Source{reinterpret_cast<const int8_t*>(data), kBlockTokens});
    default:
      return fn(Q4KeySource{data});
  }
}

// Needs ValuesInPlace. Not bf16, whose values are pairs of tokens.
template <class Fn>
HWY_INLINE void WithValueSource(Encoding encoding, const uint8_t* data, size_t value_dim, const Fn& fn) {
  switch (encoding) {
    case Encoding::kF32:
      return fn(F32Source{reinterpret_cast<const float*>(data), value_dim});
    case Encoding::kF16:
      return fn(F16Source{reinterpret_cast<const uint16_t*>(data), value_dim});
    case Encoding::kQ8_0:
      return fn(Q8Source{reinterpret_cast<const int8_t*>(data), value_dim});
    default:
      return fn(Q4ValueSource{data, value_dim / 2});
  }
}

// Whether rows of values are whole vectors (and whole groups, for q4_0), so that they can be read as they
// lie.
inline bool ValuesInPlace(const KvLayout& layout) {
  return layout.value_dim % (layout.value_encoding == Encoding::kQ4_0 ? kKvGroup : kLanes) == 0;
}

// Stored numbers without their scales as float32, [key_dim][kBlockTokens].
inline void DecodeKeys(const KvLayout& layout, const uint8_t* data, float* HWY_RESTRICT out) {
  WithKeySource(layout.key_encoding, data, [&](const auto& source) {
    const auto row = [&](size_t i, auto odd) {
      for (size_t t = 0; t < kBlockTokens; t += kLanes) {
        hn::Store(source.template Load<decltype(odd)::value>(i, t), DF(), out + i * kBlockTokens + t);
      }
    };
    size_t i = 0;
    for (; i + 2 <= layout.key_dim; i += 2) {
      row(i, std::false_type());
      row(i + 1, std::true_type());
    }
    if (i < layout.key_dim) row(i, std::false_type());
  });
}

// One stored value without its scale: what is left where rows are not whole vectors.
inline float StoredValue(const KvLayout& layout, const uint8_t* data, size_t t, size_t column) {
  const size_t at = t * layout.value_dim + column;
  switch (layout.value_encoding) {
    case Encoding::kF32:
      return reinterpret_cast<const float*>(data)[at];
    case Encoding::kF16:
      return F16ToF32(reinterpret_cast<const uint16_t*>(data)[at]);
    case Encoding::kQ8_0:
      return reinterpret_cast<const int8_t*>(data)[at];
    default: {
      const size_t group_begin = column / kKvGroup * kKvGroup;
      const size_t half = std::min(kKvGroup, layout.value_dim - group_begin) / 2;
      const size_t in_group = column - group_begin;
      const uint8_t* row = data + t * (layout.value_dim / 2) + group_begin / 2;
      return static_cast<float>((in_group < half ? row[in_group] & 15 : row[in_group - half] >> 4) - 8);
    }
  }
}

// Stored numbers without their scales as float32, [kBlockTokens][stride], the end of each row zero.
inline void DecodeValues(const KvLayout& layout, const uint8_t* data, size_t stride,
                         float* HWY_RESTRICT out) {
  if (ValuesInPlace(layout)) {
    WithValueSource(layout.value_encoding, data, layout.value_dim, [&](const auto& source) {
      for (size_t t = 0; t < kBlockTokens; ++t) {
        for (size_t column = 0; column < layout.value_dim; column += kLanes) {
          hn::StoreU(source.template Load<false>(t, column), DF(), out + t * stride + column);
        }
      }
    });
    return;
  }
  // Rows that are not whole vectors. A vector may reach into the rows after it, and is cut there; the last
  // rows have none after them and go value by value, as q4_0 does, whose rows are not arrays.
  size_t whole_rows = 0;
  if (layout.value_encoding != Encoding::kQ4_0) {
    const size_t reach = ValueStride(layout.value_dim) - layout.value_dim;  // beyond the row
    const size_t last_rows = (reach + layout.value_dim - 1) / layout.value_dim;
    whole_rows = kBlockTokens - std::min(kBlockTokens, last_rows);
    WithValueSource(layout.value_encoding, data, layout.value_dim, [&](const auto& source) {
      const DF d;
      for (size_t t = 0; t < whole_rows; ++t) {
        for (size_t column = 0; column < stride; column += kLanes) {
          const size_t count = layout.value_dim - std::min(layout.value_dim, column);
          const VF values = source.template Load<false>(t, column);
          hn::StoreU(hn::IfThenElseZero(hn::FirstN(d, count), values), d, out + t * stride + column);
        }
      }
    });
  }
  for (size_t t = whole_rows; t < kBlockTokens; ++t) {
    for (size_t column = 0; column < layout.value_dim; ++column) {
      out[t * stride + column] = StoredValue(layout, data, t, column);
    }
    std::fill(out + t * stride + layout.value_dim, out + (t + 1) * stride, 0.0f);
  }
}

// Values out of decoded keys, [kBlockTokens][stride], the end of each row zero.
inline void TurnKeys(const KvLayout& layout, const float* HWY_RESTRICT keys, size_t stride,
                     float* HWY_RESTRICT out) {
  const hn::CappedTag<float, 4> d;
  const float* from = keys + FirstValueKey(layout) * kBlockTokens;
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  for (; i + 4 <= layout.value_dim; i += 4, from += 4 * kBlockTokens) {
    for (size_t t = 0; t < kBlockTokens; t += 4) {
      // Four tokens of four dimensions.
      const auto a = hn::Load(d, from + t), b = hn::Load(d, from + kBlockTokens + t);
      const auto c = hn::Load(d, from + 2 * kBlockTokens + t), e = hn::Load(d, from + 3 * kBlockTokens + t);
      const auto ab_low = hn::InterleaveLower(d, a, b), ab_high = hn::InterleaveUpper(d, a, b);
      const auto ce_low = hn::InterleaveLower(d, c, e), ce_high = hn::InterleaveUpper(d, c, e);
      float* const to = out + t * stride + i;
      hn::StoreU(hn::ConcatLowerLower(d, ce_low, ab_low), d, to);
      hn::StoreU(hn::ConcatUpperUpper(d, ce_low, ab_low), d, to + stride);
      hn::StoreU(hn::ConcatLowerLower(d, ce_high, ab_high), d, to + 2 * stride);
      hn::StoreU(hn::ConcatUpperUpper(d, ce_high, ab_high), d, to + 3 * stride);
    }
  }
#endif
  for (; i < layout.value_dim; ++i, from += kBlockTokens) {
    for (size_t t = 0; t < kBlockTokens; ++t) out[t * stride + i] = from[t];
  }
  for (size_t t = 0; t < kBlockTokens; ++t) {
    std::fill(out + t * stride + layout.value_dim, out + (t + 1) * stride, 0.0f);
  }
}

// ---- Products of bfloat16 pairs (attend_pairs-inl.h).

struct PairScoreArgs {
  const uint32_t* keys;  // [num_pairs][kBlockTokens]
  const uint32_t* q;     // [R][num_pairs]
  size_t num_pairs;      // of dimensions
  size_t begin, end;     // tokens that some row sees
  Prefetcher prefetcher;
  float* s;  // [R][kBlockTokens]
};

struct PairValueArgs {
  const uint32_t* values;  // [kBlockTokens / 2][value_dim]
  const uint32_t* p;       // [R][kBlockTokens / 2]
  size_t value_dim;
  size_t begin, end;         // tokens
  const float* corrections;  // [R]
  Prefetcher prefetcher;
  float* acc;  // [R][acc_stride]
  size_t acc_stride;
  size_t num_columns;  // a multiple of kLanes
};

struct PairKernels {
  void (*round_query)(const float* from, float factor, size_t dim, uint32_t* to);
  void (*score_rows)(size_t rows, const PairScoreArgs& args);
  void (*softmax_row)(const LogitRule& rule, int32_t low, int32_t high, float* s, uint32_t* p,
                      float* reference, float* lane_sums, float* correction);
  void (*value_rows)(size_t rows, const PairValueArgs& args);
};

}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#define MNEME_PAIRS_NAMESPACE portable_pairs
#define MNEME_PAIRS_NATIVE 0
#include "kernels/attend/pairs-inl.h"
#undef MNEME_PAIRS_NAMESPACE
#undef MNEME_PAIRS_NATIVE

// Highway 1.0.3 has no target with bfloat16 products: asked for beside the target that comes nearest.
#if HWY_TARGET == HWY_AVX3_DL
#define MNEME_PAIRS_NAMESPACE native_pairs
#define MNEME_PAIRS_NATIVE 1
#include "kernels/attend/pairs-inl.h"
#undef MNEME_PAIRS_NAMESPACE
#undef MNEME_PAIRS_NATIVE
#endif

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {

inline const PairKernels& PairKernelsOfMachine() {
#if HWY_TARGET == HWY_AVX3_DL
  static const bool kNative = __builtin_cpu_supports("avx512bf16");
  if (kNative) return native_pairs::kKernels;
#endif
  return portable_pairs::kKernels;
}

// ---- A tile over blocks.

// Asks for the keys of a section, scales and all.
inline void AskForKeys(const AttendJob& job, const uint8_t* section) {
  for (size_t i = 0; i < job.section.values; i += 64) hwy::Prefetch(section + i);
}

class TileKernel {
 public:
  TileKernel(const AttendJob& job, const Tile& tile, const ThreadScratch& scratch)
      : job_(job),
        layout_(job.shape->layout),
        tile_(tile),
        scratch_(scratch),
        pairs_(PairKernelsOfMachine()),
        pair_keys_(layout_.key_encoding == Encoding::kBF16 && !layout_.values_in_keys),
        pair_values_(layout_.value_encoding == Encoding::kBF16 && !layout_.values_in_keys) {
    const bool small = tile.count <= kSmallTile;
    micro_pairs_ = small ? tile.count : kMicroPairs;
    decode_keys_ =
        layout_.values_in_keys || (!small && !pair_keys_ && layout_.key_encoding != Encoding::kF32);
    decode_values_ =
        layout_.values_in_keys ||
        (!pair_values_ && ((!small && layout_.value_encoding != Encoding::kF32) || !ValuesInPlace(layout_)));
    if (job.shape->alibi_slopes != nullptr) FindNearest();
  }

  void Reset(const TileState& state) const {
    const size_t padded = TileState::PaddedPairs(tile_.count);
    std::fill_n(state.references, padded, kMinusInfinity);
    std::fill_n(state.sums, padded, 0.0f);
    std::memset(state.acc, 0, padded * job_.value_stride * sizeof(float));
  }

  // Packs the queries of a span: needed before its blocks.
  void SetSpan(const KvSpan& span) {
    span_ = &span;
    const AttendShape& shape = *job_.shape;
    const size_t key_dim = layout_.key_dim;
    const float factor =
        static_cast<float>(shape.soft_cap != 0 ? double{shape.scale} / shape.soft_cap : shape.scale * kLog2E);
    if (pair_keys_) return RoundQueries(factor);
    for (size_t first = 0; first < tile_.count; first += micro_pairs_) {
      const size_t rows = std::min(micro_pairs_, tile_.count - first);
      const size_t padded = PadRows(rows);
      float* packed = scratch_.q + first * key_dim;
      for (size_t r = 0; r < padded; ++r) {
        if (r >= rows) {
          for (size_t i = 0; i < key_dim; ++i) packed[i * padded + r] = 0;
          continue;
        }
        const float* q = Query(first + r);
        for (size_t i = 0; i < key_dim; ++i) packed[i * padded + r] = q[i] * factor;
      }
    }
  }

  // What the tile reads of a block of the span.
  const uint8_t* Section(int64_t block) const {
    return span_->blocks[block] + tile_.kv_head * job_.section.bytes;
  }

  // Between Begin and End of blocks of one state, which must be empty at first, AddBlock adds one after the
  // other. next: the section that is read after the block, null if unknown.
  void BeginBlocks() const { std::memset(scratch_.lane_sums, 0, tile_.count * kSumLanes * sizeof(float)); }
  void AddBlock(int64_t block, const uint8_t* next, const TileState& state) {
    next_ = next;
    if (SetVisible(block)) OneBlock(block, state);
  }
  void EndBlocks(const TileState& state) const {
    const DF d;
    for (size_t pair = 0; pair < tile_.count; ++pair) {
      const VF sums = hn::LoadU(d, scratch_.lane_sums + pair * kSumLanes);
      state.sums[pair] = hn::GetLane(hn::SumOfLanes(d, sums));
    }
  }

  // Merges the keys of `part` into `total`; an empty side leaves the other exactly as it is.
  void Merge(const TileState& total, const TileState& part) const {
    const DF d;
    const size_t stride = job_.value_stride;
    for (size_t pair = 0; pair < tile_.count; ++pair) {
      const float part_reference = part.references[pair];
      if (part_reference == kMinusInfinity && part.sums[pair] == 0) continue;
      float* HWY_RESTRICT to = total.acc + pair * stride;
      const float* HWY_RESTRICT from = part.acc + pair * stride;
      const float total_reference = total.references[pair];
      if (total_reference == kMinusInfinity && total.sums[pair] == 0) {
        std::memcpy(to, from, stride * sizeof(float));
        total.references[pair] = part_reference;
        total.sums[pair] = part.sums[pair];
        continue;
      }
      const float larger = part_reference > total_reference ? part_reference : total_reference;
      const float reference = FiniteReference(larger);
      const float total_weight = Exp2Scalar(total_reference - reference);
      const float part_weight = Exp2Scalar(part_reference - reference);
      for (size_t i = 0; i < stride; i += kLanes) {
        const VF scaled = hn::Mul(hn::LoadU(d, to + i), hn::Set(d, total_weight));
        hn::StoreU(hn::MulAdd(hn::LoadU(d, from + i), hn::Set(d, part_weight), scaled), d, to + i);
      }
      total.references[pair] = larger;
      total.sums[pair] = total.sums[pair] * total_weight + part.sums[pair] * part_weight;
    }
  }

  // Divides by the sums and writes out and log_sum_exp.
  void Finish(const TileState& state) const {
    const AttendShape& shape = *job_.shape;
    for (size_t pair = 0; pair < tile_.count; ++pair) {
      const size_t head = tile_.Head(job_, pair);
      const size_t index = tile_.Row(job_, pair) * shape.num_heads + head;
      const double slope = shape.alibi_slopes == nullptr ? 0.0 : double{shape.alibi_slopes[head]};
      // Logits in the state are relative to the ALiBi bias of the nearest key.
      const double shift = slope == 0 ? 0.0 : -slope * static_cast<double>(scratch_.nearest[pair]);
      double maximum = double{state.references[pair]} * kLn2 + shift;
      double sum = state.sums[pair];
      double factor = 1.0;
      if (shape.sink_logits != nullptr && shape.sink_logits[head] != kMinusInfinity) {
        const double sink = shape.sink_logits[head];
        const double merged = std::max(maximum, sink);
        factor = std::exp(maximum - merged);
        sum = sum * factor + std::exp(sink - merged);
        maximum = merged;
      }
      float* HWY_RESTRICT out = job_.out + index * layout_.value_dim;
      const float* HWY_RESTRICT acc = state.acc + pair * job_.value_stride;
      const float scale = sum == 0 ? 0.0f : static_cast<float>(factor / sum);
      if (scale == 0) {
        std::fill_n(out, layout_.value_dim, 0.0f);
      } else {
        for (size_t i = 0; i < layout_.value_dim; ++i) out[i] = acc[i] * scale;
      }
      if (job_.log_sum_exp != nullptr) {
        job_.log_sum_exp[index] = sum == 0 ? kMinusInfinity : static_cast<float>(maximum + std::log(sum));
      }
    }
  }

 private:
  // The query of a pair as the span wants it: where it lies, or rotated into the memory of decoded keys,
  // which is free while queries are packed.
  const float* Query(size_t pair) const {
    const size_t row = tile_.Row(job_, pair);
    const float* const q =
        span_->q + (row * job_.shape->num_heads + tile_.Head(job_, pair)) * layout_.key_dim;
    const float* const factors = job_.shape->query_factors;
    if (span_->rope == nullptr && factors == nullptr) return q;
    if (span_->rope != nullptr) {
      Rotate(*job_.shape->rope, span_->rope[row], q, 1, layout_.key_dim, scratch_.keys);
    } else {
      std::copy_n(q, layout_.key_dim, scratch_.keys);
    }
    for (size_t i = 0; factors != nullptr && i < layout_.key_dim; ++i) scratch_.keys[i] *= factors[i];
    return scratch_.keys;
  }

  // The distance of each pair's nearest visible key: ALiBi is counted from there, in integers, so that a
  // query 2^33 tokens from its nearest key loses nothing.
  void FindNearest() const {
    for (size_t pair = 0; pair < tile_.count; ++pair) {
      const size_t row = tile_.Row(job_, pair);
      int64_t nearest = INT64_MAX;
      for (const KvSpan& span : job_.spans) {
        if (std::max(span.begin[row], int32_t{0}) >= span.end[row]) continue;
        nearest = std::min(nearest, span.distance[row] - span.distance_step * (int64_t{span.end[row]} - 1));
      }
      scratch_.nearest[pair] = nearest == INT64_MAX ? 0 : nearest;
    }
  }

  // The queries of the span as pairs of dimensions, row after row; zeros to the end of the last register
  // tile.
  void RoundQueries(float factor) const {
    const size_t key_dim = layout_.key_dim;
    const size_t num_pairs = (key_dim + 1) / 2;
    auto* to = reinterpret_cast<uint32_t*>(scratch_.q);
    for (size_t pair = 0; pair < tile_.count; ++pair, to += num_pairs) {
      pairs_.round_query(Query(pair), factor, key_dim, to);
    }
    const size_t last_rows = (tile_.count - 1) % micro_pairs_ + 1;
    std::memset(to, 0, (PadRows(last_rows) - last_rows) * num_pairs * sizeof(uint32_t));
  }

  // Fills low and high for a block; false if no pair sees any of it.
  bool SetVisible(int64_t block) const {
    const int64_t first_key = block * int64_t{kBlockTokens} - static_cast<int64_t>(span_->first_slot);
    bool any = false;
    size_t pair = 0;
    for (size_t row = tile_.row_begin; row < tile_.row_end; ++row) {
      const int64_t begin = std::max(span_->begin[row], int32_t{0}) - first_key;
      const int64_t end = span_->end[row] - first_key;
      const int32_t low = static_cast<int32_t>(std::clamp<int64_t>(begin, 0, kBlockTokens));
      const int32_t high = static_cast<int32_t>(std::clamp<int64_t>(end, 0, kBlockTokens));
      any |= low < high;
      const size_t pair_end = std::min(tile_.count, (row + 1) * job_.group - tile_.first);
      for (; pair < pair_end; ++pair) {
        scratch_.low[pair] = low;
        scratch_.high[pair] = high;
      }
    }
    return any;
  }

  void OneBlock(int64_t block, const TileState& state) const {
    const KvSection& section = job_.section;
    const uint8_t* data = Section(block);
    if (decode_keys_) DecodeKeys(layout_, data + section.keys, scratch_.keys);
    if (layout_.values_in_keys) {
      TurnKeys(layout_, scratch_.keys, job_.value_stride, scratch_.values);
    } else if (decode_values_) {
      DecodeValues(layout_, data + section.values, job_.value_stride, scratch_.values);
    }
    for (size_t first = 0; first < tile_.count; first += micro_pairs_) {
      const size_t rows = std::min(micro_pairs_, tile_.count - first);
      int32_t begin = kBlockTokens;
      int32_t end = 0;
      for (size_t r = 0; r < rows; ++r) {
        if (scratch_.low[first + r] >= scratch_.high[first + r]) continue;
        begin = std::min(begin, scratch_.low[first + r]);
        end = std::max(end, scratch_.high[first + r]);
      }
      if (begin >= end) continue;
      Scores(data, first, PadRows(rows), static_cast<size_t>(begin), static_cast<size_t>(end));
      Softmax(block, first, rows, state);
      Values(data, first, rows, state);
    }
  }

  // Scores of at least the tokens [begin, end).
  void Scores(const uint8_t* data, size_t first, size_t padded, size_t begin, size_t end) const {
    const KvSection& section = job_.section;
    const uint8_t* scales = HasScales(layout_.key_encoding) ? data + section.key_scales : nullptr;
    const float* q = scratch_.q + first * layout_.key_dim;
    float* s = scratch_.s + first * kBlockTokens;
    Prefetcher prefetcher;
    if (first == 0) prefetcher = {data + section.values, data + section.bytes};
    if (pair_keys_) {
      PairScoreArgs args;
      args.keys = reinterpret_cast<const uint32_t*>(data + section.keys);
      args.num_pairs = (layout_.key_dim + 1) / 2;
      args.q = reinterpret_cast<const uint32_t*>(scratch_.q) + first * args.num_pairs;
      args.begin = begin;
      args.end = end;
      args.prefetcher = prefetcher;
      args.s = s;
      pairs_.score_rows(padded, args);
    } else if (decode_keys_) {
      ScoreRowsOf(DecodedSource{{scratch_.keys, kBlockTokens}}, scales, layout_.key_dim, padded, q,
                  prefetcher, s);
    } else {
      WithKeySource(layout_.key_encoding, data + section.keys, [&](const auto& source) {
        ScoreRowsOf(source, scales, layout_.key_dim, padded, q, prefetcher, s);
      });
    }
  }

  void Softmax(int64_t block, size_t first, size_t rows, const TileState& state) const {
    const AttendShape& shape = *job_.shape;
    LogitRule rule;
    rule.cap = static_cast<float>(shape.soft_cap * kLog2E);
    rule.bias = static_cast<float>(span_->bias * kLog2E);
    rule.alibi = shape.alibi_slopes != nullptr;
    for (size_t r = 0; r < rows; ++r) {
      const size_t pair = first + r;
      scratch_.corrections[pair] = 1.0f;
      if (scratch_.low[pair] >= scratch_.high[pair]) continue;
      if (rule.alibi) {
        const int64_t first_key = block * int64_t{kBlockTokens} - static_cast<int64_t>(span_->first_slot);
        rule.slope = static_cast<float>(shape.alibi_slopes[tile_.Head(job_, pair)] * kLog2E);
        rule.step = static_cast<float>(span_->distance_step);
        rule.distance = static_cast<float>(span_->distance[tile_.Row(job_, pair)] -
                                           span_->distance_step * first_key - scratch_.nearest[pair]);
      }
      float* s = scratch_.s + pair * kBlockTokens;
      float* lane_sums = scratch_.lane_sums + pair * kSumLanes;
      if (pair_values_) {
        pairs_.softmax_row(rule, scratch_.low[pair], scratch_.high[pair], s,
                           scratch_.p_pairs + r * kBlockTokens / 2, state.references + pair, lane_sums,
                           scratch_.corrections + pair);
      } else {
        SoftmaxRow(rule, scratch_.low[pair], scratch_.high[pair], s, state.references + pair, lane_sums,
                   scratch_.corrections + pair);
      }
    }
    for (size_t r = rows; r < PadRows(rows); ++r) {
      scratch_.corrections[first + r] = 1.0f;
      if (pair_values_) std::fill_n(scratch_.p_pairs + r * kBlockTokens / 2, kBlockTokens / 2, 0u);
    }
  }

  // Adds weights times values. Each row takes its visible tokens in order and no others: what lies in a
  // hidden slot, even NaN, is never multiplied.
  void Values(const uint8_t* data, size_t first, size_t rows, const TileState& state) const {
    size_t low = 0;
    size_t high = kBlockTokens;
    bool uniform = true;
    for (size_t r = 0; r < rows; ++r) {
      const size_t row_low = static_cast<size_t>(scratch_.low[first + r]);
      const size_t row_high = static_cast<size_t>(scratch_.high[first + r]);
      uniform &= row_low == static_cast<size_t>(scratch_.low[first]) &&
                 row_high == static_cast<size_t>(scratch_.high[first]);
      low = std::max(low, row_low);
      high = std::min(high, row_high);
    }
    if (uniform) return ValuePiece(data, first, 0, PadRows(rows), low, high, state);
    if (pair_values_) {  // every row takes a pair either whole or cut in the same way as alone
      low = (low + 1) / 2 * 2;
      high = high / 2 * 2;
    }
    const bool common = low < high;  // tokens that every row sees
    for (size_t r = 0; r < rows; ++r) {
      const size_t row_low = static_cast<size_t>(scratch_.low[first + r]);
      const size_t row_high = common ? low : static_cast<size_t>(scratch_.high[first + r]);
      if (row_low >= row_high) continue;
      ValuePiece(data, first, r, 1, row_low, row_high, state);
      scratch_.corrections[first + r] = 1.0f;  // applied
    }
    if (!common) return;
    ValuePiece(data, first, 0, PadRows(rows), low, high, state);
    for (size_t r = 0; r < rows; ++r) {
      scratch_.corrections[first + r] = 1.0f;
      const size_t row_high = static_cast<size_t>(scratch_.high[first + r]);
      if (high < row_high) ValuePiece(data, first, r, 1, high, row_high, state);
    }
  }

  // `padded` rows of the register tile at `first`, from its row `offset` on.
  void ValuePiece(const uint8_t* data, size_t first, size_t offset, size_t padded, size_t begin, size_t end,
                  const TileState& state) const {
    const KvSection& section = job_.section;
    Prefetcher prefetcher;
    if (first + offset == 0 && next_ != nullptr) prefetcher = {next_, next_ + section.values};
    const float* corrections = scratch_.corrections + first + offset;
    float* acc = state.acc + (first + offset) * job_.value_stride;
    const size_t num_columns = (layout_.value_dim + kLanes - 1) / kLanes * kLanes;
    if (pair_values_) {
      pairs_.value_rows(padded, {.values = reinterpret_cast<const uint32_t*>(data + section.values),
                                 .p = scratch_.p_pairs + offset * kBlockTokens / 2,
                                 .value_dim = layout_.value_dim,
                                 .begin = begin,
                                 .end = end,
                                 .corrections = corrections,
                                 .prefetcher = prefetcher,
                                 .acc = acc,
                                 .acc_stride = job_.value_stride,
                                 .num_columns = num_columns});
      return;
    }
    ValueArgs args;
    args.begin = begin;
    args.end = end;
    args.p = scratch_.s + (first + offset) * kBlockTokens;
    args.corrections = corrections;
    args.acc = acc;
    args.acc_stride = job_.value_stride;
    args.num_columns = num_columns;
    const size_t scales = layout_.values_in_keys ? ValueKeyScales(layout_, section) : section.value_scales;
    args.scales = HasScales(layout_.value_encoding) ? data + scales : nullptr;
    args.scaled_p = scratch_.scaled_p;
    args.prefetcher = prefetcher;
    if (decode_values_) {
      ValueRowsOf(DecodedSource{{scratch_.values, job_.value_stride}}, padded, args);
    } else {
      WithValueSource(layout_.value_encoding, data + section.values, layout_.value_dim,
                      [&](const auto& source) { ValueRowsOf(source, padded, args); });
    }
  }

  const AttendJob& job_;
  const KvLayout& layout_;
  Tile tile_;
  ThreadScratch scratch_;
  const PairKernels& pairs_;
  bool pair_keys_;
  bool pair_values_;
  size_t micro_pairs_;
  bool decode_keys_;
  bool decode_values_;
  const KvSpan* span_ = nullptr;
  const uint8_t* next_ = nullptr;  // the section that is read after the current one
};

}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
