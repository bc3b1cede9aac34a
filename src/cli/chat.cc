// mneme chat: a conversation without an end.
#include <fmt/core.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/message.h"
#include "base/text/units.h"
#include "cli/chat/conversation.h"
#include "cli/chat/reply_view.h"
#include "cli/chat/sampling.h"
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

struct ChatArguments {
  ModelArguments model;
  SessionArguments context;
  std::string system;
  FormatArguments format;
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
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  // Where stream and conversation stood before a turn, and when its reply began.
  struct Turn {
    int64_t num_tokens = 0;
    Conversation::Place place;
    Conversation::Place asked = {.reply_begin = kNever};
  };

  bool Next(LineEditor& editor);
  void Reply(const std::string& message);
  bool Ask(const std::string& message);
  void Answer();
  void ForgetOldTurns();
  // True if the conversation is over.
  bool Command(const std::string& line);
  void Rewind(const std::string& argument);
  void RewindTokens(int64_t count);
  void Load(const std::string& path);
  void AfterRestore();
  Session& session() { return stream_->session; }
  static void Say(const std::string& text) { PrintMessage("{}\n", text); }

  const ChatArguments& arguments_;
  StateFile state_;
  OpenedModel opened_;
  Lease input_lease_, conversation_lease_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Conversation> conversation_;
  std::deque<Turn> turns_;  // those that can still be taken back
  size_t num_old_turns_ = 0;
  // When the reply began that a restored stream ends in.
  Conversation::Place restored_reply_{.reply_begin = kNever};
  std::string failure_;  // what ended the conversation, if it was no wish
};

Chat::Chat(const ChatArguments& arguments)
    : arguments_(arguments),
      state_(arguments.state, arguments.save_every),
      opened_(arguments.model, arguments.context.engine, /*load_tokenizer=*/true, arguments.state) {
  const Tokenizer& tokenizer = opened_.model.tokenizer();
  PromptFormat format(tokenizer, ModelPath(arguments.model.path), arguments.format,
                      opened_.saved ? &*opened_.saved : nullptr);
  if (!format.remark().empty()) Say("chat: " + format.remark());
  conversation_ = std::make_unique<Conversation>(tokenizer, std::move(format), arguments.system);
  StreamSettings settings(arguments.context);
  settings.state = arguments.state;
  ChooseSampling(opened_.model, /*draws=*/true, &settings);
  int64_t& max_rewind = settings.options.max_rewind;
  if (arguments.context.Typed("max_rewind").empty()) {
    max_rewind = conversation_->format().SuggestedRewind(max_rewind, arguments.generate.max_tokens);
  }
  if (arguments.pin_system) {
    settings.options.num_pinned = std::max<int64_t>(settings.options.num_pinned,
                                                    static_cast<int64_t>(conversation_->num_head_tokens()));
  }
  // A cap that is too small for all is refused with the one that would do.
  ChooseContext(opened_.model, settings.options, LineEditor::kSmallLineBytes + Conversation::kBytes);
  const Engine& engine = opened_.model.engine();
  input_lease_ = engine.Reserve(LineEditor::kSmallLineBytes, "the lines of the input");
  conversation_lease_ = engine.Reserve(Conversation::kBytes, "the messages of the conversation");
  stream_ = std::make_unique<Stream>(opened_.model, settings);
  session().CheckGenerate(arguments.generate);
  stream_->Bind("--system", SystemNote(arguments.system));
  stream_->Bind("--pin-system", arguments.pin_system ? "true" : "");
  BindFormat(conversation_->format(), stream_.get());
  stream_->PrintStart(arguments.context.engine);
  Say("sampling: " + SamplingText(*stream_));
  Say(fmt::format("template: {}; /help lists the commands", conversation_->format().name()));
  if (stream_->is_restored) AfterRestore();
}

// A restored stream is past its first turn.
void Chat::AfterRestore() {
  turns_.clear();
  num_old_turns_ = 0;
  conversation_->TakeUp(&session());
  restored_reply_ = conversation_->reply_place().value_or(Conversation::Place{.reply_begin = kNever});
  Say(fmt::format("state: restored, {} tokens", FormatCount(session().num_tokens())));
}

// False if it was stopped before the reply.
bool Chat::Ask(const std::string& message) {
  const int64_t before = session().num_tokens();
  try {
    conversation_->Say(message, &session(), UserStop());
    conversation_->EndMessage(&session(), UserStop());
  } catch (...) {
    // What was fed of the turn can be taken back.
    if (session().num_tokens() != before) {
      turns_.push_back({conversation_->turn_begin(), conversation_->turn_place()});
    }
    throw;
  }
  turns_.push_back({conversation_->turn_begin(), conversation_->turn_place(), conversation_->place()});
  if (!conversation_->remark().empty()) Say("(" + conversation_->remark() + ")");
  return !StopRequested();
}

