// Recurrences of single channels, token by token: the steps of a panel of 64 channels. Included by recur.cc
// once per target.
#include <algorithm>
#include <cstring>

#include "kernels/recur/job.h"

#if defined(MNEME_KERNELS_RECUR_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_RECUR_STEP_INL_H_
#undef MNEME_KERNELS_RECUR_STEP_INL_H_
#else
#define MNEME_KERNELS_RECUR_STEP_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/simd/math-inl.h"
#include "kernels/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::HWY_NAMESPACE {
namespace {

// A vector of which `count` values are there; the others are 0.
template <class D>
HWY_INLINE hn::Vec<D> LoadSome(D d, const float* from, size_t count) {
  if (count >= hn::MaxLanes(d)) return hn::LoadU(d, from);
  HWY_ALIGN float whole[hn::MaxLanes(DF())] = {};
  std::copy_n(from, count, whole);
  return hn::Load(d, whole);
}
template <class D>
HWY_INLINE void StoreSome(D d, hn::Vec<D> values, float* to, size_t count) {
  if (count >= hn::MaxLanes(d)) return hn::StoreU(values, d, to);
  HWY_ALIGN float whole[hn::MaxLanes(DF())];
  hn::Store(values, d, whole);
  std::copy_n(whole, count, to);
}

// Some channels of one head.
struct StepPanel {
  StepPanel(const RecurJob& job, size_t index) : job(job), call(*job.call), shape(*call.shape), index(index) {
    const size_t first = index % shape.num_panels() * kRecurPanel;
    channel = index / shape.num_panels() * shape.value_dim + first;
    width = std::min(kRecurPanel, shape.value_dim - first);
  }
  // Channels from the panel's i-th on.
  size_t Left(size_t i) const { return width > i ? width - i : 0; }
  size_t state_at() const { return index * shape.state_depth() * kRecurPanel; }

