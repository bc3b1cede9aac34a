// Layers whose state does not grow with the stream: the gated delta rule (Yang et al. 2024, arXiv 2412.06464;
// three of four layers of Qwen3-Next and Qwen3.5; with a decay for each channel of the key Kimi Delta
// Attention, arXiv 2510.26692, three of four layers of Kimi Linear), the scan of Mamba 2 (Dao and Gu 2024,
// arXiv 2405.21060), and the short causal convolution in front of both, which LFM2 has alone; and three
// recurrences of single channels, further down.
//
// Per value head, for the tokens t of the stream in order, with a state S [key_dim, value_dim]:
//
//   S_t = g_t S_{t-1} + k_t u_t^T      u_t = beta_t (v_t - g_t S_{t-1}^T k_t)   with correction (kDelta)
//   o_t = S_t^T q_t                    u_t = beta_t v_t                         without (kScan)
//
// with g_t = exp(a_t). No state runs along here. Let b be the last multiple of 64 at or before t; all that a
// token needs are S_b and what belongs to the tokens since b:
//
//   G_t = sum of a_i, b <= i <= t
//   u_t = beta_t (v_t - e^{G_t} S_b^T k_t - sum over b <= i < t of e^{G_t - G_i} (k_i . k_t) u_i)
//   o_t = e^{G_t} S_b^T q_t + sum over b <= i <= t of e^{G_t - G_i} (k_i . q_t) u_i
//   S_{b+64} = e^{G_last} S_b + sum of e^{G_last - G_i} k_i u_i^T
//
// Every sum has one order (over key_dim, then over i), so the bits of a token depend on the stream alone: not
// on chunks, threads or other sessions. To take tokens back is to forget their k, u and G. A decoded token
// reads S once and writes no state but once in 64 tokens; in prefill the same sums are products of matrices.
//
// With decays by channel e^{G} and its ratios stand inside the products, one for each channel of the key:
// e^{G_t} scales the channels of q_t and k_t where they meet S_b, and e^{G_t - G_i}, which is never above 1,
// those of k_i where they meet q_t and k_t.
//
// Everything is float32 but G, which is double: differences of sums of up to 64 steps are then as exact as
// one step, where float32 would lose 1e-3 of a weight after a few tokens that forget all (a = -20 and below).
//
// Where each channel decays by itself no product of matrices takes several tokens at once, and the state goes
// step by step:
//
//   kDiagonal   h_t[n, c] = e^{a_t[c] rate[n, c]} h_{t-1}[n, c] + k_t[n] u_t[c]    u_t = beta_t v_t
//               o_t[c] = sum over n of q_t[n] h_t[n, c]
//   kWkv        o_t = (P_{t-1} + e^{boost + b_t} v_t) / (Q_{t-1} + e^{boost + b_t})
//               P_t = e^{-rate} P_{t-1} + e^{b_t} v_t,  Q_t = e^{-rate} Q_{t-1} + e^{b_t}
//
// The first is the selective scan of Mamba (Gu and Dao 2023, arXiv 2312.00752), and with one n and without
// k, q and rate the RG-LRU of Griffin (De et al. 2024, arXiv 2402.19427); the second is RWKV-4 (Peng et al.
// 2023, arXiv 2305.13048), in double precision, P and Q with a common factor that keeps them in its range.
// Steps have one order whatever the chunk. Kept are the same things, the state at borders and a, u, k (or b,
// v) of the tokens since; and the head, the state after the last token, from which a stream goes on at once.
// To take tokens back is to forget it: the steps from the border come to the same bits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"

