// mneme eval: how well a model does on a stream, and its numbers for comparison with other engines.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
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
#include "cli/ids.h"
#include "cli/input.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "cli/verbs.h"
#include "eval/perplexity/perplexity.h"
#include "eval/perplexity/recompute.h"
#include "eval/perplexity/report.h"
#include "eval/tasks/logits.h"
#include "mneme/plan.h"
#include "mneme/system.h"

namespace mneme::cli {
namespace {

struct LogitsArguments {
  ModelArguments model;
  SessionArguments context;
  std::string ids;
  std::string out;
};

int64_t CountIds(const std::string& path, int64_t vocab_size) {
  IdReader reader(path, vocab_size, UserStop());
  std::vector<TokenId> ids;
  int64_t count = 0;
  while (reader.Read(&ids)) count += static_cast<int64_t>(ids.size());
  return count;
}

int Logits(const LogitsArguments& arguments) {
  CheckOutputs({arguments.out}, InputsOf(arguments.model, {arguments.ids}));
  StreamSettings settings(arguments.context);
  const OpenedModel opened(arguments.model, arguments.context.engine, /*load_tokenizer=*/false);
  // Others compute exact attention; a model with a memory has no other meaning than with it.
  if (settings.options.context == "auto" && !opened.model.info().has_memory)
    settings.options.context = "dense";
  const int64_t vocab_size = opened.model.info().vocab_size;
  // How long the stream will be decides how some models rotate.
  std::error_code ignored;
  if (std::filesystem::is_regular_file(arguments.ids, ignored)) {
    settings.options.expected_tokens = CountIds(arguments.ids, vocab_size);
  }
  Stream stream(opened.model, settings);
  stream.PrintStart(arguments.context.engine);
  IdReader reader(arguments.ids, vocab_size, UserStop());
  const WrittenLogits written = WriteLogits(
      stream.session, [&](std::vector<TokenId>* ids) { return reader.Read(ids); }, arguments.out, UserStop());
  if (StopRequested()) Fail(ErrorKind::kInterrupted, "interrupted after {} tokens", written.num_ids);
  PrintMessage("{}: float32 [{}, {}]\n", arguments.out, written.num_ids, vocab_size);
  if (written.num_broken > 0) {
    PrintMessage(
        "mneme: {} of the rows hold logits that are not numbers, the first of them row {}: look at the "
        "model's weights\n",
        written.num_broken, written.first_broken);
  }
  return 0;
}

struct PerplexityArguments {
  ModelArguments model;
  SessionArguments context;
  std::vector<std::string> specs;
  std::vector<std::string> files;
  std::string json;
  std::string html;
  int64_t max_tokens = -1;
  std::string lengths;
  std::string sinks;
  std::string caches;
  size_t num_bins = 0;
  bool ids = false;
};

class PerplexityVerb {
 public:
  explicit PerplexityVerb(const PerplexityArguments& arguments) : arguments_(arguments) {}
  int operator()();

 private:
  PerplexityOptions Resolve(const Model& model) const;
  std::vector<std::string> Specs() const;
  void FeedText();
  void FeedIds();
  // False when there is nothing more to do.
  bool Take(std::vector<TokenId>* ids);
  void Update(Progress& progress, int64_t done, int64_t total);
  void Write() const;
  std::string Tables(const std::vector<PerplexityResult>& results) const;