  const RecurJob& job;
  const RecurCall& call;
  const RecurShape& shape;
  size_t index;    // among those of all heads
  size_t channel;  // its first
  size_t width;
};

// The tokens of one block as a panel sees them.
struct StepBlock {
  BlockRows rows;
  float* gates = nullptr;      // [64][64]: a, of kWkv b
  float* values = nullptr;     // [64][64]: u, of kWkv v
  float* kept_keys = nullptr;  // [key_dim][64]; null: none are kept
  size_t first = 0;            // the place of the first step
  size_t end() const { return rows.offset + rows.count(); }
  bool IsNew(size_t place) const { return place >= rows.offset; }
  size_t RowAt(size_t place) const { return rows.begin + place - rows.offset; }
};

// What of the new tokens is kept, and what steps read.
inline void KeepTokens(const StepPanel& panel, const StepBlock& block) {
  const DF d;
  const RecurCall& call = panel.call;
  const size_t channels = panel.shape.value_channels();
  for (size_t place = block.rows.offset; place < block.end(); ++place) {
    const size_t at = block.RowAt(place) * channels + panel.channel;
    for (size_t i = 0; i < kRecurPanel; i += kLanes) {
      const size_t left = panel.Left(i);
      const VF value = LoadSome(d, call.x + at + i, left);
      const VF beta = LoadSome(d, call.beta + at + i, left);
      const size_t to = place * kRecurPanel + i;
      if (panel.shape.rule == RecurRule::kWkv) {
        hn::Store(beta, d, block.gates + to);
        hn::Store(value, d, block.values + to);
      } else {
        hn::Store(LoadSome(d, call.log_decay + at + i, left), d, block.gates + to);
        hn::Store(hn::Mul(beta, value), d, block.values + to);
      }
    }
    // The keys of a token are the same for all panels.
    if (panel.index != 0 || block.kept_keys == nullptr) continue;
    const float* const key = call.keys + block.RowAt(place) * panel.shape.key_dim;
    for (size_t n = 0; n < panel.shape.key_dim; ++n) block.kept_keys[n * kRecurBlockTokens + place] = key[n];
  }
}

// The step of one token in a vector of channels. key: key_stride apart, null where there are none. query
// null: the token's output is not asked for.
template <bool kHasKeys>
HWY_INLINE VF DiagonalStep(VF log2_decay, VF update, const float* rate, size_t depth, const float* key,
                           size_t key_stride, const float* query, float* state) {
  const DF d;
  VF out = hn::Zero(d);
  for (size_t n = 0; n < depth; ++n) {
    VF exponent = log2_decay;
    if (rate != nullptr) exponent = hn::Mul(exponent, hn::LoadU(d, rate + n * kRecurPanel));
    VF power, rest;
    Exp2Parts(d, exponent, power, rest);
    VF input = update;
    if constexpr (kHasKeys) input = hn::Mul(update, hn::Set(d, key[n * key_stride]));
    const VF before = hn::Mul(power, hn::Load(d, state + n * kRecurPanel));
    const VF after = hn::Add(before, hn::MulAdd(rest, before, input));
    hn::Store(after, d, state + n * kRecurPanel);
    if constexpr (kHasKeys) {
      if (query != nullptr) out = hn::MulAdd(hn::Set(d, query[n]), after, out);
    } else {
      out = after;
    }
  }
  return out;
}

// Channels i to i + kLanes of the panel through the block.
template <bool kHasKeys>
void DiagonalSteps(const StepPanel& panel, const StepBlock& block, size_t i, float* state) {
  const DF d;
  const RecurCall& call = panel.call;
  const size_t depth = panel.shape.key_dim, left = panel.Left(i);
  const float* const rate = call.rate == nullptr ? nullptr : call.rate + panel.state_at() + i;
  for (size_t place = block.first; place < block.end(); ++place) {
    const size_t at = place * kRecurPanel + i;
    const VF log2_decay = hn::Mul(hn::Load(d, block.gates + at), hn::Set(d, 1.44269504f));
    const VF update = hn::Load(d, block.values + at);
    if (!block.IsNew(place)) {
      const float* const key = kHasKeys ? block.kept_keys + place : nullptr;
      DiagonalStep<kHasKeys>(log2_decay, update, rate, depth, key, kRecurBlockTokens, nullptr, state);
      continue;
    }
    const size_t row = block.RowAt(place);
    const float* const key = kHasKeys ? call.keys + row * depth : nullptr;
    const float* const query = kHasKeys ? call.queries + row * depth : nullptr;
    VF out = DiagonalStep<kHasKeys>(log2_decay, update, rate, depth, key, 1, query, state);
    const size_t to = row * panel.shape.value_channels() + panel.channel + i;
    if (call.skip != nullptr) {
      const VF skip = LoadSome(d, call.skip + panel.channel + i, left);
      out = hn::MulAdd(skip, LoadSome(d, call.x + to, left), out);
    }
    StoreSome(d, out, call.out + to, left);
  }
}

// P, Q and the logarithm of their common factor, which follows the largest term, so that neither the terms
// nor the sums leave the range of a number.
using DD = hn::ScalableTag<double>;
using DH = hn::Rebind<float, DD>;  // as many floats
using VD = hn::Vec<DD>;

struct WkvState {
  VD weighted, total, peak;
};

// Highway's gives 0 for NaN.
HWY_INLINE VD ExpOrNan(VD x) { return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(DD(), x)); }

// The state with one more term of weight e^log times `value`, after it has decayed by e^-rate.
HWY_INLINE WkvState WithTerm(const WkvState& state, VD rate, VD log, VD value) {
  const VD before = hn::Sub(state.peak, rate);
  const VD peak = hn::Max(before, log);
  const VD kept = ExpOrNan(hn::Sub(before, peak));
  const VD added = ExpOrNan(hn::Sub(log, peak));
  return {hn::MulAdd(kept, state.weighted, hn::Mul(added, value)), hn::MulAdd(kept, state.total, added),
          peak};
}

