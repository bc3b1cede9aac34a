#include "cli/chat/prompt_format.h"

#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/text/text_hash.h"

namespace mneme::cli {
namespace {

using Json = nlohmann::json;

// Of the text of a template in a state, whose notes have 64 KiB in all.
constexpr size_t kMostKeptBytes = size_t{20} << 10;

std::string RowNames() {
  std::string list;
  for (const ChatTemplate& row : ChatTemplates())
    list += fmt::format("{}{}", list.empty() ? "" : ", ", row.name);
  return list;
}

std::string HashOf(std::string_view text) {
  TextHash hash;
  hash.Add(text);
  return fmt::format("{:016x}", hash.digest());
}

// One moment for all renderings of a conversation: what a template writes of it does not change under way.
std::string Now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  return std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &local) > 0 ? text : "";
}

bool IsFile(const std::string& name) {
  return name.ends_with(".jinja") || name.find('/') != std::string::npos;
}

}  // namespace

void AddFormatOptions(Command& verb, FormatArguments* arguments) {
  verb.Text("--template", &arguments->name, "NAME|FILE",
            "Chat template in place of the model's: a file (FILE.jinja), one that the model's files name "
            "(tool_use), or a format for models without one: " +
                RowNames());
  AddTemplateArguments(verb, arguments);
}

void AddTemplateArguments(Command& verb, FormatArguments* arguments) {
  verb.List("--template-arg", &arguments->variables, "NAME=VALUE",
            "A variable of the template (enable_thinking=false); may be given more than once");
}

std::vector<std::pair<std::string, std::string>> ParseTemplateArguments(
    const std::vector<std::string>& texts) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos) {
      FailUsage(fmt::format("--template-arg: '{}' is not NAME=VALUE", text));
    }
    pairs.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return pairs;
}

std::string DescribeChatTemplate(const Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) return "none";
  try {
    ChatFormat(tokenizer.chat_template(), "it");
  } catch (const Error& error) {
    return fmt::format("cannot be run: {}", error.what());
  }
  std::string text = "its own";
  for (const std::string& name : tokenizer.chat_template_names()) text += ", " + name;
  return text;
}

PromptFormat::PromptFormat(const Tokenizer& tokenizer, const std::string& model,
                           const FormatArguments& arguments, const StateInfo* saved)
    : tokenizer_(tokenizer), options_(TemplateOptionsFor(tokenizer)) {
  const auto note = [&](const char* name) {
    if (saved == nullptr) return std::string();
    const auto found = saved->notes.find(name);
    return found == saved->notes.end() ? std::string() : found->second;
  };
  if (!arguments.name.empty()) {
    ChooseNamed(model, arguments.name);
  } else if (!note("template").empty()) {
    ChooseSaved(model, *saved);
  } else {
    ChooseOwn(model);
  }
  options_.now = Now();
  options_.arguments = ParseTemplateArguments(arguments.variables);
  kept_variables_ = options_.arguments.empty()
                        ? note("template_arg")
                        : Json(options_.arguments).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (options_.arguments.empty() && !kept_variables_.empty()) {
    const Json kept = Json::parse(kept_variables_, nullptr, /*allow_exceptions=*/false);
    if (kept.is_array()) options_.arguments = kept.get<decltype(options_.arguments)>();
  }
  if (row_ != nullptr && !arguments.variables.empty()) {
    FailUsage(fmt::format("--template-arg: the format {} has no variables; a template has (--template FILE)",
                          row_->name));
  }
}

void PromptFormat::SetRow(const ChatTemplate& row) {
  row_ = &row;
  name_ = identity_ = row.name;
  reasoning_ = FindReasoning(tokenizer_, {});
}

void PromptFormat::SetJinja(std::string_view text, std::string identity, std::string name,
                            const std::string& message_name) {
  jinja_.emplace(text, message_name);
  identity_ = std::move(identity) + ":" + HashOf(text);
  name_ = std::move(name);
  reasoning_ = FindReasoning(tokenizer_, text);
  for (const char* variable : {"reasoning_content", "message.thinking", "message['thinking']"})
    reads_reasoning_ = reads_reasoning_ || text.find(variable) != std::string_view::npos;
}

