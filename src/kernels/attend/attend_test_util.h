// A small K/V cache with random contents, queries and visibility for the attention tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "base/aligned.h"
#include "base/testing.h"
#include "base/thread_pool.h"
#include "kernels/attend/attend.h"

namespace mneme::testing {

// Keys t = 0..num_keys-1 stored from first_slot of block 0; queries and ranges for num_rows rows.
class AttendCase {
 public:
  AttendCase(const KvLayout& layout, size_t group, size_t num_rows, size_t num_keys, uint32_t seed,
             size_t first_slot = 0)
      : random_(seed), num_keys_(num_keys) {
    shape.layout = layout;
    shape.num_heads = layout.num_kv_heads * group;
    shape.num_rows = num_rows;
    shape.scale = 1.0f / std::sqrt(static_cast<float>(layout.key_dim));
    span.first_slot = first_slot;
    const size_t num_blocks = (first_slot + num_keys + kBlockTokens - 1) / kBlockTokens;
    memory_ = MakeAligned<uint8_t>(std::max<size_t>(1, num_blocks * layout.block_bytes()));
    std::vector<float> k(layout.num_kv_heads * layout.key_dim), v(layout.num_kv_heads * layout.value_dim);
    for (size_t b = 0; b < num_blocks; ++b) {
      blocks_.push_back(memory_.get() + b * layout.block_bytes());
      KvClear(layout, blocks_.back());
    }
    for (size_t t = 0; t < num_keys; ++t) {
      Fill(k);
      Fill(v);
      Store(t, k.data(), v.data());
    }
    pointers_.assign(blocks_.begin(), blocks_.end());
    q.resize(num_rows * shape.num_heads * layout.key_dim);
    Fill(q);
    begin.assign(num_rows, 0);
    end.assign(num_rows, static_cast<int32_t>(num_keys));
    distance.assign(num_rows, 0);
    for (size_t r = 0; r < num_rows; ++r) distance[r] = static_cast<int64_t>(num_keys + r);
    Bind();
  }

  void Bind() {
    span.blocks = pointers_.data();
    span.begin = begin.data();
    span.end = end.data();
    span.q = q.data();
    span.distance = distance.data();
  }

  void Store(size_t t, const float* k, const float* v) {
    const size_t place = span.first_slot + t;
    KvStore(shape.layout, blocks_[place / kBlockTokens], place % kBlockTokens, k, v);
  }

  // Stores every token anew over blocks of NaN bits; for whole blocks only.
  void StoreOverNans() {
    std::vector<float> k(shape.layout.num_kv_heads * shape.layout.key_dim);
    std::vector<float> v(shape.layout.num_kv_heads * shape.layout.value_dim);
    for (uint8_t* block : blocks_) std::fill_n(block, shape.layout.block_bytes(), uint8_t{0xFF});
    for (size_t t = 0; t < num_keys_; ++t) {
      Fill(k);
      Fill(v);
      Store(t, k.data(), v.data());
    }
  }

  void Fill(std::vector<float>& values) {
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(random_);
  }

  // Rows at the end of the keys, each seeing what is before it.
  void MakeCausal(int32_t window = 1 << 30) {
    for (size_t r = 0; r < shape.num_rows; ++r) {
      end[r] = static_cast<int32_t>(num_keys_ - shape.num_rows + r + 1);
      begin[r] = std::max(0, end[r] - window);
      distance[r] = end[r] - 1;
    }
  }

  void MakeRandomRanges() {
    std::uniform_int_distribution<int32_t> any(0, static_cast<int32_t>(num_keys_));
    for (size_t r = 0; r < shape.num_rows; ++r) {
      begin[r] = any(random_);
      end[r] = any(random_);  // often empty
    }
  }

  std::mt19937& random() { return random_; }
  uint8_t* const* blocks() const { return blocks_.data(); }

  AttendShape shape;
  KvSpan span;
  std::vector<float> q;
  std::vector<int32_t> begin, end;
  std::vector<int64_t> distance;

