// A context decides what a query sees of the stream: which tokens are kept, at which distance, and what
// happens to those that leave the window. One object per session; one file per policy; one table of policies
// (context/registry.h).
//
// A forward call goes through a context chunk by chunk:
//   Begin(tokens)       plans them as the next ones; lets go of what nobody can reach any more, reserves
//                       what they need
//   Plan(layer, ...)    once per layer, in any order: what the device is to store and to attend to
//   Finish(layer)       once the device has done it: what is merged into the result
//   Commit()            the tokens are now part of the stream        or  Abort()  they never were
// Until Commit the stream is as it was before Begin, whatever happens in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/budget.h"
#include "base/checked.h"
#include "base/files/serial.h"
#include "base/types.h"
#include "context/recurrent/recurrent_state.h"
#include "kernels/attend/rope.h"
#include "kernels/device.h"
#include "kernels/memory/memory.h"
#include "mneme/ledger.h"
#include "recall/store_folder.h"

namespace mneme {

// What a context must know about one layer of the model.
struct LayerAttention {
  size_t num_heads = 0;
  size_t num_kv_heads = 0;
  size_t key_dim = 0;
  size_t value_dim = 0;
  float scale = 1.0f;
  float soft_cap = 0.0f;            // 0: none
  Rope rope;                        // empty frequencies: none
  std::vector<float> alibi_slopes;  // [num_heads], or empty
  std::vector<float>
      sink_logits;  // [num_heads], or empty: a learned logit in the softmax's denominator without a value
  // [key_dim], or empty: AttendShape::query_factors.
  std::vector<float> query_factors;
  // The model's own sliding window (gemma2, gemma3, mistral): a query sees keys at distance < layer_window.
  // 0: none. It holds inside every context, measured in the distance that the context assigns.
  int64_t layer_window = 0;
  // In its place a query sees keys from the last multiple of layer_window positions on (llama4).
  bool is_chunked = false;
  // Reads the keys and values of this layer, which comes before it, and keeps none of its own; -1: its own.
  // Then the k and v of Plan are not looked at.
  int64_t kv_source = -1;
  // Values are the last of the keys, before and after rotation (latent attention): they are kept once where
  // StoresValuesInKeys.
  bool values_in_keys = false;
  // Infini-attention: a gate per query head (logits); empty where the model has none. With gated-delta the
  // model also computes a write gate per token and KV head (Context::SetWriteGate).
  std::vector<float> memory_gate;

  // Whether values take no room of their own in these encodings.
  bool StoresValuesInKeys(Encoding keys, Encoding values) const;
};

// What the model was trained with, for --context infini. segment 0: the model has no memory.
struct MemoryRules {
  int64_t segment = 0;
  // Whole previous segments that local attention sees; tokens enter the memory when they leave it.
  int64_t previous = 0;
  MemoryUpdate update = MemoryUpdate::kLinear;
  // While the memory is empty: (1 - gate) * local (literal) instead of local (bypass).
  bool literal_first = false;
  // Local attention and memory find a value under the key of the token before it, so that a query finds
  // what followed: one layer then recalls a continuation, where aligned pairs need two. Locally the
  // stream's first token lies under a key of zeros, and with hard segments (previous = 0) each segment's. In
  // the memory the stream's first token is left out; under the rules without a write gate each segment's.
  bool key_shift = false;
  // gated-delta: the write gate is max(0, (sigmoid - floor) / (1 - floor)), so that it can be exactly shut
  // and any length of text leaves the memory bit-identical. 0: the plain sigmoid.
  float write_floor = 0;
};

// A query head of an attention layer.
struct RecallHead {
  size_t layer = 0;
  size_t head = 0;
  bool operator==(const RecallHead&) const = default;
};

// Which heads choose what comes back, for --context recall. Empty: a few by their place, which finds less
// than those that were found by trying (mneme calibrate).
struct RecallRules {
  std::vector<RecallHead> heads;
};

// A slice that is back: its first token as an index of the stream, its ids, and how it was chosen.
struct RecalledSlice {
  int64_t begin = 0;
  std::vector<TokenId> tokens;
  float score = 0;  // the votes of the turn's rows
  float bias = 0;   // natural logarithm; how much its keys count beside those of the best slice
};

// What a context must know about the model.
struct ContextShape {
  std::vector<LayerAttention> layers;
  // The layers with a state of fixed size, which are no layers of attention and are counted apart.
  RecurrentShape recurrent;
  int64_t trained_length = 0;  // tokens the model was trained on at once; 0: unknown
  MemoryRules memory;
  RecallRules recall;
  int64_t num_sinks = 4;  // first tokens that --context sinks keeps unless told; 1 with a learned sink token
  // Absolute position embeddings: no token beyond trained_length, no eviction.
  bool learned_positions = false;
};

class Policy;

// --context NAME[:key=value,...] and what goes with it.
struct ContextSettings {
  std::string spec = "auto";
  // What the spec means for a model, once it was resolved (context/registry.h); null before. It counts only
  // while it is what the spec says (PolicyOf).
  std::shared_ptr<const Policy> policy;
  Encoding key_encoding = Encoding::kF16;
  Encoding value_encoding = Encoding::kF16;
  int64_t num_pinned = 0;       // the first tokens that must never be evicted (a system prompt)
  int64_t max_chunk = 512;      // most tokens in one Begin
  int64_t max_rewind = 64;      // Rewind of this many tokens must be exact, also across evictions
  Position start_position = 0;  // position of the first token of the stream
  StoreOptions store = {};      // of what recall keeps
};

// The last position that a stream may come to.
inline constexpr Position kMostPosition = INT64_MAX / 4;

// Peak bytes of a context, before the run.
struct ContextBytes {
  size_t kv_bytes = 0;  // grows with the stream only if is_bounded is false
  size_t scratch_bytes = 0;
  bool is_bounded = true;
  size_t total() const { return SaturatingAdd(kv_bytes, scratch_bytes); }
};

// Thread rule: one thread at a time. The Budget, the ContextShape and the Device passed in must outlive
// the context.
class Context {
 public:
  virtual ~Context() = default;

