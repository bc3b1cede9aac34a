// mneme bench: speed of a model by context and depth, of the machine, of the tokenizer, and where time goes.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/message.h"
#include "base/units.h"
#include "bench/machine.h"
#include "bench/rows.h"
#include "bench/timing.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/signals.h"
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

std::string Rate(double per_second) {
  if (per_second <= 0) return "-";
  if (per_second >= 1000) return FormatCount(static_cast<int64_t>(per_second + 0.5));
  return fmt::format("{:.{}f}", per_second, per_second >= 100 ? 0 : per_second >= 10 ? 1 : 2);
}

std::string Giga(double per_second) { return per_second > 0 ? fmt::format("{:.1f}", per_second / 1e9) : "-"; }

std::vector<int64_t> ParseList(const std::string& text, const std::string& option, bool binary) {
  std::vector<int64_t> values;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    try {
      values.push_back(ParseCount(text.substr(begin, end - begin), option, binary));
    } catch (const Error& error) {
      FailUsage(error.what());
    }
    begin = end + 1;
  }
  return values;
}

// ---- the machine

int Machine(const BenchArguments& arguments) {
  ThreadPool pool(arguments.model.engine.num_threads);
  WarnOfFewerThreads(pool);
  PrintMessage("measuring the machine with {} threads...\n", pool.num_threads());
  const MachineLimits limits = MeasureMachine(pool);
  if (arguments.json) {
    const auto rate = [](const MachineRate& value) {
      return Json{{"one_thread", value.one_thread}, {"all_threads", value.all_threads}};
    };
    Json json;
    json["threads"] = limits.num_threads;
    json["simd_target"] = limits.simd_target;
    for (const MachineBandwidth& row : limits.bandwidth) {
      json["read_bytes_per_second"].push_back(
          {{"footprint_bytes", row.footprint_bytes}, {"rate", rate(row.read_bytes)}});
    }
    json["fp32_ops_per_second"] = rate(limits.fp32_ops);
    json["bf16_ops_per_second"] = rate(limits.bf16_ops);
    json["int16_ops_per_second"] = rate(limits.int16_ops);
    json["int8_ops_per_second"] = rate(limits.int8_ops);
    WriteOut(json.dump(1) + "\n");
    return 0;
  }
  WriteOut(fmt::format("kernels run on {}\n\n", limits.simd_target));
  std::vector<std::vector<std::string>> rows = {
      {"limit", "1 thread", fmt::format("{} threads", limits.num_threads), "unit"}};
  for (const MachineBandwidth& row : limits.bandwidth) {
    rows.push_back({"read " + FormatBytes(row.footprint_bytes), Giga(row.read_bytes.one_thread),
                    Giga(row.read_bytes.all_threads), "GB/s"});
  }
  const auto add = [&](const char* name, const MachineRate& rate, const char* unit) {
    rows.push_back({name, Giga(rate.one_thread), Giga(rate.all_threads), unit});
  };
  add("fp32 multiply-add", limits.fp32_ops, "GFLOP/s");
  add("bf16 dot", limits.bf16_ops, "GFLOP/s");
  add("int16 dot", limits.int16_ops, "GOP/s");
  add("int8 dot", limits.int8_ops, "GOP/s");
  WriteOut(FormatTable(rows));
  return 0;
}

// ---- speed of a model

MachineFloor FloorOf(const MachineLimits& limits, const Model& model) {
  const ModelCosts costs = CostsOf(model);
  const bool all = limits.num_threads > 1;
  const auto pick = [&](const MachineRate& rate) { return all ? rate.all_threads : rate.one_thread; };
  MachineFloor floor;
  floor.bytes_per_second = limits.ReadBandwidth(costs.weight_bytes_per_token, all);
  floor.flops_name = "fp32";
  floor.flops_per_second = pick(limits.fp32_ops);
  const auto use = [&](const char* name, const MachineRate& rate) {
    if (rate.one_thread <= 0) return;  // without the instruction, products run at the rate of float32
    floor.flops_name = name;
    floor.flops_per_second = pick(rate);
  };
  if (costs.products == ProductKind::kInt8) use("int8", limits.int8_ops);
  if (costs.products == ProductKind::kInt16) use("int16", limits.int16_ops);
  if (costs.products == ProductKind::kBFloat16) use("bf16", limits.bf16_ops);
  return floor;
}

