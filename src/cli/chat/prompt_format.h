// In which words a model is spoken to: the chat template of its files, another one that was named, or, for
// models without one, a row of ChatTemplates().
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/chat/reasoning.h"
#include "cli/console/command.h"
#include "cli/stream.h"
#include "mneme/chat.h"
#include "mneme/session.h"
#include "mneme/tokenizer.h"

namespace mneme::cli {

// What the command line says of it.
struct FormatArguments {
  std::string name = {};                    // --template; empty: the saved stream's, else the model's own
  std::vector<std::string> variables = {};  // --template-arg, NAME=VALUE each
};
// --template and --template-arg.
void AddFormatOptions(Command& verb, FormatArguments* arguments);
void AddTemplateArguments(Command& verb, FormatArguments* arguments);  // --template-arg alone
// "NAME=VALUE" each. Throws UsageError.
std::vector<std::pair<std::string, std::string>> ParseTemplateArguments(
    const std::vector<std::string>& texts);

// For inspect: "its own, and for tool_use", "none", "cannot be run: ...".
std::string DescribeChatTemplate(const Tokenizer& tokenizer);

class PromptFormat {
 public:
  // saved: the state that is gone on with, which knows its format; or null. model: path of the model, for
  // messages. Throws UsageError for an unknown name, Error(kFile) for a template that is none,
  // Error(kMismatch) where the format that a state began with is not there any more.
  PromptFormat(const Tokenizer& tokenizer, const std::string& model, const FormatArguments& arguments,
               const StateInfo* saved);

  // For people: "chatml", "the model's own", "tool_use of the model", "chat.jinja".
  const std::string& name() const { return name_; }
  // What is to be said of the choice; empty: it was plain.
  const std::string& remark() const { return remark_; }
  // Of the state: which format this is ("chatml", "model:HASH", "file:HASH"), the text of one that came from
  // a file of its own (empty: any other, or too long to be kept), and its variables.
  const std::string& identity() const { return identity_; }
  const std::string& kept_text() const { return kept_text_; }
  const std::string& kept_variables() const { return kept_variables_; }

  // The prompt of a conversation. Throws what ChatFormat::Render throws.
  std::vector<Segment> Render(const std::vector<Message>& messages, bool open_reply) const;
  // Text that also ends a reply.
  std::vector<std::string> StopStrings() const;
  // How the model marks what it thinks before it answers; null: it does not.
  const ReasoningMarks* reasoning() const { return reasoning_; }
  // How many tokens are to be taken back where nothing else is said: of a model that thinks, a whole reply of
  // max_tokens, so that its thoughts can be dropped.
  int64_t SuggestedRewind(int64_t otherwise, int64_t max_tokens) const;
  // Whether the template takes it apart from the answer (Message::reasoning).
  bool reads_reasoning() const { return reads_reasoning_; }

 private:
  void ChooseNamed(const std::string& model, const std::string& name);
  void ChooseSaved(const std::string& model, const StateInfo& saved);
  void ChooseOwn(const std::string& model);
  void SetRow(const ChatTemplate& row);
  void SetJinja(std::string_view text, std::string identity, std::string name,
                const std::string& message_name);

  Tokenizer tokenizer_;
  const ChatTemplate* row_ = nullptr;
  std::optional<ChatFormat> jinja_;
  TemplateOptions options_;
  std::string name_, remark_, identity_, kept_text_, kept_variables_;
  const ReasoningMarks* reasoning_ = nullptr;
  bool reads_reasoning_ = false;
};

// The state remembers the format, and refuses another one by name. Throws Error(kMismatch).
void BindFormat(const PromptFormat& format, Stream* stream);

}  // namespace mneme::cli
