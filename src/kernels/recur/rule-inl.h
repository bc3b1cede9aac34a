// The rule: u, o and the next S of one value head, block by block. Included by recur.cc once per target.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/recur/job.h"

#if defined(MNEME_KERNELS_RECUR_RULE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MNEME_KERNELS_RECUR_RULE_INL_H_
#undef MNEME_KERNELS_RECUR_RULE_INL_H_
#else
#define MNEME_KERNELS_RECUR_RULE_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/recur/panel-inl.h"
#include "kernels/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mneme::HWY_NAMESPACE {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr size_t kUpdatePanel = kRecurBlockTokens * kRecurPanel;  // floats of a panel of u

// The tokens of a chunk in one block, as one value head sees them.
struct HeadBlock {
  BlockRows rows;
  size_t key_dim = 0;
  const float* x = nullptr;  // k and q of the tokens: RecurJob::rows
  // Of the tokens: [per_token][64], what u_i counts for each of them. The weights of k are negative.
  const float* weights = nullptr;
  const float* values = nullptr;  // v of the tokens, value_stride apart
  size_t value_stride = 0;
  float* updates = nullptr;  // u of the block's tokens: [panels][64][64]
  float* out = nullptr;      // o of the tokens, out_stride apart
  size_t out_stride = 0;
  size_t value_dim = 0;
  float skip = 0;
  // By place in the block.
  double sums[kRecurBlockTokens] = {};   // G
  float decays[kRecurBlockTokens] = {};  // e^G
  float betas[kRecurBlockTokens] = {};
};

// x[i] = e^{x[i]} for i < count, and whatever up to a whole vector.
inline void Exponentials(float* HWY_RESTRICT x, size_t count) {
  const DF d;
  for (size_t i = 0; i < count; i += kLanes) {
    hn::Store(Exp2F32(d, hn::Mul(hn::Load(d, x + i), hn::Set(d, kLog2E))), d, x + i);
  }
}

// to[i] = e^{sum - sums[i]} for i < count, and whatever up to a whole vector.
inline void Weights(double sum, const double* HWY_RESTRICT sums, size_t count, float* HWY_RESTRICT to) {
  count = (count + kLanes - 1) / kLanes * kLanes;
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<float>(sum - sums[i]);
  Exponentials(to, count);
}

constexpr float kLeastDecay = -1e6f;
inline double Decay(float log_decay) {
  return static_cast<double>(log_decay < kLeastDecay ? kLeastDecay : log_decay);  // keeps NaN
}

// G, its exponentials and beta of the chunk's tokens.
inline void SetGates(const RecurCall& call, size_t head, HeadBlock& block) {
  const size_t num_heads = call.shape->num_value_heads;
  double sum = block.rows.offset == 0 ? 0.0 : block.sums[block.rows.offset - 1];
  for (size_t row = block.rows.begin; row < block.rows.end; ++row) {
    const size_t place = block.rows.offset + row - block.rows.begin;
    sum += Decay(call.log_decay[row * num_heads + head]);
    block.sums[place] = sum;
    block.betas[place] = call.beta[row * num_heads + head];
  }
  HWY_ALIGN float sums[kRecurBlockTokens];
  for (size_t i = 0; i < kRecurBlockTokens; ++i) sums[i] = static_cast<float>(block.sums[i]);
  const DF d;
  for (size_t i = 0; i < kRecurBlockTokens; i += kLanes) {
    hn::StoreU(Exp2F32(d, hn::Mul(hn::Load(d, sums + i), hn::Set(d, kLog2E))), d, block.decays + i);
  }
}

// weights[token][q] = e^{G_t - G_i} (k_i . q_t), and that of k with its sign turned.
inline void SetWeights(const float* HWY_RESTRICT products, size_t per_token, const HeadBlock& block,
                       float* HWY_RESTRICT weights) {
  const DF d;
  HWY_ALIGN float decay[kRecurBlockTokens];
  for (size_t token = 0; token < block.rows.count(); ++token) {
    const size_t place = block.rows.offset + token;
    Weights(block.sums[place], block.sums, place + 1, decay);
    for (size_t i = 0; i <= place; i += kLanes) {
      const size_t at = token * per_token * kRecurBlockTokens + i;
      const VF factor = hn::Load(d, decay + i);
      if (per_token == 2) {
        const size_t of_q = at + kRecurBlockTokens;
        hn::Store(hn::Mul(hn::Neg(factor), hn::Load(d, products + at)), d, weights + at);
        hn::Store(hn::Mul(factor, hn::Load(d, products + of_q)), d, weights + of_q);
      } else {
        hn::Store(hn::Mul(factor, hn::Load(d, products + at)), d, weights + at);
      }
    }
  }
}

