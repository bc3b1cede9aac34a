#include "cli/chat/conversation.h"

#include <fmt/core.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "base/error.h"
#include "base/text/units.h"
#include "cli/chat/segments.h"

namespace mneme::cli {
namespace {

// A longer message is fed piece by piece.
constexpr size_t kShortMessageBytes = size_t{1} << 14;
// Stands for a message while it is fed piece by piece, and afterwards.
constexpr std::string_view kMessageMark = "\x01message\x01";
constexpr std::string_view kLongMessage = "\x01long message\x01";
// Around the mark, to see what the template does to white space there.
constexpr std::string_view kSpaceMark = "\t \t";

std::string_view WithoutSpace(std::string_view text, bool at_end_too) {
  constexpr std::string_view kSpace = " \t\r\n";
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  if (at_end_too) text = text.substr(0, text.find_last_not_of(kSpace) + 1);
  return text;
}

Message UserMessage(std::string content) { return {.role = "user", .content = std::move(content)}; }
Message Reply(std::string content) { return {.role = "assistant", .content = std::move(content)}; }

}  // namespace

Conversation::Conversation(const Tokenizer& tokenizer, PromptFormat format, std::string_view system)
    : tokenizer_(tokenizer), format_(std::move(format)), system_(system) {}

std::vector<Message> Conversation::WithSystem(const std::vector<Message>& messages) const {
  std::vector<Message> all;
  if (!system_.empty()) all.push_back({.role = "system", .content = system_});
  all.insert(all.end(), messages.begin(), messages.end());
  return all;
}

int64_t Conversation::num_prompt_tokens() const {
  try {
    return std::ssize(EncodePrompt(tokenizer_, format_.Render(WithSystem({UserMessage("")}), true)));
  } catch (const Error&) {
    return 0;  // a template that wants more to be said
  }
}

size_t Conversation::num_head_tokens() const {
  const std::vector<Segment> prompt =
      format_.Render(WithSystem({UserMessage(std::string(kMessageMark))}), true);
  const size_t mark = TextOf(prompt).find(kMessageMark);
  if (mark == std::string::npos) {
    Fail(ErrorKind::kUnsupported,
         "--pin-system: the chat template ({}) does not write a message as it was given, so where the system "
         "prompt ends cannot be told; --pin N pins the first N tokens",
         format_.name());
  }
  const std::vector<Segment> head = UpTo(prompt, mark);
  return EncodeSegments(tokenizer_, head, NeedsBos(tokenizer_, head)).size();
}

// ---- the next message

// What the reply may be as a message, the likeliest first.
std::vector<Message> Conversation::Tellings(const std::string& reply, std::string_view prompt) const {
  std::vector<Message> tellings;
  const ReasoningMarks* marks = format_.reasoning();
  const bool is_open = marks != nullptr && OpensReasoning(*marks, prompt);
  if (marks != nullptr && format_.reads_reasoning()) {
    if (const auto parts = TakeApart(*marks, reply, is_open)) {
      tellings.push_back(Reply(parts->answer));
      tellings.back().reasoning = parts->reasoning;
    }
  }
  tellings.push_back(Reply(reply));
  if (is_open && reply.find(marks->close) != std::string::npos)
    tellings.push_back(Reply(std::string(prompt.substr(prompt.rfind(marks->open))) + reply));
  for (const bool at_end_too : {false, true}) {
    const std::string_view stripped = WithoutSpace(reply, at_end_too);
    if (stripped.size() < reply.size()) tellings.push_back(Reply(std::string(stripped)));
  }
  return tellings;
}

Conversation::Opening Conversation::Open(const Session& session, const std::string& content) {
  remark_.clear();
  if (session.num_tokens() == 0) {
    messages_.clear();
    return {.held = {.from_start = true},
            .segments = format_.Render(WithSystem({UserMessage(content)}), true)};
  }
  if (held_.has_value() && messages_.size() >= 2) {
    std::vector<Message> messages = messages_;
    messages.push_back(UserMessage(content));
    return {.held = *held_, .segments = From(format_.Render(WithSystem(messages), true), held_->bytes)};
  }
  return messages_.size() >= 2 ? GoOn(session, content) : GoOnFromReply(session, content);
}

Conversation::Opening Conversation::GoOn(const Session& session, const std::string& content) {
  std::vector<Message> messages(messages_.begin(), messages_.end() - 1);
  const std::vector<Segment> before = format_.Render(WithSystem(messages), true);
  const std::string prompt = TextOf(before);
  const Said said = SaidOf(session);
  const std::string held = prompt + said.text;
  messages.resize(messages.size() + 2);
  messages.back() = UserMessage(content);
  std::vector<Segment> best;
  std::optional<size_t> best_length;
  std::exception_ptr refused;
  for (Message& telling : Tellings(said.reply, prompt)) {
    messages[messages.size() - 2] = telling;
    std::vector<Segment> after;
    try {
      after = format_.Render(WithSystem(messages), true);
    } catch (const Error&) {
      refused = std::current_exception();
      continue;
    }
    const size_t length = CommonLength(TextOf(after), held);
    if (best_length.has_value() && length <= *best_length) continue;
    best_length = length;
    best = std::move(after);
    messages_.back() = telling;
    // A template that takes reasoning apart decides by itself what stays of it.
    if (length == held.size() || !telling.reasoning.empty()) break;
  }
  if (!best_length.has_value()) std::rethrow_exception(refused);
  if (*best_length == held.size()) {
    return {.held = {.bytes = held.size()}, .segments = From(std::move(best), held.size())};
  }
  if (auto opening = GoBackAndOn(session, before, *best_length, said, best)) return *std::move(opening);
  remark_ = fmt::format(
      "the chat template would write what was said before otherwise now (without its reasoning, say), "
      "further "
      "back than the {} tokens that can be taken back: it stays as it is (--max-rewind allows more)",
      FormatCount(session.MaxRewind()));
  return GoOnFromReply(session, content);
}

// The last tokens of the stream that differ from what the template writes now are taken back.
std::optional<Conversation::Opening> Conversation::GoBackAndOn(const Session& session,
                                                               std::span<const Segment> before, size_t common,
                                                               const Said& said,
                                                               const std::vector<Segment>& after) const {
  const size_t prompt_bytes = TextOf(before).size();
  if (said.ids.empty() && session.num_tokens() != reply_begin_) return std::nullopt;
  // Within the reply: its tokens stay up to the difference.
  size_t kept = 0;
  for (size_t i = 0; i < said.ids.size(); ++i)
    if (said.ends[i] != kNotWhole && prompt_bytes + said.ends[i] <= common) kept = i + 1;
  if (kept > 0) {
    const auto count = static_cast<int64_t>(said.ids.size() - kept);
    if (count > session.MaxRewind()) return std::nullopt;
    const Held here{.bytes = prompt_bytes + said.ends[kept - 1]};
    return Opening{.take_back = count, .held = here, .segments = From(after, here.bytes)};
  }
  // Before it: as the whole is encoded.
  std::vector<TokenId> held = EncodePrompt(tokenizer_, before);
  held.insert(held.end(), said.ids.begin(), said.ids.end());
  const std::vector<TokenId> ids = EncodePrompt(tokenizer_, after);
  const auto same = std::mismatch(held.begin(), held.end(), ids.begin(), ids.end());
  const auto count = held.end() - same.first;
  const std::vector<TokenId> recent = session.RecentTokens();
  if (count > session.MaxRewind() || count > std::ssize(recent) ||
      !std::equal(same.first, held.end(), recent.end() - count)) {
    return std::nullopt;
  }
  const Held here{.tokens = static_cast<size_t>(same.first - held.begin()), .from_start = true};
  return Opening{.take_back = count, .held = here, .segments = after};
}

// What stands between any reply and this message.
Conversation::Opening Conversation::GoOnFromReply(const Session& session, const std::string& content) {
  const std::vector<Message> before = {UserMessage("said before"), Reply(std::string(kReplyMark))};
  std::vector<Message> messages = before;
  messages.push_back(UserMessage(content));
  std::vector<Segment> prompt = format_.Render(WithSystem(messages), true);
  const std::string text = TextOf(prompt);
  size_t begin = text.rfind(kReplyMark);
  if (begin == std::string::npos) {
    Fail(ErrorKind::kUnsupported,
         "the chat template ({}) does not write a reply as it was given, so how this conversation goes on "
         "cannot be told; begin a new one",
         format_.name());
  }
  begin += kReplyMark.size();
  // The model ended its reply itself, perhaps with another token than the template would.
  const std::vector<TokenId> recent = session.RecentTokens();
  if (!recent.empty() && tokenizer_.is_eog(recent.back())) {
    const size_t end = std::min(text.find_first_not_of(" \n", begin), text.size());
    for (const TokenId id : tokenizer_.eog_ids()) {
      const std::string_view piece = tokenizer_.Piece(id);
      if (piece.empty() || text.compare(end, piece.size(), piece) != 0) continue;
      begin = end + piece.size();
      break;
    }
  }
  if (messages_.size() < 2) {
    base_ += static_cast<int64_t>(messages_.size()) - 2;
    messages_ = before;
  }
  return {.segments = From(std::move(prompt), begin)};
}

// ---- feeding

void Conversation::StartFeeding(const Opening& opening, Session* session) {
  if (opening.take_back > 0) {
    session->Rewind(opening.take_back);
    held_ = opening.held;
  }
  session->BeginTurn();
  turn_place_ = place();
  turn_begin_ = session->num_tokens();
  held_.reset();
  EncodeOptions options{.parse_special = true};
  if (opening.held.from_start) {
    options.add_bos = NeedsBos(tokenizer_, opening.segments);
  } else {
    const bool after_token = tokenizer_.is_special(session->RecentTokens().back());
    options.place = after_token ? TextPlace::kAfterToken : TextPlace::kWithin;
  }
  encoder_.emplace(tokenizer_, options);
  skip_ = opening.held.tokens;
  is_cut_ = false;
  FeedSegments(opening.segments, &*encoder_, &ids_);
}

void Conversation::FeedReady(Session* session, StopToken stop, bool all) {
  const size_t dropped = std::min(skip_, ids_.size());
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<ptrdiff_t>(dropped));
  skip_ -= dropped;
  if (ids_.empty() || is_cut_ || (!all && std::ssize(ids_) < session->max_rows())) return;
  is_cut_ = session->Feed(ids_, stop) < std::ssize(ids_);
  ids_.clear();
}

