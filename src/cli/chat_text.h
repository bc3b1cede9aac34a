// Chat formats on the command line: which one is meant, and a user's message of any length as a stream.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mneme/chat.h"
#include "mneme/tokenizer.h"

namespace mneme::cli {

// "chatml, llama-2, ...".
std::string ChatTemplateList();

// The named format, else the one that the model's own template writes, else "plain". *note says so where the
// choice was not plain; it may come back empty. Throws UsageError for an unknown name.
const ChatTemplate& ChooseChatTemplate(const Tokenizer& tokenizer, const std::string& name,
                                       std::string* note);
// For inspect: "chatml", "none", "not recognised".
std::string DescribeChatTemplate(const Tokenizer& tokenizer);

// A renderer of the format for this tokenizer.
ChatRenderer MakeRenderer(const Tokenizer& tokenizer, const ChatTemplate& format);

// A format's text that also ends a reply, as stop strings.
std::vector<std::string> StopStrings(const ChatTemplate& format);

// What stands around a user's message of a turn: all that the format writes up to the reply.
struct TurnText {
  std::vector<Segment> head;  // before the message
  std::vector<Segment> tail;  // behind it
};
// Renders a user's turn and the opening of the reply behind `before`.
TurnText RenderTurn(ChatRenderer& renderer, std::vector<Segment> before);

// One system text, one user's message that comes in pieces, and the opening of the reply.
class ChatText {
 public:
  ChatText(const Tokenizer& tokenizer, const ChatTemplate& format, std::string_view system);

  // The stream holds a conversation already: this is its next turn, behind the end that its last reply is
  // owed (or has written itself), without BOS and system text. Before Begin.
  void GoOn(bool model_wrote_end);

  const ChatTemplate& format() const { return format_; }
  // Tokens that the message begins with: system text and all.
  size_t num_head_tokens() const;
  // Each appends ids that are certain. Begin and End once, in this order.
  void Begin(std::vector<TokenId>* ids);
  void Feed(std::string_view text, std::vector<TokenId>* ids);
  void End(std::vector<TokenId>* ids);

 private:
  const Tokenizer& tokenizer_;
  const ChatTemplate& format_;
  TurnText turn_;
  StreamEncoder encoder_;
};

}  // namespace mneme::cli
