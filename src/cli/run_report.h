// What `mneme run` did, as the JSON of --report.
#pragma once

#include <cstdint>
#include <string>

#include "cli/answer_record.h"
#include "cli/stream.h"
#include "mneme/report.h"
#include "mneme/session.h"

namespace mneme::cli {

struct RunOutcome {
  RunFacts facts;
  int64_t input_bytes = 0;
  bool is_interrupted = false;
  std::string refused;  // what ended the run before its end, or empty
  bool has_generated = false;
  GenerateResult result;
  AnswerRecord answer;
};

// The library's report with an object "run" beside the rest.
std::string RunReportJson(const OpenedModel& opened, const Stream& stream, const RunOutcome& outcome);

}  // namespace mneme::cli
