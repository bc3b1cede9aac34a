// mneme eval longbench | infinitebench | babi: questions of published benchmarks from files that the user
// has.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/hash.h"
#include "base/message.h"
#include "base/progress.h"
#include "base/text/units.h"
#include "cli/chat/prompt_format.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/eval/eval_verbs.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "eval/datasets/dataset_run.h"
#include "eval/report/grid.h"
#include "mneme/plan.h"

namespace mneme::cli {
namespace {

namespace fs = std::filesystem;

struct DatasetArguments {
  Benchmark benchmark = Benchmark::kLongBench;
  ModelArguments model;
  SessionArguments context;
  std::vector<std::string> specs;
  std::string data;
  std::string out;
  std::vector<std::string> tasks;
  std::string prompts;
  FormatArguments format;  // name empty: the model's own template where it has one
  std::string book;
  std::string lengths;
  std::string json;
  std::string html;
  int64_t max_tokens = -1;
  int64_t limit = -1;
  int64_t truncate = 0;
  uint64_t seed = 0;
  bool skip_bad = false;
};

std::string FolderName(const std::string& spec) {
  std::string name = spec;
  for (char& c : name) {
    if (c == ':' || c == ',' || c == '/') c = '_';
  }
  return name;
}

std::string HashText(uint64_t hash) { return fmt::format("{:016x}", hash); }

std::string NameAndHash(const std::string& path) {
  return fs::path(path).filename().string() + " " + HashText(HashFile(path));
}

// Of the files of all tasks: another --task may be added to a run.
uint64_t HashData(Benchmark benchmark, const std::string& path) {
  uint64_t hash = 0;
  for (const DatasetFile& file : FindDatasetFiles(benchmark, path, {})) {
    const std::string name = fs::path(file.path).filename().string();
    hash = HashFile(file.path, HashBytes(name, hash));
  }
  return hash;
}

class DatasetVerb {
 public:
  explicit DatasetVerb(const DatasetArguments& arguments) : arguments_(arguments) {}
  int operator()();

 private:
  void Prepare();
  void CheckFiles();
  EvalHeader Header() const;
  void ChooseFormat();
  bool RunContext(const std::string& spec, EvalLog* log);
  bool RunFile(DatasetRun& run, const DatasetSettings& settings, const DatasetFile& file,
               const std::string& context, const std::string& folder, EvalLog* log);
  void Print(const EvalLog& log) const;

