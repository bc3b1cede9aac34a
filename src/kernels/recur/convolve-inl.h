// The short convolution and what follows it head by head: SiLU, norms of q and k, k into its block's panel,
// and the products of k and q with the keys of their block. Included by recur.cc once per target.
#include <cstring>

#include "kernels/recur/job.h"

#if defined(MNEME_KERNELS_RECUR_CONVOLVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_RECUR_CONVOLVE_INL_H_
#undef MNEME_KERNELS_RECUR_CONVOLVE_INL_H_
#else
#define MNEME_KERNELS_RECUR_CONVOLVE_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/pointwise/map-inl.h"
#include "kernels/recur/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::HWY_NAMESPACE {
namespace {

// The inputs that the taps of a row meet, the first of them null where the stream had not begun.
struct Taps {
  Taps(const RecurCall& call, size_t row) : width(call.shape->conv_width) {
    const size_t channels = call.shape->num_channels();
    const RecurStream& stream = call.stream;
    for (size_t tap = 0; tap < width; ++tap) {
      const size_t back = width - 1 - tap;
      if (back <= row) {
        at[tap] = call.x + (row - back) * channels;
      } else if (stream.first_index + static_cast<int64_t>(row) >= static_cast<int64_t>(back)) {
        const size_t slots = stream.num_input_slots;
        at[tap] = stream.inputs + (stream.input_slot + slots - (back - row)) % slots * channels;
      } else {
        at[tap] = nullptr;
        first = tap + 1;
      }
    }
  }
  size_t width;
  size_t first = 0;
  const float* at[kMaxConvWidth];
};

// out[i] = the convolution at channel + i, `count` channels. A channel is always computed by the same of the
// two loops, since heads have fixed borders.
inline void Convolve(const RecurCall& call, const Taps& taps, size_t channel, size_t count,
                     float* HWY_RESTRICT out) {
  const DF d;
  const size_t channels = call.shape->num_channels();
  const float* const weight = call.conv_weight + channel;
  const float* const bias = call.conv_bias == nullptr ? nullptr : call.conv_bias + channel;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    VF sum = bias == nullptr ? hn::Zero(d) : hn::LoadU(d, bias + i);
    for (size_t tap = taps.first; tap < taps.width; ++tap) {
      sum = hn::MulAdd(hn::LoadU(d, weight + tap * channels + i), hn::LoadU(d, taps.at[tap] + channel + i),
                       sum);
    }
    hn::StoreU(sum, d, out + i);
  }
  for (; i < count; ++i) {
    float sum = bias == nullptr ? 0.0f : bias[i];
    for (size_t tap = taps.first; tap < taps.width; ++tap) {
      sum += weight[tap * channels + i] * taps.at[tap][channel + i];
    }
    out[i] = sum;
  }
  if (call.shape->conv_activates) {
    Map(out, count, out, [](VF v, const auto&) { return Silu()(v); });
  }
}

// What later rows will look back at.
inline void KeepInput(const RecurCall& call, size_t row, size_t channel, size_t count) {
  const RecurStream& stream = call.stream;
  if (row < stream.first_kept_row) return;
  const size_t slot = (stream.input_slot + row - stream.first_kept_row) % stream.num_input_slots;
  const size_t channels = call.shape->num_channels();
  std::memcpy(stream.inputs + slot * channels + channel, call.x + row * channels + channel,
              count * sizeof(float));
}

// The row as a unit vector, if heads are normalised, times `scale`.
inline void NormaliseHead(const RecurShape& shape, float scale, float* row) {
  if (!shape.normalises && scale == 1.0f) return;
  const DF d;
  VF factor = hn::Set(d, scale);
  if (shape.normalises) {
    const double square = SumOfSquares(row, shape.key_dim) + static_cast<double>(kRecurNormEpsilon);
    factor = hn::Set(d, static_cast<float>(static_cast<double>(scale) / std::sqrt(square)));
  }
  Map(row, shape.key_dim, row, [factor](VF v, const auto&) { return hn::Mul(v, factor); });
}

// q and k of a key head for the rows of one block, and their products with the block's keys.
void KeyTask(const RecurJob& job, size_t block, size_t head, float* thread_scratch) {
  const RecurCall& call = *job.call;
  const RecurShape& shape = *call.shape;
  const BlockRows rows = job.RowsOf(block);
  const size_t per_token = RowsPerToken(shape);
  float* const keys = job.KeysOf(block, head);
  for (size_t row = rows.begin; row < rows.end; ++row) {
    const Taps taps(call, row);
    float* const token = job.Rows(head, row);
    float* const q = token + (per_token - 1) * shape.key_dim;
    float* const k = per_token == 2 ? token : thread_scratch;
    const size_t q_channel = shape.q_channel() + head * shape.key_dim;
    const size_t k_channel = shape.k_channel() + head * shape.key_dim;
    Convolve(call, taps, k_channel, shape.key_dim, k);
    NormaliseHead(shape, 1.0f, k);
    Convolve(call, taps, q_channel, shape.key_dim, q);
    NormaliseHead(shape, shape.query_scale, q);
    const size_t place = rows.offset + row - rows.begin;
    for (size_t i = 0; i < shape.key_dim; ++i) keys[i * kRecurPanel + place] = k[i];
    KeepInput(call, row, q_channel, shape.key_dim);
    KeepInput(call, row, k_channel, shape.key_dim);
  }
  if (shape.decays_by_channel) return;  // decays stand inside the products
  RowsTimesKeys(job.Rows(head, rows.begin), per_token, rows, shape.key_dim, keys,
                job.Products(head, rows.begin));
}

// v of a value head for the rows of one block.
void ValueTask(const RecurJob& job, size_t block, size_t head) {
  const RecurCall& call = *job.call;
  const RecurShape& shape = *call.shape;
  const BlockRows rows = job.RowsOf(block);
  const size_t channel = shape.v_channel() + head * shape.value_dim;
  for (size_t row = rows.begin; row < rows.end; ++row) {
    float* const out = shape.has_state() ? job.Values(head, row)
                                         : call.out + (row * shape.num_value_heads + head) * shape.value_dim;
    Convolve(call, Taps(call, row), channel, shape.value_dim, out);
    if (shape.has_state()) {
      std::fill(out + shape.value_dim, out + shape.num_panels() * kRecurPanel, 0.0f);
    }
    KeepInput(call, row, channel, shape.value_dim);
  }
}

}  // namespace
}  // namespace mneme::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
