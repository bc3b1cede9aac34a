// mneme plan: memory and time of every context, before anything is run.
#include "mneme/plan.h"

#include <fmt/core.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/message.h"
#include "base/text/units.h"
#include "cli/console/console.h"
#include "cli/options.h"
#include "cli/stream.h"
#include "cli/verbs.h"

namespace mneme::cli {
namespace {

struct PlanArguments {
  ModelArguments model;
  SessionArguments context;
  int64_t num_tokens = -1;
  bool json = false;
  bool no_time = false;
};

std::string BytesCell(size_t bytes) { return bytes == SIZE_MAX ? "grows" : FormatBytes(bytes); }

std::string TimeCell(const PlanRow& row) {
  if (row.seconds < 0) return "-";
  const std::string best = FormatSeconds(row.seconds), slow = FormatSeconds(row.slow_seconds);
  return best == slow ? best : best + " to " + slow;
}

void PrintRows(const std::vector<PlanRow>& rows) {
  std::vector<std::vector<std::string>> table = {{"context", "KV", "scratch", "total", "time", "fits"}};
  std::string notes;
  for (const PlanRow& row : rows) {
    table.push_back({row.name == "auto" ? "auto: " + row.context : row.context, BytesCell(row.bytes.kv_bytes),
                     BytesCell(row.bytes.scratch_bytes), BytesCell(row.bytes.total()), TimeCell(row),
                     row.fits ? "yes" : "no"});
    if (!row.note.empty()) notes += fmt::format("  {}: {}\n", row.name, row.note);
  }
  WriteOut(FormatTable(table));
  if (!notes.empty()) WriteOut("\n" + notes);
}

nlohmann::ordered_json RowsJson(const std::vector<PlanRow>& rows) {
  const auto bytes = [](size_t value) {
    return value == SIZE_MAX ? nlohmann::ordered_json() : nlohmann::ordered_json(value);
  };
  const auto seconds = [](double value) {
    return value < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(value);
  };
  auto json = nlohmann::ordered_json::array();
  for (const PlanRow& row : rows) {
    json.push_back({{"name", row.name},
                    {"context", row.context},
                    {"kv_bytes", bytes(row.bytes.kv_bytes)},
                    {"scratch_bytes", bytes(row.bytes.scratch_bytes)},
                    {"other_bytes", bytes(row.bytes.other_bytes)},
                    {"total_bytes", bytes(row.bytes.total())},
                    {"bounded", row.bytes.is_bounded},
                    {"fits", row.fits},
                    {"seconds", seconds(row.seconds)},
                    {"slow_seconds", seconds(row.slow_seconds)},
                    {"note", row.note}});
  }
  return json;
}

int Plan(const PlanArguments& arguments) {
  const OpenedModel opened(arguments.model, arguments.context.engine);
  const Model& model = opened.model;
  const ModelInfo& info = model.info();
  SessionOptions options = arguments.context.options;
  options.expected_tokens = arguments.num_tokens;
  SpeedEstimate speed;
  if (!arguments.no_time) speed = MeasureSpeed(model);
  const MemorySum sum = SumMemory(model);
  const std::vector<PlanRow> rows = PlanRun(model, options, arguments.no_time ? nullptr : &speed);
  if (arguments.json) {
    nlohmann::ordered_json json;
    json["model"] = info.name;
    json["num_tokens"] = arguments.num_tokens;
    json["cap_bytes"] = sum.cap_bytes;
    json["weight_bytes"] = info.weight_bytes;
    json["packed_bytes"] = info.packed_bytes;
    json["program_bytes"] = sum.program_bytes;
    json["at_most_bytes"] = sum.total_bytes();
    json["contexts"] = RowsJson(rows);
    WriteOut(json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
    return 0;
  }
  for (const std::string& note : info.notes) PrintMessage("note: {}\n", note);
  WriteOut(fmt::format("{} ({}), {} of weights{}\n", info.name, info.family, FormatBytes(info.weight_bytes),
                       PackedText(info)));
  WriteOut(fmt::format(
      "{}, memory cap {}\nmemory: {}\n\n",
      arguments.num_tokens < 0 ? "a stream without end" : FormatCount(arguments.num_tokens) + " tokens",
      CapText(model.engine(), arguments.context.engine), sum.ToString()));
  PrintRows(rows);
  return 0;
}

}  // namespace

void AddPlan(Command& program) {
  auto arguments = std::make_shared<PlanArguments>();
  Command& verb = program.AddVerb("plan", "Memory and time of every context, before anything is run");
  AddModelOptions(verb, &arguments->model);
  verb.Number("--tokens", &arguments->num_tokens, {-1, 0x1p62, Unit::kCount}, "N",
              "Length of the stream: 200K, 10M, -1 without end (default: without end)");
  verb.Flag("--no-time", &arguments->no_time, "Do not measure the speed (some seconds)");
  verb.Flag("--json", &arguments->json, "JSON in place of a table");
  AddContextOptions(verb, &arguments->context, /*with_context=*/false);
  verb.SetAction([=] { return Plan(*arguments); });
}

}  // namespace mneme::cli
