// A session is one stream: the state of a context, a sampler, a position. Feed tokens or text of any length,
// generate, rewind, save, restore, clone. Memory does not grow with the stream unless the context says so
// (dense): of the tokens themselves only the most recent are kept.
//
// Index of a token: 0, 1, 2... in the order it was fed. Position: index + start_position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/budget.h"
#include "base/stop.h"
#include "context/context.h"
#include "kernels/device.h"
#include "model/model.h"
#include "session/options.h"
#include "session/sampler.h"
#include "session/stats.h"
#include "tokenizer/tokenizer.h"

namespace mneme {

struct SessionOptions {
  // Resolved settings (ResolveSessionContext in session/plan.h); "auto" is not accepted here.
  ContextSettings context;
  SamplerSettings sampler;
  // How FeedText reads text. With add_bos the first FeedText of an empty stream, even of an empty text, feeds
  // the BOS token; later texts get none.
  EncodeOptions encode;
  // Whether generated control tokens appear in the text.
  bool show_special = false;
};

struct GenerateOptions {
  int64_t max_tokens = 256;                    // -1: until something else ends it
  std::vector<std::string> stop_strings = {};  // ends before the first of these; empty ones are ignored
  bool stop_at_eog = true;                     // end at a token that ends the turn (eos, <|im_end|>, ...)
  // An eog token that ended the text is fed too, as the model would see it in training. False: left out.
  bool feed_eog = true;
  // Pause tokens fed before the answer; their outputs are not used, except the last one's (arXiv 2310.02226).
  int64_t num_pauses = 0;
  TokenId pause_token = -1;  // -1: the model's, else the vocabulary's "<pause>"; Error(kUnsupported) if none
  // The model may take its last token back by a token of its own (arXiv 2306.05426): Rewind(1), bit for bit.
  // What was taken back is not chosen again at its place while what stands before it stays, or greedy
  // decoding would never end. Only generated tokens are taken back, never what was fed. Text comes
  // backspace_depth tokens late, when it is certain. Needs max_rewind of the context >= 1; where the context
  // cannot go back, the token stays. False: a model's backspace token is never chosen.
  bool backspace = false;
  TokenId backspace_token = -1;   // -1: the model's; Error(kUnsupported) if it has none
  int64_t backspace_depth = 16;   // most tokens taken back in a row, >= 1
  int64_t max_backspaces = 1024;  // then no more; at most 8 at one place in any case
};

enum class StopReason : uint8_t {
  kEog,          // the model ended its turn
  kStopString,   //
  kMaxTokens,    //
  kInterrupted,  // its StopToken
  kContextFull,  // the context cannot take more tokens; GenerateResult::message says why
};
// "eog", "stop string", "max tokens", "interrupted", "context full".
std::string_view StopReasonName(StopReason reason);

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
};

// One answer, step by step, as sqlite3_step. Until it is over (Next gave nothing, or threw) or destroyed,
// whatever would change its session throws Error(kInput). The session outlives it.
class Generation {
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

  struct Impl;  // for the library's own files

