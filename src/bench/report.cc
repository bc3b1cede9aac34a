#include "bench/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text/units.h"
#include "model/auto_products.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

std::string Rate(double per_second) {
  if (per_second <= 0) return "-";
  if (per_second >= 1000) return FormatCount(static_cast<int64_t>(per_second + 0.5));
  return fmt::format("{:.{}f}", per_second, per_second >= 100 ? 0 : per_second >= 10 ? 1 : 2);
}

std::string Giga(double per_second) { return per_second > 0 ? fmt::format("{:.1f}", per_second / 1e9) : "-"; }

std::string Share(double share, const std::string& of) {
  return share > 0 ? fmt::format("{:.0f}% of {}", share * 100, of) : "-";
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
          Share(row.share, row.share_of)};
}

Json RateJson(const MachineRate& rate) {
  return {{"one_thread", rate.one_thread}, {"all_threads", rate.all_threads}};
}

}  // namespace

BenchTable MachineTable(const MachineLimits& limits) {
  BenchTable table = {{"limit", "1 thread", fmt::format("{} threads", limits.num_threads), "unit"}};
  const auto add = [&](const std::string& name, const MachineRate& rate, const char* unit) {
    table.push_back({name, Giga(rate.one_thread), Giga(rate.all_threads), unit});
  };
  for (const MachineBandwidth& row : limits.bandwidth)
    add("read " + FormatBytes(row.footprint_bytes), row.read_bytes, "GB/s");
  add("fp32 multiply-add", limits.fp32_ops, "GFLOP/s");
  add("bf16 dot", limits.bf16_ops, "GFLOP/s");
  add("int16 dot", limits.int16_ops, "GOP/s");
  add("int8 dot", limits.int8_ops, "GOP/s");
  return table;
}

Json MachineJson(const MachineLimits& limits) {
  Json json;
  json["threads"] = limits.num_threads;
  json["processor"] = limits.processor;
  json["instructions"] = limits.instructions;
  json["simd_target"] = limits.simd_target;
  for (const MachineBandwidth& row : limits.bandwidth) {
    json["read_bytes_per_second"].push_back(
        {{"footprint_bytes", row.footprint_bytes}, {"rate", RateJson(row.read_bytes)}});
  }
  json["fp32_ops_per_second"] = RateJson(limits.fp32_ops);
  json["bf16_ops_per_second"] = RateJson(limits.bf16_ops);
  json["int16_ops_per_second"] = RateJson(limits.int16_ops);
  json["int8_ops_per_second"] = RateJson(limits.int8_ops);
  return json;
}

BenchTable ProductsTable(const MachineLimits& limits, const ProductRates& rates) {
  BenchTable table = {
      {"product", "1 thread", fmt::format("{} threads", limits.num_threads), "unit", "share of the peak"}};
  for (const ProductRate& row : rates.rows) {
    const bool is_float = row.encoding == Encoding::kF16;
    const MachineRate* peak = !is_float                                  ? &limits.int8_ops
                              : row.products == FloatProducts::kInt16    ? &limits.int16_ops
                              : row.products == FloatProducts::kBFloat16 ? &limits.bf16_ops
                                                                         : &limits.fp32_ops;
    const std::string name =
        is_float ? fmt::format("f16 as {}", FloatProductsName(row.products)) : "q8_0 as int8";
    const double share = peak->all_threads > 0 ? row.ops.all_threads / peak->all_threads : 0;
    table.push_back({name, Giga(row.ops.one_thread), Giga(row.ops.all_threads), "GOP/s",
                     share > 0 ? fmt::format("{:.0f}%", share * 100) : "-"});
  }
  return table;
}

std::string VerdictText(const AutoVerdict& verdict) {
  const std::string_view taken = FloatProductsName(verdict.taken), other = FloatProductsName(verdict.other);
  const std::string what =
      fmt::format("--pack auto multiplies F16 and BF16 weights as {} on {}", taken, verdict.target);
  if (verdict.gain <= 0) return what + "\n";
  if (verdict.agrees) {
    return fmt::format("{}: right here, at {:.2f} times the rate of {}\n", what, verdict.gain, other);
  }
  return fmt::format(
      "{}: WRONG HERE, at {:.2f} times the rate of {}. Measure again on a quiet machine; if it stays so, "
      "--pack {} is the faster choice, and the table of src/model/auto_products.cc lacks this processor\n",
      what, verdict.gain, other, other);
}