namespace mneme {

inline constexpr size_t kRecurBlockTokens = 64;
// Matrices lie in panels of so many columns, the last one padded: S [panels][key_dim][64], u [panels][64
// tokens][64], k [key_dim][64 tokens].
inline constexpr size_t kRecurPanel = 64;
static_assert(kRecurPanel == kRecurBlockTokens);
inline constexpr size_t kMaxConvWidth = 8;
inline constexpr float kRecurNormEpsilon = 1e-6f;

// Relative difference of the outputs of a head, and of its state, from RecurReference: norm of the difference
// over many tokens by the norm of all. A sum of n products of float32 errs by about sqrt(n) 2^-24 of the sum
// of their magnitudes, 8e-7 for key_dim + 64 = 192 of them; the weights e^x add 2e-7. Keys of length 1 and
// beta <= 1 let no error grow, and decays forget it; without any decay it adds up from block to block, also
// by its root.
inline constexpr double kRecurError = 2e-6;

enum class RecurRule : uint8_t {
  kDelta,
  kScan,
  kConvolution,  // the convolution alone: no keys, and a value head is so many channels
  kDiagonal,     // without a convolution; value heads share the channels among threads
  kWkv,          // likewise
};

struct RecurShape {
  RecurRule rule = RecurRule::kDelta;
  size_t num_key_heads = 0;    // of q and k; kDiagonal: 1, or 0 without keys
  size_t num_value_heads = 0;  // a multiple of num_key_heads
  size_t key_dim = 0;          // of the state: Mamba's state_dim; kWkv: not read
  size_t value_dim = 0;
  // Key head of value head h: h % num_key_heads if tiled (as GGUF files of Qwen3.5 order heads), else h /
  // (value heads per key head).
  bool is_tiled = false;
  // kDelta: each channel of the key has a decay of its own; key heads are as many as value heads.
  bool decays_by_channel = false;
  // Channels are the heads of q, of k, of v; or of v, of k, of q (Mamba 2: x, B, C).
  bool has_values_first = false;
  size_t conv_width = 4;       // taps, 1 .. kMaxConvWidth
  bool conv_activates = true;  // SiLU after the convolution
  // q and k become x / sqrt(sum of x^2 + 1e-6) after the convolution; q is then multiplied by query_scale in
  // any case.
  bool normalises = true;
  float query_scale = 1.0f;

  bool operator==(const RecurShape&) const = default;

  bool has_state() const { return rule != RecurRule::kConvolution; }
  bool is_stepped() const { return rule == RecurRule::kDiagonal || rule == RecurRule::kWkv; }
  size_t key_channels() const { return has_state() ? num_key_heads * key_dim : 0; }
  size_t value_channels() const { return num_value_heads * value_dim; }
  // Of a row of x.
  size_t num_channels() const {
    return is_stepped() ? value_channels() : 2 * key_channels() + value_channels();
  }
  // Of a row that a convolution looks back at.
  size_t input_channels() const { return is_stepped() ? 0 : num_channels(); }
  // Of a row of beta.
  size_t num_gates() const { return is_stepped() ? value_channels() : num_value_heads; }
  // Of a row of log_decay.
  size_t num_decays() const { return num_gates() * (decays_by_channel ? key_dim : 1); }
  size_t q_channel() const { return has_values_first ? value_channels() + key_channels() : 0; }
  size_t k_channel() const { return has_values_first ? value_channels() : key_channels(); }
  size_t v_channel() const { return has_values_first ? 0 : 2 * key_channels(); }
  size_t KeyHeadOf(size_t value_head) const {
    return is_tiled ? value_head % num_key_heads : value_head / (num_value_heads / num_key_heads);
  }

