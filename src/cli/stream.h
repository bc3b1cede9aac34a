// Everything between the arguments and a session that is ready: engine, model, context, saved state. Shared
// by the verbs that run a stream.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cli/options.h"
#include "mneme/plan.h"
#include "mneme/session.h"

namespace mneme::cli {

// An engine with a model.
struct OpenedModel {
  // state: path of a saved state, if the model is loaded to go on with one that exists: its weights are
  // multiplied as they were when it was saved, unless --pack was given. rest: the cap and the chunk.
  explicit OpenedModel(const ModelArguments& arguments, const EngineOptions& rest, bool load_tokenizer = true,
                       const std::string& state = "");
  std::optional<StateInfo> saved;  // of that state
  double load_seconds = 0;
  Model model;

 private:
  Model Load(const ModelArguments& arguments, const EngineOptions& rest, bool load_tokenizer,
             const std::string& state);
};

// ", 374 MiB repacked ...", as it follows the size of the weights; empty if nothing is.
std::string PackedText(const ModelInfo& info);

struct StreamSettings {
  explicit StreamSettings(const SessionArguments& arguments)
      : options(arguments.options), typed(arguments.typed) {}
  SessionOptions options;
  std::vector<Setting> typed;  // what a saved state must agree with, or takes over
  std::string state;           // --state, or empty
};

// A session, new or restored.
class Stream {
 public:
  // If the state file exists, restores it, with what was typed in place of what a state leaves free. Throws
  // Error; nothing is left then.
  Stream(const Model& model, const StreamSettings& settings);

  // Something of the verb's own that the stream is made of: `value`, or empty for none. A new stream keeps it
  // in its state. Beside a restored one a value that is not the kept one is refused by the name of the
  // option: Error(kMismatch). may_come_later: a stream that has none yet may still get one.
  void Bind(const std::string& option, const std::string& value, bool may_come_later = false);
  // "model: NAME (family), 463 MiB of weights, ...", what it says of itself, then
  // "context: sinks:sinks=4,window=1020 (auto: ...)", the cap, and all memory as one sum, to standard error.
  // asked: the engine's options as they were given.
  void PrintStart(const EngineOptions& asked) const;
  // Once, when the stream has come past what the model was trained on in a context that shows all of it: a
  // sentence for the user. Else empty.
  std::string BeyondTraining();
  // What auto decided and why, or which state it comes from; empty if the user named the context.
  std::string ContextReason() const;

  bool is_restored = false;
  Session session;

 private:
  Session Open(const Model& model, const StreamSettings& settings);
  std::string state_;
  bool has_said_beyond_ = false;
};

// What stands for a system prompt in a state: its hash, or empty for none.
std::string SystemNote(std::string_view system);

}  // namespace mneme::cli
