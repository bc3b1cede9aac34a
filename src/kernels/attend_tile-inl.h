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
#include <limits>
#include <type_traits>

#include "base/half.h"
#include "hwy/highway.h"
#include "kernels/attend_job.h"
#include "kernels/attend_sources-inl.h"
#include "kernels/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

HWY_INLINE float Exp2Scalar(float x) { return hn::GetLane(Exp2NonPositive(DF(), hn::Set(DF(), x))); }

// ---- Encodings and tile heights to template arguments.

// Rows of the register tile that holds `rows` pairs; the rest are zero queries whose results nobody reads.
// Sanitized builds have fewer heights, for the sake of compile time.
#if defined(MNEME_SANITIZED)
inline size_t PadRows(size_t rows) { return rows == 1 ? 1 : rows <= 6 ? 6 : 8; }
#else
inline size_t PadRows(size_t rows) { return rows <= 2 ? rows : rows <= 4 ? 4 : rows <= 6 ? 6 : 8; }
#endif

template <class Source>
void ScoreRowsOf(const Source& keys, const uint8_t* scales, size_t key_dim, size_t rows, const float* q,
                 const Prefetcher& prefetcher, float* s) {
  switch (rows) {
    case 1:
      return ScoreRows<1>(keys, scales, key_dim, q, prefetcher, s);
#if !defined(MNEME_SANITIZED)
    case 2:
      return ScoreRows<2>(keys, scales, key_dim, q, prefetcher, s);
    case 4:
      return ScoreRows<4>(keys, scales, key_dim, q, prefetcher, s);
#endif
    case 6:
      return ScoreRows<6>(keys, scales, key_dim, q, prefetcher, s);
    default:
      return ScoreRows<8>(keys, scales, key_dim, q, prefetcher, s);
  }
}

template <class Source>
void ValueRowsOf(const Source& values, size_t rows, const ValueArgs& args) {
  switch (rows) {
    case 1:
      return ValueRows<1>(values, args);
#if !defined(MNEME_SANITIZED)
    case 2:
      return ValueRows<2>(values, args);
    case 4:
      return ValueRows<4>(values, args);
#endif
    case 6:
      return ValueRows<6>(values, args);
    default:
      return ValueRows<8>(values, args);
  }
}

template <class Fn>
HWY_INLINE void WithKeySource(Encoding encoding, const uint8_t* data, const Fn& fn) {
  switch (encoding) {
    case Encoding::kF32:
      return fn(F32Source{reinterpret_cast<const float*>(data), kBlockTokens});
    case Encoding::kF16:
      return fn(F16Source{reinterpret_cast<const uint16_t*>(data), kBlockTokens});
    case Encoding::kBF16:
      return fn(BF16Source{reinterpret_cast<const uint16_t*>(data), kBlockTokens});
    case Encoding::kQ8_0:
      return fn(Q8Source{reinterpret_cast<const int8_t*>(data), kBlockTokens});
    default:
      return fn(Q4KeySource{data});
  }
}

