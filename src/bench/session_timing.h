// What measurements of a model's speed share: ids without meaning, steps of decode, and the bytes that a step
// reads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "base/types.h"
#include "bench/timing.h"
#include "context/context.h"
#include "mneme/session.h"
#include "model/model_impl.h"
#include "session/resolve.h"

namespace mneme {

// Speed does not depend on which ids they are.
class RandomIds {
 public:
  explicit RandomIds(int64_t vocab_size) : vocab_size_(static_cast<size_t>(vocab_size)) {}
  std::vector<TokenId> Take(int64_t count) {
    std::vector<TokenId> ids(static_cast<size_t>(count));
    for (TokenId& id : ids) id = static_cast<TokenId>(random_.Below(vocab_size_));
    return ids;
  }

 private:
  size_t vocab_size_;
  Random random_{1};
};

// Feeds num_steps tokens one by one, logits included, after a few more that fault pages in and wake the
// threads. Returns the seconds of all num_steps.
inline double TimeDecode(Session& session, RandomIds& ids, int64_t num_steps) {
  constexpr int64_t kWarmSteps = 4;
  const std::vector<TokenId> steps = ids.Take(kWarmSteps + num_steps);
  Clock::time_point start;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (i == static_cast<size_t>(kWarmSteps)) start = Clock::now();
    session.Feed(std::span(&steps[i], 1));
    session.Logits();
  }
  return SecondsSince(start);
}

// Tokens whose keys and values the next token reads.
inline int64_t VisibleTokens(const Session& session) {
  int64_t count = 0;
  for (const LedgerRange& range : session.Ledger()) {
    if (range.fate == TokenFate::kSink || range.fate == TokenFate::kWindow) count += range.end - range.begin;
  }
  return count;
}

// Whether a token has left the window, dropped or compressed: from then on a bounded context costs the same.
inline bool HasForgotten(const Session& session) {
  for (const LedgerRange& range : session.Ledger()) {
    if (range.fate == TokenFate::kDropped || range.fate == TokenFate::kDamaged ||
        range.fate == TokenFate::kCompressed) {
      return true;
    }
  }
  return false;
}

// Whether what the session keeps stops growing.
inline bool IsBounded(const Model& model, const SessionOptions& options) {
  const LoadedModel& loaded = *model.impl()->loaded;
  return PeakContextBytes(loaded.context_shape(), InnerContext(options, 1), -1, 1).is_bounded;
}

}  // namespace mneme