// The template is asked with a mark in the message's place.
void Conversation::StartStreaming(Session* session, StopToken stop) {
  std::string content(kSpaceMark);
  content.append(kMessageMark).append(kSpaceMark);
  Opening opening = Open(*session, content);
  const std::string text = TextOf(opening.segments);
  size_t begin = text.find(kMessageMark);
  if (begin == std::string::npos || text.find(kMessageMark, begin + 1) != std::string::npos) {
    Fail(ErrorKind::kUnsupported,
         "the chat template ({}) changes a message, or writes it more than once, so one of more than {} "
         "cannot "
         "be fed piece by piece: give a shorter one, or another template (--template)",
         format_.name(), FormatBytes(kShortMessageBytes));
  }
  size_t end = begin + kMessageMark.size();
  const bool trims_front = !std::string_view(text).substr(0, begin).ends_with(kSpaceMark);
  const bool trims_back = !std::string_view(text).substr(end).starts_with(kSpaceMark);
  if (!trims_front) begin -= kSpaceMark.size();
  if (!trims_back) end += kSpaceMark.size();
  tail_ = From(opening.segments, end);
  opening.segments = UpTo(std::move(opening.segments), begin);
  pieces_.emplace(trims_front, trims_back);
  StartFeeding(opening, session);
  FeedPieces(std::exchange(waiting_, {}), session, stop);
}

