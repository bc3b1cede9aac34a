// mneme chat: a conversation without an end.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/units.h"
#include "base/utf8.h"
#include "cli/chat_text.h"
#include "cli/console.h"
#include "cli/line_editor.h"
#include "cli/options.h"
#include "cli/signals.h"
#include "cli/stream.h"
#include "cli/verbs.h"
#include "session/report.h"

namespace mneme::cli {
namespace {

constexpr const char* kHelp =
    "Type a message; a line that ends in \\ goes on in the next. Ctrl-C stops a reply.\n"
    "  /context              which tokens are where: first tokens, window, dropped\n"
    "  /stats                speeds and memory\n"
    "  /rewind [N]           take back the last N turns (default 1)\n"
    "  /rewind N tokens      take back the last N tokens\n"
    "  /save FILE            write the conversation's state\n"
    "  /load FILE            go on where a saved one stood\n"
    "  /help                 this\n"
    "  /quit                 end (so does Ctrl-D)\n";

struct ChatArguments {
  ModelOptions model;
  ContextOptions context;
  SamplerOptions sampler;
  std::string system;
  std::string template_name;
  std::string num_tokens = "1024";
  std::string max_rewind = "256";
  std::vector<std::string> stops;
  std::string state;
  int64_t num_pauses = 0;
  bool backspace = false;
  bool pin_system = false;
};

class Chat {
 public:
  explicit Chat(const ChatArguments& arguments);
  int operator()();

 private:
  // Where the stream and the format stood before a turn.
  struct Turn {
    int64_t num_tokens;
    ChatRenderer renderer;
    int64_t reply_begin = 0;  // where its reply began
  };

  void Reply(const std::string& message);
  // True if the conversation is over.
  bool Command(const std::string& line);
  void Rewind(const std::string& argument);
  void RewindTokens(int64_t count);
  void Load(const std::string& path);
  void AfterRestore();
  void EndReply();
  void Feed(std::vector<ChatSegment> segments);
  Session& session() { return *stream_->session; }
  static void Say(const std::string& text) { fmt::print(stderr, "{}\n", text); }