// Decays by channel: G [key_dim][64] and beta of the chunk's tokens.
inline void SetChannelGates(const RecurCall& call, size_t head, HeadBlock& block, double* HWY_RESTRICT sums) {
  const size_t num_heads = call.shape->num_value_heads;
  const size_t first = block.rows.offset;
  for (size_t i = 0; i < block.key_dim; ++i) {
    double* const of_channel = sums + i * kRecurBlockTokens;
    double sum = first == 0 ? 0.0 : of_channel[first - 1];
    for (size_t token = 0; token < block.rows.count(); ++token) {
      const size_t row = block.rows.begin + token;
      sum += Decay(call.log_decay[(row * num_heads + head) * block.key_dim + i]);
      of_channel[first + token] = sum;
    }
  }
  for (size_t token = 0; token < block.rows.count(); ++token) {
    block.betas[first + token] = call.beta[(block.rows.begin + token) * num_heads + head];
  }
  std::fill(block.decays, block.decays + kRecurBlockTokens, 1.0f);  // k and q have decayed by themselves
}

// k and q as they meet S: each channel times its e^G.
inline void DecayRows(const HeadBlock& block, const double* HWY_RESTRICT sums, float* HWY_RESTRICT decays,
                      float* HWY_RESTRICT decayed) {
  for (size_t token = 0; token < block.rows.count(); ++token) {
    const size_t place = block.rows.offset + token;
    for (size_t i = 0; i < block.key_dim; ++i) {
      decays[i] = static_cast<float>(sums[i * kRecurBlockTokens + place]);
    }
    Exponentials(decays, block.key_dim);
    const size_t first = token * 2 * block.key_dim;
    for (size_t i = 0; i < block.key_dim; ++i) {
      decayed[first + i] = decays[i] * block.x[first + i];
      decayed[first + block.key_dim + i] = decays[i] * block.x[first + block.key_dim + i];
    }
  }
}

// Decays by channel: the weights of a token are sums over channels of e^{G_t - G_i} k_i q_t, one exponential
// for each pair of tokens and channel. So blocks are cut into parts of so many tokens. For a key of an
// earlier part e^{G_t - G_i} = e^{G_t - G_r} e^{G_r - G_i} with r the last token before t's part: neither
// factor exceeds 1, each belongs to one token, and what remains is a product of matrices.
constexpr size_t kPartTokens = 16;

// Tokens of the chunk in one part of the block, by place.
struct BlockPart {
  BlockPart(const BlockRows& rows, size_t first_place)
      : first(first_place),
        begin(std::max(rows.offset, first)),
        end(std::min(rows.offset + rows.count(), first + kPartTokens)) {}
  size_t first;  // of the part
  size_t begin, end;
};

// The keys of earlier parts as those after the last of them see them: [key_dim][64].
inline void DecayEarlierKeys(const float* HWY_RESTRICT keys, size_t key_dim, const BlockPart& part,
                             const double* HWY_RESTRICT sums, float* HWY_RESTRICT decayed) {
  const DF d;
  HWY_ALIGN float decay[kRecurBlockTokens];
  for (size_t channel = 0; channel < key_dim; ++channel) {
    const size_t at = channel * kRecurBlockTokens;
    Weights(sums[at + part.first - 1], sums + at, part.first, decay);
    for (size_t i = 0; i < part.first; i += kLanes) {
      hn::Store(hn::Mul(hn::Load(d, decay + i), hn::Load(d, keys + at + i)), d, decayed + at + i);
    }
  }
}

// What meets those: of each token of the part k, its sign turned, and q, each channel times its e^{G_t -
// G_r}.
inline void DecayPartRows(const HeadBlock& block, const BlockPart& part, const double* HWY_RESTRICT sums,
                          float* HWY_RESTRICT decays, float* HWY_RESTRICT rows) {
  for (size_t place = part.begin; place < part.end; ++place, rows += 2 * block.key_dim) {
    for (size_t channel = 0; channel < block.key_dim; ++channel) {
      const double* const of_channel = sums + channel * kRecurBlockTokens;
      decays[channel] = static_cast<float>(of_channel[place] - of_channel[part.first - 1]);
    }
    Exponentials(decays, block.key_dim);
    const float* const k = block.x + (place - block.rows.offset) * 2 * block.key_dim;
    for (size_t channel = 0; channel < block.key_dim; ++channel) {
      rows[channel] = -decays[channel] * k[channel];
      rows[block.key_dim + channel] = decays[channel] * k[block.key_dim + channel];
    }
  }
}

