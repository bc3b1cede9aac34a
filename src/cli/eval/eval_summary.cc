// mneme eval summary: a whole book in one stream, its summary, and ROUGE against a reference.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/message.h"
#include "base/progress.h"
#include "base/text/units.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/eval/eval_verbs.h"
#include "cli/input.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "eval/report/grid.h"
#include "eval/report/html.h"
#include "eval/scores/scores.h"
#include "eval/tasks/summary.h"
#include "mneme/plan.h"

namespace mneme::cli {
namespace {

namespace fs = std::filesystem;

struct SummaryArguments {
  ModelArguments model;
  SessionArguments context;
  std::vector<std::string> specs;
  std::vector<std::string> files;
  std::string reference;
  std::string out;
  std::string before;
  std::string after;
  std::string part;
  std::string json;
  std::string html;
  int64_t passes = 1;
  int64_t max_tokens = 512;
  bool stem = false;
};

class SummaryVerb {
 public:
  explicit SummaryVerb(const SummaryArguments& arguments) : arguments_(arguments) {}
  int operator()();

 private:
  EvalHeader Header() const;
  bool RunContext(const std::string& spec, bool is_only);
  std::string OutPath(const std::string& context, bool is_only) const;
  std::string Html() const;

  const SummaryArguments& arguments_;
  std::string reference_;
  std::unique_ptr<OpenedModel> opened_;
  EvalReport report_;
  std::vector<std::pair<std::string, std::string>> summaries_;  // context, text
};

EvalHeader SummaryVerb::Header() const {
  EvalHeader header = MakeEvalHeader(opened_->model);
  header.task = "summary";
  header.title = fmt::format("Summary: {}", header.model_name);
  header.command = fmt::format("mneme eval summary {}", ModelPath(arguments_.model.path));
  for (const std::string& file : arguments_.files) header.command += " -f " + file;
  for (const std::string& spec : arguments_.specs) header.command += " --context " + spec;
  if (!arguments_.reference.empty()) header.command += " --reference " + arguments_.reference;
  if (arguments_.passes > 1) header.command += fmt::format(" --passes {}", arguments_.passes);
  header.program_version = MNEME_VERSION;
  header.settings = {{"passes", FormatCount(arguments_.passes)},
                     {"summary tokens", FormatCount(arguments_.max_tokens)},
                     {"stemming", arguments_.stem ? "Porter" : "none"}};
  return header;
}

std::string SummaryVerb::OutPath(const std::string& context, bool is_only) const {
  if (arguments_.out.empty() || is_only) return arguments_.out;
  std::string name = context;
  for (char& c : name) {
    if (c == ':' || c == ',' || c == '/') c = '_';
  }
  const fs::path path(arguments_.out);
  return (path.parent_path() / (path.stem().string() + "." + name + path.extension().string())).string();
}

bool SummaryVerb::RunContext(const std::string& spec, bool is_only) {
  const Model& model = opened_->model;
  SessionOptions session = OptionsFor(arguments_.context, spec);
  session.context = ChooseContext(model, session).context;
  const std::string out = OutPath(session.context, is_only);
  SummarySettings settings;
  settings.stop = UserStop();
  settings.session = session;
  settings.max_tokens = arguments_.max_tokens;
  settings.passes = arguments_.passes;
  if (!arguments_.part.empty()) settings.part_tokens = ParseCount(arguments_.part, "--part");
  if (!arguments_.before.empty()) settings.before = ReadWholeFile(arguments_.before);
  if (!arguments_.after.empty()) settings.after = ReadWholeFile(arguments_.after);
  if (!out.empty() && arguments_.passes > 1) settings.parts_path = out + ".parts.jsonl";
  InputFiles input(arguments_.files, UserStop());
  std::vector<char> buffer(16384);
  ConsoleProgress progress("summary");
  const SummaryResult result = Summarize(
      model, settings, [&] { return std::string(buffer.data(), input.Read(buffer)); }, progress);
  progress.Finish(fmt::format("{}: {} tokens read, {} parts", session.context, FormatCount(result.num_tokens),
                              FormatCount(result.num_parts)));
  if (result.is_interrupted) return false;
  if (!out.empty()) WriteReport(out, result.text + "\n");
  EvalRow row;
  row.task = "summary";
  row.context = session.context;
  row.length = result.num_tokens;
  row.seconds = result.seconds;
  row.peak_bytes = result.peak_bytes;
  row.metric = "rouge_l";
  row.numbers["parts"] = static_cast<double>(result.num_parts);
  if (reference_.empty()) {
    row.note = "no --reference to score against";
  } else {
    const RougeScores scores = Rouge(result.text, reference_, arguments_.stem);
    row.trials = 1;
    row.accuracy = scores.rouge_l.f;
    row.standard_error = 0.0;
    row.numbers["rouge_1"] = scores.rouge_1.f;
    row.numbers["rouge_2"] = scores.rouge_2.f;
    row.numbers["rouge_l_sum"] = scores.rouge_l_sum.f;
  }
  report_.rows.push_back(std::move(row));
  summaries_.emplace_back(session.context, result.text);
  return true;
}

std::vector<std::vector<std::string>> ScoreTable(const EvalReport& report) {
  std::vector<std::vector<std::string>> table = {
      {"context", "tokens", "parts", "ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum", "time", "peak"}};
  for (const EvalRow& row : report.rows) {
    const auto score = [&](const char* key) {
      const auto found = row.numbers.find(key);
      return found == row.numbers.end() ? std::string("-") : fmt::format("{:.4f}", found->second);
    };
    table.push_back({row.context, FormatCount(row.length),
                     FormatCount(static_cast<int64_t>(row.numbers.at("parts"))), score("rouge_1"),
                     score("rouge_2"), row.trials > 0 ? fmt::format("{:.4f}", row.accuracy) : "-",
                     score("rouge_l_sum"), FormatSeconds(row.seconds), FormatBytes(row.peak_bytes)});
  }
  return table;
}

std::string SummaryVerb::Html() const {
  HtmlPage page(report_.header.title);
  page.Table(ScoreTable(report_), "F scores against the reference");
  for (const auto& [context, text] : summaries_) {
    page.Heading(context);
    page.Paragraph(text);
  }
  page.Heading("Command");
  page.Code(report_.header.command);
  return page.Finish();
}

std::vector<std::string> SummaryInputs(const SummaryArguments& arguments) {
  std::vector<std::string> inputs = arguments.files;
  inputs.insert(inputs.end(), {arguments.reference, arguments.before, arguments.after});
  return inputs;
}

int SummaryVerb::operator()() {
  if (!arguments_.reference.empty()) reference_ = ReadWholeFile(arguments_.reference);
  if (arguments_.specs.size() > 1 &&
      std::find(arguments_.files.begin(), arguments_.files.end(), "-") != arguments_.files.end())
    FailUsage("standard input cannot be read once for each context; name a file with -f");
  CheckOutputs({arguments_.out, arguments_.json, arguments_.html},
               InputsOf(arguments_.model, SummaryInputs(arguments_)));
  opened_ = std::make_unique<OpenedModel>(arguments_.model, arguments_.context.engine);
  report_.header = Header();
  std::vector<std::string> specs = arguments_.specs;
  if (specs.empty()) specs.push_back("auto");
  bool is_whole = true;
  for (size_t i = 0; i < specs.size() && is_whole; ++i) is_whole = RunContext(specs[i], specs.size() == 1);
  std::string shown;
  for (const auto& [context, text] : summaries_) {
    if (arguments_.out.empty()) shown += text + "\n\n";
  }
  shown += FormatTable(ScoreTable(report_));
  WriteReports({{arguments_.json, EvalJson(report_)},
                {arguments_.html, Html()},
                {arguments_.json == "-" ? "" : "-", shown}});
  if (is_whole) return 0;
  PrintMessage("mneme: interrupted{}\n",
               arguments_.out.empty() ? "" : "; the same command goes on behind the parts that are done");
  return kExitInterrupted;
}

}  // namespace

void AddEvalSummary(Command& eval) {
  auto arguments = std::make_shared<SummaryArguments>();
  Command& verb = eval.AddVerb("summary", "Read a whole book, write a summary, score it with ROUGE");
  AddModelOptions(verb, &arguments->model);
  verb.List("-f,--file", &arguments->files, "FILE",
            "Text, - is standard input (default); several are read as one");
  AddContextList(verb, &arguments->specs);
  verb.Text("--reference", &arguments->reference, "FILE", "A summary to score against");
  verb.Flag("--stem", &arguments->stem, "Porter's stems in ROUGE, as some publications use");
  verb.Number("--passes", &arguments->passes, {1, 100, Unit::kCount}, "N",
              "2 or more: summarize parts first, then their summaries (default 1: all in one stream)");
  verb.Text("--part", &arguments->part, "N", "Tokens of a part (default: half of the trained length)");
  verb.Number("--max-tokens", &arguments->max_tokens, {1, 1 << 20, Unit::kCount}, "N",
              "Longest summary, also of a part (default 512)");
  verb.Text("--before", &arguments->before, "FILE", "File with the words before the text");
  verb.Text("--after", &arguments->after, "FILE", "File with the words after it");
  verb.Text("--out", &arguments->out, "FILE",
            "Write the summary there (one file for each context); parts are kept beside it");
  verb.Text("--json", &arguments->json, "FILE", "Write scores and settings");
  verb.Text("--html", &arguments->html, "FILE", "Write a page with scores and summaries");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetFooter(
      "Example:\n"
      "  mneme eval summary model.gguf -f book.txt --context sinks --reference summary.txt --html "
      "summary.html");
  verb.SetAction([=] {
    if (arguments->files.empty()) arguments->files.push_back("-");
    CheckInputs(arguments->files);
    return SummaryVerb(*arguments)();
  });
}

}  // namespace mneme::cli
