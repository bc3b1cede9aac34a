// What a forward call asks of a Feed or of a Generation, so that a Scheduler can run many of them in common
// calls.
#pragma once

#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/types.h"

namespace mneme {

struct RowRequest {
  std::span<const TokenId> tokens;  // valid until Took or Failed; empty: the work is over
  bool is_pause = false;            // not seen by the repetition penalty
  bool wants_logits = true;         // after the last of them
};

// Want, then Took or Failed, again and again until Want returns nothing. All may throw Error; the work cannot
// go on then.
class Work {
 public:
  virtual ~Work() = default;
  // The tokens of the next call, at most `most_rows` (>= 1). Asked again before Took, it says the same.
  virtual RowRequest Want(int64_t most_rows) = 0;
  // They are part of the stream, and the session has the logits that were wanted.
  virtual void Took() = 0;
  // The context refused them: nothing of this session has changed.
  virtual void Failed(const Error& error) = 0;
};

}  // namespace mneme
