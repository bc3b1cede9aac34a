#include "cli/run_report.h"

#include <nlohmann/json.hpp>

namespace mneme::cli {

std::string RunReportJson(const OpenedModel& opened, const Stream& stream, const RunOutcome& outcome) {
  using Json = nlohmann::ordered_json;
  Json json = Json::parse(ReportJson(stream.session, outcome.facts));
  const MemorySum sum = SumMemory(opened.model);
  json["memory"]["program_bytes"] = sum.program_bytes;
  json["memory"]["at_most_bytes"] = sum.total_bytes();
  Json& run = json["run"];
  run["load_seconds"] = opened.load_seconds;
  run["packed_weight_bytes"] = opened.model.info().packed_bytes;
  run["input_bytes"] = outcome.input_bytes;
  run["interrupted"] = outcome.is_interrupted;
  run["refused"] = outcome.refused.empty() ? Json() : Json(outcome.refused);
  if (outcome.has_generated) {
    run["generated_tokens"] = outcome.answer.tokens();
    run["generated_text"] = outcome.answer.text();
    run["generated_tokens_left_out"] = outcome.answer.num_tokens_left_out();
    run["generated_text_bytes_left_out"] = outcome.answer.num_text_bytes_left_out();
    run["backspaces"] = outcome.result.num_backspaces;
    run["ended_by"] = StopReasonName(outcome.result.reason);
    run["message"] = outcome.result.message;
  }
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace mneme::cli