// to[row][i] = rows[row] . keys[i] for the keys before the part.
inline void PartTimesKeys(const float* rows, size_t num_rows, size_t key_dim, const float* keys,
                          size_t num_keys, float* to) {
  const auto columns = [&](auto vectors, size_t column) HWY_ATTR {
    constexpr size_t kVectors = decltype(vectors)::value;
    size_t row = 0;
    const auto tile = [&](auto step) HWY_ATTR {
      constexpr size_t kStep = decltype(step)::value;
      for (; row + kStep <= num_rows; row += kStep) {
        StoreProducts<kStep, kVectors>(rows + row * key_dim, key_dim, keys + column, key_dim,
                                       to + row * kRecurPanel + column);
      }
    };
    tile(std::integral_constant<size_t, kTileRows>());
    tile(std::integral_constant<size_t, 2>());
  };
  size_t column = 0;
  for (; column + 2 * kLanes <= num_keys; column += 2 * kLanes) {
    columns(std::integral_constant<size_t, 2>(), column);
  }
  for (; column < num_keys; column += kLanes) columns(std::integral_constant<size_t, 1>(), column);
}

// The weights of the keys in the token's own part, as above: [2][64] at `to`.
inline void SetNearWeights(const float* HWY_RESTRICT keys, const HeadBlock& block,
                           const double* HWY_RESTRICT sums, size_t first, size_t place,
                           float* HWY_RESTRICT to) {
  const DF d;
  HWY_ALIGN float difference[kLanes];
  const float* const k = block.x + (place - block.rows.offset) * 2 * block.key_dim;
  const float* const q = k + block.key_dim;
  for (size_t i = first; i <= place; i += kLanes) {
    VF of_k = hn::Zero(d), of_q = hn::Zero(d);
    for (size_t channel = 0; channel < block.key_dim; ++channel) {
      const size_t at = channel * kRecurBlockTokens;
      const double sum = sums[at + place];
      for (size_t lane = 0; lane < kLanes; ++lane) {
        difference[lane] = static_cast<float>(sum - sums[at + i + lane]);
      }
      const VF decay = Exp2F32(d, hn::Mul(hn::Load(d, difference), hn::Set(d, kLog2E)));
      const VF key = hn::Mul(decay, hn::Load(d, keys + at + i));
      of_k = hn::MulAdd(hn::Set(d, k[channel]), key, of_k);
      of_q = hn::MulAdd(hn::Set(d, q[channel]), key, of_q);
    }
    hn::Store(hn::Neg(of_k), d, to + i);
    hn::Store(of_q, d, to + kRecurBlockTokens + i);
  }
}

// weights[token][q] = sum over channels of e^{G_t - G_i} k_i q_t, and that of k with its sign turned. Uses
// the scratch's decayed keys and rows.
inline void SetChannelWeights(const float* HWY_RESTRICT keys, const HeadBlock& block,
                              const double* HWY_RESTRICT sums, const RecurThreadScratch& scratch) {
  const size_t first = block.rows.offset / kPartTokens * kPartTokens;
  for (size_t begin = first; begin < block.rows.offset + block.rows.count(); begin += kPartTokens) {
    const BlockPart part(block.rows, begin);
    float* const to = scratch.weights + (part.begin - block.rows.offset) * 2 * kRecurBlockTokens;
    if (part.first > 0) {
      DecayEarlierKeys(keys, block.key_dim, part, sums, scratch.decayed_keys);
      DecayPartRows(block, part, sums, scratch.decays, scratch.decayed_rows);
      PartTimesKeys(scratch.decayed_rows, 2 * (part.end - part.begin), block.key_dim, scratch.decayed_keys,
                    part.first, to);
    }
    for (size_t place = part.begin; place < part.end; ++place) {
      SetNearWeights(keys, block, sums, part.first, place, to + (place - part.begin) * 2 * kRecurBlockTokens);
    }
  }
}

