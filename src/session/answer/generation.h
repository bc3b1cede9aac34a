// One answer, step by step. For the files of this folder only; session.h has the public class.
#pragma once

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "session/answer/stop_strings.h"
#include "session/answer/work.h"
#include "session/session_impl.h"

namespace mneme {

// A token is chosen as soon as there are logits to choose from, handed out at once, and fed by the next call.
// With backspace, tokens that can still be taken back are open: their text is not handed out yet.
class MNEME_LOCAL Generation::Impl : public Work {
 public:
  // Holds the session until it is over. Throws Error(kInput, kUnsupported) for what cannot be.
  Impl(std::shared_ptr<Session::Impl> session, const GenerateOptions& options);
  // Ends the answer here: what was handed out is in the stream, as far as the context takes it.
  ~Impl() override;

  RowRequest Want(int64_t most_rows) override;
  void Took() override;
  void Failed(const Error& error) override;

  std::optional<Piece> Next();
  std::optional<Piece> TakePiece();
  void End(StopReason reason);
  void Settle();
  bool is_over() const { return is_over_; }
  bool is_answering() const { return pauses_left_ == 0; }
  const GenerateResult& result() const { return result_; }

  StopToken stop;

 private:
  // At one place: tokens taken back before the choice stands.
  static constexpr size_t kMaxBans = 8;

  void Check();
  void FindActions();
  void PreparePauses();
  bool EndsBefore();
  void Choose();
  TokenId Pick();
  std::vector<std::pair<TokenId, float>> Top();
  void TakeBack();
  void HandOut(TokenId token, std::vector<std::pair<TokenId, float>> top);
  void HandOutOldest();
  void DropOpen();
  void DropStopString();
  void TakeOut(int64_t count);
  void FinishText();
  void Release();

  const std::shared_ptr<Session::Impl> keep_;
  Session::Impl& session_;
  const GenerateOptions options_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  StopStringMatcher matcher_;
  GenerateResult result_;
  bool has_text_ = false;
  bool has_turn_ = false;  // the turn before the answer has what came back for it
  bool is_over_ = false;
  std::deque<Piece> pieces_;  // not fetched yet

  std::vector<TokenId> pauses_;  // of one call
  int64_t pauses_left_ = 0;
  int64_t num_asked_ = 0;    // pauses of the present call
  int64_t pause_room_ = -1;  // tokens of an answer that see all of the pauses; -1: any number

  TokenId unfed_ = -1;                   // chosen, not fed; -1: none
  std::optional<StopReason> then_ends_;  // once it is fed
  bool last_is_fed_ = true;

  TokenId backspace_ = -1;       // -1: not in use
  std::vector<TokenId> never_;   // control tokens that are not text
  std::vector<TokenId> banned_;  // of one choice
  std::deque<TokenId> open_;
  std::deque<std::vector<std::pair<TokenId, float>>> open_top_;  // of open_
  // bans_[i]: what was taken back at the place of open_[i], with all before it as it is now; one entry more
  // for the place after the last.
  std::deque<std::vector<TokenId>> bans_{1};
  std::string text_;
  Lease masked_lease_;
  std::vector<float> masked_;  // logits behind the filter

  // The tokens handed out last, whose text may still turn out to be part of a stop string.
  struct Said {
    TokenId token;
    int64_t begin;  // of its text, in bytes of the answer
    std::string text;
  };
  std::deque<Said> said_;
  int64_t said_bytes_ = 0;
};

}  // namespace mneme
