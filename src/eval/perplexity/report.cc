#include "eval/perplexity/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/text/units.h"
#include "eval/report/html.h"
#include "eval/scores/text.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

void Join(const PositionBin& next, PositionBin* sum) {
  sum->end = next.end;
  sum->count += next.count;
  sum->sum += next.sum;
  sum->sum_squares += next.sum_squares;
}

// The bins of one octave of positions (1, 2, 4, 8...) added up, by its number.
std::map<int, PositionBin> ByOctave(const PerplexityResult& result) {
  std::map<int, PositionBin> octaves;
  for (const PositionBin& bin : result.bins) {
    const int octave = std::bit_width(static_cast<uint64_t>(std::max<int64_t>(bin.begin, 1)));
    PositionBin& sum = octaves[octave];
    if (sum.count == 0) sum.begin = bin.begin;
    Join(bin, &sum);
  }
  return octaves;
}

// Neighbouring bins added up until each holds so many tokens: a point of a plot that is not mostly noise.
// What is left at the end joins the bin before it.
std::vector<PositionBin> Merged(const std::vector<PositionBin>& bins, int64_t least_tokens) {
  std::vector<PositionBin> merged;
  bool is_open = false;
  for (const PositionBin& bin : bins) {
    if (!is_open) merged.push_back({.begin = bin.begin});
    Join(bin, &merged.back());
    is_open = merged.back().count < least_tokens;
  }
  if (is_open && merged.size() > 1) {
    const PositionBin rest = merged.back();
    merged.pop_back();
    Join(rest, &merged.back());
  }
  return merged;
}

// As rows of the common kind: the mean in nats per token, over all of the stream or the half of a length.
void AddRows(const PerplexityResult& result, std::vector<EvalRow>* rows) {
  const auto add = [&](const PositionBin& bin, int64_t length) {
    EvalRow row;
    row.task = "perplexity";
    row.context = result.context;
    row.length = length;
    row.trials = bin.count;
    row.accuracy = bin.mean();
    row.metric = "nats_per_token";
    row.standard_error = bin.standard_error();
    row.peak_bytes = result.kv_bytes;
    row.numbers["perplexity"] = std::exp(bin.mean());
    row.numbers["tokens_per_second"] = result.tokens_per_second;
    if (length == result.num_tokens) row.seconds = result.seconds;
    if (!result.stopped.empty()) row.note = result.stopped;
    rows->push_back(std::move(row));
  };
  for (const PositionBin& bin : result.by_length) add(bin, bin.end);
  if (result.by_length.empty() || result.by_length.back().end != result.num_tokens)
    add(result.total, result.num_tokens);
}

std::string Perplexity(const PositionBin& bin) {
  if (bin.count == 0) return "-";
  const double value = std::exp(bin.mean());
  const double error = value * bin.standard_error();
  return value < 1e4 ? fmt::format("{:.2f} ± {:.2f}", value, error) : fmt::format("{:.2e}", value);
}

// Sinks and cache size of "sinks:sinks=4,window=1020,..." and "window:window=1024"; nothing for others.
struct CacheShape {
  int64_t num_sinks = 0;
  int64_t window = 0;
};
std::optional<CacheShape> ShapeOf(const std::string& context) {
  std::string_view spec = context;
  if (!spec.starts_with("sinks:") && !spec.starts_with("window:")) return std::nullopt;
  CacheShape shape;
  for (const std::string_view part : scores::Split(spec.substr(spec.find(':') + 1), ',')) {
    const std::string value(part.substr(std::min(part.find('='), part.size() - 1) + 1));
    if (part.starts_with("sinks=")) shape.num_sinks = std::strtoll(value.c_str(), nullptr, 10);
    if (part.starts_with("window=")) shape.window = std::strtoll(value.c_str(), nullptr, 10);
  }
  return shape;
}

std::string Cell(const PositionBin& bin) {
  return bin.count == 0 ? "-" : fmt::format("{:.4f} ± {:.4f}", bin.mean(), bin.standard_error());
}

}  // namespace

