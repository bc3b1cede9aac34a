// mneme eval passkey | needle | stream: what a context remembers, by depth, length and distance; and compare.
#include <fmt/core.h>

#include <charconv>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/message.h"
#include "base/progress.h"
#include "base/text/units.h"
#include "cli/chat/prompt_format.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/eval/eval_verbs.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "eval/report/compare.h"
#include "eval/report/grid_html.h"
#include "eval/tasks/needle.h"
#include "eval/tasks/passkey.h"
#include "eval/tasks/recall.h"
#include "eval/tasks/ruler.h"
#include "eval/tasks/stream.h"

namespace mneme::cli {
namespace {

// What all recall tasks take.
struct RecallArguments {
  ModelArguments model;
  SessionArguments context;
  std::vector<std::string> specs;
  std::string lengths;
  std::string depths;
  std::string score = "generate,likelihood";
  std::string haystack;
  std::vector<std::string> more_inputs;  // files that the task reads beside the haystack
  FormatArguments format;                // name empty: the model's own template where it has one
  std::string json;
  std::string html;
  int64_t trials = 20;
  size_t candidates = 10;
  uint64_t seed = 0;
  bool repeat = false;
};

std::vector<std::string> SplitList(const std::string& text, const char* option) {
  std::vector<std::string> items;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end == begin) FailUsage(fmt::format("{}: '{}' has an empty entry", option, text));
    items.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

std::vector<double> ToDepths(const std::string& text) {
  std::vector<double> depths;
  for (const std::string& item : SplitList(text, "--depths")) {
    double depth = -1;
    const auto parsed = std::from_chars(item.data(), item.data() + item.size(), depth);
    if (parsed.ec != std::errc() || parsed.ptr != item.data() + item.size() || !(depth >= 0 && depth <= 1))
      FailUsage(fmt::format("--depths: '{}' is not a number from 0 (front) to 1 (end)", item));
    depths.push_back(depth);
  }
  return depths;
}

AskOptions ToAsk(const std::string& text) {
  AskOptions ask{false, false};
  for (const std::string& item : SplitList(text, "--score")) {
    if (item == "generate") {
      ask.generate = true;
    } else if (item == "likelihood") {
      ask.likelihood = true;
    } else {
      FailUsage(fmt::format("--score: '{}' is not known; known are generate, likelihood", item));
    }
  }
  return ask;
}

void AddRecallOptions(Command& verb, RecallArguments* arguments, bool with_trials = true) {
  AddModelOptions(verb, &arguments->model);
  AddContextList(verb, &arguments->specs);
  if (with_trials)
    verb.Number("--trials", &arguments->trials, {1, 100000, Unit::kCount}, "N",
                "Texts per cell (default 20)");
  verb.Text("--score", &arguments->score, "HOW,...",
            "generate: what the model writes; likelihood: the likeliest of some candidates; or both "
            "(default)");
  verb.Number("--candidates", &arguments->candidates, {2, 64, Unit::kCount}, "N",
              "Candidates for likelihood, the right one included (default 10)");
  if (with_trials) {
    verb.Text(
        "--template", &arguments->format.name, "NAME|FILE",
        "What makes each text with its question a turn of a chat: auto, which is the model's own template, "
        "none, a file (FILE.jinja), or what `mneme chat --template` takes (default: auto where the model has "
        "one)");
    AddTemplateArguments(verb, &arguments->format);
  }
  verb.Text("--haystack", &arguments->haystack, "FILE", "A text to hide in (default: the papers' filler)");
  verb.Flag("--repeat", &arguments->repeat, "Begin the haystack again where it is too short");
  verb.Number("--seed", &arguments->seed, {0, 0x1p64}, "N", "Of keys, values and places (default 0)");
  verb.Text("--json", &arguments->json, "FILE",
            "Write the results as they come; a run that was stopped goes on from this file");
  verb.Text("--html", &arguments->html, "FILE",
            "Write a page with pictures; it needs nothing from the network");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
}

// The model, once the outputs are known to be writable.
const ModelArguments& AfterChecks(const RecallArguments& arguments) {
  std::vector<std::string> inputs = arguments.more_inputs;
  inputs.push_back(arguments.haystack);
  CheckOutputs({arguments.json, arguments.html}, InputsOf(arguments.model, inputs));
  return arguments.model;
}

// Header, log and output of a recall task.
class RecallVerb {
 public:
  RecallVerb(const RecallArguments& arguments, std::string task)
      : arguments_(arguments),
        opened_(AfterChecks(arguments), arguments.context.engine),
        command_(fmt::format("mneme eval {} {}", task, ModelPath(arguments.model.path))) {
    // An unknown context is refused before the model is read.
    for (const std::string& spec : arguments.specs) OptionsFor(arguments.context, spec);
    options_.session = arguments.context.options;
    options_.contexts = arguments.specs;
    options_.ask = ToAsk(arguments.score);
    options_.stop = UserStop();
    header_ = MakeEvalHeader(opened_.model);
    header_.task = std::move(task);
    header_.program_version = MNEME_VERSION;
    header_.seed = arguments.seed;
    if (header_.task != "stream") ChooseFormat();
  }

