// A conversation in a stream: what was said, as messages for the template, and what of it the stream holds.
//
// Each turn is rendered whole, with all that was said before, as templates want it. What the stream holds
// already is not fed again: the model's own words stay the tokens that it wrote, as long as the template
// writes the same text. Where it does not (it drops reasoning of earlier turns, cuts white space off, moves
// the system text), the stream goes back to the first difference and is fed from there; where it cannot go
// back as far, what is there stays, what follows the last reply is fed, and remark() says so.
//
// Memory is bounded: of a long conversation the last messages are kept, and a long message is fed piece by
// piece around a mark that stands for it. A state keeps them too (note "conversation"), so that the next turn
// after a restore is the same; one without them is gone on with by what the template writes between a reply
// and the next message.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/chat/message_pieces.h"
#include "cli/chat/prompt_format.h"
#include "mneme/session.h"

namespace mneme::cli {

// One thread at a time, with the session that all calls are given.
class Conversation {
 public:
  // What it takes at the most, renderings and all.
  static constexpr size_t kBytes = size_t{1} << 20;

  // system: text of the system prompt, or empty for what the template does without one.
  Conversation(const Tokenizer& tokenizer, PromptFormat format, std::string_view system);

  const PromptFormat& format() const { return format_; }
  // Tokens before the first user's message: system text and all.
  size_t num_head_tokens() const;

  // About how many tokens a first prompt has beside the message.
  int64_t num_prompt_tokens() const;

  // Goes on with the conversation in a restored stream.
  void TakeUp(Session* session);

  // Which part of a rendering the stream holds already: its first bytes, or its first tokens.
  struct Held {
    size_t bytes = 0, tokens = 0;
    bool from_start = false;  // the rest is encoded as a part of the whole prompt
  };
  // Where the conversation stands between two turns.
  struct Place {
    int64_t num_messages = 0;
    int64_t reply_begin = 0;
    // The turn that began here took some of the stream back: so much of what it rendered was there.
    std::optional<Held> held = std::nullopt;
  };
  Place place() const { return {base_ + static_cast<int64_t>(messages_.size()), reply_begin_, held_}; }
  // When the reply that was said last began, as CutReply takes it; none: it is not known.
  std::optional<Place> reply_place() const {
    if (messages_.empty() || messages_.back().role != "assistant") return std::nullopt;
    return Place{place().num_messages - 1, reply_begin_};
  }
  // Where the turn that was fed last began, and how many tokens the stream had there.
  const Place& turn_place() const { return turn_place_; }
  int64_t turn_begin() const { return turn_begin_; }
  // The stream was taken back to where it was at that place.
  void GoBackTo(const Place& place, Session* session);
  // The stream was taken back into the reply that was begun at that place (whose last message is the user's).
  void CutReply(const Place& place, Session* session);

  // The user's next message, in any number of pieces; EndMessage feeds what is left of it, and what stands
  // before the reply. On an Error, and after a stop, the stream may hold a part of the turn; the next message
  // stands behind it.
  void Say(std::string_view text, Session* session, StopToken stop);
  void EndMessage(Session* session, StopToken stop);
  // Whether anything of the next message was said.
  bool has_message() const { return !waiting_.empty() || pieces_.has_value(); }
  // Whether the reply begins inside the model's reasoning.
  bool is_reply_reasoning() const { return is_reply_reasoning_; }
  // A token of the reply, as it was handed out. Then the end of the reply, however it ended.
  void Hear(TokenId token);
  void EndReply(Session* session);

  // What the user is to know of the last turn; empty: nothing.
  const std::string& remark() const { return remark_; }

 private:
  // Stands for a reply that is not known, or too long to be kept.
  static constexpr std::string_view kReplyMark = "\x01reply\x01";
  // How the next turn is fed: what is taken back, then what the stream does not hold of the prompt.
  struct Opening {
    int64_t take_back = 0;
    Held held = {};
    std::vector<Segment> segments = {};  // without held.bytes
  };
  static constexpr size_t kNotWhole = std::string::npos;
  // The last reply in the stream as text.
  struct Said {
    std::string text, reply;   // as the stream has it, and without the token that ends it
    std::vector<TokenId> ids;  // empty: not known any more
    std::vector<size_t> ends;  // bytes of `text` behind each of the ids; kNotWhole inside a character
  };
  std::vector<Message> WithSystem(const std::vector<Message>& messages) const;
  Opening Open(const Session& session, const std::string& content);
  Opening GoOn(const Session& session, const std::string& content);
  Opening GoOnFromReply(const Session& session, const std::string& content);
  std::optional<Opening> GoBackAndOn(const Session& session, std::span<const Segment> before, size_t common,
                                     const Said& said, const std::vector<Segment>& after) const;
  std::vector<TokenId> ReplyIds(const Session& session) const;
  Said SaidOf(const Session& session) const;
  std::vector<Message> Tellings(const std::string& reply, std::string_view prompt) const;
  void StartStreaming(Session* session, StopToken stop);
  void StartFeeding(const Opening& opening, Session* session);
  void FeedPieces(std::string_view text, Session* session, StopToken stop);
  void FeedReady(Session* session, StopToken stop, bool all);
  template <typename Step>
  void Guarded(const Step& step);
  void DropMessage();
  void Forget();
  void ForgetOldMessages();
  void KeepInState(Session* session) const;

  Tokenizer tokenizer_;
  PromptFormat format_;
  std::string system_;
  // What was said, without the system text: from a user's message on, ending in a reply between two turns.
  // Empty in a stream that is not: nothing is known of what was said.
  std::vector<Message> messages_;
  int64_t base_ = 0;            // number of its first message, as place() counts
  int64_t reply_begin_ = 0;     // where the last reply begins in the stream
  std::vector<TokenId> reply_;  // its ids, as far as they are known
  std::optional<Held> held_;    // as in Place, of where the conversation stands now
  Place turn_place_;
  int64_t turn_begin_ = 0;
  bool is_reply_reasoning_ = false;
  std::string remark_;

  // The message that is being said.
  std::string waiting_;  // as long as it is short
  std::optional<StreamEncoder> encoder_;
  std::optional<MessagePieces> pieces_;  // where it is fed piece by piece
  std::vector<Segment> tail_;            // behind it
  std::vector<TokenId> ids_;             // encoded, not yet fed
  size_t skip_ = 0;
  bool is_cut_ = false;  // a stop came while it was fed
};

}  // namespace mneme::cli
