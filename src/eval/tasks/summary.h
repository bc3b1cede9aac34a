// A summary of a text of any length: read in one stream, or in parts whose summaries are read in turn.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "mneme/model.h"
#include "mneme/stop.h"

namespace mneme {

struct SummarySettings {
  SessionOptions session;    // with a resolved context
  int64_t max_tokens = 512;  // of a summary
  // 1: the whole text is one stream. More: the text is cut into parts of part_tokens, each is summarized by
  // itself, and what comes out is the text of the next pass; the last pass reads all that is left as one.
  int64_t passes = 1;
  int64_t part_tokens = 0;  // 0: half of the trained length, or 2048 where that is unknown
  std::string before = "Read this text, then write a summary of it.\n\n";
  std::string after = "\n\nSummary:";
  // Where the summaries of parts are kept as they come; a run that was stopped goes on behind them. Empty:
  // nowhere.
  std::string parts_path;
  StopToken stop;
};

struct SummaryResult {
  std::string text;
  int64_t num_tokens = 0;  // of the text
  int64_t num_parts = 0;   // summarized on the way, in all passes
  double seconds = 0;
  size_t peak_bytes = 0;  // of the cap
  bool is_interrupted = false;
};

// The next piece of the text; empty at the end. Bytes, cut anywhere.
using NextText = std::function<std::string()>;

// Memory does not grow with the text beyond the summaries of one pass. Throws Error(kUnsupported) for a model
// without tokenizer, Error(kInput) for an empty text, Error(kMismatch) where parts_path belongs to another
// run or text, and what Session throws.
SummaryResult Summarize(const Model& model, const SummarySettings& settings, const NextText& next,
                        Progress& progress);

}  // namespace mneme
