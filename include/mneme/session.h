// A session is one stream: the state of a context, a sampler, a position. Feed tokens or text of any length,
// generate, rewind, save, restore, clone. Memory does not grow with the stream unless the context says so
// (dense): of the tokens themselves only the most recent are kept.
//
// Index of a token: 0, 1, 2... in the order it was fed. Position: index + start_position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mneme/export.h"
#include "mneme/ledger.h"
#include "mneme/memory.h"
#include "mneme/model.h"
#include "mneme/options.h"
#include "mneme/stats.h"
#include "mneme/stop.h"

namespace mneme {

enum class StopReason : uint8_t {
  kEog,          // the model ended its turn
  kStopString,   //
  kMaxTokens,    //
  kInterrupted,  // its StopToken
  kContextFull,  // the context cannot take more tokens; GenerateResult::message says why
};
// "eog", "stop string", "max tokens", "interrupted", "context full".
MNEME_API std::string_view StopReasonName(StopReason reason);

struct GenerateResult {
  int64_t num_tokens = 0;      // generated: with an eog token, without pauses and what was taken back
  int64_t num_backspaces = 0;  // tokens taken back
  StopReason reason = StopReason::kMaxTokens;
  std::string stop_string;  // which one, for kStopString
  std::string message;      // for kContextFull, which is also the end of a window that holds pauses; or empty
  double seconds = 0;
};

// What one step of an answer gives. text: what is certain now (often the token's own; empty while a UTF-8
// character or a possible stop string is incomplete; never part of a stop string). token -1: text that was
// left over at the end.
struct Piece {
  std::string text;
  TokenId token = -1;
  // The likeliest tokens at this place with their natural log-probabilities, before anything that the sampler
  // does, likeliest first: GenerateOptions::num_top of them.
  std::vector<std::pair<TokenId, float>> top = {};
};

// One answer, step by step, as sqlite3_step. Until it is over (Next gave nothing, or threw) or destroyed,
// whatever would change its session throws Error(kInput). It keeps the stream alive: the Session may be
// moved, or go first.
class MNEME_API Generation {
 public:
  Generation(Generation&&) noexcept;
  // Ends the answer here: the tokens that were handed out are in the stream.
  ~Generation();

  // The next piece: one forward call. The token handed out last is fed by the next call, or when the answer
  // ends. Nothing: it is over, result() says why; also after a stop. On an Error (NaN logits, say) the stream
  // holds what was fed.
  std::optional<Piece> Next(StopToken stop = {});
  // Feeds the token that was handed out last, so that Save and Clone hold all that the caller has seen.
  void Settle();
  const GenerateResult& result() const;

