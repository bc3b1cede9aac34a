// What a Session is made of. For the files of this folder only.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned.h"
#include "base/files/serial.h"
#include "base/text/text_hash.h"
#include "context/context.h"
#include "kernels/device.h"
#include "mneme/session.h"
#include "model/model_impl.h"
#include "session/answer/history.h"
#include "session/answer/sampler.h"
#include "session/answer/work.h"
#include "session/fields.h"
#include "session/resolve.h"
#include "session/snapshot.h"

namespace mneme {

// What a session shares with others.
struct SessionHome {
  Model model;
  Budget budget;  // its part of the engine's, or what whoever makes it gives
  Device* device;
  std::shared_ptr<Runner> runner;
};

struct MNEME_LOCAL Session::Impl {
  // settings: InnerContext of the options, resolved, for the runner's rows. context: null makes one.
  Impl(SessionHome home, const SessionOptions& options, ContextSettings settings,
       std::unique_ptr<Context> context = nullptr);

  // session.cc
  const LoadedModel& loaded() const { return *model.impl()->loaded; }
  size_t vocab_size() const { return loaded().plan().vocab_size; }
  static size_t HistoryCapacity(const SessionOptions& options);
  // Whether a text that begins the stream begins with BOS.
  bool StartsWithBos() const;
  // How the text of a stream is read: what is plain in it is fed as such.
  static constexpr EncodeOptions kSessionEncode{.parse_special = true};
  // Throws Error(kInput) while a Generation or a Scheduler's job is in the middle of this session.
  void CheckFree() const;
  // Throws Error(kInput) from a callback of Feed: the stream is between two chunks then.
  void CheckWhole() const;
  // `what` is in the middle of the session as long as this lives.
  class Holding {
   public:
    Holding(Impl* impl, std::string_view what) : impl_(impl) { impl_->holder = what; }
    ~Holding() { impl_->holder = {}; }
    Holding(const Holding&) = delete;
    Holding& operator=(const Holding&) = delete;

   private:
    Impl* impl_;
  };
  int64_t MaxRows() const;
  void CheckTokens(std::span<const TokenId> tokens) const;
  // Runs one chunk; bookkeeping after success. skip_logits: they will not be asked for.
  void ForwardChunkOf(std::span<const TokenId> tokens, bool is_pause, bool skip_logits,
                      const RowCallback* on_logits);
  // All chunks, or those before a stop. Returns how many tokens were fed.
  size_t FeedChunks(std::span<const TokenId> tokens, bool is_pause, StopToken stop,
                    const RowCallback* on_logits);
  void Committed(std::span<const TokenId> tokens, bool is_pause, double seconds);
  void EnsureLogits();
  // The turn ends here: it is read again with what came back for it, if anything did.
  void EndTurn();
  // Feeds what a replay that failed owes to the stream.
  void FeedOwed();
  // Throws Error(kInput) while it owes some.
  void CheckPaid() const;
  int64_t FeedText(std::string_view text, TextKind kind, StopToken stop);
  void FinishText();
  void DropText();
  void FeedWaiting(size_t count, StopToken stop = {});
  void Rewind(int64_t count);
  int64_t MaxRewind() const;
  TokenId Sample(std::span<const TokenId> banned = {});
  TokenId SampleFrom(std::span<const float> from, std::span<const TokenId> banned);
  void SetSampler(const SamplerOptions& settings);

  // generation.cc
  // The pause token that is meant. Throws Error(kUnsupported) if there is none.
  TokenId PauseToken(TokenId asked) const;
  // The token that takes others back. Throws Error(kUnsupported) if there is none, Error(kInput).
  TokenId BackspaceToken(const GenerateOptions& options) const;
  void CheckGenerate(const GenerateOptions& options) const;
  // Ends the text. Returns how many tokens of an answer would see all of the pauses; -1: any number. Throws
  // Error(kInput).
  int64_t CheckPauses(int64_t num_pauses);
  void StartDecoder();

