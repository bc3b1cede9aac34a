// A text that is written and read at the same time: statements, filler up to a number of tokens, statements
// again. Nothing holds the text; what is read goes to a session chunk by chunk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "eval/tasks/haystack.h"
#include "mneme/chat.h"
#include "mneme/session.h"

namespace mneme {

// Told how many more tokens were read.
using TokensRead = std::function<void(int64_t num_tokens)>;

// What a chat template writes around what a user says.
struct RecallTurn {
  std::vector<Segment> before;
  std::vector<Segment> after;  // up to where the reply begins
  bool adds_bos = false;       // where the template writes none
  int64_t num_before = 0;      // tokens of `before`, BOS among them
  int64_t num_after = 0;       // of `after`
};
// prompt: a turn of a user that says `marker`, rendered, the reply open. Throws Error(kInput) where the
// marker is not there once.
RecallTurn TurnAround(const Tokenizer& tokenizer, const std::vector<Segment>& prompt,
                      std::string_view marker);

// Thread rule: one thread at a time, as for the sessions. Haystack, callback and turn outlive it.
class RecallStream {
 public:
  // Takes over an empty session; used_before: UsedBytes before it was made.
  RecallStream(Session session, const Haystack& haystack, size_t used_before, const TokensRead& on_read,
               StopToken stop = {}, const RecallTurn* turn = nullptr);
  // Of the engine's cap, beside the activations that all sessions share.
  static size_t UsedBytes(const Model& model);

  // All of these throw what Session::Feed throws, and Error(kInterrupted) after a stop.
  void Text(std::string_view text);
  // What stands before a user's words; nothing without a turn.
  void BeginTurn();
  // Filler, until one unit more, followed by `suffix`, would make more than `end` tokens in all. The last
  // unit may be cut; the filler can go on later only if the cut is kUnits. Throws Error(kInput) where the
  // haystack ends before.
  void Filler(int64_t end, std::string_view suffix, FillerCut cut);
  // Ends a stretch of filler: `end` after it, if there was any. The next one begins without a gap.
  void EndFiller(std::string_view end);
  // The same text so far, to go on in another way. Throws Error(kBudget).
  std::unique_ptr<RecallStream> Clone();

  // Tokens of the stream if `text` came next and were its end.
  int64_t CountWith(std::string_view text) const;
  // Their ids, without those that are certain already.
  std::vector<TokenId> Ending(std::string_view text) const;
  // The same for a question and the text that answers it; between the two the turn ends, if there is one.
  std::vector<TokenId> Ending(std::string_view question, std::string_view answer) const;
  const RecallTurn* turn() const { return turn_; }
  // Gives all certain tokens to the session.
  void Flush();
  // Certain tokens: read, and waiting for a full chunk.
  int64_t num_tokens() const { return session_.num_tokens() + static_cast<int64_t>(waiting_.size()); }
  // Whether EndFiller would write something.
  bool in_filler() const { return in_filler_; }
  Session& session() { return session_; }
  StopToken stop() const { return stop_; }
  // Of the cap, at most, for this stream alone.
  size_t peak_bytes() const { return peak_bytes_; }
  void NotePeak();

 private:
  void Take();
  void Append(const Haystack::Unit& unit);
  void FillExactly(int64_t end, std::string_view suffix, FillerCut cut);

  Session session_;
  StreamEncoder encoder_;
  std::vector<TokenId> waiting_;
  size_t chunk_;
  const Haystack* haystack_;
  Haystack::Cursor cursor_;
  bool in_filler_ = false;
  size_t used_before_;
  size_t peak_bytes_ = 0;
  const TokensRead* on_read_;
  StopToken stop_;
  const RecallTurn* turn_;
};

}  // namespace mneme
