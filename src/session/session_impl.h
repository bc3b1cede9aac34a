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
#include "base/serial.h"
#include "session/history.h"
#include "session/session.h"
#include "session/snapshot.h"
#include "session/text_hash.h"
#include "session/work.h"

namespace mneme {

struct Session::Impl {
  Impl(std::shared_ptr<const Model> model, const SessionOptions& options, Budget& budget, Device& device,
       std::shared_ptr<Runner> runner, std::unique_ptr<Context> context = nullptr);

  // session.cc
  size_t vocab_size() const { return model->config().vocab_size; }
  static size_t HistoryCapacity(const SessionOptions& options);
  // Of the encoder: BOS comes once per stream, not once per text, so the session feeds it itself.
  static EncodeOptions InnerEncode(const SessionOptions& options) {
    EncodeOptions encode = options.encode;
    encode.add_bos = false;
    return encode;
  }
  // Throws Error(kInput) while a Generation or a Scheduler's job is in the middle of this session.
  void CheckFree() const;
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
  size_t FeedText(std::string_view text, StopToken stop);
  void FinishText();
  void DropText();
  void FeedWaiting(size_t count);
  void Rewind(int64_t count);
  int64_t MaxRewind() const;
  TokenId Sample(std::span<const TokenId> banned = {});
  void SetSampler(const SamplerSettings& settings);

  // generation.cc
  // The pause token that is meant. Throws Error(kUnsupported) if there is none.
  TokenId PauseToken(TokenId asked) const;
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
  Restored ReadBody(StateReader& reader, int64_t num_tokens) const;
  std::unique_ptr<Context> RestoredContext(BufferReader reader, int64_t num_tokens) const;
  // Everything but the sampler, which may be refused.
  void Take(Restored restored);
  // A body that belongs to this session (headers compared).
  void Restore(const Snapshot& snapshot, const std::string& name);
  void Clear();
  void Empty();

  // The order matters: what is declared later is destroyed first, and refers to what is above it.
  std::shared_ptr<const Model> model;
  SessionOptions options;
  ContextSettings inner_settings;
  Budget& budget;
  Device& device;
  Lease logits_lease;
  Lease history_lease;
  Lease text_lease;
  std::shared_ptr<Runner> runner;
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

  std::string_view holder;  // what is in the middle of this session; empty: nothing

  SessionStats stats;
};

// The rows of one session in a common forward call.
struct SessionRows {
  Session::Impl* session = nullptr;
  RowRequest request;
  std::optional<Error> refused = std::nullopt;  // out: why the context did not take them
};
// Runs them in one call of the Runner that all share: weights are read once. The bits are those of running each
// alone. Each session at most once. Rows that their context refuses are left out and say so; the others run. Any
// other error is thrown, and no session has changed then.
void ForwardRows(std::span<SessionRows> rows);

}  // namespace mneme