std::string PerplexityJson(const PerplexityHeader& header, std::span<const PerplexityResult> results) {
  Json json;
  if (header.run) {
    EvalReport report{*header.run, {}};
    for (const PerplexityResult& result : results) AddRows(result, &report.rows);
    json = Json::parse(EvalJson(report));
  } else {
    json["task"] = "perplexity by position";
    json["model"] = header.model;
  }
  json["input"] = header.input;
  json["command"] = header.command;
  json["trained_length"] = header.trained_length;
  json["unit"] = "nll in nats per token; bins are [begin, end) by index of the predicted token";
  json["contexts"] = Json::array();
  for (const PerplexityResult& result : results) {
    Json row;
    row["context"] = result.context;
    row["num_tokens"] = result.num_tokens;
    row["num_scored"] = result.total.count;
    row["nll"] = result.total.mean();
    row["standard_error"] = result.total.standard_error();
    row["perplexity"] = std::exp(result.total.mean());
    row["seconds"] = result.seconds;
    row["tokens_per_second"] = result.tokens_per_second;
    row["kv_bytes"] = result.kv_bytes > 0 ? Json(result.kv_bytes) : Json(nullptr);
    row["stopped"] = result.stopped.empty() ? Json(nullptr) : Json(result.stopped);
    if (!result.stopped.empty()) row["stopped_at"] = result.stopped_at;
    row["flatness"] = {{"first_tokens_per_second", result.flatness.first_tokens_per_second},
                       {"last_tokens_per_second", result.flatness.last_tokens_per_second},
                       {"first_resident_bytes", result.flatness.first_resident_bytes},
                       {"last_resident_bytes", result.flatness.last_resident_bytes}};
    row["bins"] = Json::array();
    for (const PositionBin& bin : result.bins) {
      row["bins"].push_back({{"begin", bin.begin},
                             {"end", bin.end},
                             {"count", bin.count},
                             {"nll", bin.mean()},
                             {"standard_error", bin.standard_error()}});
    }
    json["contexts"].push_back(std::move(row));
  }
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::vector<std::vector<std::string>> PerplexityTable(std::span<const PerplexityResult> results) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::map<int, PositionBin>> octaves;
  std::map<int, PositionBin> all;
  rows.push_back({"position"});
  for (const PerplexityResult& result : results) {
    rows[0].push_back(result.context);
    octaves.push_back(ByOctave(result));
    for (const auto& [octave, bin] : octaves.back()) {
      auto [place, is_new] = all.try_emplace(octave, bin);
      place->second.begin = std::min(place->second.begin, bin.begin);
      place->second.end = std::max(place->second.end, bin.end);
    }
  }
  for (const auto& [octave, range] : all) {
    std::vector<std::string> row = {fmt::format("{} ..", FormatCount(range.begin))};
    for (const auto& own : octaves) {
      const auto found = own.find(octave);
      row.push_back(found == own.end() ? "-" : Cell(found->second));
    }
    rows.push_back(std::move(row));
  }
  std::vector<std::string> whole = {"all: nats per token"};
  std::vector<std::string> perplexity = {"all: perplexity"};
  for (const PerplexityResult& result : results) {
    whole.push_back(Cell(result.total));
    perplexity.push_back(result.total.count == 0 ? "-"
                                                 : fmt::format("{:.3f}", std::exp(result.total.mean())));
  }
  rows.push_back(std::move(whole));
  rows.push_back(std::move(perplexity));
  return rows;
}

std::vector<std::vector<std::string>> PerplexityLengthTable(std::span<const PerplexityResult> results) {
  if (results.empty() || results[0].by_length.empty()) return {};
  std::vector<std::vector<std::string>> rows = {{"length"}};
  for (const PerplexityResult& result : results) rows[0].push_back(result.context);
  for (size_t i = 0; i < results[0].by_length.size(); ++i) {
    rows.push_back({FormatCount(results[0].by_length[i].end)});
    for (const PerplexityResult& result : results) rows.back().push_back(Perplexity(result.by_length[i]));
  }
  return rows;
}

