// mneme run: reads input of any length, then writes.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/message.h"
#include "base/progress.h"
#include "base/text/units.h"
#include "cli/chat/conversation.h"
#include "cli/chat/sampling.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/ids.h"
#include "cli/input.h"
#include "cli/options.h"
#include "cli/run_report.h"
#include "cli/state_file.h"
#include "cli/stream.h"
#include "cli/verbs.h"
#include "mneme/system.h"

namespace mneme::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMinPieceBytes = 4096;
constexpr size_t kMaxPieceBytes = size_t{1} << 16;

struct RunArguments {
  ModelArguments model;
  SessionArguments context;
  std::vector<std::string> files;
  std::string prompt;
  std::string system;
  FormatArguments format;
  GenerateOptions generate;
  std::vector<Setting> typed_generate;
  std::string state;
  std::string save_every;
  std::string report;
  bool chat = false;
  bool pin_system = false;
  bool ids = false;
  bool no_generate = false;
  bool resume = false;
  bool quiet = false;
  bool has_prompt = false;  // -p was given

  bool speaks() const { return chat || !format.name.empty() || !format.variables.empty(); }
};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void FailEmpty() {
  Fail(ErrorKind::kInput,
       "there is nothing to go on from: the input is empty. -p TEXT or -f FILE gives some; with -p \"\" the "
       "model writes from its beginning-of-text token");
}

// One run, step by step. Members are what the steps share.
class Run {
 public:
  explicit Run(const RunArguments& arguments) : arguments_(arguments), start_(Clock::now()) {
    outcome_.answer = AnswerRecord(/*keeps=*/!arguments.report.empty());
  }
  int operator()();

 private:
  void Open();
  void OpenConversation();
  void SetExpectedTokens(SessionOptions* options);
  void PassOver();
  template <typename Step>
  void Attempt(const Step& step);
  void ReadAndWrite();
  void FeedSystem();
  void FeedFiles();
  void FeedPiece(std::string_view text);
  void FeedIdFiles();
  void FeedPrompt();
  void Generate();
  void SaveState();
  int End() const;
  void Say(const std::string& line) const {
    if (!arguments_.quiet) PrintMessage("{}\n", line);
  }
  void SayIfBeyondTraining() const {
    if (const std::string note = stream_->BeyondTraining(); !note.empty()) Say(note);
  }
  void Report();
  void SayDamaged() const;
  std::string ProgressNote() const;
  void UpdateProgress(Progress& progress, int64_t done, int64_t total) const;

  const RunArguments& arguments_;
  Clock::time_point start_;
  std::unique_ptr<OpenedModel> opened_;
  std::unique_ptr<StateFile> state_;
  std::unique_ptr<InputFiles> input_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Conversation> chat_;
  Lease conversation_lease_;
  // What is still to be fed of them: a saved run may have read them.
  std::string_view system_;
  std::string_view prompt_;
  int64_t num_restored_ = 0;  // tokens of the stream before this run
  RunOutcome outcome_;
  std::vector<std::string> failures_;  // in the order in which they happened
};

void Run::OpenConversation() {
  PromptFormat format(opened_->model.tokenizer(), ModelPath(arguments_.model.path), arguments_.format,
                      opened_->saved ? &*opened_->saved : nullptr);
  if (!format.remark().empty()) Say("chat: " + format.remark());
  chat_ = std::make_unique<Conversation>(opened_->model.tokenizer(), std::move(format), system_);
}

// Where the input has a known end, a context can be chosen for it.
void Run::SetExpectedTokens(SessionOptions* options) {
  if (arguments_.no_generate && arguments_.files.empty()) return;
  const Tokenizer& tokenizer = opened_->model.tokenizer();
  const int64_t trained = std::max<int64_t>(opened_->model.info().trained_length, 2048);
  const int64_t num_read =
      CountTokens(tokenizer, arguments_.files, input_->size_bytes(), trained, UserStop());
  const auto num_other =
      static_cast<int64_t>(tokenizer.Encode(arguments_.system + arguments_.prompt).size()) + 16 +
      (chat_ ? chat_->num_prompt_tokens() : 0);
  const int64_t num_new = arguments_.no_generate ? 0 : arguments_.generate.max_tokens;
  if (num_read >= 0 && num_new >= 0) options->expected_tokens = num_read + num_other + num_new;
}

