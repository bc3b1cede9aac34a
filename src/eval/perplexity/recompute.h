// The slow exact reference of a sliding window: for every token the last W tokens go through the model again,
// from nothing, at positions 0 .. W-1. What it costs for one token grows with the window, and so much faster
// than a cache does; that ratio is what StreamingLLM's Figure 10 shows (arXiv 2309.17453). It differs from
// `window` beyond the first layer: there the cached keys were computed from tokens that have left since.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/model.h"
#include "mneme/session.h"

namespace mneme {

// "recompute:window=512,every=8": `every` scores each 8th token only, because each costs a whole window.
struct RecomputeSpec {
  int64_t window = 256;
  int64_t every = 1;
  std::string ToString() const;
};
// Nothing where the name is another one. Throws Error(kInput) for an unknown key or a value out of range.
std::optional<RecomputeSpec> ParseRecompute(std::string_view spec);

// Thread rule: the engine's.
class RecomputeWindow {
 public:
  // base: encodings; the rest is not looked at. Reserves the session of one window. Throws what Session
  // throws.
  RecomputeWindow(const Model& model, int64_t window, const SessionOptions& base);
  // Appends to the stream; computes nothing.
  void Push(TokenId token);
  int64_t num_tokens() const { return num_tokens_; }
  bool is_full() const { return num_tokens_ >= window_; }
  // [vocab_size] after the last token, from the window alone; valid until the next call. Empty after a stop.
  // Throws Error(kInput) on an empty stream.
  std::span<const float> Logits(StopToken stop = {});
  const Session& session() const { return session_; }

 private:
  int64_t window_;
  std::vector<TokenId> recent_;  // ring of window_
  int64_t num_tokens_ = 0;
  Session session_;
};

}  // namespace mneme