std::vector<std::vector<std::string>> PerplexitySinkTable(std::span<const PerplexityResult> results) {
  std::map<int64_t, std::map<int64_t, PositionBin>> table;  // sinks, cache
  std::set<int64_t> caches;
  for (const PerplexityResult& result : results) {
    const std::optional<CacheShape> shape = ShapeOf(result.context);
    if (!shape) continue;
    table[shape->num_sinks][shape->num_sinks + shape->window] = result.total;
    caches.insert(shape->num_sinks + shape->window);
  }
  if (table.empty()) return {};
  std::vector<std::vector<std::string>> rows = {{"sinks"}};
  for (const int64_t cache : caches) rows[0].push_back("cache " + FormatCount(cache));
  for (const auto& [num_sinks, by_cache] : table) {
    rows.push_back({FormatCount(num_sinks)});
    for (const int64_t cache : caches) {
      const auto found = by_cache.find(cache);
      rows.back().push_back(found == by_cache.end() ? "-" : Perplexity(found->second));
    }
  }
  return rows;
}

constexpr int64_t kTokensOfAPoint = 256;

std::string PerplexityHtml(const PerplexityHeader& header, std::span<const PerplexityResult> results) {
  HtmlPage page(fmt::format("Perplexity by position: {}", header.model));
  page.Paragraph(fmt::format("Input: {}.", header.input));
  Plot plot;
  plot.title =
      "Perplexity of the next token by its position in the stream. Lower is better; a flat line holds.";
  plot.x_label = "position (tokens)";
  plot.y_label = "perplexity";
  plot.log_x = plot.log_y = true;
  if (header.trained_length > 0) {
    plot.markers.push_back({static_cast<double>(header.trained_length), "trained length"});
  }
  for (const PerplexityResult& result : results) {
    PlotSeries series;
    series.name = result.stopped.empty()
                      ? result.context
                      : fmt::format("{} (stopped at {})", result.context, FormatCount(result.stopped_at));
    for (const PositionBin& bin : Merged(result.bins, kTokensOfAPoint)) {
      if (bin.count < 4) continue;  // a point of one or two tokens is noise
      const double error = bin.standard_error();
      series.x.push_back(
          std::sqrt(static_cast<double>(std::max<int64_t>(bin.begin, 1)) * static_cast<double>(bin.end)));
      series.y.push_back(std::exp(bin.mean()));
      series.low.push_back(std::exp(bin.mean() - error));
      series.high.push_back(std::exp(bin.mean() + error));
    }
    plot.series.push_back(std::move(series));
  }
  page.AddPlot(plot);
  page.Paragraph(
      "A point is the mean of at least 256 tokens; the band is one standard error, as if tokens were "
      "independent.");
  if (const auto table = PerplexitySinkTable(results); table.size() > 2) {
    page.Heading("By sinks and cache size");
    page.Table(table, "Perplexity over all tokens; cache size is sinks and window together");
  }
  if (const auto table = PerplexityLengthTable(results); !table.empty()) {
    page.Heading("By length");
    page.Table(table, "Perplexity of the tokens in the second half of each length");
  }
  page.Heading("By position");
  page.Table(PerplexityTable(results), "Negative log-likelihood in nats per token, by octave of positions");
  page.Heading("By context");
  std::vector<std::vector<std::string>> rows = {
      {"context", "tokens", "perplexity", "tokens/s", "KV and scratch", "ended"}};
  for (const PerplexityResult& result : results) {
    rows.push_back({result.context, FormatCount(result.num_tokens),
                    result.total.count == 0 ? "-" : fmt::format("{:.3f}", std::exp(result.total.mean())),
                    fmt::format("{:.0f}", result.tokens_per_second),
                    result.kv_bytes > 0 ? FormatBytes(result.kv_bytes) : "grows",
                    result.stopped.empty() ? "with the input" : result.stopped});
  }
  page.Table(rows);
  if (!header.command.empty()) {
    page.Heading("Command");
    page.Code(header.command);
  }
  if (header.run) {
    const EvalMachine& machine = header.run->machine;
    page.Paragraph(
        fmt::format("mneme {}, model {} (fingerprint {:016x}), started {}, {} with {} threads of {}.",
                    header.run->program_version, header.run->model_file, header.run->model_fingerprint,
                    header.run->started, machine.processor, machine.num_threads, machine.num_processors));
  }
  return page.Finish();
}

}  // namespace mneme