void Conversation::FeedPieces(std::string_view text, Session* session, StopToken stop) {
  constexpr size_t kPieceBytes = 4096;
  for (size_t at = 0; at < text.size() && !is_cut_; at += kPieceBytes) {
    pieces_->Feed(text.substr(at, kPieceBytes),
                  [this](std::string_view piece) { encoder_->FeedPlain(piece, &ids_); });
    FeedReady(session, stop, /*all=*/false);
  }
}

void Conversation::Say(std::string_view text, Session* session, StopToken stop) {
  Guarded([&] {
    if (pieces_.has_value()) return FeedPieces(text, session, stop);
    if (waiting_.size() + text.size() <= kShortMessageBytes) {
      waiting_ += text;
      return;
    }
    StartStreaming(session, stop);
    FeedPieces(text, session, stop);
  });
}

void Conversation::EndMessage(Session* session, StopToken stop) {
  Guarded([&] {
    const bool is_short = !pieces_.has_value();
    std::vector<Segment> last = tail_;
    if (is_short) {
      const Opening opening = Open(*session, waiting_);
      StartFeeding(opening, session);
      last = opening.segments;
    } else {
      pieces_->End();
      FeedSegments(tail_, &*encoder_, &ids_);
    }
    encoder_->Finish(&ids_);
    FeedReady(session, stop, /*all=*/true);
    if (is_cut_) {
      Forget();
    } else {
      messages_.push_back(UserMessage(is_short ? waiting_ : std::string(kLongMessage)));
    }
    const ReasoningMarks* marks = format_.reasoning();
    is_reply_reasoning_ = marks != nullptr && OpensReasoning(*marks, TextOf(last));
  });
  DropMessage();
  reply_begin_ = session->num_tokens();
  reply_.clear();
  KeepInState(session);
}

void Conversation::DropMessage() {
  waiting_.clear();
  pieces_.reset();
  encoder_.reset();
  tail_.clear();
  ids_.clear();
}

// What fails once something of the turn was fed leaves a stream that the messages do not tell of.
template <typename Step>
void Conversation::Guarded(const Step& step) {
  try {
    step();
  } catch (...) {
    if (encoder_.has_value()) Forget();
    DropMessage();
    throw;
  }
}

}  // namespace mneme::cli
