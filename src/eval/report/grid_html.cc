#include "eval/report/grid_html.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/text/units.h"
#include "eval/report/html.h"

namespace mneme {
namespace {

std::string LengthLabel(int64_t length) {
  if (length >= 1 << 20 && length % (1 << 20) == 0) return fmt::format("{}M", length >> 20);
  if (length >= 1024 && length % 1024 == 0) return fmt::format("{}K", length >> 10);
  if (length >= 1000000 && length % 100000 == 0)
    return fmt::format("{:g}M", static_cast<double>(length) / 1e6);
  return FormatCount(length);
}

std::string DepthLabel(double depth) { return fmt::format("{:g}%", std::round(depth * 1000) / 10); }

std::string LabelsOf(const EvalRow& row, const std::string& except = "") {
  std::string text;
  for (const auto& [key, value] : row.labels) {
    if (key == except) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", key, value);
  }
  return text;
}

std::optional<double> NumberOf(const std::string& text) {
  if (text.empty() || text.find_first_not_of("0123456789.") != std::string::npos) return std::nullopt;
  return std::strtod(text.c_str(), nullptr);
}

bool IsShare(const EvalRow& row) { return row.trials > 0 && row.accuracy >= 0 && row.accuracy <= 1; }

// What a row belongs to on the page, beside depth and the axis.
struct Group {
  std::string context;
  std::string labels;
  std::string metric;
  std::optional<int64_t> length;  // where another quantity is the axis and lengths vary too
  auto operator<=>(const Group&) const = default;
};

std::string TitleOf(const Group& group) {
  std::string about = group.labels;
  if (group.length)
    about += fmt::format("{}length {}", about.empty() ? "" : ", ", LengthLabel(*group.length));
  return about.empty() ? group.context : fmt::format("{} ({})", group.context, about);
}

bool LengthsVary(const std::vector<const EvalRow*>& rows) {
  return std::any_of(rows.begin(), rows.end(),
                     [&](const EvalRow* row) { return row->length != rows[0]->length; });
}

// Contexts and labels in the order in which they were measured.
std::vector<Group> GroupsOf(const std::vector<const EvalRow*>& rows, const std::string& axis) {
  std::vector<Group> groups;
  const bool by_length = !axis.empty() && LengthsVary(rows);
  for (const EvalRow* row : rows) {
    Group group{row->context, LabelsOf(*row, axis), row->metric, {}};
    if (by_length) group.length = row->length;
    if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
  }
  return groups;
}

bool IsIn(const EvalRow& row, const Group& group, const std::string& axis) {
  return row.context == group.context && row.metric == group.metric && LabelsOf(row, axis) == group.labels &&
         (!group.length || row.length == *group.length);
}

void AddHeatMap(HtmlPage& page, const std::vector<const EvalRow*>& rows, const Group& group) {
  std::set<int64_t> lengths;
  std::set<double> depths;
  for (const EvalRow* row : rows) {
    lengths.insert(row->length);
    depths.insert(*row->depth);
  }
  HeatMap map;
  map.title = fmt::format("{}: {} by length and depth", TitleOf(group), group.metric);
  map.x_label = "length (tokens)";
  map.y_label = "depth";
  for (const int64_t length : lengths) map.columns.push_back(LengthLabel(length));
  for (const double depth : depths) {
    map.rows.push_back(DepthLabel(depth));
    std::vector<std::optional<double>> values;
    for (const int64_t length : lengths) {
      std::optional<double> value;
      for (const EvalRow* row : rows) {
        if (IsIn(*row, group, "") && row->length == length && row->depth == depth && row->trials > 0)
          value = row->accuracy;
      }
      values.push_back(value);
    }
    map.values.push_back(std::move(values));
  }
  page.AddHeatMap(map, map.title + ", in percent. Blue: all right; red: none; dashed: not measured.");
}

// The quantity that varies: the length, or else a label that is a number ("distance").
std::string AxisOf(const std::vector<const EvalRow*>& rows) {
  std::set<std::string> keys;
  for (const EvalRow* row : rows) {
    for (const auto& [key, value] : row->labels) keys.insert(key);
  }
  std::string best;
  size_t most = 1;
  for (const std::string& key : keys) {
    std::set<double> values;
    bool all = true;
    for (const EvalRow* row : rows) {
      const auto found = row->labels.find(key);
      const auto number = found == row->labels.end() ? std::nullopt : NumberOf(found->second);
      all = all && number;
      if (number) values.insert(*number);
    }
    if (all && values.size() > most) {
      best = key;
      most = values.size();
    }
  }
  std::set<int64_t> lengths;
  for (const EvalRow* row : rows) lengths.insert(row->length);
  return lengths.size() >= most && lengths.size() > 1 ? "" : best;
}

// What guessing among the candidates gives, where the rows say so; nothing to draw otherwise.
PlotSeries ChanceLine(const std::vector<std::pair<double, const EvalRow*>>& points) {
  PlotSeries series;
  series.name = "chance";
  for (const auto& [x, row] : points) {
    const auto chance = row->numbers.find("chance");
    if (chance == row->numbers.end()) continue;
    series.x.push_back(x);
    series.y.push_back(chance->second);
  }
  return series;
}

void AddLines(HtmlPage& page, const std::vector<const EvalRow*>& rows, const std::string& metric) {
  const std::string axis = AxisOf(rows);
  const std::string x_name = axis.empty() ? "length" : axis;
  Plot plot;
  plot.title = fmt::format("{} by {}. The band is the interval of 95%.", metric, x_name);
  plot.x_label = axis.empty() || axis == "distance" ? x_name + " (tokens)" : x_name;
  plot.y_label = metric;
  plot.log_x = true;
  if (std::all_of(rows.begin(), rows.end(),
                  [](const EvalRow* row) { return IsShare(*row) || row->trials == 0; }))
    plot.y_shows = {0, 1};
  PlotSeries chance;
  for (const Group& group : GroupsOf(rows, axis)) {
    if (group.metric != metric) continue;
    std::vector<std::pair<double, const EvalRow*>> points;
    for (const EvalRow* row : rows) {
      if (!IsIn(*row, group, axis) || row->trials == 0) continue;
      const double x = axis.empty() ? static_cast<double>(row->length) : *NumberOf(row->labels.at(axis));
      if (x > 0) points.emplace_back(x, row);
    }
    std::sort(points.begin(), points.end());
    PlotSeries series;
    series.name = TitleOf(group);
    for (const auto& [x, row] : points) {
      series.x.push_back(x);
      series.y.push_back(row->accuracy);
      series.low.push_back(row->Interval().first);
      series.high.push_back(row->Interval().second);
      if (IsShare(*row)) {
        series.low.back() = std::max(0.0, series.low.back());
        series.high.back() = std::min(1.0, series.high.back());
      }
    }
    plot.series.push_back(std::move(series));
    if (chance.x.empty()) chance = ChanceLine(points);
  }
  if (!chance.x.empty()) plot.series.push_back(std::move(chance));
  page.AddPlot(plot);
}

std::vector<std::vector<std::string>> TableOf(const std::vector<const EvalRow*>& rows) {
  std::set<std::string> labels, numbers;
  bool any_depth = false, any_length = false, any_note = false;
  std::set<std::string> metrics;
  for (const EvalRow* row : rows) {
    for (const auto& [key, value] : row->labels) labels.insert(key);
    for (const auto& [key, value] : row->numbers) numbers.insert(key);
    any_depth = any_depth || row->depth.has_value();
    any_length = any_length || row->length > 0;
    any_note = any_note || !row->note.empty();
    metrics.insert(row->metric);
  }
  std::vector<std::string> head = {"context"};
  if (any_length) head.push_back("length");
  if (any_depth) head.push_back("depth");
  for (const std::string& key : labels) head.push_back(key);
  head.push_back("trials");
  if (metrics.size() > 1) head.push_back("metric");
  head.push_back(metrics.size() == 1 ? *metrics.begin() : "value");
  for (const char* key : {"95%", "seconds", "peak"}) head.emplace_back(key);
  for (const std::string& key : numbers) head.push_back(key);
  if (any_note) head.emplace_back("note");
  std::vector<std::vector<std::string>> table = {head};
  for (const EvalRow* row : rows) {
    std::vector<std::string> line = {row->context};
    if (any_length) line.push_back(row->length > 0 ? FormatCount(row->length) : "-");
    if (any_depth) line.push_back(row->depth ? DepthLabel(*row->depth) : "-");
    for (const std::string& key : labels) line.push_back(row->labels.count(key) ? row->labels.at(key) : "-");
    line.push_back(FormatCount(row->trials));
    if (metrics.size() > 1) line.push_back(row->metric);
    line.push_back(row->trials > 0 ? fmt::format("{:.4g}", row->accuracy) : "-");
    line.push_back(row->trials > 0
                       ? fmt::format("{:.3g} to {:.3g}", row->Interval().first, row->Interval().second)
                       : "-");
    line.push_back(fmt::format("{:.1f}", row->seconds));
    line.push_back(row->peak_bytes > 0 ? FormatBytes(row->peak_bytes) : "-");
    for (const std::string& key : numbers)
      line.push_back(row->numbers.count(key) ? fmt::format("{:.6g}", row->numbers.at(key)) : "-");
    if (any_note) line.push_back(row->note);
    table.push_back(std::move(line));
  }
  return table;
}

void AddHeader(HtmlPage& page, const EvalHeader& header) {
  page.Heading("To repeat it");
  if (!header.command.empty()) page.Code(header.command);
  std::vector<std::vector<std::string>> rows = {{"what", "value"}};
  rows.push_back({"model", fmt::format("{} ({}), {}, fingerprint {:016x}", header.model_name,
                                       header.model_family, header.model_file, header.model_fingerprint)});
  if (header.trained_length > 0) rows.push_back({"trained length", FormatCount(header.trained_length)});
  rows.push_back({"seed", std::to_string(header.seed)});
  for (const auto& [key, value] : header.settings) rows.push_back({key, value});
  rows.push_back({"program", "mneme " + header.program_version});
  const EvalMachine& machine = header.machine;
  rows.push_back({"machine", fmt::format("{}, {} processors, {} threads used, {}, {}", machine.processor,
                                         machine.num_processors, machine.num_threads,
                                         FormatBytes(machine.memory_bytes), machine.system)});
  rows.push_back({"started", header.started});
  page.Table(rows);
}

}  // namespace

std::vector<std::vector<std::string>> EvalTable(const EvalReport& report) {
  std::vector<const EvalRow*> rows;
  for (const EvalRow& row : report.rows) rows.push_back(&row);
  return TableOf(rows);
}

std::string EvalHtml(const EvalReport& report) {
  const EvalHeader& header = report.header;
  HtmlPage page(header.title.empty() ? fmt::format("{}: {}", header.task, header.model_name) : header.title);
  std::vector<std::string> tasks;
  for (const EvalRow& row : report.rows) {
    if (std::find(tasks.begin(), tasks.end(), row.task) == tasks.end()) tasks.push_back(row.task);
  }
  if (tasks.empty()) page.Paragraph("No result yet.");
  for (const std::string& task : tasks) {
    std::vector<const EvalRow*> all, deep, flat;
    std::vector<std::string> metrics;
    for (const EvalRow& row : report.rows) {
      if (row.task != task) continue;
      all.push_back(&row);
      (row.depth ? deep : flat).push_back(&row);
      if (!row.depth && std::find(metrics.begin(), metrics.end(), row.metric) == metrics.end())
        metrics.push_back(row.metric);
    }
    page.Heading(task);
    for (const Group& group : GroupsOf(deep, "")) AddHeatMap(page, deep, group);
    for (const std::string& metric : metrics) AddLines(page, flat, metric);
    page.Table(TableOf(all));
  }
  AddHeader(page, header);
  return page.Finish();
}

}  // namespace mneme