void PromptFormat::ChooseNamed(const std::string& model, const std::string& name) {
  if (IsFile(name)) {
    const std::string text = ReadWholeFile(name);
    SetJinja(text, "file", std::filesystem::path(name).filename().string(), name);
    if (text.size() <= kMostKeptBytes) kept_text_ = text;
    return;
  }
  if (const ChatTemplate* row = FindChatTemplate(name)) return SetRow(*row);
  if (const std::string_view text = tokenizer_.chat_template(name); !text.empty()) {
    return SetJinja(text, name, name + " of the model", model + ": chat template " + name);
  }
  if (name == "default" && !tokenizer_.chat_template().empty()) return ChooseOwn(model);
  std::string named;
  for (const std::string& other : tokenizer_.chat_template_names()) named += ", " + other;
  FailUsage(fmt::format("--template: '{}' is neither a file (FILE.jinja) nor known; there are: {}{}", name,
                        RowNames(), named));
}

void PromptFormat::ChooseSaved(const std::string& model, const StateInfo& saved) {
  const std::string& identity = saved.notes.at("template");
  const std::string kind = identity.substr(0, identity.find(':'));
  if (kind == identity) {
    const ChatTemplate* row = FindChatTemplate(identity);
    if (row != nullptr) return SetRow(*row);
  } else if (kind == "file") {
    const auto text = saved.notes.find("template_text");
    if (text == saved.notes.end() || text->second.empty()) {
      Fail(ErrorKind::kMismatch,
           "--template: the conversation was begun with a template of its own file that is too long to be "
           "kept "
           "in the state; name the file again");
    }
    SetJinja(text->second, "file", "a file's, as saved", "the template in the state");
    kept_text_ = text->second;
  } else if (kind == "model") {
    if (!tokenizer_.chat_template().empty()) ChooseOwn(model);
  } else if (const std::string_view text = tokenizer_.chat_template(kind); !text.empty()) {
    SetJinja(text, kind, kind + " of the model", model + ": chat template " + kind);
  }
  if (identity_ == identity) return;
  Fail(ErrorKind::kMismatch,
       "--template: the conversation was begun with a chat template ({}) that {} does not carry any more; "
       "name "
       "a file with the old one (--template FILE.jinja), or begin another state",
       kind, model);
}

void PromptFormat::ChooseOwn(const std::string& model) {
  if (!tokenizer_.chat_template().empty()) {
    return SetJinja(tokenizer_.chat_template(), "model", "the model's own", model + ": chat template");
  }
  remark_ = "the model carries no chat template; plain turns are used (--template NAME sets another)";
  SetRow(*FindChatTemplate("plain"));
}

std::vector<Segment> PromptFormat::Render(const std::vector<Message>& messages, bool open_reply) const {
  if (jinja_) return jinja_->Render(messages, {}, open_reply, options_);
  ChatRenderer renderer(row_, tokenizer_.eos_id() >= 0 ? tokenizer_.Piece(tokenizer_.eos_id()) : "</s>");
  std::vector<Segment> segments;
  for (const Message& message : messages) {
    const ChatRole role = message.role == "system" ? ChatRole::kSystem
                          : message.role == "user" ? ChatRole::kUser
                                                   : ChatRole::kAssistant;
    renderer.Add({role, message.content}, &segments);
  }
  if (open_reply) renderer.StartReply(&segments);
  return segments;
}

std::vector<std::string> PromptFormat::StopStrings() const {
  if (row_ == nullptr || row_->stop.empty()) return {};
  return {std::string(row_->stop)};
}

int64_t PromptFormat::SuggestedRewind(int64_t otherwise, int64_t max_tokens) const {
  constexpr int64_t kMost = 4096;
  if (reasoning_ == nullptr) return otherwise;
  return std::max(otherwise, max_tokens < 0 ? kMost : std::min(max_tokens + otherwise, kMost));
}

void BindFormat(const PromptFormat& format, Stream* stream) {
  const bool is_first = stream->session.note("template").empty();  // the stream may have begun without one
  stream->Bind("--template", format.identity(), is_first);
  stream->Bind("--template-arg", format.kept_variables(), is_first);
  if (is_first) stream->session.SetNote("template_text", format.kept_text());
}

}  // namespace mneme::cli