void Chat::Answer() {
  GenerateOptions options = arguments_.generate;
  const std::vector<std::string> stops = conversation_->format().StopStrings();
  options.stop_strings.insert(options.stop_strings.end(), stops.begin(), stops.end());
  ReplyView view(opened_.model.tokenizer(), conversation_->format().reasoning(),
                 conversation_->is_reply_reasoning());
  Generation generation = session().Generate(options);
  while (const std::optional<Piece> piece = generation.Next(UserStop())) {
    conversation_->Hear(piece->token);
    view.Show(*piece);
  }
  view.End();
  const GenerateResult& result = generation.result();
  if (result.reason == StopReason::kInterrupted) {
    Say("(stopped)");
  } else if (result.reason == StopReason::kMaxTokens) {
    Say(fmt::format("(stopped after {} tokens; -n sets another limit)", FormatCount(result.num_tokens)));
  }
  if (!result.message.empty()) Say("(" + result.message + ")");
}

void Chat::Reply(const std::string& message) {
  const bool asks = Ask(message);
  try {
    if (asks) Answer();
  } catch (...) {
    conversation_->EndReply(&session());
    throw;
  }
  conversation_->EndReply(&session());
  if (!asks) Say("(stopped)");
  if (StopRequested()) ClearStop();
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

// Within a reply it is cut there. A message is not cut: what is left of one goes too.
void Chat::RewindTokens(int64_t count) {
  const int64_t before = session().num_tokens();
  int64_t left = before - count;
  const auto last = std::find_if(turns_.rbegin(), turns_.rend(),
                                 [left](const Turn& turn) { return turn.num_tokens <= left; });
  const bool is_known = last != turns_.rend();
  const Conversation::Place asked = is_known ? last->asked : restored_reply_;
  const bool in_reply = left >= asked.reply_begin;
  const Conversation::Place place = in_reply ? asked : is_known ? last->place : Conversation::Place{-1, 0};
  if (is_known && !in_reply) left = std::min(left, last->num_tokens);
  session().Rewind(before - left);
  while (!turns_.empty() &&
         (turns_.back().num_tokens > left || (!in_reply && turns_.back().num_tokens == left)))
    turns_.pop_back();
  in_reply ? conversation_->CutReply(place, &session()) : conversation_->GoBackTo(place, &session());
  Say(fmt::format("took back {} tokens{}, {} are left", FormatCount(before - left),
                  before - left > count ? ", with what was left of a message" : "", FormatCount(left)));
}

void Chat::Rewind(const std::string& argument) {
  const auto [number, unit] = CutWord(argument);
  const int64_t count = number.empty() ? 1 : ParseCount(number, "/rewind");
  if (!unit.empty()) {
    if (unit != "token" && unit != "tokens") {
      Fail(ErrorKind::kInput, "/rewind N takes back turns, /rewind N tokens takes back tokens");
    }
    return RewindTokens(count);
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
  session().Rewind(num_tokens);
  turns_.erase(turns_.end() - count, turns_.end());
  conversation_->GoBackTo(turn.place, &session());
  Say(fmt::format("took back {} {}, {} tokens are left", count, count == 1 ? "turn" : "turns",
                  FormatCount(session().num_tokens())));
}

void Chat::Load(const std::string& path) {
  const StateInfo saved = ReadStateInfo(path);
  // The conversation goes on in the format in which it began.
  PromptFormat format(opened_.model.tokenizer(), ModelPath(arguments_.model.path), {}, &saved);
  session().Reload(path);
  stream_->is_restored = true;
  conversation_ = std::make_unique<Conversation>(opened_.model.tokenizer(), std::move(format), "");
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
    const std::string recalled = RecalledText(session());
    if (!recalled.empty()) PrintMessage("came back for the last answer:\n{}", recalled);
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
    if (const std::string note = stream_->BeyondTraining(); !note.empty()) Say(note);
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
  AddFormatOptions(verb, &arguments->format);
  arguments->generate.max_tokens = 1024;
  AddFields(verb, "num_tokens,stop,pause,backspace", &arguments->generate, &arguments->typed_generate);
  verb.Text("--state", &arguments->state, "FILE", "Go on where this file says, and save to it at the end");
  verb.Text("--save-every", &arguments->save_every, "N|TIME",
            "Save to it also after a reply, once so many tokens (10K) or so long (30s, 5min) went by");
  arguments->context.options.max_rewind = 256;
  AddContextOptions(verb, &arguments->context);
  AddSamplerOptions(verb, &arguments->context, DefaultSampler());
  verb.SetFooter(std::string("Commands:\n") + kHelp + "\n" + ContextHelp());
  verb.SetAction([=] {
    CheckStops(arguments->generate);
    return Chat(*arguments)();
  });
}

}  // namespace mneme::cli
