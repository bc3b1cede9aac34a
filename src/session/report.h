// What a run did, in full, as JSON (--report FILE.json) and in a few lines for people.
#pragma once

#include <cstdint>
#include <string>

#include "base/budget.h"
#include "session/session.h"

namespace mneme {

// What the session cannot know by itself.
struct RunFacts {
  std::string program_version;
  std::string context_asked;   // as the user wrote it: "auto"
  std::string context_reason;  // why auto chose what it did; may be empty
  double wall_seconds = 0;     // of the whole run; 0: leave out
  size_t num_threads = 0;
};

// One JSON object, indented: "version", "model", "context", "options" (every option of the session and its
// sampler by name, as session/fields.cc lists them), "memory" (cap, peak, by tag), "ledger", "speed" (prefill, decode,
// first and last tenth, time to first token), "resident" (first and last tenth, samples), "stream".
std::string ReportJson(const Session& session, const Budget& budget, const RunFacts& facts);

// Lines for the end of a run: speed, flatness, peak bytes by tag, ledger. Ends with a newline.
std::string ReportText(const Session& session, const Budget& budget);

}  // namespace mneme
