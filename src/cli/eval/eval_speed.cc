// mneme eval speed: speed, memory and disk by depth of the stream, beside the limit of the machine.
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
#include "bench/machine.h"
#include "bench/speed.h"
#include "bench/speed_report.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/eval/eval_verbs.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "mneme/plan.h"

namespace mneme::cli {
namespace {

struct SpeedArguments {
  ModelArguments model;
  SessionArguments context;
  std::vector<std::string> specs;
  std::string depths = "0,4K,64K,1M";
  std::string caches;
  int64_t num_sinks = 4;
  int64_t prompt = 64;
  int64_t prefill = 512;
  int64_t decode = 64;
  int64_t repeats = 3;
  double max_seconds = 60;
  bool no_floor = false;
  std::string json;
  std::string html;
};

class SpeedVerb {
 public:
  explicit SpeedVerb(const SpeedArguments& arguments) : arguments_(arguments) {}
  int operator()();

 private:
  EvalHeader Header() const;
  void Depths(const std::string& spec);
  void Recompute();
  void Print() const;

  const SpeedArguments& arguments_;
  std::vector<int64_t> depths_;
  std::vector<int64_t> caches_;
  std::unique_ptr<OpenedModel> opened_;
  std::unique_ptr<EvalLog> log_;
  double bytes_per_second_ = 0;
};

EvalHeader SpeedVerb::Header() const {
  EvalHeader header = MakeEvalHeader(opened_->model);
  header.task = "speed";
  header.title = fmt::format("Speed by depth: {}", header.model_name);
  header.command =
      fmt::format("mneme eval speed {} --depth {}", ModelPath(arguments_.model.path), arguments_.depths);
  for (const std::string& spec : arguments_.specs) header.command += " --context " + spec;
  if (!arguments_.caches.empty()) header.command += " --cache " + arguments_.caches;
  header.program_version = MNEME_VERSION;
  const SessionOptions& session = arguments_.context.options;
  header.settings = {{"prompt tokens", FormatCount(arguments_.prompt)},
                     {"prefill tokens", FormatCount(arguments_.prefill)},
                     {"decode tokens", FormatCount(arguments_.decode)},
                     {"repeats", FormatCount(arguments_.repeats)},
                     {"threads", FormatCount(static_cast<int64_t>(opened_->model.engine().num_threads()))},
                     {"kv", fmt::format("{}, {}", EncodingName(session.keys), EncodingName(session.values))},
                     {"start position", std::to_string(session.start_position)}};
  return header;
}

void SpeedVerb::Depths(const std::string& spec) {
  const Model& model = opened_->model;
  SessionOptions session = OptionsFor(arguments_.context, spec);
  // Clones are measured beside the stream: two sessions at a time.
  if (spec == "auto") {
    session.memory_bytes = model.engine().options().memory_bytes / 2;
    session.expected_tokens = depths_.back();
  }
  session.context = ChooseContext(model, session).context;
  session.memory_bytes = 0;
  SpeedSettings settings;
  settings.stop = UserStop();
  settings.session = session;
  settings.num_prompt = arguments_.prompt;
  settings.num_prefill = arguments_.prefill;
  settings.num_decode = arguments_.decode;
  settings.num_repeats = arguments_.repeats;
  settings.max_seconds = arguments_.max_seconds;
  settings.bytes_per_second = bytes_per_second_;
  settings.temporary_folder = std::filesystem::temp_directory_path().string();
  for (const int64_t depth : depths_) {
    SpeedPoint cell;
    cell.depth = depth;
    if (log_->Find(SpeedRow(session.context, cell, 1)) == nullptr) settings.depths.push_back(depth);
  }
  if (settings.depths.empty()) return;
  ConsoleProgress progress("speed");
  MeasureSpeedByDepth(model, settings, progress, [&](const SpeedPoint& point) {
    log_->Add(SpeedRow(session.context, point, arguments_.repeats));
  });
  progress.Finish(session.context);
}

void SpeedVerb::Recompute() {
  const SessionOptions base = OptionsFor(arguments_.context, "dense");
  ConsoleProgress progress("recompute");
  for (const int64_t cache : caches_) {
    RecomputePoint empty;
    empty.cache = cache;
    if (log_->Find(RecomputeRow(empty, 1)) != nullptr) continue;
    progress.Update(cache, caches_.back(), fmt::format("cache {}", FormatCount(cache)));
    const RecomputePoint point =
        MeasureRecompute(opened_->model, cache, arguments_.num_sinks, base, arguments_.repeats, UserStop());
    log_->Add(RecomputeRow(point, arguments_.repeats));
  }
  progress.Finish("");
}

void SpeedVerb::Print() const {
  const EvalReport& report = log_->report();
  if (!arguments_.html.empty()) WriteReport(arguments_.html, SpeedHtml(report));
  if (arguments_.json == "-") return WriteOut(EvalJson(report));
  if (const auto table = SpeedTable(report.rows); table.size() > 1) WriteOut(FormatTable(table));
  if (const auto table = RecomputeTable(report.rows); !table.empty())
    WriteOut("\none token: a cache with sinks against a window computed again\n\n" + FormatTable(table));
  for (const EvalRow& row : report.rows) {
    if (!row.note.empty())
      WriteOut(fmt::format("\n{} at {}: {}\n", row.context, FormatCount(row.length), row.note));
  }
}

int SpeedVerb::operator()() {
  depths_ = ParseCounts(arguments_.depths, "--depth");
  std::sort(depths_.begin(), depths_.end());
  if (!arguments_.caches.empty()) caches_ = ParseCounts(arguments_.caches, "--cache");
  CheckOutputs({arguments_.json, arguments_.html}, InputsOf(arguments_.model));
  opened_ =
      std::make_unique<OpenedModel>(arguments_.model, arguments_.context.engine, /*load_tokenizer=*/false);
  log_ = std::make_unique<EvalLog>(Header(), arguments_.json == "-" ? "" : arguments_.json, "");
  if (!arguments_.no_floor) {
    const size_t bytes = opened_->model.info().read_bytes_per_token;
    const size_t footprint = std::clamp(bytes, size_t{1} << 20, size_t{1} << 30);
    bytes_per_second_ = MeasureMachine(opened_->model.engine(), 1.0, footprint)
                            .ReadBandwidth(bytes, opened_->model.engine().num_threads() > 1);
  }
  std::vector<std::string> specs = arguments_.specs;
  if (specs.empty()) specs.push_back("auto");
  try {
    for (size_t i = 0; i < specs.size() && !StopRequested(); ++i) Depths(specs[i]);
    if (!caches_.empty() && !StopRequested()) Recompute();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInterrupted) throw;
  }
  Print();
  if (!StopRequested()) return 0;
  PrintMessage("mneme: interrupted{}\n",
               arguments_.json.empty() || arguments_.json == "-" ? "" : "; the same command goes on");
  return kExitInterrupted;
}

}  // namespace

