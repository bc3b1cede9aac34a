// Everything between the arguments and a session that is ready: model, cap, context, saved state. Shared by
// the verbs that run a stream.
#pragma once

#include <memory>
#include <string>

#include "base/budget.h"
#include "base/thread_pool.h"
#include "cli/options.h"
#include "model/model.h"
#include "session/session.h"

namespace mneme::cli {

// Threads and model, and how long they took.
struct LoadedModel {
  explicit LoadedModel(const ModelOptions& options, bool load_tokenizer = true);
  ThreadPool pool;
  double load_seconds = 0;
  std::shared_ptr<const Model> model;
};

struct StreamSettings {
  ContextSettings context;
  SamplerSettings sampler;
  EncodeOptions encode;
  bool show_special = false;
  std::string memory;       // --memory
  std::string state;        // --state, or empty
  int64_t num_tokens = -1;  // of the stream, if known
};

// A session under its budget. Declared in the order in which they depend on each other.
struct Stream {
  // Resolves the context, makes the session, and restores the state if the file exists. With --context auto
  // the context of the saved state is taken. Throws Error; nothing is left then.
  Stream(LoadedModel& loaded, const StreamSettings& settings);

  MemoryCap cap;
  Budget budget;
  std::string context_reason;  // what auto decided and why; empty if the user named the context
  bool is_restored = false;
  std::unique_ptr<Session> session;
};

// "context: sinks:sinks=4,window=1020 (auto: ...)" and "memory cap: ..." to standard error.
void PrintStart(const Stream& stream, const LoadedModel& loaded);

}  // namespace mneme::cli