  const DatasetArguments& arguments_;
  std::vector<DatasetFile> files_;
  std::vector<int64_t> lengths_ = {0};
  std::map<std::string, std::string> prompts_;
  std::unique_ptr<BabiBook> book_;
  std::unique_ptr<OpenedModel> opened_;
  std::optional<PromptFormat> format_;
  size_t largest_record_ = 0;
};

void DatasetVerb::Prepare() {
  files_ = FindDatasetFiles(arguments_.benchmark, arguments_.data, arguments_.tasks);
  if (!arguments_.prompts.empty()) prompts_ = ReadPromptFile(arguments_.prompts);
  if (arguments_.book.empty() != arguments_.lengths.empty())
    FailUsage("--book names the text in which facts are hidden, --lengths how much of it: both or none");
  if (!arguments_.book.empty()) {
    book_ = std::make_unique<BabiBook>(arguments_.book);
    lengths_ = ParseCounts(arguments_.lengths, "--lengths");
  }
  opened_ = std::make_unique<OpenedModel>(arguments_.model, arguments_.context.engine);
  CheckFiles();
}

// All files before the first question: a bad line in the last one must not show after hours.
void DatasetVerb::CheckFiles() {
  std::vector<std::string> bad;
  int64_t num_examples = 0;
  for (const DatasetFile& file : files_) {
    num_examples += CountExamples(
        arguments_.benchmark, file, arguments_.limit,
        [&](const std::string& message) { bad.push_back(message); },
        MaxRecordBytes(opened_->model.engine().options().memory_bytes), &largest_record_);
  }
  const bool is_listed = bad.size() > 1 || arguments_.skip_bad;
  for (size_t i = 0; i < std::min<size_t>(bad.size(), 10) && is_listed; ++i) PrintMessage("{}\n", bad[i]);
  if (!bad.empty() && !arguments_.skip_bad) {
    Fail(ErrorKind::kInput, "{} bad line{} in {}, the first is {}; --skip-bad passes over them", bad.size(),
         bad.size() == 1 ? "" : "s", arguments_.data, bad.front());
  }
  if (!bad.empty())
    PrintMessage("{} bad line{} passed over\n", bad.size(), bad.size() == 1 ? " is" : "s are");
  if (num_examples == 0) Fail(ErrorKind::kInput, "{}: there are no questions in it", arguments_.data);
}

EvalHeader DatasetVerb::Header() const {
  EvalHeader header = MakeEvalHeader(opened_->model);
  header.task = BenchmarkName(arguments_.benchmark);
  header.title = fmt::format("{}: {}", header.task, header.model_name);
  header.command = fmt::format("mneme eval {} {} --data {} --out {}", header.task,
                               ModelPath(arguments_.model.path), arguments_.data, arguments_.out);
  for (const std::string& spec : arguments_.specs) header.command += " --context " + spec;
  header.program_version = MNEME_VERSION;
  header.seed = arguments_.seed;
  header.model_file = fs::path(ModelPath(arguments_.model.path)).filename().string();
  const SessionOptions& session = arguments_.context.options;
  header.settings = {
      {"data", HashText(HashData(arguments_.benchmark, arguments_.data))},
      {"prompts", arguments_.prompts.empty() ? "built in" : NameAndHash(arguments_.prompts)},
      {"chat template", format_ ? format_->identity() + format_->kept_variables() : "none"},
      {"answer tokens", arguments_.max_tokens < 0 ? "the task's own" : FormatCount(arguments_.max_tokens)},
      {"truncated to", arguments_.truncate == 0 ? "not" : FormatCount(arguments_.truncate)},
      {"book", arguments_.book.empty() ? "none" : NameAndHash(arguments_.book)},
      {"kv", fmt::format("{}, {}", EncodingName(session.keys), EncodingName(session.values))},
      {"start position", std::to_string(session.start_position)}};
  return header;
}

bool DatasetVerb::RunFile(DatasetRun& run, const DatasetSettings& settings, const DatasetFile& file,
                          const std::string& context, const std::string& folder, EvalLog* log) {
  const std::string answers =
      (fs::path(folder) / AnswersFileName(arguments_.benchmark, file, settings.length)).string();
  ConsoleProgress progress(fmt::format("{} {}", BenchmarkName(arguments_.benchmark), file.task));
  const auto pass_over = [](const std::string&) {};
  const DatasetScore score =
      run.Run(arguments_.benchmark, file, answers,
              arguments_.skip_bad ? std::function<void(const std::string&)>(pass_over) : nullptr, progress);
  progress.Finish(fmt::format("{} answers, {} of them from before", score.count, score.num_resumed));
  EvalRow row;
  row.task = BenchmarkName(arguments_.benchmark);
  row.context = context;
  row.length = settings.length;
  row.labels["file"] = fs::path(answers).stem().string();
  row.labels["dataset"] = file.task;
  row.trials = score.count;
  row.accuracy = score.mean;
  row.metric = MetricName(FindDatasetTask(arguments_.benchmark, file.task).metric);
  row.standard_error = score.standard_error;
  row.seconds = score.seconds;
  row.peak_bytes = score.peak_bytes;
  if (score.peak_bytes == 0) {
    if (const EvalRow* before = log->Find(row)) row.peak_bytes = before->peak_bytes;
  }
  if (score.count > 0) log->Add(std::move(row));
  return !score.is_interrupted;
}

bool DatasetVerb::RunContext(const std::string& spec, EvalLog* log) {
  const Model& model = opened_->model;
  const Lease text =
      model.engine().Reserve(kRecordCopies * largest_record_, "the text of the longest question");
  SessionOptions session = OptionsFor(arguments_.context, spec);
  const ContextChoice choice = ChooseContext(model, session);
  PrintMessage("context: {}{}\n", choice.context, choice.reason.empty() ? "" : " (" + choice.reason + ")");
  session.context = choice.context;
  DatasetSettings settings;
  settings.stop = UserStop();
  settings.session = session;
  settings.prompts = prompts_;
  settings.max_tokens = arguments_.max_tokens;
  settings.limit = arguments_.limit;
  settings.truncate = arguments_.truncate;
  if (format_) {
    settings.chat = [this](const std::string& question) {
      return format_->Render({{.role = "user", .content = question}}, /*open_reply=*/true);
    };
    settings.chat_stops = format_->StopStrings();
  }
  settings.book = book_.get();
  settings.seed = arguments_.seed;
  const std::string folder = (fs::path(arguments_.out) / FolderName(choice.context)).string();
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) Fail(ErrorKind::kFile, "{}: cannot be made: {}", folder, error.message());
  for (const DatasetFile& file : files_) {
    for (const int64_t length : lengths_) {
      settings.length = length;
      DatasetRun run(model, settings);
      if (!RunFile(run, settings, file, choice.context, folder, log)) return false;
    }
  }
  return true;
}

// result.json of each context as LongBench's scorer writes it, and the table.
void DatasetVerb::Print(const EvalLog& log) const {
  std::map<std::string, std::string> by_context;
  std::vector<std::vector<std::string>> table = {{"task", "context", "score", "± ", "questions", "metric"}};
  for (const EvalRow& row : log.report().rows) {
    const std::string name = row.labels.count("file") > 0 ? row.labels.at("file") : row.task;
    table.push_back({name, row.context, fmt::format("{:.2f}", row.accuracy * 100),
                     fmt::format("{:.2f}", row.Error() * 100), FormatCount(row.trials), row.metric});
    std::string& json = by_context[row.context];
    json += fmt::format("{}    \"{}\": {:.2f}", json.empty() ? "" : ",\n", name, row.accuracy * 100);
  }
  for (const auto& [context, json] : by_context)
    WriteReport((fs::path(arguments_.out) / FolderName(context) / "result.json").string(),
                "{\n" + json + "\n}\n");
  if (arguments_.json == "-") return WriteOut(EvalJson(log.report()));
  WriteOut(FormatTable(table));
}

void DatasetVerb::ChooseFormat() {
  FormatArguments format = arguments_.format;
  if (format.name == "none") {
    if (!format.variables.empty()) FailUsage("--template-arg: there is no template without --template");
    return;
  }
  const Tokenizer& tokenizer = opened_->model.tokenizer();
  if (format.name.empty() && tokenizer.chat_template().empty()) {
    if (!format.variables.empty()) FailUsage("--template-arg: there is no template");
    return;
  }
  if (format.name == "auto") {
    format.name.clear();
    if (tokenizer.chat_template().empty()) {
      FailUsage("--template auto: the model carries no chat template; name a format, or a file");
    }
  }
  format_.emplace(tokenizer, ModelPath(arguments_.model.path), format, /*saved=*/nullptr);
}

int DatasetVerb::operator()() {
  Prepare();
  ChooseFormat();
  CheckOutputs({arguments_.json, arguments_.html},
               InputsOf(arguments_.model, {arguments_.data, arguments_.prompts, arguments_.book}));
  std::error_code error;
  fs::create_directories(arguments_.out, error);
  if (error) Fail(ErrorKind::kFile, "{}: cannot be made: {}", arguments_.out, error.message());
  // The results lie beside the answers, so that answers of other settings are refused.
  EvalLog log(Header(), (fs::path(arguments_.out) / "results.json").string(), arguments_.html);
  std::vector<std::string> specs = arguments_.specs;
  if (specs.empty()) specs.push_back("auto");
  bool is_whole = true;
  for (size_t i = 0; i < specs.size() && is_whole; ++i) is_whole = RunContext(specs[i], &log);
  log.Write();
  if (!arguments_.json.empty() && arguments_.json != "-")
    WriteReport(arguments_.json, EvalJson(log.report()));
  Print(log);
  if (is_whole) return 0;
  PrintMessage("mneme: interrupted; the same command goes on\n");
  return kExitInterrupted;
}

void AddDataset(Command& eval, Benchmark benchmark, const char* what, const char* footer) {
  auto arguments = std::make_shared<DatasetArguments>();
  arguments->benchmark = benchmark;
  Command& verb = eval.AddVerb(std::string(BenchmarkName(benchmark)), what);
  AddModelOptions(verb, &arguments->model);
  verb.Text("--data", &arguments->data, "PATH", "Folder of the benchmark's files, or one file").is_required =
      true;
  verb.Text("--out", &arguments->out, "FOLDER",
            "Folder for answers and scores; what is there is not asked again")
      .is_required = true;
  verb.List("--task", &arguments->tasks, "NAME", "Only this task; may be given more than once");
  AddContextList(verb, &arguments->specs);
  verb.Text("--prompts", &arguments->prompts, "FILE",
            "JSON of task names and prompts with {context}, {input}..., as the benchmark publishes them");
  verb.Text("--template", &arguments->format.name, "NAME|FILE",
            "Put prompts into a chat turn: auto, which is the model's own template, none, a file "
            "(FILE.jinja), or what `mneme chat --template` takes (default: auto where the model has one)");
  AddTemplateArguments(verb, &arguments->format);
  verb.Number("--max-tokens", &arguments->max_tokens, {1, 1 << 20, Unit::kCount}, "N",
              "Longest answer (default: as published for the task)");
  verb.Number("--limit", &arguments->limit, {1, 1 << 30, Unit::kCount}, "N",
              "Only the first N questions of a file");
  verb.Number("--truncate", &arguments->truncate, {2, 1 << 30, Unit::kCount}, "N",
              "Keep the first and the last half of N tokens of a prompt (default: all of it)");
  if (benchmark == Benchmark::kBabi) {
    verb.Text("--book", &arguments->book, "FILE",
              "Hide the facts of bAbI stories among the sentences of this text");
    verb.Text("--lengths", &arguments->lengths, "N,...",
              "Tokens of story and book together: 4K,32K,1M; K is 1024");
    verb.Number("--seed", &arguments->seed, {0, 0x1p64}, "N", "Of the hiding places (default 0)");
  }
  verb.Flag("--skip-bad", &arguments->skip_bad, "Name bad lines and pass over them");
  verb.Text("--json", &arguments->json, "FILE", "Write the results; - is standard output");
  verb.Text("--html", &arguments->html, "FILE", "Write a page with the results");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetFooter(footer);
  verb.SetAction([=] { return DatasetVerb(*arguments)(); });
}

}  // namespace

void AddEvalDatasets(Command& eval) {
  AddDataset(eval, Benchmark::kLongBench, "LongBench: answers and published scores",
             "Example:\n  mneme eval longbench model.gguf --data longbench/data --task qasper --out pred "
             "--prompts dataset2prompt.json");
  AddDataset(
      eval, Benchmark::kInfiniteBench, "InfiniteBench: answers and published scores",
      "Example:\n  mneme eval infinitebench model.gguf --data infinitebench --task passkey --out pred");
  AddDataset(
      eval, Benchmark::kBabi, "bAbI and BABILong: answers and published scores",
      "Examples:\n  mneme eval babi model.gguf --data babilong/data --out pred\n"
      "  mneme eval babi model.gguf --data tasks_1-20_v1-2/en --task qa1 --book book.txt --lengths 4K,64K "
      "--out pred");
}

}  // namespace mneme::cli
