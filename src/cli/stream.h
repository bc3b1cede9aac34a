// Everything between the arguments and a session that is ready: model, cap, context, saved state. Shared by
// the verbs that run a stream.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/budget.h"
#include "cli/options.h"
#include "kernels/cpu_device.h"
#include "model/model.h"
#include "session/memory_sum.h"
#include "session/session.h"
#include "session/snapshot.h"

namespace mneme::cli {

// Says so if the system gave fewer threads than were asked for.
void WarnOfFewerThreads(const ThreadPool& pool);

// Threads and model, and what they took.
struct LoadedModel {
  // state: path of a saved state, if the model is loaded to go on with one that exists: its weights are
  // multiplied as they were when it was saved, unless --pack was given.
  explicit LoadedModel(const ModelArguments& arguments, bool load_tokenizer = true,
                       const std::string& state = "");
  // With everything else that a run under this cap can take.
  MemorySum SumWith(size_t cap_bytes) const;
  std::optional<SnapshotInfo> saved;  // of that state
  CpuDevice device;
  double load_seconds = 0;
  size_t table_bytes = 0;      // left on the heap beside packed weights
  size_t load_peak_bytes = 0;  // resident
  std::shared_ptr<const Model> model;
};

struct StreamSettings {
  explicit StreamSettings(const SessionArguments& arguments)
      : options(arguments.options), typed(arguments.typed), engine(arguments.engine) {}
  SessionOptions options;
  std::vector<Setting> typed;  // what a saved state must agree with, or takes over
  EngineOptions engine;
  std::string state;        // --state, or empty
  int64_t num_tokens = -1;  // of the stream, if known
  size_t input_bytes = 0;   // kept free under the cap for what the verb reads whole
};

// A session under its budget. Declared in the order in which they depend on each other.
struct Stream {
  // Resolves the context and makes the session; or, if the state file exists, restores it, with what was
  // typed in place of what a state leaves free. Throws Error; nothing is left then.
  Stream(LoadedModel& loaded, const StreamSettings& settings);

  // Something of the verb's own that the stream is made of: `value`, or empty for none. A new stream keeps it
  // in its state. Beside a restored one a value that is not the kept one is refused by the name of the
  // option: Error(kMismatch). may_come_later: a stream that has none yet may still get one.
  void Bind(const std::string& option, const std::string& value, bool may_come_later = false);

  MemoryCap cap;
  Budget budget;
  Lease weights_lease;         // counted beside the cap
  Lease packed_lease;          // the same
  Lease input_lease;           // StreamSettings::input_bytes
  std::string context_reason;  // what auto decided and why; empty if the user named the context
  bool is_restored = false;
  std::string state;
  std::unique_ptr<Session> session;
};

// What stands for a system prompt in a state: its hash, or empty for none.
std::string SystemNote(std::string_view system);

// "context: sinks:sinks=4,window=1020 (auto: ...)", the cap, and all memory as one sum, to standard error.
void PrintStart(const Stream& stream, const LoadedModel& loaded);

}  // namespace mneme::cli