  // Tokens that a chat template adds to each text.
  int64_t turn_tokens() const {
    return options_.turn ? options_.turn->num_before + options_.turn->num_after : 0;
  }

  // Part of the command; what decides the results is a setting too.
  void Say(const std::string& option, const std::string& value, bool is_setting) {
    if (value.empty()) return;
    command_ += fmt::format(" --{} {}", option, value);
    if (is_setting) header_.settings.emplace_back(option, value);
  }

  Haystack OpenHaystack(Haystack filler) {
    if (arguments_.haystack.empty()) {
      if (arguments_.repeat) FailUsage("--repeat goes with --haystack FILE; the papers' filler has no end");
      return filler;
    }
    Haystack haystack = Haystack::File(arguments_.haystack, arguments_.repeat);
    Say("haystack", arguments_.haystack, false);
    header_.settings.emplace_back("haystack", haystack.name() + (arguments_.repeat ? ", repeated" : ""));
    if (arguments_.repeat) command_ += " --repeat";
    return haystack;
  }

  EvalLog& Log() {
    for (const std::string& spec : arguments_.specs) command_ += " --context " + spec;
    if (header_.task != "stream") Say("trials", std::to_string(arguments_.trials), true);
    Say("score", arguments_.score, false);
    Say("candidates", std::to_string(arguments_.candidates), true);
    Say("seed", std::to_string(arguments_.seed), false);
    const SessionOptions& session = options_.session;
    header_.settings.emplace_back(
        "kv", fmt::format("{}, {}", EncodingName(session.keys), EncodingName(session.values)));
    for (const char* name : {"kv", "memory"}) {
      const std::string typed = arguments_.context.Typed(name);
      if (!typed.empty()) command_ += fmt::format(" --{} {}", name, typed);
    }
    header_.settings.emplace_back("start position", std::to_string(session.start_position));
    header_.command = command_;
    log_ = std::make_unique<EvalLog>(header_, arguments_.json, arguments_.html);
    if (log_->num_resumed() > 0)
      PrintMessage("{}: {} results are there already\n", arguments_.json, log_->num_resumed());
    return *log_;
  }

  int Run(const Haystack& haystack, std::vector<RecallCell> cells) {
    EvalLog& log = Log();
    ShowReasons(RecallRun(opened_.model, haystack, options_), cells);
    return Done(RunInto(log, haystack, std::move(cells), header_.task));
  }

  // Whether all of it was done; what was is in the log, and is shown if the rest cannot be.
  bool RunInto(EvalLog& log, const Haystack& haystack, std::vector<RecallCell> cells,
               const std::string& what) {
    RecallRun run(opened_.model, haystack, options_);
    ConsoleProgress progress(what);
    try {
      return run.Run(std::move(cells), log, progress);
    } catch (const Error&) {
      Print();
      throw;
    }
  }