inline void StoreOutput(const HeadBlock& block, const Tile<1, kTileVectors>& row, size_t column, float* out) {
  const DF d;
  if (column + kTileColumns <= block.value_dim) {
    MNEME_UNROLL for (size_t v = 0; v < kTileVectors; ++v)
        hn::StoreU(row[0][v], d, out + column + v * kLanes);
    return;
  }
  if (column >= block.value_dim) return;
  HWY_ALIGN float whole[kTileColumns];
  MNEME_UNROLL for (size_t v = 0; v < kTileVectors; ++v) hn::Store(row[0][v], d, whole + v * kLanes);
  std::memcpy(out + column, whole, (block.value_dim - column) * sizeof(float));
}

// u and o of kTokens tokens from the block's `token` on, in kTileColumns columns from `column` on. state and
// updates: the panel of these columns, from the first of them on. What several tokens have in common are
// their sums over S and over the u of earlier tokens; then each token's u goes into the sums of those after
// it.
template <bool kCorrects, size_t kTokens>
HWY_INLINE void TokenTile(const HeadBlock& block, size_t token, const float* state, float* updates,
                          size_t column) {
  constexpr size_t kPer = kCorrects ? 2 : 1;
  constexpr size_t kRows = kPer * kTokens;
  const DF d;
  const size_t place = block.rows.offset + token;
  const float* const weights = block.weights + token * kPer * kRecurBlockTokens;
  const float* const values = block.values + token * block.value_stride + column;
  Tile<kRows, kTileVectors> sums;
  ClearTile<kRows, kTileVectors>(sums);
  AddProducts<kRows, kTileVectors, kTokens == 1 ? kAheadRows : 0>(block.x + token * kPer * block.key_dim,
                                                                  block.key_dim, state, block.key_dim, sums);
  MNEME_UNROLL for (size_t t = 0; t < kTokens; ++t) {
    const VF decay = hn::Set(d, block.decays[place + t]);
    MNEME_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
      if constexpr (kCorrects) {
        const VF value = hn::Load(d, values + t * block.value_stride + v * kLanes);
        sums[kPer * t][v] = hn::NegMulAdd(decay, sums[kPer * t][v], value);
      }
      sums[kPer * t + kPer - 1][v] = hn::Mul(decay, sums[kPer * t + kPer - 1][v]);
    }
  }
  AddProducts<kRows, kTileVectors>(weights, kRecurBlockTokens, updates, place, sums);
  MNEME_UNROLL for (size_t t = 0; t < kTokens; ++t) {
    const VF beta = hn::Set(d, block.betas[place + t]);
    MNEME_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
      const VF value =
          kCorrects ? sums[kPer * t][v] : hn::Load(d, values + t * block.value_stride + v * kLanes);
      const VF update = hn::Mul(beta, value);
      hn::Store(update, d, updates + (place + t) * kRecurPanel + v * kLanes);
      MNEME_UNROLL for (size_t later = 0; later < kTokens; ++later) {
        if (later < t) continue;
        const float* const row = weights + later * kPer * kRecurBlockTokens + place + t;
        VF& o = sums[kPer * later + kPer - 1][v];
        o = hn::MulAdd(hn::Set(d, row[(kPer - 1) * kRecurBlockTokens]), update, o);
        if (kCorrects && later > t) {
          VF& u = sums[kPer * later][v];
          u = hn::MulAdd(hn::Set(d, row[0]), update, u);
        }
      }
    }
  }
  MNEME_UNROLL for (size_t t = 0; t < kTokens; ++t) {
    Tile<1, kTileVectors> row;
    MNEME_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
      row[0][v] = sums[kPer * t + kPer - 1][v];
      if (block.skip != 0.0f) {
        const VF value = hn::Load(d, values + t * block.value_stride + v * kLanes);
        row[0][v] = hn::MulAdd(hn::Set(d, block.skip), value, row[0][v]);
      }
    }
    StoreOutput(block, row, column, block.out + (token + t) * block.out_stride);
  }
}

// All tokens of the block in one panel, of which `state` is that of S.
template <bool kCorrects>
void PanelTokens(const HeadBlock& block, const float* state, size_t panel) {
  constexpr size_t kTogether = kTileRows / (kCorrects ? 2 : 1);
  const size_t count = block.rows.count();
  float* const updates = block.updates + panel * kUpdatePanel;
  for (size_t column = 0; column < kRecurPanel; column += kTileColumns) {
    const size_t at = panel * kRecurPanel + column;
    size_t token = 0;
    for (; token + kTogether <= count; token += kTogether) {
      TokenTile<kCorrects, kTogether>(block, token, state + column, updates + column, at);
    }
    for (; token < count; ++token) {
      TokenTile<kCorrects, 1>(block, token, state + column, updates + column, at);
    }
  }
}