  const PerplexityArguments& arguments_;
  int64_t max_tokens_ = -1;
  std::unique_ptr<OpenedModel> opened_;
  std::unique_ptr<PerplexityRun> run_;
};

// Those that were named, and those of the table of sinks by cache size.
std::vector<std::string> PerplexityVerb::Specs() const {
  std::vector<std::string> specs = arguments_.specs;
  if (arguments_.sinks.empty() != arguments_.caches.empty())
    FailUsage("--sinks and --cache make a table: both or none");
  if (!arguments_.sinks.empty()) {
    for (const int64_t num_sinks : ParseCounts(arguments_.sinks, "--sinks")) {
      for (const int64_t cache : ParseCounts(arguments_.caches, "--cache")) {
        if (num_sinks >= cache)
          FailUsage(fmt::format("--cache: {} has no room beside {} sinks", cache, num_sinks));
        specs.push_back(num_sinks == 0
                            ? fmt::format("window:window={}", cache)
                            : fmt::format("sinks:sinks={},window={}", num_sinks, cache - num_sinks));
      }
    }
  }
  if (specs.empty()) specs.push_back("auto");
  return specs;
}

PerplexityOptions PerplexityVerb::Resolve(const Model& model) const {
  PerplexityOptions options;
  options.stop = UserStop();
  options.num_even_bins = arguments_.num_bins;
  if (!arguments_.lengths.empty()) options.lengths = ParseCounts(arguments_.lengths, "--lengths");
  std::sort(options.lengths.begin(), options.lengths.end());
  options.session = arguments_.context.options;
  const std::vector<std::string> specs = Specs();
  for (const std::string& spec : specs) {
    if (const std::optional<RecomputeSpec> recompute = ParseRecompute(spec)) {
      options.contexts.push_back(recompute->ToString());
      continue;
    }
    SessionOptions session = OptionsFor(arguments_.context, spec);
    if (spec == "auto") session.expected_tokens = max_tokens_;
    const ContextChoice choice = ChooseShared(model, session, specs.size());
    if (!choice.reason.empty()) PrintMessage("context: {} ({})\n", choice.context, choice.reason);
    options.contexts.push_back(choice.context);
  }
  return options;
}

bool PerplexityVerb::Take(std::vector<TokenId>* ids) {
  if (max_tokens_ >= 0) {
    const size_t left = static_cast<size_t>(max_tokens_ - run_->num_tokens());
    if (ids->size() > left) ids->resize(left);
  }
  const bool is_whole = run_->Feed(*ids);
  ids->clear();
  return is_whole && !StopRequested() && !run_->all_stopped() &&
         (max_tokens_ < 0 || run_->num_tokens() < max_tokens_);
}

void PerplexityVerb::Update(Progress& progress, int64_t done, int64_t total) {
  if (max_tokens_ >= 0) {
    done = run_->num_tokens();
    total = max_tokens_;
  }
  progress.Update(
      done, total,
      fmt::format("{} tokens, {}", FormatCount(run_->num_tokens()), FormatBytes(ResidentBytes())));
}

void PerplexityVerb::FeedText() {
  const Tokenizer& tokenizer = opened_->model.tokenizer();
  EncodeOptions encode;
  encode.add_bos = tokenizer.adds_bos();
  StreamEncoder encoder(tokenizer, encode);
  InputFiles input(arguments_.files, UserStop());
  ConsoleProgress progress("perplexity");
  std::vector<TokenId> ids;
  // Small pieces, so that the progress line moves and an interrupt is seen also where the model is large.
  std::vector<char> buffer(4096);
  bool goes_on = true;
  while (goes_on && !StopRequested()) {
    const size_t size = input.Read(buffer);
    if (size == 0) break;
    encoder.Feed({buffer.data(), size}, &ids);
    goes_on = Take(&ids);
    Update(progress, input.position_bytes(), input.size_bytes());
  }
  if (goes_on && !StopRequested()) {
    encoder.Finish(&ids);
    Take(&ids);
  }
  if (!StopRequested()) run_->Finish();
  progress.Finish(fmt::format("{} tokens", FormatCount(run_->num_tokens())));
}

void PerplexityVerb::FeedIds() {
  ConsoleProgress progress("perplexity");
  std::vector<TokenId> ids;
  bool goes_on = true;
  for (const std::string& path : arguments_.files) {
    IdReader reader(path, opened_->model.info().vocab_size, UserStop());
    while (goes_on && reader.Read(&ids)) {
      goes_on = Take(&ids);
      Update(progress, reader.source().position_bytes(), reader.source().size_bytes());
    }
  }
  if (!StopRequested()) run_->Finish();
  progress.Finish(fmt::format("{} tokens", FormatCount(run_->num_tokens())));
}

void PerplexityVerb::Write() const {
  const std::vector<PerplexityResult> results = run_->Results();
  PerplexityHeader header;
  header.model = fmt::format("{} ({})", opened_->model.info().name, opened_->model.info().family);
  header.trained_length = opened_->model.info().trained_length;
  std::string files;
  for (const std::string& path : arguments_.files) {
    const std::string name = path == "-" ? "standard input" : path.substr(path.rfind('/') + 1);
    files += (files.empty() ? "" : ", ") + name;
  }
  header.input = fmt::format("{}, {} tokens", files, FormatCount(run_->num_tokens()));
  header.command = fmt::format("mneme eval perplexity {}", ModelPath(arguments_.model.path));
  for (const std::string& path : arguments_.files) header.command += " -f " + path;
  for (const PerplexityResult& result : results) header.command += " --context " + result.context;
  if (!arguments_.lengths.empty()) header.command += " --lengths " + arguments_.lengths;
  if (max_tokens_ >= 0) header.command += fmt::format(" --max-tokens {}", max_tokens_);
  header.run = MakeEvalHeader(opened_->model);
  header.run->task = "perplexity";
  header.run->title = "Perplexity by position: " + header.model;
  header.run->command = header.command;
  header.run->program_version = MNEME_VERSION;
  header.run->settings = {{"input", files},
                          {"tokens", FormatCount(run_->num_tokens())},
                          {"keys", std::string(EncodingName(arguments_.context.options.keys))},
                          {"values", std::string(EncodingName(arguments_.context.options.values))}};
  const bool is_piped = arguments_.json == "-" || arguments_.html == "-";
  WriteReports({{arguments_.json, PerplexityJson(header, results)},
                {arguments_.html, PerplexityHtml(header, results)},
                {is_piped ? "" : "-", Tables(results)}});
}

std::string PerplexityVerb::Tables(const std::vector<PerplexityResult>& results) const {
  std::string text = "nats per token ± standard error, by position of the predicted token\n\n";
  text += FormatTable(PerplexityTable(results));
  if (const auto table = PerplexityLengthTable(results); !table.empty())
    text += "\nperplexity of the second half of each length\n\n" + FormatTable(table);
  if (const auto table = PerplexitySinkTable(results); !table.empty() && !arguments_.sinks.empty())
    text += "\nperplexity by sinks and cache size (sinks and window together)\n\n" + FormatTable(table);
  for (const PerplexityResult& result : results) {
    if (result.stopped.empty()) continue;
    text += fmt::format("\n{} stopped after {} tokens: {}\n", result.context, FormatCount(result.stopped_at),
                        result.stopped);
  }
  return text;
}

int PerplexityVerb::operator()() {
  max_tokens_ = arguments_.max_tokens;
  CheckOutputs({arguments_.json, arguments_.html}, InputsOf(arguments_.model, arguments_.files));
  opened_ = std::make_unique<OpenedModel>(arguments_.model, arguments_.context.engine, !arguments_.ids);
  const Model& model = opened_->model;
  run_ = std::make_unique<PerplexityRun>(model, Resolve(model));
  if (arguments_.ids) {
    FeedIds();
  } else {
    FeedText();
  }
  if (run_->num_tokens() < 2) {
    Fail(ErrorKind::kInput, "the input has {} tokens; perplexity needs at least 2", run_->num_tokens());
  }
  Write();
  const MemoryReport memory = model.engine().memory();
  PrintMessage("memory: peak {} of {}\n", FormatBytes(memory.peak_bytes), FormatBytes(memory.cap_bytes));
  if (StopRequested()) {
    PrintMessage("mneme: interrupted; the figures are of what was read\n");
    return kExitInterrupted;
  }
  return 0;
}

void AddLogits(Command& eval) {
  auto arguments = std::make_shared<LogitsArguments>();
  Command& verb = eval.AddVerb("logits", "Write the logits of every token, to compare with other engines");
  AddModelOptions(verb, &arguments->model);
  verb.Text("--ids", &arguments->ids, "FILE",
            "Token ids as text, separated by white space; - is standard input")
      .is_required = true;
  verb.Text("--out", &arguments->out, "FILE", "float32 little-endian [number of ids, vocabulary]")
      .is_required = true;
  arguments->context.options.keys = arguments->context.options.values = Encoding::kF32;
  AddContextOptions(verb, &arguments->context);
  verb.SetFooter(
      "Made for comparing implementations: the defaults here are --context dense and --kv f32, which round "
      "nothing. Products are\n"
      "those of the model as it runs: weights of integer blocks (Q8_0, Q4_K...) meet activations in blocks "
      "of 8 bits, and F16 and\n"
      "BF16 weights are multiplied as blocks of 14-bit integers where the processor has an instruction for "
      "it. --pack float32\n"
      "multiplies F32, F16 and BF16 weights in float32.");
  verb.SetAction([=] { return Logits(*arguments); });
}

void AddPerplexity(Command& eval) {
  auto arguments = std::make_shared<PerplexityArguments>();
  Command& verb = eval.AddVerb("perplexity", "Perplexity by position, several contexts side by side");
  AddModelOptions(verb, &arguments->model);
  verb.List("-f,--file", &arguments->files, "FILE",
            "Text, - is standard input (default); several are read as one");
  verb.Flag("--ids", &arguments->ids, "The input is token ids as text");
  AddContextList(verb, &arguments->specs, ". Also recompute:window=N,every=M, the slow exact window");
  verb.Number("--max-tokens", &arguments->max_tokens, {2, 0x1p62, Unit::kCount}, "N",
              "Read no more than this");
  verb.Text("--lengths", &arguments->lengths, "N,...",
            "Also a table by length, of the second half of each: 2K,4K,32K; K is 1024");
  verb.Text("--sinks", &arguments->sinks, "N,...",
            "With --cache: a table over numbers of sinks, as 0,1,2,4,8");
  verb.Text("--cache", &arguments->caches, "N,...",
            "With --sinks: and over cache sizes, sinks and window together");
  verb.Number("--bins", &arguments->num_bins, {1, 100000, Unit::kCount}, "N",
              "About N even bins of positions (default: four to an octave)");
  verb.Text("--json", &arguments->json, "FILE", "Write all bins");
  verb.Text("--html", &arguments->html, "FILE",
            "Write a page with a plot; it needs nothing from the network");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetFooter(
      "Example:\n"
      "  mneme eval perplexity model.gguf -f book.txt --context sinks --context lambda --context window "
      "--html book.html");
  verb.SetAction([=] {
    if (arguments->files.empty()) arguments->files.push_back("-");
    CheckInputs(arguments->files);
    return PerplexityVerb(*arguments)();
  });
}

}  // namespace

std::vector<int64_t> ParseCounts(const std::string& text, const std::string& option) {
  std::vector<int64_t> values;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    try {
      values.push_back(ParseCount(text.substr(begin, end - begin), option));
    } catch (const Error& error) {
      FailUsage(error.what());
    }
    begin = end + 1;
  }
  return values;
}

void AddEval(Command& program) {
  Command& verb = program.AddVerb(
      "eval", "Measure a model: perplexity, recall, benchmarks, speed; suites of them with one report");
  AddLogits(verb);
  AddPerplexity(verb);
  AddEvalPasskey(verb);
  AddEvalNeedle(verb);
  AddEvalRuler(verb);
  AddEvalStream(verb);
  AddEvalDatasets(verb);
  AddEvalSpeed(verb);
  AddEvalSummary(verb);
  AddEvalSuite(verb);
  AddEvalCompare(verb);
}

}  // namespace mneme::cli