void Run::Open() {
  StreamSettings settings(arguments_.context);
  settings.state = arguments_.state;
  if (!arguments_.ids) input_ = std::make_unique<InputFiles>(arguments_.files, UserStop());
  CheckOutputs({arguments_.state, arguments_.report}, InputsOf(arguments_.model, arguments_.files));
  state_ = std::make_unique<StateFile>(arguments_.state, arguments_.save_every);
  opened_ = std::make_unique<OpenedModel>(arguments_.model, arguments_.context.engine,
                                          /*load_tokenizer=*/true, arguments_.state);
  const bool has_input = arguments_.has_prompt || !arguments_.files.empty() || !arguments_.system.empty();
  if (!has_input && !arguments_.no_generate && !opened_->saved) FailEmpty();
  system_ = opened_->saved ? std::string_view() : arguments_.system;  // a saved stream begins with its own
  prompt_ = arguments_.prompt;
  const Model& model = opened_->model;
  // A seed that is not told could never be given again: a quiet run is the same each time.
  ChooseSampling(model, /*draws=*/!arguments_.no_generate && !arguments_.quiet, &settings);
  if (!arguments_.ids) {
    const Tokenizer& tokenizer = model.tokenizer();
    if (arguments_.speaks()) OpenConversation();
    if (chat_ && !arguments_.state.empty() && arguments_.context.Typed("max_rewind").empty()) {
      settings.options.max_rewind =
          chat_->format().SuggestedRewind(settings.options.max_rewind, arguments_.generate.max_tokens);
    }
    if (arguments_.pin_system) {
      const size_t num_head =
          chat_ ? chat_->num_head_tokens()
                : tokenizer.Encode(arguments_.system, {.add_bos = tokenizer.adds_bos()}).size();
      settings.options.num_pinned = std::max(settings.options.num_pinned, static_cast<int64_t>(num_head));
    }
    SetExpectedTokens(&settings.options);
    // A cap that is too small for both is refused with the one that would do.
    if (chat_ && !opened_->saved) ChooseContext(model, settings.options, Conversation::kBytes);
    if (chat_) conversation_lease_ = model.engine().Reserve(Conversation::kBytes, "the messages");
  }
  stream_ = std::make_unique<Stream>(model, settings);
  // Not only after a book.
  if (!arguments_.no_generate) stream_->session.CheckGenerate(arguments_.generate);
  num_restored_ = stream_->session.num_tokens();
  stream_->Bind("--system", SystemNote(arguments_.system));
  stream_->Bind("--pin-system", arguments_.pin_system ? "true" : "");
  if (chat_) BindFormat(chat_->format(), stream_.get());
  if (chat_ && stream_->is_restored) chat_->TakeUp(&stream_->session);
  if (!arguments_.quiet) stream_->PrintStart(arguments_.context.engine);
  if (stream_->is_restored) {
    Say(fmt::format("state: {} restored, {} tokens were read before", arguments_.state,
                    FormatCount(stream_->session.num_tokens())));
  }
  if (stream_->is_restored) SayDamaged();
  if (!arguments_.no_generate) Say("sampling: " + SamplingText(*stream_));
}

void Run::SayDamaged() const {
  for (const LedgerTotal& total : LedgerTotals(stream_->session.Ledger())) {
    if (total.fate != TokenFate::kDamaged) continue;
    PrintMessage(
        "mneme: {} tokens in the store {} are damaged and left out (`mneme store check` names them)\n",
        FormatCount(total.num_tokens), stream_->session.options().store);
  }
}

std::string Run::ProgressNote() const {
  const Session& session = stream_->session;
  return fmt::format("{} tokens, {} tok/s, {}", FormatCount(session.num_tokens()),
                     FormatCount(static_cast<int64_t>(session.stats().prefill.tokens_per_second())),
                     FormatBytes(ResidentBytes()));
}

void Run::UpdateProgress(Progress& progress, int64_t done, int64_t total) const {
  progress.Update(done, total, ProgressNote());
}

void Run::FeedSystem() {
  if (chat_ || system_.empty()) return;  // a conversation feeds it with the first message
  stream_->session.FeedText(system_, TextKind::kPlain, UserStop());
}