  const ChatArguments& arguments_;
  LoadedModel loaded_;
  const ChatTemplate* format_ = nullptr;
  std::unique_ptr<Stream> stream_;
  ChatRenderer renderer_;
  std::vector<Turn> turns_;
  std::vector<ChatSegment> pending_;  // the end of the last reply, before the next message
};

Chat::Chat(const ChatArguments& arguments)
    : arguments_(arguments), loaded_(arguments.model), renderer_(nullptr) {
  const Tokenizer& tokenizer = loaded_.model->tokenizer();
  std::string note;
  format_ = &ChooseChatTemplate(tokenizer, arguments.template_name, &note);
  if (!note.empty()) Say("chat: " + note);
  renderer_ = MakeRenderer(loaded_.model->tokenizer(), *format_);
  StreamSettings settings;
  settings.context = ToContextSettings(arguments.context);
  settings.context.max_rewind = ToCount(arguments.max_rewind, "--max-rewind");
  settings.sampler = arguments.sampler.settings;
  settings.memory = arguments.context.memory;
  settings.state = arguments.state;
  if (arguments.pin_system) {
    settings.context.num_pinned = std::max<int64_t>(
        settings.context.num_pinned,
        static_cast<int64_t>(ChatText(tokenizer, *format_, arguments.system).num_head_tokens()));
  }
  stream_ = std::make_unique<Stream>(loaded_, settings);
  PrintStart(*stream_, loaded_);
  Say(fmt::format("template: {}; /help lists the commands", format_->name));
  if (stream_->is_restored) {
    AfterRestore();
  } else if (!arguments.system.empty()) {
    renderer_.Add({ChatRole::kSystem, arguments.system}, &pending_);
  }
}

// A restored stream is past its first turn.
void Chat::AfterRestore() {
  turns_.clear();
  pending_.clear();
  renderer_ = MakeRenderer(loaded_.model->tokenizer(), *format_);
  std::vector<ChatSegment> said_before;
  renderer_.Add({ChatRole::kUser, "said before"}, &said_before);
  EndReply();
  Say(fmt::format("state: restored, {} tokens", FormatCount(session().num_tokens())));
}

// What follows the reply at the end of the stream. Whether the model wrote the end itself is seen there, also after a
// state was taken or tokens were taken back: a reply that was cut is owed one.
void Chat::EndReply() {
  const std::vector<TokenId> recent = session().RecentTokens();
  renderer_.EndReply(!recent.empty() && loaded_.model->tokenizer().is_eog(recent.back()), &pending_);
}

void Chat::Feed(std::vector<ChatSegment> segments) {
  const Tokenizer& tokenizer = loaded_.model->tokenizer();
  const bool add_bos = session().num_tokens() == 0 && tokenizer.adds_bos();
  const std::vector<TokenId> ids = EncodeSegments(tokenizer, segments, add_bos);
  session().Feed(ids, UserStop());
}

void Chat::Reply(const std::string& message) {
  turns_.push_back({session().num_tokens(), renderer_});
  std::vector<ChatSegment> segments = std::move(pending_);
  pending_.clear();
  renderer_.Add({ChatRole::kUser, message}, &segments);
  renderer_.StartReply(&segments);
  Feed(std::move(segments));
  turns_.back().reply_begin = session().num_tokens();
  GenerateOptions options;
  options.max_tokens = ToCount(arguments_.num_tokens, "-n");
  options.num_pauses = arguments_.num_pauses;
  options.backspace = arguments_.backspace;
  options.stop_strings = arguments_.stops;
  const std::vector<std::string> stops = StopStrings(*format_);
  options.stop_strings.insert(options.stop_strings.end(), stops.begin(), stops.end());
  bool at_start = true;
  Generation generation = session().Generate(options);
  while (const std::optional<Piece> piece = generation.Next(UserStop())) {
    std::string_view text = piece->text;
    // Where the format ends in a space or a line, some models repeat it.
    if (at_start) text.remove_prefix(std::min(text.find_first_not_of(" \n"), text.size()));
    at_start = at_start && text.empty();
    WriteOutNow(text);
  }
  const GenerateResult& result = generation.result();
  WriteOutNow("\n");
  EndReply();
  if (result.reason == StopReason::kInterrupted) {
    ClearStop();
    Say("(stopped)");
  } else if (result.reason == StopReason::kMaxTokens) {
    Say(fmt::format("(stopped after {} tokens; -n sets another limit)", FormatCount(result.num_tokens)));
  }
  if (!result.message.empty()) Say("(" + result.message + ")");
}

void Chat::RewindTokens(int64_t count) {
  session().Rewind(count);
  while (!turns_.empty() && turns_.back().num_tokens > session().num_tokens()) turns_.pop_back();
  Say(fmt::format("took back {} tokens, {} are left", FormatCount(count),
                  FormatCount(session().num_tokens())));
}

void Chat::Rewind(const std::string& argument) {
  const size_t space = argument.find(' ');
  const int64_t count = argument.empty() ? 1 : ParseCount(argument.substr(0, space), "/rewind");
  if (space != std::string::npos) {
    if (!argument.substr(space + 1).starts_with("token")) {
      Fail(ErrorKind::kInput, "/rewind N takes back turns, /rewind N tokens takes back tokens");
    }
    RewindTokens(count);
    pending_.clear();
    // Within a reply it is cut there; within a message the message goes on.
    const bool in_reply = turns_.empty() ? stream_->is_restored && session().num_tokens() > 0
                                         : session().num_tokens() >= turns_.back().reply_begin;
    if (in_reply) EndReply();
    return;
  }
  if (count < 1 || static_cast<size_t>(count) > turns_.size()) {
    Fail(ErrorKind::kInput, "/rewind: {} turns were said here, {} cannot be taken back", turns_.size(),
         count);
  }
  const Turn turn = turns_[turns_.size() - static_cast<size_t>(count)];
  const int64_t num_tokens = session().num_tokens() - turn.num_tokens;
  if (num_tokens > session().MaxRewind()) {
    Fail(ErrorKind::kInput,
         "/rewind: these turns have {} tokens and {} can be taken back; --max-rewind allows more", num_tokens,
         session().MaxRewind());
  }
  turns_.erase(turns_.end() - count, turns_.end());
  session().Rewind(num_tokens);
  renderer_ = turn.renderer;
  pending_.clear();
  if (!turns_.empty() || stream_->is_restored) {
    EndReply();
  } else if (!arguments_.system.empty()) {
    renderer_ = MakeRenderer(loaded_.model->tokenizer(), *format_);
    renderer_.Add({ChatRole::kSystem, arguments_.system}, &pending_);
  }
  Say(fmt::format("took back {} {}, {} tokens are left", count, count == 1 ? "turn" : "turns",
                  FormatCount(session().num_tokens())));
}

void Chat::Load(const std::string& path) {
  session().Restore(path);
  stream_->is_restored = true;
  AfterRestore();
}

bool Chat::Command(const std::string& line) {
  const size_t space = line.find(' ');
  const std::string name = line.substr(0, space);
  std::string argument = space == std::string::npos ? "" : line.substr(line.find_first_not_of(' ', space));
  while (!argument.empty() && argument.back() == ' ') argument.pop_back();
  if (name == "/quit" || name == "/exit") return true;
  if (name == "/help") {
    fmt::print(stderr, "{}", kHelp);
  } else if (name == "/context") {
    Say(fmt::format("{}, {} tokens so far", session().context().Describe(),
                    FormatCount(session().num_tokens())));
    for (const LedgerRange& range : session().context().Ledger()) {
      Say(fmt::format("  {:>14} .. {:<14} {}", FormatCount(range.begin), FormatCount(range.end - 1),
                      TokenFateName(range.fate)));
    }
  } else if (name == "/stats") {
    fmt::print(stderr, "{}", ReportText(session(), stream_->budget));
  } else if (name == "/save" || name == "/load") {
    if (argument.empty()) Fail(ErrorKind::kInput, "{} needs a file name", name);
    if (name == "/load") {
      Load(argument);
    } else {
      session().Save(argument);
      Say(fmt::format("saved to {}", argument));
    }
  } else if (name == "/rewind") {
    Rewind(argument);
  } else {
    Fail(ErrorKind::kInput, "{} is not a command; /help lists them", name);
  }
  return false;
}

int Chat::operator()() {
  LineEditor editor("> ");
  bool was_interrupted = false;
  while (true) {
    const std::optional<std::string> line = editor.Read();
    if (!line) {
      was_interrupted = StopRequested();
      break;
    }
    if (line->find_first_not_of(" \t\n") == std::string::npos) continue;
    try {
      if (line->front() == '/') {
        if (Command(*line)) break;
      } else {
        Reply(*line);
      }
    } catch (const Error& error) {
      // The conversation goes on; the stream holds what was fed.
      Say(fmt::format("mneme: {}", PrintableLines(error.what())));
      if (error.kind() == ErrorKind::kBudget && !editor.is_terminal()) throw;
    }
  }
  if (editor.is_terminal()) Say("");
  if (!arguments_.state.empty()) {
    session().Save(arguments_.state);
    Say(fmt::format("state: saved to {} after {} tokens", arguments_.state,
                    FormatCount(session().num_tokens())));
  }
  return was_interrupted ? kExitInterrupted : 0;
}

}  // namespace

void AddChat(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<ChatArguments>();
  CLI::App* verb = app.add_subcommand("chat", "A conversation without an end");
  AddModelOptions(*verb, &arguments->model);
  constexpr const char* kGroup = "Chat";
  verb->add_option("--system", arguments->system, "System prompt")->type_name("TEXT")->group(kGroup);
  verb->add_flag("--pin-system", arguments->pin_system, "Never drop the system prompt")->group(kGroup);
  verb->add_option("--template", arguments->template_name,
                   "Chat template in place of the model's: " + ChatTemplateList())
      ->type_name("NAME")
      ->group(kGroup);
  verb->add_option("-n,--num-tokens", arguments->num_tokens, "Most tokens of a reply (default 1024)")
      ->type_name("N")
      ->group(kGroup);
  AddListOption(*verb, "--stop", &arguments->stops, "TEXT",
                "End a reply before this text; may be given more than once")
      ->group(kGroup);
  verb->add_option("--pause", arguments->num_pauses,
                   "Pause tokens before each reply, for models that have them")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber)
      ->group(kGroup);
  verb->add_flag("--backspace", arguments->backspace, "Let the model take tokens back, if it was trained to")
      ->group(kGroup);
  verb->add_option("--max-rewind", arguments->max_rewind,
                   "How many tokens /rewind can take back (default 256)")
      ->type_name("N")
      ->group(kGroup);
  verb->add_option("--state", arguments->state, "Go on where this file says, and save to it at the end")
      ->type_name("FILE")
      ->group(kGroup);
  AddContextOptions(*verb, &arguments->context);
  AddSamplerOptions(*verb, &arguments->sampler);
  verb->footer(std::string("Commands:\n") + kHelp + "\n" + ContextHelp());
  verb->callback([=] { *action = [=] { return Chat(*arguments)(); }; });
}

}  // namespace mneme::cli
