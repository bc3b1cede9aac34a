// What a run did, in full, as JSON (--report FILE.json) and in a few lines for people.
#pragma once

#include <string>

#include "mneme/export.h"
#include "mneme/session.h"

namespace mneme {

// What the session cannot know by itself.
struct RunFacts {
  std::string program_version;
  std::string context_asked;   // as the user wrote it: "auto"
  std::string context_reason;  // why auto chose what it did; may be empty
  double wall_seconds = 0;     // of the whole run; 0: leave out
};

// One JSON object, indented: "version", "model", "context", "options" (every option of the engine and of the
// session with its sampler, by name), "memory" (cap, peak, by tag), "ledger", "speed" (prefill, decode, first
// and last tenth, time to first token), "resident" (first and last tenth, samples), "stream", "recalled"
// (what came back for the last turn: positions, votes, bias, text). Memory is that of the whole engine.
MNEME_API std::string ReportJson(const Session& session, const RunFacts& facts);

// What came back for the last turn, a line for each stretch, the largest share of the votes first:
// "  12,352-12,415  votes 31.4  ...text...". Control characters are shown as such. Empty where nothing did.
MNEME_API std::string RecalledText(const Session& session, size_t max_lines = 8);

// Lines for the end of a run: speed, flatness, peak bytes by tag, ledger. Ends with a newline.
MNEME_API std::string ReportText(const Session& session);

}  // namespace mneme
