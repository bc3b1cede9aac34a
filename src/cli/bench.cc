// mneme bench: speed of a model by context and depth, of single kernels, of the machine, of the tokenizer,
// and where time goes.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files/file.h"
#include "base/message.h"
#include "base/progress.h"
#include "base/text/units.h"
#include "bench/kernels.h"
#include "bench/machine.h"
#include "bench/model.h"
#include "bench/products.h"
#include "bench/profile.h"
#include "bench/profile_picture.h"
#include "bench/report.h"
#include "bench/tokenizer.h"
#include "cli/console/console.h"
#include "cli/console/signals.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "cli/verbs.h"
#include "eval/report/html.h"

namespace mneme::cli {
namespace {

using Json = nlohmann::ordered_json;

struct BenchArguments {
  ModelArguments model;
  SessionArguments context;
  std::vector<std::string> contexts;
  std::string depths = "0";
  std::string threads;
  std::string kernels;
  std::vector<std::string> files;
  int64_t prefill = 512;
  int64_t decode = 64;
  int64_t batch = 0;
  int64_t repeats = 3;
  double max_seconds = 60;
  bool json = false;
  bool machine = false;
  bool profile = false;
  bool tokenizer = false;
  bool no_floor = false;
  std::string state_folder;
  std::string svg_path;
  std::vector<std::string> also;
};

std::vector<int64_t> ParseList(const std::string& text, const std::string& option) {
  std::vector<int64_t> values;
  size_t begin = 0;
  while (begin <= text.size()) {
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

// ---- the machine

// Ends with kExitError where `auto` takes the slower arithmetic.
int Machine(const BenchArguments& arguments) {
  constexpr double kProductSeconds = 1.2;
  const Engine engine = MakeEngine(arguments.model.engine);
  PrintMessage("measuring the machine with {} threads...\n", engine.num_threads());
  const MachineLimits limits = MeasureMachine(engine);
  const ProductRates rates = MeasureProducts(engine, kProductSeconds);
  const AutoVerdict verdict = JudgeAuto(rates);
  if (arguments.json) {
    Json json = MachineJson(limits);
    json.update(ProductsJson(rates, verdict));
    WriteOut(json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    const std::string sets =
        limits.instructions.empty() ? "" : fmt::format("; there is {}", fmt::join(limits.instructions, ", "));
    WriteOut(fmt::format("{}\nkernels run on {}{}\n\n{}\n{}\n{}",
                         limits.processor.empty() ? "a processor without a name" : limits.processor,
                         limits.simd_target, sets, FormatTable(MachineTable(limits)),
                         FormatTable(ProductsTable(limits, rates)), VerdictText(verdict)));
  }
  return verdict.agrees ? 0 : kExitError;
}

// ---- single kernels

int Kernels(const BenchArguments& arguments) {
  constexpr double kSecondsPerKernel = 0.3;
  const std::vector<KernelCase> cases = FindKernels(arguments.kernels);
  const Engine engine = MakeEngine(arguments.model.engine);
  PrintMessage("measuring the machine with {} threads...\n", engine.num_threads());
  const MachineLimits limits = MeasureMachine(engine);
  ConsoleProgress progress("kernels");
  std::vector<KernelRow> rows;
  for (const KernelCase& one : cases) {
    if (StopRequested()) break;
    progress.Update(static_cast<int64_t>(rows.size()), static_cast<int64_t>(cases.size()), one.name);
    rows.push_back(MeasureKernel(one, limits, kSecondsPerKernel, engine));
  }
  progress.Finish("");
  WriteOut(arguments.json ? KernelsJson(rows).dump(1) + "\n" : FormatTable(KernelsTable(rows)));
  return StopRequested() ? kExitInterrupted : 0;
}

// ---- speed of a model

// NAME=depth:tokens/s,... of another engine, as a line of the plot.
PlotSeries ParseSeries(const std::string& text) {
  PlotSeries series;
  const size_t equals = text.find('=');
  if (equals == std::string::npos) FailUsage("--plot-also: NAME=depth:rate,...");
  series.name = text.substr(0, equals);
  for (size_t begin = equals + 1; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string point = text.substr(begin, end - begin);
    const size_t colon = point.find(':');
    if (colon == std::string::npos) FailUsage("--plot-also: NAME=depth:rate,...");
    try {
      series.x.push_back(
          std::max(1.0, static_cast<double>(ParseCount(point.substr(0, colon), "--plot-also"))));
    } catch (const Error& error) {
      FailUsage(error.what());
    }
    series.y.push_back(std::strtod(point.c_str() + colon + 1, nullptr));
    begin = end + 1;
  }
  return series;
}

// Small, so that it can be read where a telephone shrinks it.
void WritePlot(const BenchArguments& arguments, Plot plot) {
  for (const std::string& also : arguments.also) plot.series.push_back(ParseSeries(also));
  WriteReport(arguments.svg_path, StandaloneSvg(plot, 560, 360));
}

// Bytes to measure the bandwidth with: large enough for weights that come from memory, small where they come
// from a cache.
size_t FootprintOf(const Model& model) {
  return std::clamp(model.info().read_bytes_per_token, size_t{1} << 20, size_t{1} << 30);
}

int Speed(const BenchArguments& arguments) {
  for (const std::string& also : arguments.also) ParseSeries(also);  // mistakes show before the measurement
  CheckOutputs({arguments.svg_path}, InputsOf(arguments.model));
  const std::vector<int64_t> depths = ParseList(arguments.depths, "--depth");
  std::vector<int64_t> thread_counts = {static_cast<int64_t>(arguments.model.engine.num_threads)};
  if (!arguments.threads.empty()) thread_counts = ParseList(arguments.threads, "--threads");
  std::vector<std::string> specs = arguments.contexts;
  if (specs.empty()) specs.push_back("auto");
  ModelArguments model_options = arguments.model;
  EngineOptions engine_options = arguments.context.engine;
  engine_options.max_rows = std::max(engine_options.max_rows, arguments.batch);
  std::unique_ptr<OpenedModel> opened;
  std::vector<BenchRow> rows;
  for (const int64_t num_threads : thread_counts) {
    if (num_threads < 0 || num_threads > 1024) FailUsage("--threads: 1 to 1024");
    model_options.engine.num_threads = static_cast<size_t>(num_threads);
    opened.reset();  // one at a time
    opened = std::make_unique<OpenedModel>(model_options, engine_options, /*load_tokenizer=*/false);
    const Model& model = opened->model;
    MachineFloor floor;
    if (!arguments.no_floor) {
      floor = FloorOf(MeasureMachine(model.engine(), 1.0, FootprintOf(model)), model);
    }
    for (const std::string& spec : specs) {
      BenchSettings settings;
      settings.stop = UserStop();
      settings.session = OptionsFor(arguments.context, spec);
      settings.depths = depths;
      settings.num_prefill = arguments.prefill;
      settings.num_decode = arguments.decode;
      settings.batch = arguments.batch;
      settings.num_repeats = arguments.repeats;
      settings.max_seconds = arguments.max_seconds;
      settings.state_folder = arguments.state_folder;
      const std::vector<BenchRow> measured =
          MeasureContext(model, settings, arguments.no_floor ? nullptr : &floor);
      rows.insert(rows.end(), measured.begin(), measured.end());
      if (StopRequested()) break;
    }
  }
  const ModelInfo& info = opened->model.info();
  if (!arguments.svg_path.empty()) WritePlot(arguments, DecodePlot(info.name, rows));
  if (arguments.json) {
    Json json;
    json["model"] = info.name;
    json["weight_bytes"] = info.weight_bytes;
    json["packed_bytes"] = info.packed_bytes;
    json["packed_copy"] = info.packed_copy;
    json["load_seconds"] = opened->load_seconds;
    json["rows"] = RowsJson(rows);
    WriteOut(json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    WriteOut(fmt::format("{} ({}), {} of weights{}, loaded in {}\n\n", info.name, info.family,
                         FormatBytes(info.weight_bytes), PackedText(info),
                         FormatSeconds(opened->load_seconds)));
    WriteOut(FormatTable(RowsTable(rows)) + RowsNotes(rows));
  }
  return StopRequested() ? kExitInterrupted : 0;
}

// ---- where the time goes

void WriteProfile(const BenchArguments& arguments, const std::string& spec, const Model& model,
                  std::span<const ProfilePanel> panels) {
  std::optional<MachineFloor> floor;
  if (!arguments.no_floor) {
    floor = FloorOf(MeasureMachine(model.engine(), 1.0, FootprintOf(model)), model);
  }
  const std::string title = fmt::format("{}, {} before, {}, threads: {}", model.info().name, arguments.depths,
                                        spec, model.engine().num_threads());
  WriteReport(arguments.svg_path, ProfilePicture(title, panels, floor ? &*floor : nullptr));
}

int Profile(const BenchArguments& arguments) {
  CheckOutputs({arguments.svg_path}, InputsOf(arguments.model));
  const std::string spec = arguments.contexts.empty() ? "auto" : arguments.contexts.front();
  const SessionOptions options = OptionsFor(arguments.context, spec);
  const std::vector<int64_t> depths = ParseList(arguments.depths, "--depth");
  if (depths.size() > 1) FailUsage("--profile: one --depth at a time");
  const OpenedModel opened(arguments.model, arguments.context.engine, /*load_tokenizer=*/false);
  std::vector<ProfilePanel> panels;
  Json json;
  for (const int64_t num_rows : {int64_t{1}, std::max<int64_t>(arguments.prefill, 2)}) {
    const std::vector<ProfileRow> rows =
        ProfileModel(opened.model, options, num_rows, depths.front(), UserStop());
    const std::string name = num_rows == 1 ? "decode" : fmt::format("prefill {}", num_rows);
    json[name] = ProfileJson(rows);
    panels.push_back({num_rows == 1 ? "one token" : fmt::format("{} tokens", FormatCount(num_rows)), rows});
    if (!arguments.json) WriteOut(FormatTable(ProfileTable(name, rows)) + "\n");
  }
  if (!arguments.svg_path.empty()) WriteProfile(arguments, spec, opened.model, panels);
  if (arguments.json) {
    WriteOut(json.dump(1) + "\n");
  } else {
    WriteOut("Every operation is timed inside the whole; the rest is what lies between them.\n");
  }
  return 0;
}

// ---- the tokenizer

int BenchTokenizer(const BenchArguments& arguments) {
  if (arguments.files.empty()) FailUsage("bench --tokenizer reads a text: name it with -f FILE");
  const Tokenizer tokenizer = OpenTokenizer(arguments.model.path, arguments.model.options.tokenizer);
  Json json = Json::array();
  std::vector<std::vector<std::string>> table = {{"text", "bytes", "tokens", "MB/s", "decode MB/s"}};
  for (const std::string& path : arguments.files) {
    if (StopRequested()) break;
    const std::string text = ReadWholeFile(path, kMaxDataBytes);
    const TokenizerSpeed speed = MeasureTokenizer(tokenizer, text, arguments.repeats, UserStop());
    const auto bytes = static_cast<double>(text.size());
    const double encode_rate = bytes / 1e6 / speed.encode.median_seconds;
    const double decode_rate = bytes / 1e6 / speed.decode.median_seconds;
    table.push_back({path.substr(path.rfind('/') + 1), FormatCount(static_cast<int64_t>(text.size())),
                     FormatCount(static_cast<int64_t>(speed.num_tokens)), fmt::format("{:.1f}", encode_rate),
                     fmt::format("{:.1f}", decode_rate)});
    json.push_back({{"text", path},
                    {"bytes", text.size()},
                    {"tokens", speed.num_tokens},
                    {"encode_mb_per_second", encode_rate},
                    {"decode_mb_per_second", decode_rate}});
  }
  if (arguments.json) {
    WriteOut(json.dump(1) + "\n");
  } else {
    WriteOut(fmt::format("{}, one thread, streaming in pieces of 64 KiB\n\n{}", tokenizer.kind(),
                         FormatTable(table)));
  }
  return 0;
}

int Bench(const BenchArguments& arguments) {
  if (arguments.machine) return Machine(arguments);
  if (!arguments.kernels.empty()) return Kernels(arguments);
  if (arguments.tokenizer) return BenchTokenizer(arguments);
  if (arguments.profile) return Profile(arguments);
  return Speed(arguments);
}

}  // namespace

void AddBench(Command& program) {
  auto arguments = std::make_shared<BenchArguments>();
  Command& verb = program.AddVerb("bench", "Tokens per second, with the share of what the machine can do");
  AddModelOptions(verb, &arguments->model,
                  "pack,pack_cache");  // threads are a list here, tokenizer is a flag
  verb.Text("-t,--threads", &arguments->threads, "N,...",
            "Threads; a list measures each: 1,2 (default: all cores)");
  verb.Text("--depth", &arguments->depths, "N,...",
            "Depths at which to decode: 0,16K,1M, K is 1024 (default 0)");
  verb.List("--context", &arguments->contexts, "NAME[:key=value,...]",
            "Context; may be given more than once (default: auto)");
  verb.Number("--prefill", &arguments->prefill, {0, 1 << 20, Unit::kCount}, "N",
              "Tokens of prefill, 0 leaves it out (default 512)");
  verb.Number("--decode", &arguments->decode, {0, 1 << 20, Unit::kCount}, "N",
              "Tokens to decode, 0 leaves it out (default 64)");
  verb.Number("--batch", &arguments->batch, {0, 1024, Unit::kCount}, "N", "Also decode N sessions together");
  verb.Number("--repeat", &arguments->repeats, {1, 1000, Unit::kCount}, "N",
              "Runs; the median counts (default 3)");
  verb.Number("--max-seconds", &arguments->max_seconds, {0, 1e9}, "S",
              "Longest time to read up to a depth; beyond it, bounded contexts start at that position "
              "(default 60)");
  verb.Text("--state", &arguments->state_folder, "FOLDER",
            "Also save and restore the state at each depth, as a file in this folder");
  verb.Text("--svg", &arguments->svg_path, "FILE",
            "Write a plot of decode speed by depth; with --profile a picture of where the time goes");
  verb.List("--plot-also", &arguments->also, "NAME=depth:rate,...",
            "A line of other figures in the plot; may be repeated");
  verb.Flag("--no-floor", &arguments->no_floor, "Do not measure the machine's limits");
  verb.Flag(
      "--machine", &arguments->machine,
      "Measure only the machine: bandwidth, peak rates, products, and whether --pack auto takes the faster "
      "ones (exit status 1 if not)");
  verb.Text("--kernels", &arguments->kernels, "PART",
            "Measure single kernels, those whose names contain PART: all, linear, attend, memory, recur, "
            "pointwise, "
            "linear/q8_0/packed/2048x2048/rows:1");
  verb.Flag("--profile", &arguments->profile, "Where the time of decode and prefill goes");
  verb.Flag("--tokenizer", &arguments->tokenizer, "Speed of the tokenizer on the texts of -f");
  verb.List("-f,--file", &arguments->files, "FILE", "Text for --tokenizer");
  verb.Flag("--json", &arguments->json, "JSON in place of tables");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetAction([=] {
    BenchArguments resolved = *arguments;
    if (!resolved.threads.empty() && resolved.threads.find(',') == std::string::npos) {
      resolved.model.engine.num_threads =
          static_cast<size_t>(ParseList(resolved.threads, "--threads").front());
    }
    return Bench(resolved);
  });
}

}  // namespace mneme::cli