 private:
  std::mt19937 random_;
  size_t num_keys_;
  AlignedArray<uint8_t> memory_;
  std::vector<uint8_t*> blocks_;
  std::vector<const uint8_t*> pointers_;
};

struct AttendOutput {
  std::vector<float> out, lse;
  bool operator==(const AttendOutput&) const = default;
};

// Poisoned scratch and a guard behind it: nothing may be read before it is written, nor written past the end.
inline void AttendGuarded(std::span<const AttendCall> calls, ThreadPool& pool) {
  size_t bytes = 0;
  for (const AttendCall& call : calls) {
    const AttendShape& shape = call.shape;
    bytes = std::max(bytes, AttendScratchBytes(shape.num_rows, shape.num_heads, shape.layout.key_dim,
                                               shape.layout.value_dim, pool.num_threads()));
  }
  constexpr size_t kGuard = 256;
  const auto scratch = MakeAligned<uint8_t>(bytes + kGuard);
  std::fill_n(scratch.get(), bytes + kGuard, uint8_t{0xFF});
  Attend(calls, scratch.get(), pool);
  for (size_t i = 0; i < kGuard; ++i) {
    if (scratch.get()[bytes + i] != 0xFF) calls[0].out[0] = NAN;
  }
}

inline AttendOutput RunAttend(AttendCall call, ThreadPool& pool) {
  const AttendShape& shape = call.shape;
  AttendOutput result;
  result.out.assign(shape.num_rows * shape.num_heads * shape.layout.value_dim, NAN);
  result.lse.assign(shape.num_rows * shape.num_heads, NAN);
  call.out = result.out.data();
  call.log_sum_exp = result.lse.data();
  AttendGuarded({&call, 1}, pool);
  return result;
}

inline AttendOutput RunAttend(const AttendShape& shape, std::span<const KvSpan> spans, ThreadPool& pool) {
  return RunAttend({.shape = shape, .spans = spans}, pool);
}

// Worst relative difference of the output of any (row, head) against the reference, and worst difference of
// log-sum-exp, whichever is larger.
inline double ErrorAgainstReference(const AttendShape& shape, std::span<const KvSpan> spans,
                                    const AttendOutput& result) {
  const size_t pairs = shape.num_rows * shape.num_heads;
  const size_t dim = shape.layout.value_dim;
  std::vector<double> out(pairs * dim), lse(pairs);
  AttendReference(shape, spans, out.data(), lse.data());
  double worst = 0;
  for (size_t p = 0; p < pairs; ++p) {
    worst = std::max(worst, RelativeDifference(std::span(result.out).subspan(p * dim, dim),
                                               std::span(out).subspan(p * dim, dim)));
    const double a = result.lse[p];
    const double b = lse[p];
    if (a == b) continue;  // equal infinities too
    const double difference = std::abs(a - b) / std::max(1.0, std::abs(b));
    worst = std::max(worst, difference <= 1e300 ? difference : std::numeric_limits<double>::infinity());
  }
  return worst;
}

// Largest error of any logit that rounding queries to bfloat16 allows, over the keys that a row sees: half a
// unit of the last of eight bits per product.
inline double RoundedLogitError(const AttendShape& shape, std::span<const KvSpan> spans, size_t row,
                                size_t head) {
  const KvLayout& layout = shape.layout;
  const size_t kv_head = head / (shape.num_heads / layout.num_kv_heads);
  std::vector<float> k(layout.num_kv_heads * layout.key_dim);
  double worst = 0;
  for (const KvSpan& span : spans) {
    for (int32_t t = span.begin[row]; t < span.end[row]; ++t) {
      const size_t place = span.first_slot + static_cast<size_t>(t);
      KvLoad(layout, span.blocks[place / kBlockTokens], place % kBlockTokens, k.data(), nullptr);
      const float* q = span.q + (row * shape.num_heads + head) * layout.key_dim;
      double sum = 0;
      for (size_t i = 0; i < layout.key_dim; ++i) {
        sum += std::abs(double{q[i]} * k[kv_head * layout.key_dim + i]);
      }
      worst = std::max(worst, kAttendRounding * sum * shape.scale);
    }
  }
  return worst;
}

// The attention of magnitudes: the reference over |v|.
inline std::vector<double> AttendMagnitudes(const AttendShape& shape, std::span<const KvSpan> spans) {
  const KvLayout& layout = shape.layout;
  KvLayout plain = layout;
  plain.key_encoding = plain.value_encoding = Encoding::kF32;
  std::vector<float> k(layout.num_kv_heads * layout.key_dim), v(layout.num_kv_heads * layout.value_dim);
  std::vector<AlignedArray<uint8_t>> memory;
  std::vector<std::vector<const uint8_t*>> blocks;
  std::vector<KvSpan> magnitudes(spans.begin(), spans.end());
  for (KvSpan& span : magnitudes) {
    int32_t num_keys = 0;
    for (size_t r = 0; r < shape.num_rows; ++r) num_keys = std::max(num_keys, span.end[r]);
    const size_t last = span.first_slot + static_cast<size_t>(num_keys);
    std::vector<const uint8_t*>& copies = blocks.emplace_back();
    for (size_t first = 0; first < last; first += kBlockTokens) {
      uint8_t* block = memory.emplace_back(MakeAligned<uint8_t>(plain.block_bytes())).get();
      copies.push_back(block);
      KvClear(plain, block);
      for (size_t slot = 0; slot < kBlockTokens; ++slot) {
        KvLoad(layout, span.blocks[first / kBlockTokens], slot, k.data(), v.data());
        for (float& value : v) value = std::abs(value);
        KvStore(plain, block, slot, k.data(), v.data());
      }
    }
    span.blocks = copies.data();
  }
  AttendShape plain_shape = shape;
  plain_shape.layout = plain;
  std::vector<double> out(shape.num_rows * shape.num_heads * layout.value_dim);
  AttendReference(plain_shape, magnitudes, out.data(), nullptr);
  return out;
}

// The error as a share of what attend.h allows: at most 1. Without bf16 that is kAttendError. With it,
// weights are off by a factor of at most exp(error of a logit + rounding of a weight), shares by its square,
// and an element of the output by that times what the magnitudes of the values would give.
inline double ShareOfBound(const AttendShape& shape, std::span<const KvSpan> spans,
                           const AttendOutput& result) {
  const bool pair_keys = shape.layout.key_encoding == Encoding::kBF16;
  const bool pair_values = shape.layout.value_encoding == Encoding::kBF16;
  if (!pair_keys && !pair_values) return ErrorAgainstReference(shape, spans, result) / kAttendError;
  const size_t dim = shape.layout.value_dim;
  std::vector<double> out(result.out.size()), lse(result.lse.size());
  AttendReference(shape, spans, out.data(), lse.data());
  const std::vector<double> magnitudes = AttendMagnitudes(shape, spans);
  double worst = 0;
  for (size_t p = 0; p < lse.size(); ++p) {
    double exponent = pair_values ? kAttendWeightError : 0.0;
    if (pair_keys) exponent += RoundedLogitError(shape, spans, p / shape.num_heads, p % shape.num_heads);
    const auto share = [&](double a, double b, double bound) {
      const double difference = std::abs(a - b);
      if (a != b) worst = std::max(worst, difference <= 1e300 ? difference / bound : 1e300);
    };
    share(result.lse[p], lse[p], exponent + kAttendError * std::max(1.0, std::abs(lse[p])));
    for (size_t c = p * dim; c < (p + 1) * dim; ++c) {
      share(result.out[c], out[c], (std::expm1(2 * exponent) + kAttendError) * magnitudes[c] + 1e-30);
    }
  }
  return worst;
}

}  // namespace mneme::testing