Json ProductsJson(const ProductRates& rates, const AutoVerdict& verdict) {
  Json json;
  for (const ProductRate& row : rates.rows) {
    json["products"].push_back(
        {{"encoding", EncodingName(row.encoding)},
         {"as", row.encoding == Encoding::kF16 ? FloatProductsName(row.products) : "int8"},
         {"ops_per_second", RateJson(row.ops)}});
  }
  json["auto"] = {{"target", verdict.target},
                  {"takes", FloatProductsName(verdict.taken)},
                  {"beside", FloatProductsName(verdict.other)},
                  {"gain", verdict.gain},
                  {"agrees", verdict.agrees}};
  return json;
}

BenchTable RowsTable(std::span<const BenchRow> rows) {
  BenchTable table = {{"what", "context", "depth", "how", "threads", "tokens/s", "spread", "bytes/token",
                       "share of the limit"}};
  for (const BenchRow& row : rows) table.push_back(RowCells(row));
  return table;
}

std::string RowsNotes(std::span<const BenchRow> rows) {
  std::string notes;
  for (const BenchRow& row : rows) {
    if (row.note.empty()) continue;
    if (notes.empty()) notes = "\n";
    notes += fmt::format("  {} at {}, {}: {}\n", row.what, FormatCount(row.depth), row.context, row.note);
  }
  if (std::any_of(rows.begin(), rows.end(), [](const BenchRow& row) { return row.reached == "filled"; })) {
    notes +=
        "\nfilled: the stream starts at that position with a full window; read: every token before it was "
        "fed.\n";
  }
  return notes;
}

Json RowsJson(std::span<const BenchRow> rows) {
  Json json = Json::array();
  for (const BenchRow& row : rows) {
    json.push_back({{"what", row.what},
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
                    {"note", row.note}});
  }
  return json;
}

Plot DecodePlot(const std::string& model, std::span<const BenchRow> rows) {
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
  return plot;
}

BenchTable ProfileTable(const std::string& name, std::span<const ProfileRow> rows) {
  const double whole = rows.back().seconds;
  BenchTable table = {{name, "ms", "share", "GB/s", "GFLOP/s"}};
  for (const ProfileRow& row : rows) {
    table.push_back({row.op, fmt::format("{:.3f}", row.seconds * 1e3),
                     fmt::format("{:.1f}%", whole > 0 ? row.seconds / whole * 100 : 0),
                     row.seconds > 0 ? Giga(row.bytes / row.seconds) : "-",
                     row.seconds > 0 ? Giga(row.flops / row.seconds) : "-"});
  }
  return table;
}

Json ProfileJson(std::span<const ProfileRow> rows) {
  Json json = Json::array();
  for (const ProfileRow& row : rows) {
    json.push_back({{"op", row.op}, {"seconds", row.seconds}, {"bytes", row.bytes}, {"flops", row.flops}});
  }
  return json;
}

BenchTable KernelsTable(std::span<const KernelRow> rows) {
  BenchTable table = {{"kernel", "us", "spread", "GB/s", "GOP/s", "share of the limit"}};
  for (const KernelRow& row : rows) {
    const double seconds = row.timing.median_seconds;
    table.push_back({row.name, fmt::format("{:.1f}", seconds * 1e6),
                     fmt::format("{:.0f}%", row.timing.spread * 100), Giga(row.bytes / seconds),
                     Giga(row.ops / seconds), Share(row.share, row.share_of)});
  }
  return table;
}

Json KernelsJson(std::span<const KernelRow> rows) {
  Json json = Json::array();
  for (const KernelRow& row : rows) {
    json.push_back({{"kernel", row.name},
                    {"seconds", row.timing.median_seconds},
                    {"spread", row.timing.spread},
                    {"bytes", row.bytes},
                    {"ops", row.ops},
                    {"share", row.share},
                    {"share_of", row.share_of}});
  }
  return json;
}

}  // namespace mneme
