#include "bench/speed_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/text/units.h"
#include "eval/report/html.h"

namespace mneme {
namespace {

double NumberOf(const EvalRow& row, const char* key) {
  const auto found = row.numbers.find(key);
  return found == row.numbers.end() ? 0 : found->second;
}

std::string Rate(double per_second) {
  if (per_second <= 0) return "-";
  return per_second >= 100 ? FormatCount(std::llround(per_second)) : fmt::format("{:.1f}", per_second);
}

std::string Bytes(double bytes) { return bytes > 0 ? FormatBytes(static_cast<size_t>(bytes)) : "-"; }

std::string ShortTime(double seconds) {
  return seconds < 0.0995 ? fmt::format("{:.3g} ms", seconds * 1e3) : FormatSeconds(seconds);
}

bool IsRecompute(const EvalRow& row) { return row.task == "recompute"; }

// A line per context; `key` empty: the row's own measure.
Plot PlotOf(const EvalReport& report, const char* title, const char* label, const std::string& key,
            double scale, bool with_floor) {
  Plot plot;
  plot.title = title;
  plot.x_label = "depth (tokens of stream before)";
  plot.y_label = label;
  plot.log_x = plot.log_y = true;
  std::vector<PlotSeries> floors;
  for (const EvalRow& row : report.rows) {
    if (IsRecompute(row) || row.trials == 0) continue;
    if (plot.series.empty() || plot.series.back().name != row.context) {
      plot.series.push_back({row.context, {}, {}, {}, {}});
      floors.push_back({"limit of the bandwidth, " + row.context, {}, {}, {}, {}});
    }
    const double depth = static_cast<double>(std::max<int64_t>(row.length, 1));
    plot.series.back().x.push_back(depth);
    plot.series.back().y.push_back((key.empty() ? row.accuracy : NumberOf(row, key.c_str())) * scale);
    floors.back().x.push_back(depth);
    floors.back().y.push_back(NumberOf(row, "floor_per_second"));
  }
  if (with_floor) {
    for (PlotSeries& floor : floors) {
      if (std::any_of(floor.y.begin(), floor.y.end(), [](double y) { return y > 0; }))
        plot.series.push_back(std::move(floor));
    }
  }
  return plot;
}

}  // namespace

EvalRow SpeedRow(const std::string& context, const SpeedPoint& point, int64_t num_repeats) {
  EvalRow row;
  row.task = "speed";
  row.context = context;
  row.length = point.depth;
  row.metric = "decode_tokens_per_second";
  row.trials = point.note.empty() ? num_repeats : 0;
  row.note = point.note.empty() ? point.disk_note : point.note;
  row.accuracy = point.decode_per_second;
  row.standard_error = point.decode_per_second * point.decode_spread / 2;
  row.seconds = point.read_seconds;
  row.peak_bytes = point.session_bytes;
  row.numbers = {{"first_token_seconds", point.first_token_seconds},
                 {"prefill_tokens_per_second", point.prefill_per_second},
                 {"decode_spread", point.decode_spread},
                 {"floor_per_second", point.floor_per_second},
                 {"resident_bytes", static_cast<double>(point.resident_bytes)},
                 {"disk_bytes", static_cast<double>(point.disk_bytes)},
                 {"is_filled", point.reached == "filled" ? 1.0 : 0.0}};
  return row;
}

EvalRow RecomputeRow(const RecomputePoint& point, int64_t num_repeats) {
  EvalRow row;
  row.task = "recompute";
  row.context = "sinks / recompute";
  row.length = point.cache;
  row.metric = "ratio";
  row.trials = num_repeats;
  row.accuracy = point.ratio();
  row.standard_error = 0.0;
  row.numbers = {{"sinks_seconds", point.sinks_seconds}, {"recompute_seconds", point.recompute_seconds}};
  return row;
}

std::vector<std::vector<std::string>> SpeedTable(std::span<const EvalRow> rows) {
  std::vector<std::vector<std::string>> table = {{"context", "depth", "how", "first token", "prefill tok/s",
                                                  "decode tok/s", "of the limit", "resident", "under the cap",
                                                  "state on disk"}};
  for (const EvalRow& row : rows) {
    if (IsRecompute(row)) continue;
    const double floor = NumberOf(row, "floor_per_second");
    if (row.trials == 0) {
      table.push_back({row.context, FormatCount(row.length), "-"});
      continue;
    }
    table.push_back({row.context, FormatCount(row.length), NumberOf(row, "is_filled") > 0 ? "filled" : "read",
                     ShortTime(NumberOf(row, "first_token_seconds")),
                     Rate(NumberOf(row, "prefill_tokens_per_second")), Rate(row.accuracy),
                     floor > 0 ? fmt::format("{:.0f}%", 100 * row.accuracy / floor) : "-",
                     Bytes(NumberOf(row, "resident_bytes")), FormatBytes(row.peak_bytes),
                     Bytes(NumberOf(row, "disk_bytes"))});
  }
  return table;
}

std::vector<std::vector<std::string>> RecomputeTable(std::span<const EvalRow> rows) {
  std::vector<std::vector<std::string>> table = {
      {"cache", "sinks, ms/token", "recomputed window, ms/token", "ratio"}};
  for (const EvalRow& row : rows) {
    if (!IsRecompute(row) || row.trials == 0) continue;
    table.push_back({FormatCount(row.length), fmt::format("{:.4g}", NumberOf(row, "sinks_seconds") * 1e3),
                     fmt::format("{:.4g}", NumberOf(row, "recompute_seconds") * 1e3),
                     fmt::format("{:.1f}", row.accuracy)});
  }
  return table.size() > 1 ? table : std::vector<std::vector<std::string>>{};
}

std::string SpeedHtml(const EvalReport& report) {
  HtmlPage page(report.header.title);
  const bool has_depths = std::any_of(report.rows.begin(), report.rows.end(),
                                      [](const EvalRow& row) { return !IsRecompute(row) && row.trials > 0; });
  if (has_depths) {
    page.AddPlot(
        PlotOf(report,
               "Decode by depth. A flat line costs the same however long the stream is; the limit is what "
               "reading weights and visible cache at the measured bandwidth allows.",
               "tokens per second", "", 1, true));
    page.Table(
        SpeedTable(report.rows),
        "read: every token before was fed; filled: the stream starts at that position with a full window");
    page.AddPlot(PlotOf(report, "Time from a question to the first token of its answer", "milliseconds",
                        "first_token_seconds", 1e3, false));
    page.AddPlot(
        PlotOf(report, "Prefill by depth", "tokens per second", "prefill_tokens_per_second", 1, false));
    page.AddPlot(PlotOf(report, "Resident memory of the process, weights included", "MiB", "resident_bytes",
                        1.0 / (1 << 20), false));
    page.AddPlot(PlotOf(report, "State on disk", "MiB", "disk_bytes", 1.0 / (1 << 20), false));
  }
  if (const auto table = RecomputeTable(report.rows); !table.empty()) {
    Plot plot;
    plot.title = "One token of a cache with sinks, and one token by computing the window again";
    plot.x_label = "cache (tokens)";
    plot.y_label = "milliseconds per token";
    plot.log_x = plot.log_y = true;
    plot.series = {{"sinks", {}, {}, {}, {}}, {"recomputed window", {}, {}, {}, {}}};
    for (const EvalRow& row : report.rows) {
      if (!IsRecompute(row)) continue;
      for (const auto& [index, key] : {std::pair{0, "sinks_seconds"}, {1, "recompute_seconds"}}) {
        plot.series[static_cast<size_t>(index)].x.push_back(static_cast<double>(row.length));
        plot.series[static_cast<size_t>(index)].y.push_back(NumberOf(row, key) * 1e3);
      }
    }
    page.Heading("Against a recomputed window");
    page.AddPlot(plot);
    page.Table(table);
  }
  for (const EvalRow& row : report.rows) {
    if (!row.note.empty())
      page.Paragraph(fmt::format("{} at {}: {}", row.context, FormatCount(row.length), row.note));
  }
  page.Heading("Command");
  page.Code(report.header.command);
  const EvalMachine& machine = report.header.machine;
  page.Paragraph(
      fmt::format("mneme {}, model {} (fingerprint {:016x}), started {}, {} with {} threads of {}.",
                  report.header.program_version, report.header.model_file, report.header.model_fingerprint,
                  report.header.started, machine.processor, machine.num_threads, machine.num_processors));
  return page.Finish();
}

}  // namespace mneme
