// Conversations as a model expects them: by the Jinja template that its files carry (ChatFormat), or, for
// models without one, by formats as data, one table row each. Rendering gives pieces of text marked as the
// format's own or as somebody's words, so that what a user writes can never become a control token.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mneme/export.h"
#include "mneme/tokenizer.h"

namespace mneme {

enum class ChatRole : uint8_t { kSystem, kUser, kAssistant };

struct ChatMessage {
  ChatRole role;
  std::string content;
};

// Text of one origin.
struct Segment {
  std::string text;
  TextKind kind = TextKind::kPlain;
};

// One message as templates know it.
struct Message {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
  std::string tool_calls = {};    // JSON, a list; empty: none. Of the assistant
  std::string tool_call_id = {};  // of a "tool" message: the call that it answers; empty: none
  // What the assistant thought before its answer, where that is not part of content; empty: nothing.
  // Templates read it as reasoning_content or thinking.
  std::string reasoning = {};
};

// What a template reads besides the conversation.
struct TemplateOptions {
  // As text; empty: the template finds none.
  std::string bos_token = {}, eos_token = {};
  // Variables by name (enable_thinking). A value is JSON where it can be read as such, else a text.
  std::vector<std::pair<std::string, std::string>> arguments = {};
  // The moment that the template may write ("2026-01-02T03:04:05"); empty: this machine's clock.
  std::string now = {};
};

// A chat template in Jinja, as Hugging Face's transformers runs them; src/chat/jinja says what of the
// language is known. Steps, depth, memory and output are bounded. A handle: copies share one template, which
// is immutable; any number of threads at once.
class MNEME_API ChatFormat {
 public:
  // name: what messages call the template. Throws Error(kFile), with the line, for what is none.
  explicit ChatFormat(std::string_view jinja_text, std::string name = "chat template");

  // The prompt. tools: JSON, a list of functions; empty: none. open_reply: with what stands before a reply
  // that the model is to write (add_generation_prompt). Throws Error(kInput) for JSON that is none and for
  // what the template refuses (raise_exception), Error(kUnsupported) for what is not known here,
  // Error(kBudget) for a template that takes too much; all but the first with the template's line.
  std::vector<Segment> Render(std::span<const Message> messages, std::string_view tools, bool open_reply,
                              const TemplateOptions& options = {}) const;
  // The same for a conversation as JSON: an object with `messages` and whatever else the template reads
  // (tools, add_generation_prompt, bos_token, ...). Its tokens go before the options', their arguments before
  // its variables; tools and documents that it does not have are none, as in transformers.
  std::vector<Segment> RenderJson(std::string_view conversation, const TemplateOptions& options = {}) const;

  struct Impl;

 private:
  std::shared_ptr<const Impl> impl_;
};

// Texts of the tokenizer's BOS and EOS, as templates read them; empty where it has none. Thread-safe, as the
// next one.
MNEME_API TemplateOptions TemplateOptionsFor(const Tokenizer& tokenizer);
// Ids of a whole prompt, with BOS exactly once: the template's own, else the tokenizer's where it adds one.
MNEME_API std::vector<TokenId> EncodePrompt(const Tokenizer& tokenizer, std::span<const Segment> segments);

// The tokenizer with one more end of generation: the token that its chat template writes right behind an
// assistant's words. Without such a token, without a template, or with one that cannot be run: as it was.
MNEME_API Tokenizer WithTurnEnd(const Tokenizer& tokenizer);

// One format. BOS is not part of it (Tokenizer::adds_bos). "</s>" stands for the tokenizer's end of text.
struct ChatTemplate {
  std::string_view name;
  std::string_view title;  // for help texts
  std::string_view system_before, system_after;
  std::string_view default_system;  // stands in where no system message came; empty: nothing does
  bool system_in_user;              // the system text stands inside the first user turn, after user_before
  std::string_view user_before, user_after;
  std::string_view later_user_before;  // instead of user_before after the first turn; empty: the same
  std::string_view assistant_before;   // before a reply that is given
  std::string_view generation_prompt;  // before one that the model is to write
  std::string_view assistant_end;      // the model ends its reply with this
  std::string_view assistant_tail;     // what follows it before the next turn
  bool trims;                          // white space around contents is cut off
  std::string_view stop;               // text that also ends a reply; empty: none
};

// All formats, in the order of help texts.
MNEME_API std::span<const ChatTemplate> ChatTemplates();
// By name, in any case ("chatml", "llama-2", "llama-3", "mistral", "gemma", "phi-3", "zephyr", "alpaca",
// "plain"); null if unknown.
MNEME_API const ChatTemplate* FindChatTemplate(std::string_view name);
// The format that a Jinja template writes, by the markers in it; null if none is known.
MNEME_API const ChatTemplate* RecogniseChatTemplate(std::string_view jinja_text);

// A message's content as the format writes it: without the white space around it where the format trims.
MNEME_API std::string_view TrimmedContent(const ChatTemplate& format, std::string_view content);

// Renders a conversation turn by turn. One thread at a time.
class MNEME_API ChatRenderer {
 public:
  // end_of_text: the piece of Tokenizer::eos_id(), for the formats that end replies with it.
  explicit ChatRenderer(const ChatTemplate* format, std::string_view end_of_text = "</s>")
      : format_(format), end_of_text_(end_of_text) {}

  // Appends the text of one whole message. A system message of a system_in_user format waits for the user
  // message after it.
  void Add(const ChatMessage& message, std::vector<Segment>* out);
  // Appends what stands before a reply that the model is to write.
  void StartReply(std::vector<Segment>* out);
  // Appends what follows that reply; model_wrote_end: the model's last token was the end itself.
  void EndReply(bool model_wrote_end, std::vector<Segment>* out);

 private:
  void AppendFormat(std::string_view text, std::vector<Segment>* out) const;

  const ChatTemplate* format_;
  std::string end_of_text_;
  std::string pending_system_;
  bool has_system_ = false;
  bool past_first_user_ = false;
};

// Feeds the segments as one text into an encoder made with parse_special (no Finish).
MNEME_API void FeedSegments(std::span<const Segment> segments, StreamEncoder* encoder,
                            std::vector<TokenId>* out);
// Ids of the segments as one text.
MNEME_API std::vector<TokenId> EncodeSegments(const Tokenizer& tokenizer, std::span<const Segment> segments,
                                              bool add_bos);

}  // namespace mneme