  int Done(bool finished) {
    log_->Write();
    Print();
    if (finished) return 0;
    PrintMessage("mneme: interrupted; {}\n", arguments_.json.empty()
                                                 ? "with --json FILE a run goes on where it was stopped"
                                                 : "the same command goes on from " + arguments_.json);
    return kExitInterrupted;
  }

  const Model& model() const { return opened_.model; }
  const RecallTaskOptions& options() const { return options_; }

 private:
  void ChooseFormat() {
    FormatArguments format = arguments_.format;
    const Tokenizer& tokenizer = opened_.model.tokenizer();
    const bool has_own = !tokenizer.chat_template().empty();
    if (!format.name.empty()) command_ += " --template " + format.name;
    if (format.name == "auto") {
      if (!has_own)
        FailUsage("--template auto: the model carries no chat template; name a format, or a file");
      format.name.clear();
    }
    std::string identity = "none";
    if (format.name != "none" && (has_own || !format.name.empty())) {
      constexpr const char* kMarker = "mneme-text";
      const PromptFormat chosen(tokenizer, ModelPath(arguments_.model.path), format, /*saved=*/nullptr);
      options_.turn = TurnAround(
          tokenizer, chosen.Render({{.role = "user", .content = kMarker}}, /*open_reply=*/true), kMarker);
      identity = chosen.identity() + chosen.kept_variables();
    } else if (!format.variables.empty()) {
      FailUsage("--template-arg: there is no template");
    }
    for (const std::string& variable : format.variables) command_ += " --template-arg " + variable;
    header_.settings.emplace_back("chat template", identity);
  }

  void ShowReasons(const RecallRun& run, const std::vector<RecallCell>& cells) const {
    int64_t longest = 0;
    for (const RecallCell& cell : cells) longest = std::max(longest, cell.row.length);
    std::vector<std::string> reasons;
    run.Resolve(longest, &reasons);
    for (const std::string& reason : reasons) PrintMessage("context: {}\n", reason);
  }

  void Print() const {
    if (arguments_.json == "-") {
      WriteOut(EvalJson(log_->report()));
    } else if (arguments_.html == "-") {
      WriteOut(EvalHtml(log_->report()));
    } else if (!log_->report().rows.empty()) {
      WriteOut(FormatTable(EvalTable(log_->report())));
    }
  }

