// ChatFormat: a Jinja template, and conversations as its variables.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text/json.h"
#include "chat/jinja/builtins/clock.h"
#include "chat/jinja/template.h"
#include "mneme/chat.h"

namespace mneme {

using Json = nlohmann::ordered_json;

struct ChatFormat::Impl {
  jinja::Template parsed;
};

namespace {

constexpr int kMaxJsonDepth = 64;

Json ParseJson(std::string_view text, const std::string& name) {
  try {
    return ParseStrictOrderedJson(text, name, kMaxJsonDepth);
  } catch (const Error& error) {
    throw Error(ErrorKind::kInput, error.what());
  }
}

// enable_thinking=false is a boolean, reasoning_effort=high a text.
Json ParseArgument(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_discarded() ? Json(text) : ParseJson(text, "a template argument");
}

// Arguments go before what the conversation says, tokens behind.
void AddOptions(const TemplateOptions& options, Json* conversation) {
  for (const auto& [name, value] : options.arguments) (*conversation)[name] = ParseArgument(value);
  const auto add_token = [&](const char* name, const std::string& token) {
    if (!token.empty() && !conversation->contains(name)) (*conversation)[name] = token;
  };
  add_token("bos_token", options.bos_token);
  add_token("eos_token", options.eos_token);
  // As transformers calls every template: these are always there, if only as nothing.
  for (const char* name : {"tools", "documents"})
    if (!conversation->contains(name)) (*conversation)[name] = nullptr;
  if (!conversation->contains("add_generation_prompt")) (*conversation)["add_generation_prompt"] = false;
}

Json MessageJson(const Message& message) {
  Json json = {{"role", message.role}, {"content", message.content}};
  if (!message.tool_calls.empty()) {
    json["tool_calls"] = ParseJson(message.tool_calls, "the tool calls of a message");
  }
  if (!message.tool_call_id.empty()) json["tool_call_id"] = message.tool_call_id;
  if (!message.reasoning.empty()) json["reasoning_content"] = json["thinking"] = message.reasoning;
  return json;
}

}  // namespace

ChatFormat::ChatFormat(std::string_view jinja_text, std::string name)
    : impl_(std::make_shared<const Impl>(Impl{jinja::Template(jinja_text, std::move(name))})) {}

std::vector<Segment> ChatFormat::RenderJson(std::string_view conversation,
                                            const TemplateOptions& options) const {
  Json json = ParseJson(conversation, "the conversation");
  if (!json.is_object()) Fail(ErrorKind::kInput, "the conversation is no JSON object with `messages`");
  AddOptions(options, &json);
  const std::tm now = options.now.empty() ? jinja::LocalTime() : jinja::ParseTime(options.now);
  return impl_->parsed.Render(jinja::ConversationVariables(json), now);
}

std::vector<Segment> ChatFormat::Render(std::span<const Message> messages, std::string_view tools,
                                        bool open_reply, const TemplateOptions& options) const {
  Json json = {{"messages", Json::array()}, {"add_generation_prompt", open_reply}};
  for (const Message& message : messages) json["messages"].push_back(MessageJson(message));
  if (!tools.empty()) json["tools"] = ParseJson(tools, "the list of tools");
  AddOptions(options, &json);
  const std::tm now = options.now.empty() ? jinja::LocalTime() : jinja::ParseTime(options.now);
  return impl_->parsed.Render(jinja::ConversationVariables(json), now);
}

TemplateOptions TemplateOptionsFor(const Tokenizer& tokenizer) {
  TemplateOptions options;
  if (tokenizer.bos_id() >= 0) options.bos_token = tokenizer.Piece(tokenizer.bos_id());
  if (tokenizer.eos_id() >= 0) options.eos_token = tokenizer.Piece(tokenizer.eos_id());
  return options;
}

std::vector<TokenId> EncodePrompt(const Tokenizer& tokenizer, std::span<const Segment> segments) {
  std::vector<TokenId> ids = EncodeSegments(tokenizer, segments, /*add_bos=*/false);
  const bool has_bos = !ids.empty() && ids[0] == tokenizer.bos_id();
  if (tokenizer.adds_bos() && tokenizer.bos_id() >= 0 && !has_bos) {
    ids = EncodeSegments(tokenizer, segments, /*add_bos=*/true);
  }
  return ids;
}

Tokenizer WithTurnEnd(const Tokenizer& tokenizer) {
  constexpr std::string_view kReply = "mneme-reply";
  if (tokenizer.chat_template().empty()) return tokenizer;
  std::string text;
  size_t at = std::string::npos;
  try {
    const ChatFormat format(tokenizer.chat_template());
    const Message turns[] = {{.role = "user", .content = "a"},
                             {.role = "assistant", .content = std::string(kReply)},
                             {.role = "user", .content = "b"}};
    for (const Segment& segment : format.Render(turns, {}, true, TemplateOptionsFor(tokenizer)))
      text += segment.text;
    at = text.rfind(kReply);
  } catch (const Error&) {
    // Whoever speaks to the model by it is told.
  }
  if (at != std::string::npos) at = text.find_first_not_of(" \n", at + kReply.size());
  if (at == std::string::npos) return tokenizer;
  // A mark of the format is a token that the same text is not when a user writes it.
  const std::vector<TokenId> ids = tokenizer.Encode(text.substr(at), {.parse_special = true});
  const std::vector<TokenId> plain = tokenizer.Encode(text.substr(at));
  if (ids.empty() || (!plain.empty() && plain[0] == ids[0])) return tokenizer;
  return tokenizer.WithEnds(std::span(ids).first(1));
}

}  // namespace mneme