// Needs ValuesInPlace.
template <class Fn>
HWY_INLINE void WithValueSource(Encoding encoding, const uint8_t* data, size_t value_dim, const Fn& fn) {
  switch (encoding) {
    case Encoding::kF32:
      return fn(F32Source{reinterpret_cast<const float*>(data), value_dim});
    case Encoding::kF16:
      return fn(F16Source{reinterpret_cast<const uint16_t*>(data), value_dim});
    case Encoding::kBF16:
      return fn(BF16Source{reinterpret_cast<const uint16_t*>(data), value_dim});
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
    case Encoding::kBF16:
      return BF16ToF32(reinterpret_cast<const uint16_t*>(data)[at]);
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

// ---- Softmax of one row over one block.

struct LogitRule {
  float cap = 0;       // in log2 units; 0: none
  bool alibi = false;  // subtract slope * (distance - step * slot)
  float slope = 0;     // in log2 units
  float distance = 0;  // to slot 0 of the block
  float step = 0;
};

// Turns the row's scores into weights relative to the running maximum and updates maximum and sum. Slots
// outside [low, high) get weight 0. Needs low < high.
HWY_INLINE void SoftmaxRow(const LogitRule& rule, int32_t low, int32_t high, float* HWY_RESTRICT s,
                           float* maximum, float* sum, float* correction) {
  const DF d;
  const bool partial = low > 0 || high < static_cast<int32_t>(kBlockTokens);
  const VF minus_infinity = hn::Set(d, kMinusInfinity);
  VF largest = minus_infinity;
  for (size_t t = 0; t < kBlockTokens; t += kLanes) {
    VF logit = hn::Load(d, s + t);
    if (rule.cap != 0) logit = hn::Mul(TanhF32(d, logit), hn::Set(d, rule.cap));
    if (rule.alibi || partial) {
      const VF slot = hn::Iota(d, static_cast<float>(t));
      if (rule.alibi) {
        const VF distance = hn::NegMulAdd(slot, hn::Set(d, rule.step), hn::Set(d, rule.distance));
        logit = hn::NegMulAdd(hn::Set(d, rule.slope), distance, logit);
      }
      if (partial) {
        const auto visible = hn::And(hn::Ge(slot, hn::Set(d, static_cast<float>(low))),
                                     hn::Lt(slot, hn::Set(d, static_cast<float>(high))));
        logit = hn::IfThenElse(visible, logit, minus_infinity);
      }
    }
    hn::Store(logit, d, s + t);
    largest = hn::Max(largest, logit);
  }
  const float block_maximum = hn::GetLane(hn::MaxOfLanes(d, largest));
  // A NaN logit never becomes the maximum; its weight is NaN and so are the sum and the values.
  const float old_maximum = *maximum;
  const float new_maximum = block_maximum > old_maximum ? block_maximum : old_maximum;
  const float reference = new_maximum == kMinusInfinity ? 0.0f : new_maximum;
  VF weights = hn::Zero(d);
  for (size_t t = 0; t < kBlockTokens; t += kLanes) {
    const VF weight = Exp2NonPositive(d, hn::Sub(hn::Load(d, s + t), hn::Set(d, reference)));
    hn::Store(weight, d, s + t);
    weights = hn::Add(weights, weight);
  }
  *correction = new_maximum == old_maximum ? 1.0f : Exp2Scalar(old_maximum - reference);
  *sum = *sum * *correction + hn::GetLane(hn::SumOfLanes(d, weights));
  *maximum = new_maximum;
}

// ---- A tile over blocks.

class TileKernel {
 public:
  TileKernel(const AttendJob& job, const Tile& tile, const ThreadScratch& scratch)
      : job_(job), layout_(job.shape->layout), tile_(tile), scratch_(scratch) {
    const bool small = tile.count <= kSmallTile;
    micro_pairs_ = small ? tile.count : kMicroPairs;
    decode_keys_ = !small && layout_.key_encoding != Encoding::kF32;
    decode_values_ = (!small && layout_.value_encoding != Encoding::kF32) || !ValuesInPlace(layout_);
    if (job.shape->alibi_slopes != nullptr) FindNearest();
  }

  void Reset(const TileState& state) const {
    const size_t padded = TileState::PaddedPairs(tile_.count);
    std::fill_n(state.maxima, padded, kMinusInfinity);
    std::fill_n(state.sums, padded, 0.0f);
    std::memset(state.acc, 0, padded * job_.value_stride * sizeof(float));
  }

  // Packs the queries of a span: needed before Blocks.
  void SetSpan(const KvSpan& span) {
    span_ = &span;
    const AttendShape& shape = *job_.shape;
    const size_t key_dim = layout_.key_dim;
    const float factor =
        static_cast<float>(shape.soft_cap != 0 ? double{shape.scale} / shape.soft_cap : shape.scale * kLog2E);
    for (size_t first = 0; first < tile_.count; first += micro_pairs_) {
      const size_t rows = std::min(micro_pairs_, tile_.count - first);
      const size_t padded = PadRows(rows);
      float* packed = scratch_.q + first * key_dim;
      for (size_t r = 0; r < padded; ++r) {
        if (r >= rows) {
          for (size_t i = 0; i < key_dim; ++i) packed[i * padded + r] = 0;
          continue;
        }
        const size_t pair = first + r;
        const float* q =
            span.q + (tile_.Row(job_, pair) * shape.num_heads + tile_.Head(job_, pair)) * key_dim;
        for (size_t i = 0; i < key_dim; ++i) packed[i * padded + r] = q[i] * factor;
      }
    }
  }

  // Adds blocks [first, last) of the span to state.
  void Blocks(int64_t first, int64_t last, const TileState& state) {
    for (int64_t block = first; block < last; ++block) {
      next_ = block + 1 < last ? span_->blocks[block + 1] : nullptr;
      if (SetVisible(block)) OneBlock(block, state);
    }
  }

  // Merges the keys of `part` into `total`; an empty side leaves the other exactly as it is.
  void Merge(const TileState& total, const TileState& part) const {
    const DF d;
    const size_t stride = job_.value_stride;
    for (size_t pair = 0; pair < tile_.count; ++pair) {
      const float part_maximum = part.maxima[pair];
      if (part_maximum == kMinusInfinity && part.sums[pair] == 0) continue;
      float* HWY_RESTRICT to = total.acc + pair * stride;
      const float* HWY_RESTRICT from = part.acc + pair * stride;
      const float total_maximum = total.maxima[pair];
      if (total_maximum == kMinusInfinity && total.sums[pair] == 0) {
        std::memcpy(to, from, stride * sizeof(float));
        total.maxima[pair] = part_maximum;
        total.sums[pair] = part.sums[pair];
        continue;
      }
      const float maximum = part_maximum > total_maximum ? part_maximum : total_maximum;
      const float reference = maximum == kMinusInfinity ? 0.0f : maximum;
      const float total_weight = Exp2Scalar(total_maximum - reference);
      const float part_weight = Exp2Scalar(part_maximum - reference);
      for (size_t i = 0; i < stride; i += kLanes) {
        const VF scaled = hn::Mul(hn::LoadU(d, to + i), hn::Set(d, total_weight));
        hn::StoreU(hn::MulAdd(hn::LoadU(d, from + i), hn::Set(d, part_weight), scaled), d, to + i);
      }
      total.maxima[pair] = maximum;
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
      double maximum = double{state.maxima[pair]} * kLn2 + shift;
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
    const uint8_t* data = span_->blocks[block] + tile_.kv_head * section.bytes;
    if (decode_keys_) DecodeKeys(layout_, data + section.keys, scratch_.keys);
    if (decode_values_) DecodeValues(layout_, data + section.values, job_.value_stride, scratch_.values);
    for (size_t first = 0; first < tile_.count; first += micro_pairs_) {
      const size_t rows = std::min(micro_pairs_, tile_.count - first);
      bool any = false;
      for (size_t r = 0; r < rows; ++r) any |= scratch_.low[first + r] < scratch_.high[first + r];
      if (!any) continue;
      Scores(data, first, PadRows(rows));
      Softmax(block, first, rows, state);
      Values(data, first, rows, state);
    }
  }

  void Scores(const uint8_t* data, size_t first, size_t padded) const {
    const KvSection& section = job_.section;
    const uint8_t* scales = HasScales(layout_.key_encoding) ? data + section.key_scales : nullptr;
    const float* q = scratch_.q + first * layout_.key_dim;
    float* s = scratch_.s + first * kBlockTokens;
    Prefetcher prefetcher;
    if (first == 0) prefetcher = {data + section.values, data + section.bytes};
    if (decode_keys_) {
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
      SoftmaxRow(rule, scratch_.low[pair], scratch_.high[pair], scratch_.s + pair * kBlockTokens,
                 state.maxima + pair, state.sums + pair, scratch_.corrections + pair);
    }
    for (size_t r = rows; r < PadRows(rows); ++r) scratch_.corrections[first + r] = 1.0f;
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
    if (uniform) return ValuePiece(data, first, PadRows(rows), low, high, state);
    const bool common = low < high;  // tokens that every row sees
    for (size_t r = 0; r < rows; ++r) {
      const size_t row_low = static_cast<size_t>(scratch_.low[first + r]);
      const size_t row_high = common ? low : static_cast<size_t>(scratch_.high[first + r]);
      if (row_low >= row_high) continue;
      ValuePiece(data, first + r, 1, row_low, row_high, state);
      scratch_.corrections[first + r] = 1.0f;  // applied
    }
    if (!common) return;
    ValuePiece(data, first, PadRows(rows), low, high, state);
    for (size_t r = 0; r < rows; ++r) {
      scratch_.corrections[first + r] = 1.0f;
      const size_t row_high = static_cast<size_t>(scratch_.high[first + r]);
      if (high < row_high) ValuePiece(data, first + r, 1, high, row_high, state);
    }
  }

  void ValuePiece(const uint8_t* data, size_t first, size_t padded, size_t begin, size_t end,
                  const TileState& state) const {
    const KvSection& section = job_.section;
    ValueArgs args;
    args.begin = begin;
    args.end = end;
    args.p = scratch_.s + first * kBlockTokens;
    args.corrections = scratch_.corrections + first;
    args.acc = state.acc + first * job_.value_stride;
    args.acc_stride = job_.value_stride;
    args.num_columns = (layout_.value_dim + kLanes - 1) / kLanes * kLanes;
    args.scales = HasScales(layout_.value_encoding) ? data + section.value_scales : nullptr;
    args.scaled_p = scratch_.scaled_p;
    if (first == 0 && next_ != nullptr) {
      const uint8_t* next = next_ + tile_.kv_head * section.bytes;
      args.prefetcher = {next, next + section.values};
    }
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
  size_t micro_pairs_;
  bool decode_keys_;
  bool decode_values_;
  const KvSpan* span_ = nullptr;
  const uint8_t* next_ = nullptr;  // the block after the current one
};

}  // namespace HWY_NAMESPACE
}  // namespace mneme
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