void Run::FeedPiece(std::string_view text) {
  if (chat_) return chat_->Say(text, &stream_->session, UserStop());
  stream_->session.FeedText(text, TextKind::kPlain, UserStop());
}

// The saved run's text is the system text, the files and the prompt, one after the other: passes over what it
// has read of them, if it is the same text.
void Run::PassOver() {
  if (!stream_->is_restored) {
    Say("nothing to resume: the state does not exist yet; reading from the start");
    return;
  }
  const Session& session = stream_->session;
  int64_t left = session.text_bytes();
  TextHash hash;
  const auto pass = [&](std::string_view text) {
    const size_t count = std::min(text.size(), static_cast<size_t>(left));
    hash.Add(text.substr(0, count));
    left -= static_cast<int64_t>(count);
    return text.substr(count);
  };
  system_ = pass(arguments_.system);
  left = input_->Skip(left, &hash);
  prompt_ = pass(arguments_.prompt);
  if (left > 0) {
    Fail(ErrorKind::kInput,
         "the input ends {} bytes before the place where the saved run stood; --resume needs the same input",
         left);
  }
  if (hash.digest() != session.text_hash()) {
    Fail(ErrorKind::kMismatch,
         "--resume: the first {} bytes of the input (--system, -f and -p, in this order) are not what the "
         "saved run in "
         "{} has read; give the same input, or leave --resume out to read this one after it",
         FormatCount(session.text_bytes()), arguments_.state);
  }
  Say(fmt::format("resuming after {} bytes of input", FormatCount(input_->position_bytes())));
}

void Run::FeedFiles() {
  if (arguments_.files.empty()) return;
  ConsoleProgress console("reading");
  NoProgress none;
  Progress& progress = arguments_.quiet ? static_cast<Progress&>(none) : console;
  std::vector<char> buffer(kMaxPieceBytes);
  size_t piece = kMinPieceBytes;
  while (!StopRequested()) {
    const size_t size = input_->Read(std::span(buffer).first(piece));
    if (size == 0) break;
    const Clock::time_point before = Clock::now();
    FeedPiece({buffer.data(), size});
    const double seconds = SecondsSince(before);
    if (seconds < 0.1) piece = std::min(piece * 2, kMaxPieceBytes);
    if (seconds > 0.4) piece = std::max(piece / 2, kMinPieceBytes);
    UpdateProgress(progress, input_->position_bytes(), input_->size_bytes());
    SayIfBeyondTraining();
    state_->SaveIfDue(stream_->session);
  }
  if (!StopRequested()) progress.Finish(ProgressNote());
}

void Run::FeedIdFiles() {
  Session& session = stream_->session;
  const int64_t vocab_size = opened_->model.info().vocab_size;
  ConsoleProgress console("reading");
  NoProgress none;
  Progress& progress = arguments_.quiet ? static_cast<Progress&>(none) : console;
  std::vector<TokenId> ids;
  for (const std::string& path : arguments_.files) {
    IdReader reader(path, vocab_size, UserStop());
    while (!StopRequested() && reader.Read(&ids)) {
      session.Feed(ids, UserStop());
      UpdateProgress(progress, reader.source().position_bytes(), reader.source().size_bytes());
      SayIfBeyondTraining();
      state_->SaveIfDue(session);
    }
  }
  if (!arguments_.files.empty() && !StopRequested()) progress.Finish(ProgressNote());
  if (arguments_.prompt.empty()) return;
  session.BeginTurn();
  session.Feed(ParseIds(arguments_.prompt, "-p", vocab_size), UserStop());
}

void Run::FeedPrompt() {
  Session& session = stream_->session;
  if (!prompt_.empty()) stream_->session.BeginTurn();
  if (!prompt_.empty()) FeedPiece(prompt_);
  if (chat_ && !chat_->has_message() && !arguments_.has_prompt) FailEmpty();
  if (chat_) {
    chat_->EndMessage(&session, UserStop());
    if (!chat_->remark().empty()) Say("chat: " + chat_->remark());
  }
  if (session.num_tokens() > 0 || session.pending_bytes() > 0 || arguments_.no_generate) return;
  if (!arguments_.has_prompt) FailEmpty();
  const TokenId bos = opened_->model.tokenizer().bos_id();
  if (bos >= 0) session.Feed(std::span(&bos, 1));
}