std::vector<std::string> RowCells(const BenchRow& row) {
  if (!row.note.empty())
    return {row.what, row.context, FormatCount(row.depth), "-", fmt::format("{}", row.num_threads), "-"};
  return {row.what,
          row.context,
          FormatCount(row.depth),
          row.reached,
          fmt::format("{}", row.num_threads),
          row.bytes_per_second > 0 ? Giga(row.bytes_per_second) + " GB/s" : Rate(row.tokens_per_second),
          fmt::format("{:.0f}%", row.spread * 100),
          FormatBytes(static_cast<size_t>(row.bytes_per_token)),
          row.share > 0 ? fmt::format("{:.0f}% of {}", row.share * 100, row.share_of) : "-"};
}

Json RowJson(const BenchRow& row) {
  return {{"what", row.what},
          {"context", row.context},
          {"depth", row.depth},
          {"reached", row.reached},
          {"threads", row.num_threads},
          {"tokens_per_second", row.tokens_per_second},
          {"bytes_per_second", row.bytes_per_second},
          {"spread", row.spread},
          {"bytes_per_token", row.bytes_per_token},
          {"share", row.share},
          {"share_of", row.share_of},
          {"note", row.note}};
}

void PrintRows(const std::vector<BenchRow>& rows) {
  std::vector<std::vector<std::string>> table = {{"what", "context", "depth", "how", "threads", "tokens/s",
                                                  "spread", "bytes/token", "share of the limit"}};
  std::string notes;
  for (const BenchRow& row : rows) {
    table.push_back(RowCells(row));
    if (!row.note.empty())
      notes += fmt::format("  {} at {}, {}: {}\n", row.what, FormatCount(row.depth), row.context, row.note);
  }
  WriteOut(FormatTable(table));
  if (!notes.empty()) WriteOut("\n" + notes);
  if (std::any_of(rows.begin(), rows.end(), [](const BenchRow& row) { return row.reached == "filled"; })) {
    WriteOut(
        "\nfilled: the stream starts at that position with a full window; read: every token before it was "
        "fed.\n");
  }
}

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

// Decode speed by depth, a line for each context and number of threads. Depth 0 stands at 1 on the
// logarithmic axis. Small, so that it can be read where a telephone shrinks it.
void WritePlot(const BenchArguments& arguments, const std::string& model, const std::vector<BenchRow>& rows) {
  Plot plot;
  plot.title = fmt::format("Decode speed by depth, {}", model);
  plot.x_label = "tokens before the one that is decoded";
  plot.y_label = "tokens per second";
  plot.log_x = true;
  plot.log_y = true;
  const bool same_threads = std::all_of(rows.begin(), rows.end(), [&](const BenchRow& row) {
    return row.num_threads == rows.front().num_threads;
  });
  for (const BenchRow& row : rows) {
    if (row.what.rfind("decode", 0) != 0 || row.tokens_per_second <= 0) continue;
    std::string name = "mneme " + row.context;
    if (!same_threads) name += fmt::format(", {} thread{}", row.num_threads, row.num_threads == 1 ? "" : "s");
    const auto found = std::find_if(plot.series.begin(), plot.series.end(),
                                    [&](const PlotSeries& series) { return series.name == name; });
    PlotSeries& series = found == plot.series.end() ? plot.series.emplace_back() : *found;
    series.name = name;
    series.x.push_back(std::max(1.0, static_cast<double>(row.depth)));
    series.y.push_back(row.tokens_per_second);
  }
  for (const std::string& also : arguments.also) plot.series.push_back(ParseSeries(also));
  WriteReport(arguments.svg_path, StandaloneSvg(plot, 560, 360));
}