  size_t num_panels() const { return (value_dim + kRecurPanel - 1) / kRecurPanel; }
  // Floats of a channel's state: of kWkv three doubles, P, Q and the logarithm of their factor.
  size_t state_depth() const { return rule == RecurRule::kWkv ? 6 : key_dim; }
  // Of one border: S of all value heads, [heads][panels][state_depth][64].
  size_t state_floats() const {
    return has_state() ? num_value_heads * num_panels() * state_depth() * kRecurPanel : 0;
  }
  // Of one block of 64 tokens: k of all key heads; u (stepped: a, then u, or b, then v) of all value heads,
  // and G as doubles of all decays.
  size_t key_floats() const { return key_channels() * kRecurBlockTokens; }
  size_t update_panels() const {
    return has_state() ? (is_stepped() ? 2 : 1) * num_value_heads * num_panels() : 0;
  }
  size_t update_floats() const { return update_panels() * kRecurBlockTokens * kRecurPanel; }
  size_t sum_doubles() const { return has_state() && !is_stepped() ? num_decays() * kRecurBlockTokens : 0; }
};

// Where the state of one stream lies in one layer, and which parts a chunk reads and writes. Slots are places
// for one border, one block or one row of inputs, whichever is free (context/recurrent/recurrent_state.h
// chooses them). What a chunk writes is never what it was given to read, but for what it appends to the block
// that it begins in.
struct RecurStream {
  int64_t first_index = 0;  // of the chunk's first row in the stream
  // [slots][state_floats]. S at the last border at or before first_index; where S goes after each block that
  // the chunk ends, in order: a slot that follows itself is written over.
  float* states = nullptr;
  int32_t state_slot = 0;
  const int32_t* border_slots = nullptr;
  // [slots][key_floats], [slots][update_floats], [slots][sum_doubles]. For each block that the chunk has
  // tokens of: its slot, or -1 where it is not kept, which must be wholly inside the chunk.
  float* keys = nullptr;
  float* updates = nullptr;
  double* sums = nullptr;
  const int32_t* block_slots = nullptr;
  // Rows of x before the convolution, a ring: [num_input_slots][num_channels]. The row before the chunk lies
  // before input_slot, the chunk's rows from first_kept_row on go to input_slot and the following ones.
  float* inputs = nullptr;
  size_t num_input_slots = 0;
  size_t input_slot = 0;
  size_t first_kept_row = 0;
  // Stepped: [state_floats] after the row before the chunk, null where it is not there and is found from the
  // border; and where it goes after the chunk, null: nowhere.
  const float* head = nullptr;
  float* next_head = nullptr;
};

// The rows of one session in one layer. All pointers 64-byte aligned where they point to states, keys,
// updates, sums.
struct RecurCall {
  const RecurShape* shape = nullptr;
  // [conv_width, num_channels]: tap j of all channels, the last tap is of the row itself (files have
  // [num_channels, conv_width]). Bias null: none.
  const float* conv_weight = nullptr;
  const float* conv_bias = nullptr;
  // [num_value_heads], kDiagonal [value_channels]: out += skip * v (Mamba's D). Null: none
  const float* skip = nullptr;
  size_t num_rows = 0;
  const float* x = nullptr;  // [num_rows, num_channels], before the convolution
  // [num_rows, num_decays]: a <= 0 (below -1e6 it counts as that), and [num_rows, num_gates]: beta (dt in
  // Mamba), of kWkv the logarithm b. Null with kConvolution, and a with kWkv.
  const float* log_decay = nullptr;
  const float* beta = nullptr;
  // kDiagonal: [num_rows, key_dim]; null: ones.
  const float* keys = nullptr;
  const float* queries = nullptr;
  // Stepped, as a state lies ([heads][panels][key_dim][64], of kWkv [heads][panels][64]): not negative. Null,
  // kDiagonal only: ones.
  const float* rate = nullptr;
  const float* boost = nullptr;  // kWkv: [heads][panels][64]
  float* out = nullptr;          // [num_rows, num_value_heads, value_dim]; none of the operands
  RecurStream stream = {};
};

// Blocks that the chunk has tokens of, and those that it ends.
inline size_t NumRecurBlocks(int64_t first_index, size_t num_rows) {
  const auto offset = static_cast<size_t>(first_index % static_cast<int64_t>(kRecurBlockTokens));
  return (offset + num_rows + kRecurBlockTokens - 1) / kRecurBlockTokens;
}
inline size_t NumRecurBorders(int64_t first_index, size_t num_rows) {
  const auto offset = static_cast<size_t>(first_index % static_cast<int64_t>(kRecurBlockTokens));
  return (offset + num_rows) / kRecurBlockTokens;
}

// Scratch of Recur for calls of a shape with at most num_rows rows together.
size_t RecurScratchFloats(const RecurShape& shape, size_t num_rows, size_t num_threads);
// Several sessions in the same layer: all calls have one shape. scratch is 64-byte aligned. NaN in gives NaN
// out, in that row and later ones.
void Recur(std::span<const RecurCall> calls, float* scratch, ThreadPool& pool);

// What a call reads of the state (S once, k and u of the block that it begins in), and its multiply-adds,
// counted as two.
struct RecurCost {
  double bytes = 0;
  double flops = 0;
};
RecurCost CostOf(const RecurCall& call);

// The state of a stream that has not begun: [state_floats].
void ClearState(const RecurShape& shape, float* state);
// A value for each channel ([value_channels, depth] as files have them) as rate and boost lie, 0 where a
// panel is not full.
std::vector<float> ByPanels(const RecurShape& shape, size_t depth, const std::vector<float>& values);

// The same in double precision with a running state, for a stream from its first token on (call.stream is not
// read). out [num_rows, num_value_heads, value_dim]; state [num_value_heads, key_dim, value_dim], as it is
// after the last row, of kWkv not given.
void RecurReference(const RecurCall& call, double* out, double* state);
// The rule of one head over one block, from S_b and the block's tokens, as it is written above, in double
// precision: what the sums by blocks come to. q, k [num_rows, key_dim], v, out [num_rows, value_dim], beta
// [num_rows], a as beta or [num_rows, key_dim], num_rows <= 64; state [key_dim, value_dim] becomes S after
// the rows.
void RecurBlockReference(const RecurShape& shape, const double* q, const double* k, const double* v,
                         const double* a, const double* beta, size_t num_rows, double* out, double* state);

}  // namespace mneme