void WkvSteps(const StepPanel& panel, const StepBlock& block, size_t i, float* state) {
  const DD d;
  const DH half;
  const RecurCall& call = panel.call;
  double* const at = reinterpret_cast<double*>(state) + i;
  const size_t of_channel = panel.index * kRecurPanel + i;
  const VD rate = hn::PromoteTo(d, hn::LoadU(half, call.rate + of_channel));
  const VD boost = hn::PromoteTo(d, hn::LoadU(half, call.boost + of_channel));
  WkvState now = {hn::Load(d, at), hn::Load(d, at + kRecurPanel), hn::Load(d, at + 2 * kRecurPanel)};
  for (size_t place = block.first; place < block.end(); ++place) {
    const VD log = hn::PromoteTo(d, hn::LoadU(half, block.gates + place * kRecurPanel + i));
    const VD value = hn::PromoteTo(d, hn::LoadU(half, block.values + place * kRecurPanel + i));
    if (block.IsNew(place)) {
      const WkvState seen = WithTerm(now, hn::Zero(d), hn::Add(boost, log), value);
      const size_t to = block.RowAt(place) * panel.shape.value_channels() + panel.channel + i;
      const VD out = hn::Div(seen.weighted, seen.total);
      StoreSome(half, hn::DemoteTo(half, out), call.out + to, panel.Left(i));
    }
    now = WithTerm(now, rate, log, value);
  }
  hn::Store(now.weighted, d, at);
  hn::Store(now.total, d, at + kRecurPanel);
  hn::Store(now.peak, d, at + 2 * kRecurPanel);
}

void PanelSteps(const StepPanel& panel, const StepBlock& block, float* state) {
  if (panel.shape.rule == RecurRule::kWkv) {
    for (size_t i = 0; i < panel.width; i += hn::MaxLanes(DD())) WkvSteps(panel, block, i, state);
    return;
  }
  for (size_t i = 0; i < panel.width; i += kLanes) {
    if (panel.shape.num_key_heads > 0) {
      DiagonalSteps<true>(panel, block, i, state + i);
    } else {
      DiagonalSteps<false>(panel, block, i, state + i);
    }
  }
}

inline StepBlock MakeStepBlock(const StepPanel& panel, size_t number, float* unkept) {
  const RecurShape& shape = panel.shape;
  const RecurStream& stream = panel.call.stream;
  constexpr size_t kPanelFloats = kRecurBlockTokens * kRecurPanel;
  StepBlock block{.rows = panel.job.RowsOf(number), .gates = unkept, .values = unkept + kPanelFloats};
  const int32_t slot = stream.block_slots[number];
  if (slot < 0) return block;
  const auto at = static_cast<size_t>(slot);
  block.gates = stream.updates + at * shape.update_floats() + panel.index * kPanelFloats;
  block.values = block.gates + shape.update_floats() / 2;
  if (shape.num_key_heads > 0) block.kept_keys = stream.keys + at * shape.key_floats();
  return block;
}

// One panel through the rows of a chunk.
void StepTask(const RecurJob& job, size_t index, float* thread_scratch) {
  const StepPanel panel(job, index);
  const RecurStream& stream = job.call->stream;
  const size_t depth = panel.shape.state_depth() * kRecurPanel;
  const size_t bytes = depth * sizeof(float);
  float* const state = thread_scratch;
  const bool has_head = stream.head != nullptr;
  const float* const border =
      stream.states + static_cast<size_t>(stream.state_slot) * panel.shape.state_floats();
  std::memcpy(state, (has_head ? stream.head : border) + panel.state_at(), bytes);
  for (size_t number = 0; number < job.num_blocks; ++number) {
    StepBlock block = MakeStepBlock(panel, number, thread_scratch + depth);
    if (number == 0 && has_head) block.first = block.rows.offset;
    KeepTokens(panel, block);
    PanelSteps(panel, block, state);
    if (!block.rows.ends_block()) continue;
    float* const to =
        stream.states + static_cast<size_t>(stream.border_slots[number]) * panel.shape.state_floats();
    std::memcpy(to + panel.state_at(), state, bytes);
  }
  if (stream.next_head != nullptr) std::memcpy(stream.next_head + panel.state_at(), state, bytes);
}

}  // namespace
}  // namespace mneme::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