int Speed(const BenchArguments& arguments) {
  for (const std::string& also : arguments.also) ParseSeries(also);  // mistakes show before the measurement
  CheckOutputs({arguments.svg_path});
  const std::vector<int64_t> depths = ParseList(arguments.depths, "--depth", true);
  std::vector<int64_t> thread_counts = {static_cast<int64_t>(arguments.model.engine.num_threads)};
  if (!arguments.threads.empty()) thread_counts = ParseList(arguments.threads, "--threads", false);
  std::vector<std::string> specs = arguments.contexts;
  if (specs.empty()) specs.push_back("auto");
  const MemoryCap cap = ToMemoryCap(arguments.context.engine);
  ModelArguments model_options = arguments.model;
  model_options.engine.num_threads = 0;
  LoadedModel loaded(model_options, /*load_tokenizer=*/false);
  std::vector<BenchRow> rows;
  for (const int64_t num_threads : thread_counts) {
    if (num_threads < 0 || num_threads > 1024) FailUsage("--threads: 1 to 1024");
    ThreadPool pool(static_cast<size_t>(num_threads));
    MachineFloor floor;
    if (!arguments.no_floor) {
      // Large enough for weights that come from memory, small where they come from a cache.
      const size_t footprint =
          std::clamp(loaded.model->read_bytes_per_token(), size_t{1} << 20, size_t{1} << 30);
      floor = FloorOf(MeasureMachine(pool, 1.0, footprint), *loaded.model);
    }
    for (const std::string& spec : specs) {
      BenchSettings settings;
      settings.stop = UserStop();
      settings.context = ContextFor(arguments.context, spec);
      settings.depths = depths;
      settings.num_prefill = arguments.prefill;
      settings.num_decode = arguments.decode;
      settings.batch = arguments.batch;
      settings.num_repeats = arguments.repeats;
      settings.max_seconds = arguments.max_seconds;
      settings.cap_bytes = cap.bytes;
      settings.state_folder = arguments.state_folder;
      const std::vector<BenchRow> measured =
          MeasureContext(loaded.model, settings, arguments.no_floor ? nullptr : &floor, pool);
      rows.insert(rows.end(), measured.begin(), measured.end());
      if (StopRequested()) break;
    }
  }
  if (!arguments.svg_path.empty()) WritePlot(arguments, loaded.model->config().name, rows);
  if (arguments.json) {
    Json json;
    json["model"] = loaded.model->config().name;
    json["weight_bytes"] = loaded.model->weight_bytes();
    json["packed_bytes"] = loaded.model->packed_bytes();
    json["load_seconds"] = loaded.load_seconds;
    json["rows"] = Json::array();
    for (const BenchRow& row : rows) json["rows"].push_back(RowJson(row));
    WriteOut(json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    WriteOut(fmt::format("{} ({}), {} of weights, {} repacked, loaded in {}\n\n", loaded.model->config().name,
                         loaded.model->config().family, FormatBytes(loaded.model->weight_bytes()),
                         FormatBytes(loaded.model->packed_bytes()), FormatSeconds(loaded.load_seconds)));
    PrintRows(rows);
  }
  return StopRequested() ? kExitInterrupted : 0;
}

// ---- where the time goes

int Profile(const BenchArguments& arguments) {
  const MemoryCap cap = ToMemoryCap(arguments.context.engine);
  const ContextSettings context =
      ContextFor(arguments.context, arguments.contexts.empty() ? "auto" : arguments.contexts.front());
  LoadedModel loaded(arguments.model, /*load_tokenizer=*/false);
  const int64_t depth = ParseList(arguments.depths, "--depth", true).front();
  Json json;
  for (const int64_t num_rows : {int64_t{1}, std::max<int64_t>(arguments.prefill, 2)}) {
    const std::vector<ProfileRow> rows =
        ProfileModel(loaded.model, context, num_rows, depth, cap.bytes, loaded.pool, UserStop());
    const double whole = rows.back().seconds;
    const std::string name = num_rows == 1 ? "decode" : fmt::format("prefill {}", num_rows);
    std::vector<std::vector<std::string>> table = {{name, "ms", "share", "GB/s", "GFLOP/s"}};
    for (const ProfileRow& row : rows) {
      table.push_back({row.op, fmt::format("{:.3f}", row.seconds * 1e3),
                       fmt::format("{:.1f}%", whole > 0 ? row.seconds / whole * 100 : 0),
                       row.seconds > 0 ? Giga(row.bytes / row.seconds) : "-",
                       row.seconds > 0 ? Giga(row.flops / row.seconds) : "-"});
      json[name].push_back(
          {{"op", row.op}, {"seconds", row.seconds}, {"bytes", row.bytes}, {"flops", row.flops}});
    }
    if (!arguments.json) WriteOut(FormatTable(table) + "\n");
  }
  if (arguments.json) {
    WriteOut(json.dump(1) + "\n");
  } else {
    WriteOut(
        "Products are timed in a pass of their own, attention (rotation, storing and reading of keys and "
        "values) "
        "inside the whole; the rest is what is left.\n");
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
    const std::string text = ReadWholeFile(path, kMaxDataBytes);
    std::vector<TokenId> ids;
    std::vector<double> encode_seconds, decode_seconds;
    for (int64_t i = 0; i < arguments.repeats && !StopRequested(); ++i) {
      ids.clear();
      StreamEncoder encoder(tokenizer);
      const Clock::time_point start = Clock::now();
      for (size_t begin = 0; begin < text.size(); begin += 65536) {
        encoder.Feed(std::string_view(text).substr(begin, 65536), &ids);
      }
      encoder.Finish(&ids);
      encode_seconds.push_back(SecondsSince(start));
      StreamDecoder decoder(tokenizer);
      std::string decoded;
      const Clock::time_point decode_start = Clock::now();
      for (const TokenId id : ids) {
        decoder.Feed(id, &decoded);
        if (decoded.size() > 65536) decoded.clear();
      }
      decode_seconds.push_back(SecondsSince(decode_start));
    }
    if (encode_seconds.empty()) break;
    const auto megabytes = [&](std::vector<double>& seconds) {
      std::sort(seconds.begin(), seconds.end());
      return static_cast<double>(text.size()) / 1e6 / seconds[seconds.size() / 2];
    };
    const double encode_rate = megabytes(encode_seconds), decode_rate = megabytes(decode_seconds);
    table.push_back({path.substr(path.rfind('/') + 1), FormatCount(static_cast<int64_t>(text.size())),
                     FormatCount(static_cast<int64_t>(ids.size())), fmt::format("{:.1f}", encode_rate),
                     fmt::format("{:.1f}", decode_rate)});
    json.push_back({{"text", path},
                    {"bytes", text.size()},
                    {"tokens", ids.size()},
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
  if (arguments.tokenizer) return BenchTokenizer(arguments);
  if (arguments.profile) return Profile(arguments);
  return Speed(arguments);
}

}  // namespace

void AddBench(Command& program) {
  auto arguments = std::make_shared<BenchArguments>();
  Command& verb = program.AddVerb("bench", "Tokens per second, with the share of what the machine can do");
  AddModelOptions(verb, &arguments->model, "pack");  // threads are a list here, tokenizer is a flag
  verb.Text("-t,--threads", &arguments->threads, "N,...",
            "Threads; a list measures each: 1,2 (default: all cores)");
  verb.Text("--depth", &arguments->depths, "N,...",
            "Depths at which to decode: 0,16K,1M, K is 1024 (default 0)");
  verb.List("--context", &arguments->contexts, "NAME[:key=value,...]",
            "Context; may be given more than once (default: auto)");
  verb.Number("--prefill", &arguments->prefill, {0, 1 << 20, Unit::kThousands}, "N",
              "Tokens of prefill, 0 leaves it out (default 512)");
  verb.Number("--decode", &arguments->decode, {0, 1 << 20, Unit::kThousands}, "N",
              "Tokens to decode, 0 leaves it out (default 64)");
  verb.Number("--batch", &arguments->batch, {0, 1024, Unit::kThousands}, "N",
              "Also decode N sessions together");
  verb.Number("--repeat", &arguments->repeats, {1, 1000, Unit::kThousands}, "N",
              "Runs; the median counts (default 3)");
  verb.Number("--max-seconds", &arguments->max_seconds, {0, 1e9}, "S",
              "Longest time to read up to a depth; beyond it, bounded contexts start at that position "
              "(default 60)");
  verb.Text("--state", &arguments->state_folder, "FOLDER",
            "Also save and restore the state at each depth, as a file in this folder");
  verb.Text("--svg", &arguments->svg_path, "FILE", "Write a plot of decode speed by depth");
  verb.List("--plot-also", &arguments->also, "NAME=depth:rate,...",
            "A line of other figures in the plot; may be repeated");
  verb.Flag("--no-floor", &arguments->no_floor, "Do not measure the machine's limits");
  verb.Flag("--machine", &arguments->machine, "Measure only the machine: bandwidth and peak rates");
  verb.Flag("--profile", &arguments->profile, "Where the time of decode and prefill goes");
  verb.Flag("--tokenizer", &arguments->tokenizer, "Speed of the tokenizer on the texts of -f");
  verb.List("-f,--file", &arguments->files, "FILE", "Text for --tokenizer");
  verb.Flag("--json", &arguments->json, "JSON in place of tables");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetAction([=] {
    BenchArguments resolved = *arguments;
    if (!resolved.threads.empty() && resolved.threads.find(',') == std::string::npos) {
      resolved.model.engine.num_threads =
          static_cast<size_t>(ParseList(resolved.threads, "--threads", false).front());
    }
    return Bench(resolved);
  });
}

}  // namespace mneme::cli
