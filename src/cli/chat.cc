// mneme chat: a conversation without an end.
#include <fmt/core.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/message.h"
#include "base/text/units.h"
#include "cli/chat_text.h"
#include "cli/console/console.h"
#include "cli/console/line_editor.h"
#include "cli/console/signals.h"
#include "cli/options.h"
#include "cli/state_file.h"
#include "cli/stream.h"
#include "cli/verbs.h"
#include "mneme/report.h"

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

constexpr size_t kPieceBytes = 4096;

struct ChatArguments {
  ModelArguments model;
  SessionArguments context;
  std::string system;
  std::string template_name;
  GenerateOptions generate;
  std::vector<Setting> typed_generate;
  std::string state;
  std::string save_every;
  bool pin_system = false;
};

// The first word, and the rest without the white space around it.
std::pair<std::string, std::string> CutWord(const std::string& text) {
  constexpr const char* kSpace = " \t\r\n";
  const size_t end = std::min(text.find_first_of(kSpace), text.size());
  const size_t begin = text.find_first_not_of(kSpace, end);
  if (begin == std::string::npos) return {text.substr(0, end), ""};
  return {text.substr(0, end), text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin)};
}

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

  bool Next(LineEditor& editor);
  void Reply(const std::string& message);
  void ForgetOldTurns();
  // True if the conversation is over.
  bool Command(const std::string& line);
  void Rewind(const std::string& argument);
  void RewindTokens(int64_t count);
  void Load(const std::string& path);
  void AfterRestore();
  void EndReply();
  // Piece by piece: however long the message is, only its line is in memory whole. Stops at an interrupt.
  void FeedTurn(const TurnText& turn, std::string_view message);
  // Turns before those of the list: of a restored state, or out of reach.
  bool HasEarlierTurns() const { return stream_->is_restored || num_old_turns_ > 0; }
  Session& session() { return stream_->session; }
  static void Say(const std::string& text) { PrintMessage("{}\n", text); }

  const ChatArguments& arguments_;
  StateFile state_;
  OpenedModel opened_;
  const ChatTemplate* format_ = nullptr;
  Lease input_lease_;
  std::unique_ptr<Stream> stream_;
  ChatRenderer renderer_;
  std::deque<Turn> turns_;  // those that can still be taken back
  size_t num_old_turns_ = 0;
  std::vector<Segment> pending_;  // the end of the last reply, before the next message
  std::string failure_;           // what ended the conversation, if it was no wish
};

Chat::Chat(const ChatArguments& arguments)
    : arguments_(arguments),
      state_(arguments.state, arguments.save_every),
      opened_(arguments.model, arguments.context.engine, /*load_tokenizer=*/true, arguments.state),
      renderer_(nullptr) {
  const Tokenizer& tokenizer = opened_.model.tokenizer();
  std::string note;
  std::string template_name = arguments.template_name;
  if (template_name.empty() && opened_.saved) template_name = opened_.saved->notes["template"];
  format_ = &ChooseChatTemplate(tokenizer, template_name, &note);
  if (!note.empty()) Say("chat: " + note);
  renderer_ = MakeRenderer(opened_.model.tokenizer(), *format_);
  StreamSettings settings(arguments.context);
  settings.state = arguments.state;
  if (arguments.pin_system) {
    settings.options.num_pinned = std::max<int64_t>(
        settings.options.num_pinned,
        static_cast<int64_t>(ChatText(tokenizer, *format_, arguments.system).num_head_tokens()));
  }
  // A cap that is too small for both is refused with the one that would do.
  ChooseContext(opened_.model, settings.options, LineEditor::kSmallLineBytes);
  input_lease_ = opened_.model.engine().Reserve(LineEditor::kSmallLineBytes, "the lines of the input");
  stream_ = std::make_unique<Stream>(opened_.model, settings);
  stream_->Bind("--system", SystemNote(arguments.system));
  stream_->Bind("--pin-system", arguments.pin_system ? "true" : "");
  stream_->Bind("--template", std::string(format_->name), /*may_come_later=*/true);
  stream_->PrintStart(arguments.context.engine);
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
  num_old_turns_ = 0;
  pending_.clear();
  renderer_ = MakeRenderer(opened_.model.tokenizer(), *format_);
  std::vector<Segment> said_before;
  renderer_.Add({ChatRole::kUser, "said before"}, &said_before);
  EndReply();
  Say(fmt::format("state: restored, {} tokens", FormatCount(session().num_tokens())));
}