  const RecallArguments& arguments_;
  OpenedModel opened_;
  RecallTaskOptions options_;
  EvalHeader header_;
  std::string command_;
  std::unique_ptr<EvalLog> log_;
};

struct PasskeyArguments : RecallArguments {
  std::string format = "mneme";
};

int Passkey(const PasskeyArguments& arguments) {
  PasskeyOptions task;
  task.format = arguments.format;
  task.lengths = ParseCounts(arguments.lengths, "--lengths");
  task.depths = ToDepths(arguments.depths);
  task.num_trials = arguments.trials;
  task.seed = arguments.seed;
  task.num_candidates = arguments.candidates;
  std::vector<RecallCell> cells = PasskeyCells(task);
  RecallVerb verb(arguments, "passkey");
  const Haystack haystack = verb.OpenHaystack(PasskeyFiller(arguments.format));
  verb.Say("lengths", arguments.lengths, false);
  verb.Say("depths", arguments.depths, false);
  verb.Say("format", arguments.format, true);
  return verb.Run(haystack, std::move(cells));
}

struct NeedleArguments : RecallArguments {
  std::string format = "ruler";
  std::string values = "numbers";
  std::string pairs = "1,4,16,64";
  int64_t queries = 1;
  int64_t values_per_key = 1;
  int64_t hops = 4;
};

int Needle(const NeedleArguments& arguments) {
  NeedleOptions task;
  task.format = arguments.format;
  task.values = arguments.values;
  task.lengths = ParseCounts(arguments.lengths, "--lengths");
  if (!arguments.depths.empty()) task.depths = ToDepths(arguments.depths);
  task.num_pairs = ParseCounts(arguments.pairs, "--pairs");
  task.num_queries = arguments.queries;
  task.values_per_key = arguments.values_per_key;
  task.num_hops = arguments.hops;
  task.num_trials = arguments.trials;
  task.seed = arguments.seed;
  task.num_candidates = arguments.candidates;
  std::vector<RecallCell> cells = NeedleCells(task);
  RecallVerb verb(arguments, "needle");
  const Haystack haystack = verb.OpenHaystack(Haystack::Grass(1, " "));
  verb.Say("lengths", arguments.lengths, false);
  verb.Say("depths", arguments.depths, false);
  verb.Say("pairs", arguments.pairs, false);
  verb.Say("format", arguments.format, true);
  if (arguments.format == "ruler") {
    verb.Say("values", arguments.values, true);
    verb.Say("values-per-key", std::to_string(arguments.values_per_key), true);
  }
  if (arguments.format == "variables") verb.Say("hops", std::to_string(arguments.hops), true);
  verb.Say("queries", std::to_string(arguments.queries), true);
  return verb.Run(haystack, std::move(cells));
}

struct RulerArguments : RecallArguments {
  std::string tasks;
  std::string squad;
  std::string hotpot;
};

void PrintRulerSummary(const EvalLog& log) {
  const RulerSummary summary = SummarizeRuler(log.report().rows);
  std::vector<std::vector<std::string>> table = {{"context", "length", "tasks", "score"}};
  for (const EvalRow& mean : summary.means) {
    table.push_back({mean.context, FormatCount(mean.length), mean.labels.at("part"),
                     fmt::format("{:.3f}", mean.accuracy)});
  }
  WriteOut("\n" + FormatTable(table));
  for (const auto& [context, length] : summary.effective_lengths) {
    WriteOut(fmt::format("effective length of {}: {} (up to there no mean is below {})\n", context,
                         length > 0 ? FormatCount(length) + " tokens" : "none of those measured",
                         kRulerThreshold));
  }
}

int Ruler(RulerArguments& arguments) {
  arguments.more_inputs = {arguments.squad, arguments.hotpot};
  RulerOptions task;
  if (!arguments.tasks.empty()) task.tasks = SplitList(arguments.tasks, "--tasks");
  task.lengths = ParseCounts(arguments.lengths, "--lengths");
  if (!arguments.depths.empty()) task.depths = ToDepths(arguments.depths);
  task.num_trials = arguments.trials;
  task.seed = arguments.seed;
  task.squad_path = arguments.squad;
  task.hotpot_path = arguments.hotpot;
  const std::vector<RulerTask> chosen = ChosenRulerTasks(task);
  RecallVerb verb(arguments, "ruler");
  task.reserved_tokens = verb.turn_tokens();
  const Haystack essay = verb.OpenHaystack(Haystack::Grass(1, " "));
  std::vector<std::vector<RecallCell>> cells;
  for (const RulerTask& one : chosen) cells.push_back(RulerCells(one, task, verb.model().tokenizer()));
  verb.Say("lengths", arguments.lengths, false);
  verb.Say("depths", arguments.depths, false);
  verb.Say("tasks", arguments.tasks, false);
  verb.Say("squad", arguments.squad, true);
  verb.Say("hotpot", arguments.hotpot, true);
  EvalLog& log = verb.Log();
  bool finished = true;
  for (size_t i = 0; i < chosen.size() && finished; ++i) {
    const Haystack haystack = chosen[i].haystack == RulerHaystack::kEssay
                                  ? essay
                                  : RulerHaystackOf(chosen[i].haystack, arguments.seed);
    finished = verb.RunInto(log, haystack, std::move(cells[i]), std::string(chosen[i].name));
  }
  const int code = verb.Done(finished);
  if (arguments.json != "-" && arguments.html != "-") PrintRulerSummary(log);
  return code;
}

struct StreamArguments : RecallArguments {
  std::string length = "64K";
  std::string distances = "64,128,256,512,1K,2K,4K,8K";
  int64_t spacing = 0;
};

int DistanceStream(const StreamArguments& arguments) {
  StreamTaskOptions task;
  const std::vector<int64_t> lengths = ParseCounts(arguments.length, "--length");
  if (lengths.size() != 1) FailUsage("--length: one number is expected");
  task.length = lengths[0];
  task.distances = ParseCounts(arguments.distances, "--distances");
  task.spacing = arguments.spacing;
  task.seed = arguments.seed;
  task.num_candidates = arguments.candidates;
  RecallVerb verb(arguments, "stream");
  const Haystack haystack = verb.OpenHaystack(Haystack::Grass(1, " "));
  StreamTask run(verb.model(), haystack, verb.options(), task);
  verb.Say("length", arguments.length, true);
  verb.Say("distances", arguments.distances, false);
  verb.Say("spacing", std::to_string(run.spacing()), true);
  EvalLog& log = verb.Log();
  ConsoleProgress progress("stream");
  return verb.Done(run.Run(log, progress));
}

struct CompareArguments {
  std::string a;
  std::string b;
  double level = 0.05;
  bool all = false;
};

int Compare(const CompareArguments& arguments) {
  const EvalComparison comparison =
      CompareReports(ReadEvalReport(arguments.a), ReadEvalReport(arguments.b), arguments.level);
  WriteOut(fmt::format("A: {}\nB: {}\n", arguments.a, arguments.b));
  for (const std::string& line : ComparisonSummary(comparison)) WriteOut(line + "\n");
  const auto table = ComparisonTable(comparison, !arguments.all);
  if (table.size() > 1) WriteOut("\n" + FormatTable(table));
  return 0;
}

}  // namespace

void AddEvalPasskey(Command& eval) {
  auto arguments = std::make_shared<PasskeyArguments>();
  arguments->lengths = "1K,4K,16K";
  arguments->depths = "0,0.25,0.5,0.75,1";
  Command& verb = eval.AddVerb("passkey", "A number hidden in a long text, by depth and length");
  AddRecallOptions(verb, arguments.get());
  verb.Text("--lengths", &arguments->lengths, "N,...",
            "Tokens of the text and the question; K is 1024 (default 1K,4K,16K)");
  verb.Text("--depths", &arguments->depths, "X,...",
            "Where the key is: 0 front, 1 just before the question (default 0,0.25,0.5,0.75,1)");
  std::string help = "Wording:";
  for (const PasskeyFormat& format : PasskeyFormats())
    help += fmt::format("\n{}: {}", format.name, format.help);
  verb.Text("--format", &arguments->format, "NAME", help);
  verb.SetFooter(
      "Example:\n"
      "  mneme eval passkey model.gguf --lengths 32K,1M --depths 0,0.5,0.9 --context sinks --context infini "
      "--json passkey.json --html passkey.html");
  verb.SetAction([=] { return Passkey(*arguments); });
}

void AddEvalNeedle(Command& eval) {
  auto arguments = std::make_shared<NeedleArguments>();
  arguments->lengths = "1K,4K,16K";
  Command& verb = eval.AddVerb("needle", "Many keys and values in a long text, in the manner of RULER");
  AddRecallOptions(verb, arguments.get());
  verb.Text("--lengths", &arguments->lengths, "N,...",
            "Tokens of the text and the question; K is 1024 (default 1K,4K,16K)");
  verb.Text("--depths", &arguments->depths, "X,...",
            "Where the first key that is asked is; the others are anywhere (default: all anywhere)");
  verb.Text("--pairs", &arguments->pairs, "N,...",
            "Keys in a text, or chains of variables (default 1,4,16,64)");
  verb.Number("--queries", &arguments->queries, {0, 1e18, Unit::kCount}, "N",
              "Keys asked of one text (default 1)");
  verb.Text("--values", &arguments->values, "KIND", "Of ruler: numbers or uuids (default numbers)");
  verb.Number("--values-per-key", &arguments->values_per_key, {0, 1e18, Unit::kCount}, "N",
              "Of ruler (default 1)");
  verb.Number("--hops", &arguments->hops, {0, 1e18, Unit::kCount}, "N",
              "Of variables: names beside the first (default 4)");
  std::string help = "Wording:";
  for (const NeedleFormat& format : NeedleFormats())
    help += fmt::format("\n{}: {}", format.name, format.help);
  verb.Text("--format", &arguments->format, "NAME", help);
  verb.SetFooter(
      "Examples:\n"
      "  mneme eval needle model.gguf --pairs 1,16,256 --values uuids --context dense --context sinks\n"
      "  mneme eval needle model.gguf --format variables --hops 4 --html variables.html");
  verb.SetAction([=] { return Needle(*arguments); });
}

void AddEvalRuler(Command& eval) {
  auto arguments = std::make_shared<RulerArguments>();
  arguments->lengths = "4K,8K,16K";
  arguments->score = "generate";
  Command& verb = eval.AddVerb("ruler", "RULER's thirteen tasks: mean by length, and the effective length");
  AddRecallOptions(verb, arguments.get());
  verb.Text("--lengths", &arguments->lengths, "N,...",
            "Tokens of the text and the question; K is 1024 (default 4K,8K,16K)");
  verb.Text("--depths", &arguments->depths, "X,...", "Where the first needle is (default: anywhere)");
  std::string help = "All that there is a file for, or of these:";
  for (const RulerTask& task : RulerTasks()) help += fmt::format("\n{}: {}", task.name, task.help);
  verb.Text("--tasks", &arguments->tasks, "NAME,...", help);
  verb.Text("--squad", &arguments->squad, "FILE", "SQuAD 2.0 as its authors publish it: dev-v2.0.json");
  verb.Text("--hotpot", &arguments->hotpot, "FILE",
            "HotpotQA as its authors publish it: hotpot_dev_distractor_v1.json");
  verb.SetFooter(
      "Essays are the text of --haystack, or the papers' filler. Needles, words and places are drawn anew, "
      "so "
      "scores are close to RULER's\nown and not equal.\n\nExample:\n"
      "  mneme eval ruler model.gguf --lengths 4K,8K,16K --context dense --context sinks --haystack book.txt "
      "--json ruler.json --html ruler.html");
  verb.SetAction([=] { return Ruler(*arguments); });
}

void AddEvalStream(Command& eval) {
  auto arguments = std::make_shared<StreamArguments>();
  Command& verb = eval.AddVerb("stream", "Question and answer a fixed distance apart on an endless stream");
  AddRecallOptions(verb, arguments.get(), /*with_trials=*/false);
  verb.Text("--length", &arguments->length, "N", "Tokens of the stream; K is 1024 (default 64K)");
  verb.Text("--distances", &arguments->distances, "N,...",
            "Tokens between a key and the question for it (default 64 to 8K in octaves)");
  verb.Number("--spacing", &arguments->spacing, {1, 1 << 30, Unit::kCount}, "N",
              "Tokens from key to key (default: as close as possible)");
  verb.SetFooter(
      "Example:\n"
      "  mneme eval stream model.gguf --length 256K --distances 128,256,512,1K,2K --context sinks "
      "--context lambda --html stream.html");
  verb.SetAction([=] { return DistanceStream(*arguments); });
}

void AddEvalCompare(Command& eval) {
  auto arguments = std::make_shared<CompareArguments>();
  Command& verb = eval.AddVerb("compare", "What differs between two runs beyond the noise");
  verb.Text("A", &arguments->a, "A.json", "Results of a run: its --json file").is_required = true;
  verb.Text("B", &arguments->b, "B.json", "Results of another").is_required = true;
  verb.Number("--level", &arguments->level, {1e-9, 0.5}, "P",
              "Chance of calling noise a difference (default 0.05)");
  verb.Flag("--all", &arguments->all, "Show the results that do not differ too");
  verb.SetAction([=] { return Compare(*arguments); });
}

}  // namespace mneme::cli