  class Impl;  // for the library's own files
  explicit Generation(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

// The logits [vocab_size] of one row, valid during the call only. index: of the token whose successor they
// predict.
using RowCallback = std::function<void(int64_t index, std::span<const float> logits)>;

// The natural logarithm of the probability of a token: the sum of the exponentials is taken in double
// precision. NaN where the logits are not finite. token: of the vocabulary. Thread-safe.
MNEME_API double LogProbability(std::span<const float> logits, TokenId token);

// Move-only. A session keeps its model alive; the thread rule is the engine's.
class MNEME_API Session {
 public:
  // Chooses the context where it is "auto", for a stream of options.expected_tokens, and reserves all that a
  // bounded context will take (tag kv), history and sampler (session), text streams (tokenizer). The first
  // session of a model makes the activations that all of them share (scratch). Throws Error(kBudget), with
  // the cap that would do, Error(kInput, kUnsupported): what would not fit is refused before anything is
  // read.
  explicit Session(const Model& model, const SessionOptions& options = {});
  // A session that goes on where the saved one stood, with the options of the saved one and `changes` in
  // place of what a state leaves free: what the user gave. None is passed over: Error(kMismatch) names the
  // first that the state is bound to and that differs; model, tokenizer and the arithmetic of products must
  // be the saved ones too. Error(kFile) for a file that is damaged or of another version, Error(kInput) for
  // changes that are no options, Error(kBudget) with the cap that would do.
  static Session Restore(const Model& model, const std::string& path, std::span<const Setting> changes = {});
  // The same from memory; `name` appears in messages.
  static Session RestoreBytes(const Model& model, std::string_view bytes, const std::string& name = "state",
                              std::span<const Setting> changes = {});
  // A second session in the same state. Keys and values are shared until one of the two writes, and charged
  // in full, so that neither meets a full cap later for what it has now. Throws Error(kBudget).
  Session Clone() const;
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  const Model& model() const;
  // With the resolved context and the sampler in force.
  const SessionOptions& options() const;
  // Why "auto" chose its context, in a sentence for the user; empty where the context was named.
  const std::string& context_reason() const;
  const SessionStats& stats() const;
  // What this session, with its clones, takes of the engine's cap; the cap is options().memory_bytes.
  // Activations are the model's.
  MemoryReport memory() const;
  // What became of every token: ranges in order, without gaps, from start_position to next_position.
  std::vector<LedgerRange> Ledger() const;
  // What came back for the last turn, in stream order (context recall; else nothing).
  std::vector<RecalledRange> Recalled() const;
  // Tokens in the stream: fed and generated, pauses too, rewound ones not.
  int64_t num_tokens() const;
  Position next_position() const;
  // Most tokens of one pass through the model: pieces of this size, or multiples, waste nothing.
  int64_t max_rows() const;
  // The most recent tokens, oldest first: at least min(num_tokens(), repetition window).
  std::vector<TokenId> RecentTokens() const;

  // Appends tokens, in chunks, and hands out the logits of every row where asked to. Returns how many tokens:
  // fewer than given only after a stop. Throws Error(kInput) for an id outside the vocabulary (nothing fed),
  // Error(kBudget, kUnsupported) where the context refuses, Error(kFile) if the model's file changed: the
  // chunks before that one stay fed, num_tokens() says how many.
  int64_t Feed(std::span<const TokenId> tokens, StopToken stop = {}, const RowCallback& on_row = nullptr);
  // Appends text, piece by piece; the ids are those of the whole text whatever the pieces are. Returns the
  // bytes taken: fewer than given only after a stop. Some bytes stay pending until FinishText. Errors as
  // Feed; text whose tokens the context refused waits, is part of a saved state, and is tried again by the
  // next call. Throws Error(kUnsupported) for a model without tokenizer.
  int64_t FeedText(std::string_view text, TextKind kind = TextKind::kPlain, StopToken stop = {});
  // Ends the text: what is pending is fed. Generate, Sample and Feed call it themselves. Errors as Feed.
  void FinishText();
  // Bytes that FeedText took since the start of the stream, and how many of them are pending. Saved with the
  // state, so that a run over a file can go on where it was.
  int64_t text_bytes() const;
  int64_t pending_bytes() const;
  // A hash of the bytes that FeedText took, whatever the pieces were: whether an input begins with them.
  uint64_t text_hash() const;

  // What is fed from here on is a turn: a question, a message. Where the context is `recall`, the rows of a
  // turn say what comes back, and Generate, Sample and Logits read the turn again with it before they go on.
  // Not called, a turn is what was fed since the last answer, at most the context's `replay`.
  void BeginTurn();

  // [vocab_size] after the last token; valid until the next change of the session. After Rewind the last
  // token is run once more for them. Throws Error(kInput) on an empty stream,
  // Error(kFile) if the model's file changed: the last token has left the stream then. Does not end a text.
  std::span<const float> Logits();
  // Picks the next token; feeds nothing. Throws as Logits, Error(kInput) for logits that are NaN.
  TokenId Sample();

  // Throws what Generate would for options that this model or this context does not have; the stream may be
  // empty yet, and stays as it is. For whoever reads long before it asks for an answer.
  void CheckGenerate(const GenerateOptions& options) const;
  // Pauses, then sample and feed until something ends it. Errors as FinishText. Text of tokens that belong to
  // a stop string is not handed out, and they leave the stream, as far as it can go back. Throws
  // Error(kInput) on an empty stream or if pauses do not fit into the window of the context,
  // Error(kUnsupported) for what the model does not have.
  Generation Generate(const GenerateOptions& options = {});
  // Appends pauses: not seen by the repetition penalty. Ends between chunks at a stop. Errors as Generate.
  void FeedPauses(int64_t num_pauses, TokenId pause_token = -1, StopToken stop = {});

  // Tokens that can be taken back now.
  int64_t MaxRewind() const;
  // The stream as it was `count` tokens ago, bit for bit: context, logits, history, sampler. Pending text is
  // dropped. Throws Error(kInput) if count > MaxRewind(); nothing has changed then.
  void Rewind(int64_t count);

  // Throws Error(kInput) naming the setting and its range; the old ones stay then.
  void SetSampler(const SamplerOptions& sampler);

  // Short texts of the application that are saved with the state: what it must know of a stream to go on with
  // it (which system prompt it began with). Names are words; a value that is not there is empty. Throws
  // Error(kInput) for a name that is no word, or for more than 64 KiB of notes.
  void SetNote(const std::string& name, const std::string& value);
  std::string note(const std::string& name) const;

  // Writes everything that decides what comes next to `path`, atomically. In the middle of an answer that is
  // what was fed: Generation::Settle feeds the token handed out last. So it is with Clone. Throws
  // Error(kFile); the old file is untouched then.
  void Save(const std::string& path) const;
  // Becomes what was saved; stats() start anew. Model, tokenizer, products, context and its settings must be
  // those of the saved session: Error(kMismatch) names the one that differs; Error(kFile) for a file that is
  // damaged or of another version. The file is checked whole before anything changes. One case cannot be
  // undone: the cap has no room for a second context while this session is not empty, and the file, although
  // its checksum is right, is not one that Save wrote, or its state is larger than the cap; the session is
  // empty then, and the message says so. So it is after a file that was written to while it was read.
  void Reload(const std::string& path);
  void ReloadBytes(std::string_view bytes, const std::string& name = "state");
  // What is to be known about the last state that was taken; empty if all is as it was: that it was saved on
  // a processor with other instructions, so that sums are rounded in another order from here on.
  const std::string& restore_note() const;

  struct Impl;  // for the library's own files
  explicit Session(std::shared_ptr<Impl> impl);
  Impl& impl() const { return *impl_; }
  const std::shared_ptr<Impl>& shared_impl() const { return impl_; }

 private:
  std::shared_ptr<Impl> impl_;
};

// The header of a state file.
struct StateInfo {
  std::string model_name;  // for people
  uint64_t model_fingerprint = 0;
  bool has_tokenizer = false;
  uint64_t tokenizer_fingerprint = 0;
  PackMode pack = PackMode::kAuto;  // what was asked for; `products` is what came of it
  std::string products;             // ModelInfo::products
  std::string simd_target;          // the instructions of its kernels
  int64_t num_tokens = 0;
  SessionOptions options;  // with the resolved context
  std::map<std::string, std::string> notes;
};
// Reads a state file whole and checks it (magic, version, length, checksum). Throws Error(kFile).
// Thread-safe.
MNEME_API StateInfo ReadStateInfo(const std::string& path);

}  // namespace mneme
