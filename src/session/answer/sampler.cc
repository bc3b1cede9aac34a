#include "session/answer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "session/fields.h"

namespace mneme {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// More likely first; of equals the lower id, so that the order is total and every run sorts alike.
constexpr auto kMoreLikely = [](const auto& a, const auto& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
};

// One uniform number in [0, 1) per seed and index. Both are scattered before they meet, because Random
// expands its seed by a counter: neighbouring seeds would share most of their state.
double DrawFor(uint64_t seed, int64_t index) {
  uint64_t mixed = static_cast<uint64_t>(index) * 0xD6E8FEB86659FD93u;
  mixed ^= mixed >> 32;
  mixed = (mixed + seed) * 0xD6E8FEB86659FD93u;
  mixed ^= mixed >> 32;
  mixed *= 0xD6E8FEB86659FD93u;
  mixed ^= mixed >> 32;
  return Random(mixed).Uniform();
}

}  // namespace

void CheckSampler(const SamplerOptions& settings, size_t vocab_size) {
  CheckOptions(settings);
  for (const TokenId id : settings.banned) {
    if (static_cast<size_t>(id) < vocab_size) continue;
    Fail(ErrorKind::kInput, "ban: token {} is outside the vocabulary of {}", id, vocab_size);
  }
}

Sampler::Sampler(const SamplerOptions& settings, size_t vocab_size, const Budget& budget)
    : vocab_size_(vocab_size) {
  set_settings(settings);
  lease_ = budget.Reserve(MemoryTag::kSession, BufferBytes(vocab_size), "the sampler's candidates");
  candidates_.resize(vocab_size);
}

void Sampler::set_settings(const SamplerOptions& settings) {
  CheckSampler(settings, vocab_size_);
  settings_ = settings;
}

void Sampler::Collect(std::span<const float> logits, std::span<const TokenId> recent, int64_t index,
                      std::span<const TokenId> banned) {
  MNEME_CHECK(logits.size() == vocab_size_);
  for (size_t i = 0; i < vocab_size_; ++i) {
    // False for NaN too.
    if (!(logits[i] <= std::numeric_limits<float>::max())) {
      Fail(ErrorKind::kInput,
           "the model gave {} as the logit of token {} while choosing the token at index {} of the stream: "
           "its "
           "weights are damaged, or its numbers overflow",
           logits[i], i, index);
    }
    candidates_[i] = {logits[i], static_cast<TokenId>(i)};
  }
  if (settings_.repetition_penalty != 1.0f) {
    for (const TokenId id : recent) {
      if (id < 0) continue;
      // From the original logit, so that a token which occurs twice is penalised once.
      const float logit = logits[static_cast<size_t>(id)];
      candidates_[static_cast<size_t>(id)].logit =
          logit > 0 ? logit / settings_.repetition_penalty : logit * settings_.repetition_penalty;
    }
  }
  for (const TokenId id : settings_.banned) candidates_[static_cast<size_t>(id)].logit = kNever;
  for (const TokenId id : banned) candidates_[static_cast<size_t>(id)].logit = kNever;
}

TokenId Sampler::Greedy(int64_t index) const {
  size_t best = 0;
  for (size_t i = 1; i < vocab_size_; ++i) {
    if (candidates_[i].logit > candidates_[best].logit) best = i;
  }
  if (candidates_[best].logit == kNever) {
    Fail(ErrorKind::kInput, "no token is left to choose from at index {} of the stream: all are banned",
         index);
  }
  return candidates_[best].id;
}

// Sorts the survivors to the front; returns how many.
size_t Sampler::KeepTopK() {
  if (settings_.top_k <= 0 || static_cast<size_t>(settings_.top_k) >= vocab_size_) return vocab_size_;
  const auto middle = candidates_.begin() + settings_.top_k;
  std::nth_element(candidates_.begin(), middle - 1, candidates_.end(), kMoreLikely);
  return static_cast<size_t>(settings_.top_k);
}

// candidates_[0, count) hold probabilities. Sorts only as far as needed.
size_t Sampler::KeepTopP(size_t count) {
  if (settings_.top_p >= 1) return count;
  double sum = 0;
  size_t num_sorted = 0;
  for (size_t i = 0; i < count; ++i) {
    if (i == num_sorted) {
      num_sorted = std::min(count, std::max<size_t>(64, 4 * num_sorted));
      std::partial_sort(candidates_.begin() + static_cast<ptrdiff_t>(i),
                        candidates_.begin() + static_cast<ptrdiff_t>(num_sorted),
                        candidates_.begin() + static_cast<ptrdiff_t>(count), kMoreLikely);
    }
    sum += candidates_[i].logit;
    if (sum >= settings_.top_p) return i + 1;
  }
  return count;
}

// Draws from candidates_[0, count), which hold probabilities that need not sum to 1, in the order of ids.
TokenId Sampler::Draw(size_t count, int64_t index) {
  const auto end = candidates_.begin() + static_cast<ptrdiff_t>(count);
  // A filter leaves its survivors in an order of its own; by id the draw depends on what survived only.
  if (count < vocab_size_) {
    std::sort(candidates_.begin(), end, [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  }
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += candidates_[i].logit;
  const double target = DrawFor(settings_.seed, index) * sum;
  double reached = 0;
  TokenId last = candidates_[0].id;
  for (size_t i = 0; i < count; ++i) {
    if (candidates_[i].logit <= 0) continue;
    reached += candidates_[i].logit;
    last = candidates_[i].id;
    if (target < reached) break;
  }
  return last;
}

TokenId Sampler::Sample(std::span<const float> logits, std::span<const TokenId> recent, int64_t index,
                        std::span<const TokenId> banned) {
  Collect(logits, recent, index, banned);
  const TokenId greedy = Greedy(index);
  if (settings_.temperature == 0) return greedy;
  const float highest = candidates_[static_cast<size_t>(greedy)].logit;
  size_t count = KeepTopK();
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    // Double, so that a tiny temperature gives 0 and never NaN.
    const double scaled = (static_cast<double>(candidates_[i].logit) - highest) / settings_.temperature;
    candidates_[i].logit = static_cast<float>(std::exp(scaled));
    sum += candidates_[i].logit;
  }
  for (size_t i = 0; i < count; ++i) {
    candidates_[i].logit = static_cast<float>(candidates_[i].logit / sum);
  }
  count = KeepTopP(count);
  if (settings_.min_p > 0) {
    const float floor = static_cast<float>(settings_.min_p / sum);
    const auto end = std::remove_if(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(count),
                                    [floor](const Candidate& c) { return c.logit < floor; });
    count = static_cast<size_t>(end - candidates_.begin());
  }
  return Draw(count, index);
}

}  // namespace mneme