  // Tokens committed so far, and the position of the first.
  int64_t num_tokens() const { return num_tokens_; }
  Position start_position() const { return start_position_; }
  Position next_position() const { return start_position_ + num_tokens_; }

  // The resolved spec with every key: "sinks:sinks=4,window=1020". Creating a context from it gives the same
  // policy.
  virtual std::string Describe() const = 0;

  // Plans 1 .. max_chunk more tokens. Throws Error(kBudget) when they do not fit (a dense context at its
  // cap), Error(kUnsupported) where the policy or the model cannot go on (learned positions), and what an
  // eviction sink throws; the stream has not changed then.
  virtual void Begin(std::span<const TokenId> tokens) = 0;
  // q [n, num_heads, key_dim], k [n, num_kv_heads, key_dim], v [n, num_kv_heads, value_dim] of the chunk's n
  // rows, before any position encoding; out [n, num_heads, value_dim]. Rows are contiguous. Valid, with all
  // that it points to, until Finish of the layer, and so must q, k, v and out be.
  virtual AttendCall Plan(size_t layer, const float* q, const float* k, const float* v, float* out) = 0;
  // The state of the layers that have one of fixed size; null where the model has none. What the context says
  // of a chunk and of going back holds for it too.
  virtual RecurrentState* recurrent() { return nullptr; }
  // After the device has done the call of Plan.
  virtual void Finish(size_t /*layer*/, Device& /*device*/) {}
  // Only where shape.memory.update is gated-delta, before Plan of the same layer: write_gate [n,
  // num_kv_heads] in [0, 1]. Contexts without a memory ignore it.
  virtual void SetWriteGate(size_t /*layer*/, const float* /*write_gate*/) {}
  virtual void Commit() = 0;
  virtual void Abort() = 0;

  // Tokens that Rewind can take back now: at least min(max_rewind, num_tokens()) unless some were already
  // taken back.
  virtual int64_t MaxRewind() const = 0;
  // The stream as it was `count` tokens ago, exactly. Throws Error(kInput) if count > MaxRewind(); nothing
  // has changed then.
  virtual void Rewind(int64_t count) = 0;

  // What is fed from here on to the next Replay is one turn: its rows say what comes back.
  virtual void BeginTurn() {}
  // Chooses what comes back for the turn that ends here. Where that differs from what was there, the last
  // tokens, at most most_rows, are taken back and must be fed again: returns how many. 0: all stays as it is.
  // Between two chunks.
  virtual int64_t Replay(int64_t /*most_rows*/, Device& /*device*/) { return 0; }
  // What came back, in stream order.
  virtual std::vector<RecalledSlice> Recalled() const { return {}; }

  // Everything that decides later outputs. Restore goes into a context created with the same shape and
  // settings (the caller compares Describe()); throws Error on any mismatch, and the context must then be
  // discarded.
  virtual void Save(StateWriter& writer) const = 0;
  virtual void Restore(StateReader& reader) = 0;

  // The same stream once more, to go on on its own: blocks are shared and copied when one of the two writes
  // into them. Charged in full, so that neither meets a full budget later for what it has now. Not between
  // Begin and Commit. Throws Error(kBudget).
  virtual std::unique_ptr<Context> Fork() const = 0;

  // Ranges in order, without gaps, covering [start_position(), next_position()).
  virtual std::vector<LedgerRange> Ledger() const = 0;

  // Takes back the last token, which comes again at once, for its logits: it will be computed as it was.
  virtual void TakeBackLast() { Rewind(1); }

 protected:
  int64_t num_tokens_ = 0;
  Position start_position_ = 0;
};

}  // namespace mneme