 private:
  friend class Session;
  explicit Generation(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Thread rule: one thread at a time, also for all sessions that share a Runner. Model, budget and device
// outlive the session (the model by shared_ptr).
class Session {
 public:
  // Makes its own Runner for chunks of options.context.max_chunk. Reserves everything from the budget:
  // context (tag kv), activations and logits (scratch), history and sampler (session), text streams
  // (tokenizer). Throws Error(kBudget, kInput, kUnsupported).
  Session(std::shared_ptr<const Model> model, const SessionOptions& options, Budget& budget,
          Device& device);
  // Borrows a Runner of the same model (MakeRunner), so that sessions share activations and can be run
  // together (session/scheduler.h). The Runner keeps the Device that it was made with; `device` must be
  // that one.
  Session(std::shared_ptr<const Model> model, const SessionOptions& options, Budget& budget, Device& device,
          std::shared_ptr<Runner> runner);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // A Runner that keeps its model alive.
  static std::shared_ptr<Runner> MakeRunner(std::shared_ptr<const Model> model, int64_t max_rows,
                                            Device& device, Budget& budget);
  // The settings with which the context is made: room to rewind one token more than asked for, because the
  // logits after Rewind come from running the last token again.
  static ContextSettings InnerContext(const ContextSettings& settings);
  // What a session reserves beside its context and its Runner.
  static size_t OwnBytes(const Model& model, const SessionOptions& options);

  const Model& model() const;
  const SessionOptions& options() const;  // with the sampler settings in force
  const Context& context() const;
  const std::shared_ptr<Runner>& runner() const;
  const SessionStats& stats() const;
  // Tokens in the stream: fed and generated, pauses too, rewound ones not.
  int64_t num_tokens() const;
  Position next_position() const;
  // The most recent tokens, oldest first: at least min(num_tokens(), repetition window, max_rewind).
  std::vector<TokenId> RecentTokens() const;

  // The logits [vocab_size] of one row, valid during the call only. index: of the token whose successor they
  // predict.
  using RowCallback = std::function<void(int64_t index, std::span<const float> logits)>;
  // Appends tokens, in chunks, and hands out the logits of every row where asked to. Returns how many tokens:
  // fewer than given only after a stop. Throws Error(kInput) for an id outside the vocabulary (nothing fed),
  // Error(kBudget, kUnsupported) where the context refuses: the chunks before that one stay fed, num_tokens()
  // says how many.
  size_t Feed(std::span<const TokenId> tokens, StopToken stop = {}, const RowCallback& on_row = nullptr);
  // Appends text, piece by piece; the ids are those of the whole text whatever the pieces are. Returns the
  // bytes taken: fewer than given only after a stop. Some bytes stay pending until FinishText. Errors
  // as Feed; text whose tokens the context refused waits, is part of a saved state, and is tried again by the
  // next call. Throws Error(kUnsupported) for a model without tokenizer.
  size_t FeedText(std::string_view text, StopToken stop = {});
  // Ends the text: what is pending is fed. Generate and Feed call it themselves.
  void FinishText();
  // Bytes that FeedText took since the start of the stream, and how many of them are pending. Saved with the
  // state, so that a run over a file can go on where it was.
  int64_t text_bytes() const;
  // A hash of these bytes, in whatever pieces they came (session/text_hash.h): whether an input begins with
  // them.
  uint64_t text_hash() const;
  size_t pending_text_bytes() const;

  bool has_logits() const;  // false only while the stream is empty
  // [vocab_size] after the last token; valid until the next change of the session. After Rewind the last
  // token is run once more for them. Throws Error(kInput) on an empty stream.
  std::span<const float> logits();
  // Picks the next token; feeds nothing.
  TokenId Sample();

  // Pauses, then sample and feed until something ends it. Text of tokens that belong to a stop string is not
  // handed out, and they leave the stream, as far as it can go back. Throws Error(kInput) on an empty stream
  // or if pauses do not fit into the window of the context.
  Generation Generate(const GenerateOptions& options = {});
  // Appends pauses: not seen by the repetition penalty. Ends between chunks at a stop. Errors as Generate.
  void FeedPauses(int64_t num_pauses, TokenId pause_token = -1, StopToken stop = {});

  // Tokens that can be taken back now.
  int64_t MaxRewind() const;
  // The stream as it was `count` tokens ago, bit for bit: context, logits, history, sampler. Pending text is
  // dropped. Throws Error(kInput) if count > MaxRewind(); nothing has changed then.
  void Rewind(int64_t count);

  void set_sampler(const SamplerSettings& settings);

  // Short texts of the application that are saved with the state: what it must know of a stream to go on with
  // it (which system prompt it began with). Names are words; a value that is not there is empty. Throws
  // Error(kInput) for a name that is no word, or for more than 64 KiB of notes.
  void SetNote(const std::string& name, const std::string& value);
  std::string note(const std::string& name) const;

  // Writes everything that decides what comes next to `path`, atomically. Throws Error(kFile); the old file
  // is untouched then.
  void Save(const std::string& path) const;
  // A session that goes on where the saved one stood, with the options of the saved one and `changes` in
  // place of what a state leaves free: what the user typed. None is passed over: Error(kMismatch) names the
  // first that the state is bound to and that differs; model, tokenizer and the arithmetic of products must
  // be the saved ones too. Error(kFile) for a file that is damaged or of another version, Error(kInput) for
  // changes that are no options, Error(kBudget).
  static std::unique_ptr<Session> Restore(std::shared_ptr<const Model> model, const std::string& path,
                                          std::span<const Setting> changes, Budget& budget, Device& device);
  static std::unique_ptr<Session> RestoreBytes(std::shared_ptr<const Model> model, std::string_view bytes,
                                               const std::string& name, std::span<const Setting> changes,
                                               Budget& budget, Device& device);
  // What is to be known about the last state that was taken; empty if all is as it was: that it was saved on
  // a processor with other instructions, so that sums are rounded in another order from here on.
  const std::string& restore_note() const;
  // Becomes what was saved; stats() start anew. Model, tokenizer, products, context and its settings must be
  // those of the saved session: Error(kMismatch) names the one that differs; Error(kFile) for a file that is
  // damaged or of another version. The file is checked whole before anything changes. One case cannot be
  // undone: the budget has no room for a second context while this session is not empty, and the file,
  // although its checksum is right, is not one that Save wrote, or its state is larger than the cap; the
  // session is empty then, and the message says so. So it is after a file that was written to while it was
  // read.
  void Restore(const std::string& path);
  void RestoreBytes(std::string_view bytes, const std::string& name = "state");
  // A second session in the same state, on the same budget, device and Runner. Throws Error(kBudget).
  std::unique_ptr<Session> Clone() const;

  struct Impl;  // for the library's own files
  Impl& impl() const { return *impl_; }

 private:
  explicit Session(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace mneme
