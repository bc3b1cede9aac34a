// mneme template: the exact prompt that a model's chat template makes of a conversation.
#include <fmt/core.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/text/utf8.h"
#include "cli/chat/prompt_format.h"
#include "cli/console/console.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "mneme/chat.h"
#include "mneme/tokenizer.h"

namespace mneme::cli {
namespace {

struct TemplateArguments {
  std::string model;
  std::string tokenizer;
  std::string conversation;
  std::string now;
  std::vector<std::string> arguments;
  bool ids = false;
};

std::string ReadAll(const std::string& path) {
  if (path != "-") return ReadWholeFile(path);
  ByteSource source(path);
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);
  while (const size_t size = source.Read(buffer)) {
    text.append(buffer.data(), size);
    if (text.size() > kMaxTextBytes)
      FailUsage("--conversation: standard input is too long for a conversation");
  }
  return text;
}

// A text of `messages` that are not there would be an empty prompt.
void CheckConversation(const std::string& conversation, const std::string& path) {
  const auto json = nlohmann::json::parse(conversation, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    Fail(ErrorKind::kInput, "{}: the conversation is not JSON", path == "-" ? "standard input" : path);
  }
  if (json.is_object() && json.contains("messages") && json["messages"].is_array()) return;
  Fail(ErrorKind::kInput, "{}: the conversation is no JSON object with a list of `messages`",
       path == "-" ? "standard input" : path);
}

bool HasTools(const std::string& conversation) {
  const auto json = nlohmann::json::parse(conversation, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains("tools") && !json["tools"].is_null() && !json["tools"].empty();
}

// The template of the model's files: the one for tools where there are tools and the files have one.
ChatFormat FormatOf(const Tokenizer& tokenizer, const std::string& path, const std::string& conversation) {
  constexpr std::string_view kForTools = "tool_use";
  if (HasTools(conversation) && !tokenizer.chat_template(kForTools).empty()) {
    return ChatFormat(tokenizer.chat_template(kForTools), path + ": chat template tool_use");
  }
  if (tokenizer.chat_template().empty()) {
    Fail(ErrorKind::kUnsupported, "{}: the model carries no chat template", path);
  }
  return ChatFormat(tokenizer.chat_template(), path + ": chat template");
}

void WriteIds(const Tokenizer& tokenizer, const std::vector<Segment>& segments) {
  std::string text;
  for (const TokenId id : EncodePrompt(tokenizer, segments)) {
    text += fmt::format("{}\t{}\t{}\n", id, tokenizer.is_special(id) ? "control" : "text",
                        Printable(tokenizer.Piece(id)));
  }
  WriteOut(text);
}

int PrintPrompt(const TemplateArguments& arguments) {
  const std::string conversation = ReadAll(arguments.conversation);
  CheckConversation(conversation, arguments.conversation);
  const bool is_file = arguments.model.ends_with(".jinja");
  std::optional<Tokenizer> tokenizer;
  if (!is_file || !arguments.tokenizer.empty()) {
    tokenizer = OpenTokenizer(is_file ? "" : arguments.model, arguments.tokenizer);
  } else if (arguments.ids) {
    FailUsage("--ids needs a model, or with a FILE.jinja a --tokenizer");
  }
  TemplateOptions options = tokenizer ? TemplateOptionsFor(*tokenizer) : TemplateOptions{};
  options.now = arguments.now;
  options.arguments = ParseTemplateArguments(arguments.arguments);
  const std::string path = is_file ? arguments.model : ModelPath(arguments.model);
  const ChatFormat format =
      is_file ? ChatFormat(ReadWholeFile(path), path) : FormatOf(*tokenizer, path, conversation);
  const std::vector<Segment> segments = format.RenderJson(conversation, options);
  if (arguments.ids) {
    WriteIds(*tokenizer, segments);
  } else {
    for (const Segment& segment : segments) WriteOut(segment.text);
  }
  return 0;
}

}  // namespace

void AddTemplate(Command& program) {
  auto arguments = std::make_shared<TemplateArguments>();
  Command& verb =
      program.AddVerb("template", "Print the prompt that a chat template makes of a conversation");
  verb.Text("MODEL", &arguments->model, "",
            "Model, folder or tokenizer file with a chat template, or a template on its own (FILE.jinja)");
  verb.Text("--conversation", &arguments->conversation, "FILE",
            "JSON with messages, and if need be tools, add_generation_prompt, bos_token, eos_token and "
            "whatever "
            "else the template reads; - is standard input")
      .is_required = true;
  verb.List("--template-arg", &arguments->arguments, "NAME=VALUE",
            "A variable of the template (enable_thinking=false), in place of the conversation's");
  verb.Text("--now", &arguments->now, "TIME",
            "What the template takes for now: 2026-01-02T03:04:05 (default: now)");
  verb.Text("--tokenizer", &arguments->tokenizer, "PATH", "Tokenizer file, in place of the model's");
  verb.Flag("--ids", &arguments->ids, "Print the prompt's ids, a line each, with which are control tokens");
  verb.SetAction([=] { return PrintPrompt(*arguments); });
}

}  // namespace mneme::cli