void Run::Generate() {
  Session& session = stream_->session;
  GenerateOptions options = arguments_.generate;
  if (chat_) {
    const std::vector<std::string> stops = chat_->format().StopStrings();
    options.stop_strings.insert(options.stop_strings.end(), stops.begin(), stops.end());
  }
  Generation generation = session.Generate(options);
  while (const std::optional<Piece> piece = generation.Next(UserStop())) {
    if (chat_) chat_->Hear(piece->token);
    outcome_.answer.Add(arguments_.ids ? std::string_view() : piece->text, piece->token);
    if (!arguments_.ids) {
      WriteOutNow(piece->text);
    } else if (piece->token >= 0) {
      WriteOutNow(fmt::format("{}{}", outcome_.answer.num_tokens() > 1 ? " " : "", piece->token));
    }
    // With backspaces the stream is ahead of what was handed out, so a state would lose some of it.
    if (!arguments_.generate.backspace && state_->IsDue(session)) {
      generation.Settle();
      state_->SaveIfDue(session);
    }
  }
  outcome_.result = generation.result();
  SayIfBeyondTraining();
  outcome_.has_generated = true;
  if (chat_) chat_->EndReply(&session);
  WriteOutNow("\n");
}

void Run::SaveState() {
  const Session& session = stream_->session;
  // A new stream that was stopped before it read anything is none: the next run chooses its context anew.
  if (StopRequested() && !stream_->is_restored && session.num_tokens() == 0 && session.text_bytes() == 0)
    return;
  // What failed before it read anything has nothing to add to the state that is there.
  if (!state_->is_named() || (!failures_.empty() && session.num_tokens() == num_restored_)) return;
  state_->Save(session);
  const int64_t pending = session.pending_bytes();
  Say(fmt::format("state: saved to {} after {} tokens{}", arguments_.state, FormatCount(session.num_tokens()),
                  pending > 0 ? fmt::format(" ({} bytes of text wait for what follows them)", pending) : ""));
}

void Run::Report() {
  const Session& session = stream_->session;
  if (outcome_.has_generated) {
    const GenerateResult& result = outcome_.result;
    const std::string taken_back = arguments_.generate.backspace
                                       ? fmt::format(", took {} back", FormatCount(result.num_backspaces))
                                       : "";
    Say(fmt::format("wrote {} tokens{}, ended by: {}{}", FormatCount(result.num_tokens), taken_back,
                    StopReasonName(result.reason),
                    result.message.empty() ? "" : fmt::format(" ({})", result.message)));
  }
  if (!arguments_.quiet) WriteMessage(ReportText(session));
  if (arguments_.report.empty()) return;
  outcome_.facts.program_version = MNEME_VERSION;
  outcome_.facts.context_asked = arguments_.context.options.context;
  outcome_.facts.context_reason = stream_->ContextReason();
  outcome_.facts.wall_seconds = SecondsSince(start_);
  outcome_.input_bytes = input_ ? input_->position_bytes() : 0;
  outcome_.is_interrupted = StopRequested();
  if (!failures_.empty()) outcome_.refused = failures_.front();
  WriteReport(arguments_.report, RunReportJson(*opened_, *stream_, outcome_));
}

// Runs a step of which the others do not depend: what was read is saved whatever became of the writing, and
// is reported whatever became of the saving.
template <typename Step>
void Run::Attempt(const Step& step) {
  try {
    step();
  } catch (const std::exception& error) {
    if (!IsInterruption(error)) failures_.push_back(DescribeException(error));
  }
}

void Run::ReadAndWrite() {
  if (arguments_.ids) {
    FeedIdFiles();
  } else {
    if (arguments_.resume) PassOver();
    FeedSystem();
    FeedFiles();
    if (!StopRequested()) FeedPrompt();
  }
  // With a state and nothing to write, the end of the text stays open: the next run goes on in the middle of
  // a word.
  if (!StopRequested() && !(arguments_.no_generate && state_->is_named())) {
    stream_->session.FinishText();
  }
  if (!StopRequested() && !arguments_.no_generate) Generate();
}

