// Logits of every token of a stream as a file, so that anyone can compare this engine with another.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "mneme/session.h"

namespace mneme {

// Replaces *ids by the next ones; false at the end.
using NextIds = std::function<bool(std::vector<TokenId>* ids)>;

struct WrittenLogits {
  int64_t num_ids = 0;
  // Rows in which a logit is not a number, and the first of them.
  int64_t num_broken = 0;
  int64_t first_broken = -1;
};

// Feeds the ids to the session and writes float32 little-endian [num_ids, vocab_size]: row i is what the
// model says after token i. The file appears whole or not at all, and needs num_ids * vocab_size * 4 bytes;
// memory does not grow. Throws what Session::Feed throws, Error(kFile) from the disk,
// Error(kInterrupted) after a stop.
WrittenLogits WriteLogits(Session& session, const NextIds& next, const std::string& path,
                          StopToken stop = {});

}  // namespace mneme
