// Sessions of one model in common forward calls: the weights are read once for all of them, and each gets the
// bits of running alone. One that fails or is cancelled leaves the others as they are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mneme/chat.h"
#include "mneme/error.h"
#include "mneme/export.h"
#include "mneme/session.h"
#include "mneme/stop.h"

namespace mneme {

struct JobEvent {
  enum Kind : uint8_t {
    kFed,    // num_fed tokens of the job are in the stream
    kPiece,  // piece
    kDone,   // result; reason kInterrupted where the job was stopped; kMaxTokens where there was no answer to
             // write
    kFailed,  // error; the stream holds what was fed
  } kind;
  int64_t num_fed = 0;
  Piece piece = {};
  GenerateResult result = {};
  const Error* error = nullptr;  // valid during the call
};

// Tokens to feed, then perhaps an answer to write.
struct Job {
  // Looked at by Add alone; the job keeps the stream alive. Until kDone or kFailed whatever would change it
  // throws Error(kInput).
  Session* session = nullptr;
  std::vector<TokenId> tokens = {};
  // In place of tokens; one text, BOS first where the stream is empty and wants one. It is no part of
  // text_bytes().
  std::vector<Segment> text = {};
  std::optional<GenerateOptions> generate = std::nullopt;
  StopToken stop = {};  // the job ends before the next call
  // Called at the end of a Step, when the session is in order; it may Add. What it throws comes out of that
  // Step, once all others have heard. May be empty.
  std::function<void(const JobEvent&)> on_event = nullptr;
};

// Thread rule: one thread at a time, the one that uses the sessions.
class MNEME_API Scheduler {
 public:
  // rows_per_step: most rows of one call, which is how long an answer may wait; 0: as many as a call can
  // have.
  explicit Scheduler(const Model& model, int64_t rows_per_step = 0);
  // Ends what is left: sessions hold what was fed and handed out.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Feeds what is pending of the session's own text first. Throws as Session::FinishText; Error(kInput) for a
  // job with tokens and text, for a session that has a job or a Generation, or is of another model object,
  // and for tokens outside the vocabulary; Error(kUnsupported) for text without a tokenizer. Nothing is added
  // then.
  void Add(Job job);
  // One forward call: one row of each answer, the other rows shared by the prompts. Returns whether jobs are
  // left. On an Error of the call itself all jobs of that call have failed.
  bool Step();
  size_t num_jobs() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mneme