template <size_t kRows>
HWY_INLINE void StateTile(const float* decayed_keys, const float* updates, const float* decays,
                          size_t decay_stride, const float* from, float* to) {
  const DF d;
  Tile<kRows, kTileVectors> sums;
  MNEME_UNROLL for (size_t r = 0; r < kRows; ++r) {
    MNEME_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
      sums[r][v] =
          hn::Mul(hn::Set(d, decays[r * decay_stride]), hn::Load(d, from + r * kRecurPanel + v * kLanes));
    }
  }
  AddProducts<kRows, kTileVectors>(decayed_keys, kRecurBlockTokens, updates, kRecurBlockTokens, sums);
  MNEME_UNROLL for (size_t r = 0; r < kRows; ++r) {
    MNEME_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
      hn::Store(sums[r][v], d, to + r * kRecurPanel + v * kLanes);
    }
  }
}

// One panel of the S after a block from that before it; `to` may be `from`. decays: of each channel, or
// decay_stride 0.
inline void PanelState(const float* decayed_keys, size_t key_dim, const float* updates, const float* decays,
                       size_t decay_stride, const float* from, float* to) {
  for (size_t column = 0; column < kRecurPanel; column += kTileColumns) {
    size_t row = 0;
    const auto tile = [&](auto step) HWY_ATTR {
      constexpr size_t kStep = decltype(step)::value;
      for (; row + kStep <= key_dim; row += kStep) {
        const size_t at = row * kRecurPanel + column;
        StateTile<kStep>(decayed_keys + row * kRecurBlockTokens, updates + column,
                         decays + row * decay_stride, decay_stride, from + at, to + at);
      }
    };
    tile(std::integral_constant<size_t, kTileRows>());
    tile(std::integral_constant<size_t, 2>());
    tile(std::integral_constant<size_t, 1>());
  }
}

// decayed[d][i] = e^{G_last - G_i} keys[d][i].
inline void DecayKeys(const float* HWY_RESTRICT keys, const HeadBlock& block, float* HWY_RESTRICT decayed) {
  const DF d;
  HWY_ALIGN float decay[kRecurBlockTokens];
  Weights(block.sums[kRecurBlockTokens - 1], block.sums, kRecurBlockTokens, decay);
  for (size_t row = 0; row < block.key_dim; ++row) {
    for (size_t i = 0; i < kRecurBlockTokens; i += kLanes) {
      const size_t at = row * kRecurBlockTokens + i;
      hn::Store(hn::Mul(hn::Load(d, decay + i), hn::Load(d, keys + at)), d, decayed + at);
    }
  }
}

// The same by channel, and decays[d] = e^{G_last}.
inline void DecayChannelKeys(const float* HWY_RESTRICT keys, size_t key_dim, const double* HWY_RESTRICT sums,
                             float* HWY_RESTRICT decayed, float* HWY_RESTRICT decays) {
  const DF d;
  HWY_ALIGN float decay[kRecurBlockTokens];
  for (size_t row = 0; row < key_dim; ++row) {
    const double* const of_channel = sums + row * kRecurBlockTokens;
    const double last = of_channel[kRecurBlockTokens - 1];
    decays[row] = static_cast<float>(last);
    Weights(last, of_channel, kRecurBlockTokens, decay);
    for (size_t i = 0; i < kRecurBlockTokens; i += kLanes) {
      const size_t at = row * kRecurBlockTokens + i;
      hn::Store(hn::Mul(hn::Load(d, decay + i), hn::Load(d, keys + at)), d, decayed + at);
    }
  }
  Exponentials(decays, key_dim);
}

// Where G of a block's tokens lies, and of a head that decays by channel.
inline double* ChannelSums(const RecurJob& job, size_t index, size_t head,
                           const RecurThreadScratch& scratch) {
  const RecurShape& shape = *job.call->shape;
  const int32_t slot = job.call->stream.block_slots[index];
  if (slot < 0) return scratch.sums;
  return job.call->stream.sums + static_cast<size_t>(slot) * shape.sum_doubles() +
         head * shape.key_dim * kRecurBlockTokens;
}

