// What a conversation remembers: messages, where the last reply stands in the stream, and both in a state.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "cli/chat/conversation.h"

namespace mneme::cli {
namespace {

using Json = nlohmann::json;

// What is kept of a conversation, in memory and (as JSON) in the notes of a state, which have 64 KiB in all.
constexpr size_t kKeptBytes = size_t{1} << 15;
constexpr size_t kMostNoteBytes = size_t{40} << 10;
constexpr size_t kMostHeard = size_t{1} << 14;

}  // namespace

void Conversation::TakeUp(Session* session) {
  base_ = 0;
  messages_.clear();
  reply_.clear();
  const Json kept = Json::parse(session->note("conversation"), nullptr, /*allow_exceptions=*/false);
  int64_t end = -1;
  try {
    if (kept.is_object()) {
      for (const Json& message : kept.at("messages")) {
        messages_.push_back({.role = message.at("role"),
                             .content = message.at("content"),
                             .reasoning = message.value("reasoning", "")});
      }
      system_ = kept.at("system").get<std::string>();
      reply_begin_ = kept.at("reply_begin");
      end = kept.at("end");
    }
  } catch (const Json::exception&) {
    messages_.clear();  // not a note of ours
  }
  if (messages_.empty()) return;
  if (messages_.back().role == "user" && session->num_tokens() >= reply_begin_) return EndReply(session);
  if (end != session->num_tokens()) Forget();
}

void Conversation::Forget() {
  base_ += static_cast<int64_t>(messages_.size());
  messages_.clear();
}

void Conversation::KeepInState(Session* session) const {
  Json messages = Json::array();
  for (const Message& message : messages_) {
    Json row = {{"role", message.role}, {"content", message.content}};
    if (!message.reasoning.empty()) row["reasoning"] = message.reasoning;
    messages.push_back(std::move(row));
  }
  std::string note;
  while (!messages.empty() && !held_.has_value()) {
    const Json all = {{"messages", messages},
                      {"system", system_},
                      {"reply_begin", reply_begin_},
                      {"end", session->num_tokens()}};
    note = all.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (note.size() <= kMostNoteBytes) break;
    note.clear();
    messages.erase(messages.begin(), messages.begin() + std::min<ptrdiff_t>(2, std::ssize(messages)));
  }
  session->SetNote("conversation", note);
}

void Conversation::ForgetOldMessages() {
  size_t bytes = 0;
  for (const Message& message : messages_) bytes += message.content.size() + message.reasoning.size();
  while (bytes > kKeptBytes && messages_.size() > 3) {
    for (int i = 0; i < 2; ++i) {
      bytes -= messages_.front().content.size() + messages_.front().reasoning.size();
      messages_.erase(messages_.begin());
    }
    base_ += 2;
  }
}

void Conversation::GoBackTo(const Place& place, Session* session) {
  const int64_t count = place.num_messages - base_;
  if (count < 0) {
    Forget();
    base_ = place.num_messages;
  } else if (count < static_cast<int64_t>(messages_.size())) {
    messages_.resize(static_cast<size_t>(count));
  }
  reply_begin_ = place.reply_begin;
  held_ = place.held;
  reply_.clear();
  KeepInState(session);
}

void Conversation::CutReply(const Place& place, Session* session) {
  GoBackTo(place, session);
  EndReply(session);
}

// ---- the reply

void Conversation::Hear(TokenId token) {
  if (token >= 0 && reply_.size() < kMostHeard) reply_.push_back(token);
}

// The stream is what counts: tokens of a stop string left it, and one may have been taken apart.
std::vector<TokenId> Conversation::ReplyIds(const Session& session) const {
  const auto count = static_cast<size_t>(std::max<int64_t>(session.num_tokens() - reply_begin_, 0));
  const std::vector<TokenId> recent = session.RecentTokens();
  if (count <= recent.size()) return {recent.end() - static_cast<ptrdiff_t>(count), recent.end()};
  const size_t before = count - recent.size();
  if (before > reply_.size()) return {};
  std::vector<TokenId> ids(reply_.begin(), reply_.begin() + static_cast<ptrdiff_t>(before));
  ids.insert(ids.end(), recent.begin(), recent.end());
  return ids;
}

Conversation::Said Conversation::SaidOf(const Session& session) const {
  Said said;
  said.ids = ReplyIds(session);
  StreamDecoder decoder(tokenizer_, {.show_special = true, .at_text_start = false});
  for (const TokenId id : said.ids) {
    decoder.Feed(id, &said.text);
    said.ends.push_back(decoder.SaveState().size() == 1 ? said.text.size() : kNotWhole);
  }
  decoder.Finish(&said.text);
  const std::vector<TokenId> recent = session.RecentTokens();
  const bool has_end = session.num_tokens() > reply_begin_ && tokenizer_.is_eog(recent.back());
  const std::string_view end = has_end ? tokenizer_.Piece(recent.back()) : std::string_view();
  const bool is_known = !said.ids.empty() || session.num_tokens() == reply_begin_;
  if (is_known && said.text.size() <= kKeptBytes) {
    said.reply = said.text.substr(0, said.text.size() - (said.text.ends_with(end) ? end.size() : 0));
    return said;
  }
  said = {};
  if (!messages_.empty() && messages_.back().role == "assistant") {
    said.reply = messages_.back().content;
  } else {
    said.reply = kReplyMark;
  }
  said.text = said.reply + std::string(end);
  return said;
}

void Conversation::EndReply(Session* session) {
  if (!messages_.empty()) {
    messages_.push_back({.role = "assistant", .content = SaidOf(*session).reply});
    ForgetOldMessages();
  }
  KeepInState(session);
}

}  // namespace mneme::cli