// What follows the reply at the end of the stream. Whether the model wrote the end itself is seen there, also
// after a state was taken or tokens were taken back: a reply that was cut is owed one.
void Chat::EndReply() {
  const std::vector<TokenId> recent = session().RecentTokens();
  renderer_.EndReply(!recent.empty() && opened_.model.tokenizer().is_eog(recent.back()), &pending_);
}

void Chat::FeedTurn(const TurnText& turn, std::string_view message) {
  const Tokenizer& tokenizer = opened_.model.tokenizer();
  const bool add_bos = session().num_tokens() == 0 && tokenizer.adds_bos();
  StreamEncoder encoder(tokenizer, {.parse_special = true, .add_bos = add_bos});
  const auto chunk = static_cast<size_t>(session().max_rows());
  std::vector<TokenId> ids;
  const auto feed = [&] {
    const bool is_whole = session().Feed(ids, UserStop()) == static_cast<int64_t>(ids.size());
    ids.clear();
    return is_whole;
  };
  FeedSegments(turn.head, &encoder, &ids);
  for (size_t begin = 0; begin < message.size(); begin += kPieceBytes) {
    encoder.FeedPlain(message.substr(begin, kPieceBytes), &ids);
    if (ids.size() >= chunk && !feed()) return;
  }
  FeedSegments(turn.tail, &encoder, &ids);
  encoder.Finish(&ids);
  feed();
}

void Chat::Reply(const std::string& message) {
  turns_.push_back({session().num_tokens(), renderer_});
  const TurnText turn = RenderTurn(renderer_, std::exchange(pending_, {}));
  FeedTurn(turn, TrimmedContent(*format_, message));
  turns_.back().reply_begin = session().num_tokens();
  GenerateOptions options = arguments_.generate;
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
  ForgetOldTurns();
}

// A conversation has no end; the list of its turns must have one. What is out of reach now stays so. The last
// turn is kept in any case.
void Chat::ForgetOldTurns() {
  const int64_t first = session().num_tokens() - session().MaxRewind();
  while (turns_.size() > 1 && turns_.front().num_tokens < first) {
    turns_.pop_front();
    ++num_old_turns_;
  }
}

void Chat::RewindTokens(int64_t count) {
  session().Rewind(count);
  while (!turns_.empty() && turns_.back().num_tokens > session().num_tokens()) turns_.pop_back();
  Say(fmt::format("took back {} tokens, {} are left", FormatCount(count),
                  FormatCount(session().num_tokens())));
}