void AddEvalSpeed(Command& eval) {
  auto arguments = std::make_shared<SpeedArguments>();
  Command& verb = eval.AddVerb("speed", "Speed, memory and disk by depth, beside the machine's limit");
  AddModelOptions(verb, &arguments->model);
  AddContextList(verb, &arguments->specs);
  verb.Text("--depth", &arguments->depths, "N,...", "Depths: 0,64K,1M,10M; K is 1024 (default 0,4K,64K,1M)");
  verb.Text("--cache", &arguments->caches, "N,...",
            "Also one token of a cache with sinks against a window computed again, at these sizes");
  verb.Number("--num-sinks", &arguments->num_sinks, {1, 1 << 20, Unit::kCount}, "N",
              "Sinks of that cache (default 4)");
  verb.Number("--prompt", &arguments->prompt, {1, 1 << 20, Unit::kCount}, "N",
              "Tokens of the question before the first token (default 64)");
  verb.Number("--prefill", &arguments->prefill, {1, 1 << 20, Unit::kCount}, "N",
              "Tokens of prefill that are timed (default 512)");
  verb.Number("--decode", &arguments->decode, {1, 1 << 20, Unit::kCount}, "N",
              "Tokens of decode that are timed (default 64)");
  verb.Number("--repeat", &arguments->repeats, {1, 1000, Unit::kCount}, "N",
              "Runs; the median counts (default 3)");
  verb.Number("--max-seconds", &arguments->max_seconds, {0, 1e9}, "S",
              "Longest time to read up to a depth; beyond it bounded contexts start at that position "
              "(default 60)");
  verb.Flag("--no-floor", &arguments->no_floor, "Do not measure the machine's bandwidth");
  verb.Text("--json", &arguments->json, "FILE",
            "Write the results after each depth; what is there is not measured again");
  verb.Text("--html", &arguments->html, "FILE", "Write a page with plots; it needs nothing from the network");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetFooter(
      "Examples:\n"
      "  mneme eval speed model.gguf --context sinks --context dense --depth 0,16K,1M,10M --html speed.html\n"
      "  mneme eval speed model.gguf --depth 0 --cache 256,512,1K,2K,4K");
  verb.SetAction([=] { return SpeedVerb(*arguments)(); });
}

}  // namespace mneme::cli