// The rows of one block as a value head sees them, with all that does not depend on columns computed.
inline HeadBlock MakeBlock(const RecurJob& job, size_t index, size_t head,
                           const RecurThreadScratch& scratch) {
  const RecurCall& call = *job.call;
  const RecurShape& shape = *call.shape;
  const RecurStream& stream = call.stream;
  const size_t key_head = shape.KeyHeadOf(head);
  HeadBlock block;
  block.rows = job.RowsOf(index);
  block.key_dim = shape.key_dim;
  block.x = job.Rows(key_head, block.rows.begin);
  block.weights = scratch.weights;
  block.values = job.Values(head, block.rows.begin);
  block.value_stride = shape.num_panels() * kRecurPanel;
  block.out_stride = shape.num_value_heads * shape.value_dim;
  block.out = call.out + block.rows.begin * block.out_stride + head * shape.value_dim;
  block.value_dim = shape.value_dim;
  block.skip = call.skip == nullptr ? 0.0f : call.skip[head];
  block.updates = scratch.updates;
  const int32_t slot = stream.block_slots[index];
  const auto at = static_cast<size_t>(std::max(slot, 0));
  if (slot >= 0) {
    block.updates = stream.updates + at * shape.update_floats() + head * shape.num_panels() * kUpdatePanel;
  }
  if (shape.decays_by_channel) {
    double* const sums = ChannelSums(job, index, head, scratch);
    SetChannelGates(call, head, block, sums);
    SetChannelWeights(job.KeysOf(index, key_head), block, sums, scratch);
    DecayRows(block, sums, scratch.decays, scratch.decayed_rows);
    block.x = scratch.decayed_rows;
    return block;
  }
  double* sums = nullptr;
  if (slot >= 0) {
    sums = stream.sums + at * shape.sum_doubles() + head * kRecurBlockTokens;
    std::memcpy(block.sums, sums, block.rows.offset * sizeof(double));
  }
  SetGates(call, head, block);
  if (sums != nullptr) {
    std::memcpy(sums + block.rows.offset, block.sums + block.rows.offset,
                block.rows.count() * sizeof(double));
  }
  SetWeights(job.Products(key_head, block.rows.begin), RowsPerToken(shape), block, scratch.weights);
  return block;
}

// What a value head does with the rows of one block. Returns where its S is after them.
const float* RunBlock(const RecurJob& job, size_t index, size_t head, const float* state,
                      const RecurThreadScratch& scratch) {
  const RecurShape& shape = *job.call->shape;
  const RecurStream& stream = job.call->stream;
  const size_t state_panel = shape.key_dim * kRecurPanel;
  const HeadBlock block = MakeBlock(job, index, head, scratch);
  float* next = nullptr;
  const float* decays = &block.decays[kRecurBlockTokens - 1];
  if (block.rows.ends_block()) {
    next = stream.states + static_cast<size_t>(stream.border_slots[index]) * shape.state_floats() +
           head * shape.num_panels() * state_panel;
    const float* const keys = job.KeysOf(index, shape.KeyHeadOf(head));
    if (shape.decays_by_channel) {
      const double* const sums = ChannelSums(job, index, head, scratch);
      DecayChannelKeys(keys, shape.key_dim, sums, scratch.decayed_keys, scratch.decays);
      decays = scratch.decays;
    } else {
      DecayKeys(keys, block, scratch.decayed_keys);
    }
  }
  for (size_t panel = 0; panel < shape.num_panels(); ++panel) {
    const float* const from = state + panel * state_panel;
    if (shape.rule == RecurRule::kDelta) {
      PanelTokens<true>(block, from, panel);
    } else {
      PanelTokens<false>(block, from, panel);
    }
    if (next == nullptr) continue;
    PanelState(scratch.decayed_keys, shape.key_dim, block.updates + panel * kUpdatePanel, decays,
               shape.decays_by_channel ? 1 : 0, from, next + panel * state_panel);
  }
  return next == nullptr ? state : next;
}

void RuleTask(const RecurJob& job, size_t head, float* thread_scratch) {
  const RecurShape& shape = *job.call->shape;
  const RecurStream& stream = job.call->stream;
  const RecurThreadScratch scratch(shape, thread_scratch);
  const float* state = stream.states + static_cast<size_t>(stream.state_slot) * shape.state_floats() +
                       head * shape.num_panels() * shape.key_dim * kRecurPanel;
  for (size_t block = 0; block < job.num_blocks; ++block) state = RunBlock(job, block, head, state, scratch);
}

}  // namespace
}  // namespace mneme::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