void Chat::Rewind(const std::string& argument) {
  const auto [number, unit] = CutWord(argument);
  const int64_t count = number.empty() ? 1 : ParseCount(number, "/rewind");
  if (!unit.empty()) {
    if (unit != "token" && unit != "tokens") {
      Fail(ErrorKind::kInput, "/rewind N takes back turns, /rewind N tokens takes back tokens");
    }
    RewindTokens(count);
    pending_.clear();
    // Within a reply it is cut there; within a message the message goes on.
    const bool in_reply = turns_.empty() ? HasEarlierTurns() && session().num_tokens() > 0
                                         : session().num_tokens() >= turns_.back().reply_begin;
    if (in_reply) EndReply();
    return;
  }
  if (count > 0 && static_cast<size_t>(count) > turns_.size() &&
      static_cast<size_t>(count) <= turns_.size() + num_old_turns_) {
    Fail(ErrorKind::kInput,
         "/rewind: {} turns reach further back than the {} tokens that can be taken back; --max-rewind "
         "allows more",
         count, session().MaxRewind());
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
  if (!turns_.empty() || HasEarlierTurns()) {
    EndReply();
  } else if (!arguments_.system.empty()) {
    renderer_ = MakeRenderer(opened_.model.tokenizer(), *format_);
    renderer_.Add({ChatRole::kSystem, arguments_.system}, &pending_);
  }
  Say(fmt::format("took back {} {}, {} tokens are left", count, count == 1 ? "turn" : "turns",
                  FormatCount(session().num_tokens())));
}

void Chat::Load(const std::string& path) {
  const StateInfo saved = ReadStateInfo(path);
  session().Reload(path);
  stream_->is_restored = true;
  // The conversation goes on in the format in which it began.
  if (const auto found = saved.notes.find("template"); found != saved.notes.end()) {
    std::string note;
    format_ = &ChooseChatTemplate(opened_.model.tokenizer(), found->second, &note);
  }
  AfterRestore();
}

bool Chat::Command(const std::string& line) {
  const auto [name, argument] = CutWord(line);
  if (name == "/quit" || name == "/exit") return true;
  if (name == "/help") {
    PrintMessage("{}", kHelp);
  } else if (name == "/context") {
    Say(fmt::format("{}, {} tokens so far", session().options().context,
                    FormatCount(session().num_tokens())));
    for (const LedgerRange& range : session().Ledger()) {
      Say(fmt::format("  {:>14} .. {:<14} {}", FormatCount(range.begin), FormatCount(range.end - 1),
                      TokenFateName(range.fate)));
    }
  } else if (name == "/stats") {
    PrintMessage("{}", ReportText(session()));
  } else if (name == "/save" || name == "/load") {
    if (argument.empty()) Fail(ErrorKind::kInput, "{} needs a file name", name);
    if (name == "/load") {
      Load(argument);
    } else {
      for (const std::string& input : InputsOf(arguments_.model)) {
        std::error_code ignored;
        if (std::filesystem::equivalent(argument, input, ignored)) {
          Fail(ErrorKind::kInput, "/save: {} is the model, and would be written over", argument);
        }
      }
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

bool IsOverBudget(const std::exception& error) {
  const auto* ours = dynamic_cast<const Error*>(&error);
  return ours != nullptr && ours->kind() == ErrorKind::kBudget;
}

// One line of the conversation; false at its end. What a command or a reply throws is told, and the
// conversation goes on with what was fed; it ends where going on makes no sense.
bool Chat::Next(LineEditor& editor) {
  std::optional<std::string> line;
  try {
    line = editor.Read();
  } catch (const std::exception& error) {
    if (IsOverBudget(error)) {  // the line; the next may fit
      Say("mneme: " + DescribeException(error));
      return true;
    }
    failure_ = DescribeException(error);
  }
  if (!line) return false;
  if (line->find_first_not_of(" \t\n") == std::string::npos) return true;
  try {
    if (line->front() == '/') return !Command(*line);
    Reply(*line);
    state_.SaveIfDue(session());
  } catch (const OutputError& error) {
    failure_ = DescribeException(error);
  } catch (const std::exception& error) {
    if (IsOverBudget(error) && !editor.is_terminal()) {
      failure_ = DescribeException(error);  // nobody is there to shorten the conversation
    } else {
      Say("mneme: " + DescribeException(error));
    }
  }
  return failure_.empty();
}

int Chat::operator()() {
  LineEditor editor("> ", input_lease_);
  while (!StopRequested() && Next(editor)) {  // SIGTERM in a reply is the end of the conversation too
  }
  const bool was_interrupted = StopRequested();
  if (editor.is_terminal()) Say("");
  if (!failure_.empty()) Say("mneme: " + failure_);
  if (state_.is_named()) {
    state_.Save(session());
    Say(fmt::format("state: saved to {} after {} tokens", arguments_.state,
                    FormatCount(session().num_tokens())));
  }
  if (!failure_.empty()) return kExitError;
  return was_interrupted ? kExitInterrupted : 0;
}

}  // namespace

void AddChat(Command& program) {
  auto arguments = std::make_shared<ChatArguments>();
  Command& verb = program.AddVerb("chat", "A conversation without an end");
  AddModelOptions(verb, &arguments->model);
  verb.SetGroup("Chat");
  verb.Text("--system", &arguments->system, "TEXT", "System prompt");
  verb.Flag("--pin-system", &arguments->pin_system, "Never drop the system prompt");
  verb.Text("--template", &arguments->template_name, "NAME",
            "Chat template in place of the model's: " + ChatTemplateList());
  arguments->generate.max_tokens = 1024;
  AddFields(verb, "num_tokens,stop,pause,backspace", &arguments->generate, &arguments->typed_generate);
  verb.Text("--state", &arguments->state, "FILE", "Go on where this file says, and save to it at the end");
  verb.Text("--save-every", &arguments->save_every, "N|TIME",
            "Save to it also after a reply, once so many tokens (10K) or so long (30s, 5min) went by");
  arguments->context.options.max_rewind = 256;
  AddContextOptions(verb, &arguments->context);
  AddSamplerOptions(verb, &arguments->context);
  verb.SetFooter(std::string("Commands:\n") + kHelp + "\n" + ContextHelp());
  verb.SetAction([=] { return Chat(*arguments)(); });
}

}  // namespace mneme::cli