  // snapshot.cc
  // What a body holds beside the context.
  struct Restored {
    std::vector<TokenId> history;
    std::vector<float> logits;  // empty: none
    int64_t text_bytes = 0;
    TextHash text_hash;
    bool text_open = false;
    std::vector<TokenId> ids;
    std::optional<StreamEncoder> encoder;
    std::optional<StreamDecoder> decoder;
  };
  void WriteBody(StateWriter& writer) const;
  // The part of it before the context.
  void WriteOwn(StateWriter& writer) const;
  Restored ReadBody(StateReader& reader, int64_t num_tokens, bool show_special) const;
  std::unique_ptr<Context> RestoredContext(BufferReader reader, int64_t num_tokens) const;
  // Everything but the sampler, which may be refused.
  void Take(Restored restored);
  void TakeFree(const SessionOptions& wanted);
  // A body that belongs to this session (headers compared).
  void Restore(const Snapshot& snapshot, const std::string& name);
  void Clear();
  void Empty();

  // The order matters: what is declared later is destroyed first, and refers to what is above it.
  const Model model;
  SessionOptions options;  // with the resolved context
  const ContextSettings inner_settings;
  const std::shared_ptr<const ContextShape> shape;  // the context's
  Budget budget;
  Device& device;
  Lease logits_lease;
  Lease history_lease;
  Lease text_lease;
  std::shared_ptr<Runner> runner;
  std::string context_reason;
  std::unique_ptr<Context> context;
  Sampler sampler;
  TokenHistory history;

  AlignedArray<float> logits;  // [vocab_size] after the last token
  bool has_logits = false;     // of the last token; if not, they can be had by running it again

  std::optional<StreamEncoder> encoder;  // made by the first FeedText
  bool text_open = false;                // FeedText without FinishText
  std::vector<TokenId> ids;              // encoded, not yet fed: what a call left that failed
  int64_t text_bytes = 0;
  TextHash text_hash;  // of these bytes
  std::map<std::string, std::string> notes;
  std::string restore_note;
  std::optional<StreamDecoder> decoder;  // of the generated text; ends when something else is fed
  // A last token that was taken out to be run again for its logits and could not be, and the length without
  // it.
  std::optional<std::pair<TokenId, int64_t>> owed;

  std::vector<TokenId> owed_turn;  // entries of the history that a replay took out and could not feed again

  bool is_reading = false;  // what runs was fed, and is no part of an answer
  std::string_view holder;  // what is in the middle of this session; empty: nothing

  SessionStats stats;
};

// Sessions without an engine, for measurements and tests: options.context is definite. The second makes
// activations for max_rows rows of its own, the third takes a Runner of the same model and device. Those of
// one home can run together.
Session MakeSession(const SessionHome& home, const SessionOptions& options);
Session MakeSession(std::shared_ptr<const LoadedModel> model, const SessionOptions& options, int64_t max_rows,
                    const Budget& budget, Device& device);
Session MakeSession(std::shared_ptr<const LoadedModel> model, const SessionOptions& options,
                    const Budget& budget, Device& device, std::shared_ptr<Runner> runner);
// Session::RestoreBytes under a budget and on a device.
Session RestoreSession(std::shared_ptr<const LoadedModel> model, std::string_view bytes,
                       const std::string& name, std::span<const Setting> changes, int64_t max_rows,
                       const Budget& budget, Device& device);

// The rows of one session in a common forward call.
struct MNEME_LOCAL SessionRows {
  Session::Impl* session = nullptr;
  RowRequest request;
  std::optional<Error> refused = std::nullopt;  // out: why the context did not take them
};
// Runs them in one call of the Runner that all share: weights are read once. The bits are those of running
// each alone. Each session at most once. Rows that their context refuses are left out and say so; the others
// run. Any other error is thrown, and no session has changed then.
void ForwardRows(std::span<SessionRows> rows);

}  // namespace mneme
