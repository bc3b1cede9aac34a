// Picks the next token from logits: repetition penalty, temperature, top-k, top-p and min-p, in this order
// (the order of Hugging Face's processors), then one draw.
//
// The random number of a draw is a function of the seed and of the token's index in the stream, not of a
// running generator. So a session that was rewound, saved or cloned draws what it would have drawn anyway,
// and there is no generator state that could be lost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/budget.h"
#include "mneme/options.h"

namespace mneme {

// Throws Error(kInput) naming the setting and its range, or a banned token outside the vocabulary.
void CheckSampler(const SamplerOptions& settings, size_t vocab_size);

// Thread rule: one thread at a time. Allocates in the constructor only.
class Sampler {
 public:
  // What an object takes from the budget (tag session): 8 bytes per vocabulary entry.
  static size_t BufferBytes(size_t vocab_size) { return vocab_size * sizeof(Candidate); }

  // Throws Error(kInput) for settings out of range, Error(kBudget).
  Sampler(const SamplerOptions& settings, size_t vocab_size, const Budget& budget);

  const SamplerOptions& settings() const { return settings_; }
  // Throws Error(kInput); the old settings stay then.
  void set_settings(const SamplerOptions& settings);

  // logits [vocab_size] of the token before the one to pick; recent: the last repetition_window tokens
  // (negative ones are passed over: pauses); index: of the token to pick in the stream, from 0. Throws
  // Error(kInput), with the index, if a logit is NaN or +infinity, or if nothing is left to pick from.
  // banned: not picked this time, beside settings().banned.
  TokenId Sample(std::span<const float> logits, std::span<const TokenId> recent, int64_t index,
                 std::span<const TokenId> banned = {});

 private:
  struct Candidate {
    float logit;
    TokenId id;
  };
  void Collect(std::span<const float> logits, std::span<const TokenId> recent, int64_t index,
               std::span<const TokenId> banned);
  TokenId Greedy(int64_t index) const;
  size_t KeepTopK();
  size_t KeepTopP(size_t count);
  TokenId Draw(size_t count, int64_t index);

  SamplerOptions settings_;
  size_t vocab_size_;
  Lease lease_;
  std::vector<Candidate> candidates_;
};

}  // namespace mneme