int Run::End() const {
  for (const std::string& failure : failures_) PrintMessage("mneme: {}\n", failure);
  if (!failures_.empty()) return kExitError;
  if (!StopRequested()) return 0;
  PrintMessage("mneme: interrupted after {} tokens{}\n", FormatCount(stream_->session.num_tokens()),
               state_->is_named() && (chat_ || arguments_.ids) ? "; they are saved"
               : state_->is_named() ? "; the same command with --resume goes on from there"
                                    : "; nothing was saved (--state FILE saves)");
  return kExitInterrupted;
}

int Run::operator()() {
  Open();
  Attempt([this] { ReadAndWrite(); });
  Attempt([this] { SaveState(); });
  Attempt([this] { Report(); });
  return End();
}

void CheckArguments(const RunArguments& arguments) {
  CheckInputs(arguments.files);
  if (arguments.resume && arguments.state.empty()) {
    FailUsage("--resume goes on from a saved state: name it with --state FILE");
  }
  if (arguments.resume && (arguments.speaks() || arguments.ids)) {
    FailUsage("--resume goes with plain text; a state without it continues a chat or a list of ids");
  }
  if (arguments.pin_system && arguments.system.empty()) {
    FailUsage("--pin-system pins the text of --system, and there is none");
  }
  if (arguments.ids && (arguments.speaks() || !arguments.system.empty())) {
    FailUsage("--ids takes token ids as they are: no --chat, --template or --system with it");
  }
}

void AddInputOptions(Command& verb, RunArguments& arguments) {
  verb.SetGroup("Input and output");
  verb.List("-f,--file", &arguments.files, "FILE",
            "Read this file, - is standard input; several are read as one");
  verb.Add({.names = "-p,--prompt", .type = "TEXT", .help = "Text after the files"}).take =
      [&arguments](const std::string& text) {
        arguments.prompt = text;
        arguments.has_prompt = true;
      };
  AddFields(verb, "num_tokens,stop,ignore_end,pause,backspace", &arguments.generate,
            &arguments.typed_generate);
  verb.Flag("--no-generate", &arguments.no_generate, "Only read");
  AddFields(verb, "special", &arguments.context.options, &arguments.context.typed);
  verb.Flag("--ids", &arguments.ids, "Input and output are token ids as text, separated by white space");
  verb.Text("--state", &arguments.state, "FILE",
            "Go on where this file says, and save to it at the end, whatever ends the run");
  verb.Text("--save-every", &arguments.save_every, "N|TIME",
            "Save to the state file also on the way: after so many tokens (100K) or so long (30s, 5min)");
  verb.Flag("--resume", &arguments.resume, "The input is that of the saved run: pass over what it has read");
  verb.Text("--report", &arguments.report, "FILE.json", "Write the report in full: ledger, bytes, speeds");
  verb.Flag("-q,--quiet", &arguments.quiet, "Only the text and errors");
}

}  // namespace

void AddRun(Command& program) {
  auto arguments = std::make_shared<RunArguments>();
  Command& verb = program.AddVerb("run", "Read input of any length, then write");
  AddModelOptions(verb, &arguments->model);
  AddInputOptions(verb, *arguments);
  AddContextOptions(verb, &arguments->context);
  verb.SetGroup("Chat");
  verb.Flag("--chat", &arguments->chat, "Wrap the input as a user's message in the model's chat template");
  verb.Text("--system", &arguments->system, "TEXT", "System prompt, first in the stream");
  AddFormatOptions(verb, &arguments->format);
  verb.Flag("--pin-system", &arguments->pin_system, "Never drop the system prompt");
  AddSamplerOptions(verb, &arguments->context, DefaultSampler());
  verb.SetFooter(
      ContextHelp() +
      "\nExamples:\n"
      "  mneme run model.gguf -p \"Once upon a time\" -n 200 --temperature 0.7 --seed 7\n"
      "  mneme run model.gguf -f book.txt -p \"And then\" --context sinks --memory 64M --report run.json\n"
      "  tail -F app.log | mneme run model.gguf -f - --no-generate --state app.state");
  verb.SetAction([=] {
    CheckArguments(*arguments);
    CheckStops(arguments->generate);
    return Run(*arguments)();
  });
}

}  // namespace mneme::cli
