// Question and answer a fixed distance apart on an endless stream: what StreamEval of StreamingLLM (arXiv
// 2309.17453) measures. Accuracy by distance shows where a context forgets.
#pragma once

#include <cstdint>
#include <vector>

#include "eval/tasks/recall.h"

namespace mneme {

struct StreamTaskOptions {
  int64_t length = 1 << 16;        // tokens of the stream
  std::vector<int64_t> distances;  // tokens between the end of a statement and the question, ascending
  int64_t spacing = 0;             // tokens from one statement to the next; 0: as close as names allow
  uint64_t seed = 0;
  size_t num_candidates = 10;
};

// The stream is filler with a named key every `spacing` tokens. Each key is asked for once at every distance;
// asking leaves no trace in the stream, so that all distances are measured in one pass. Names come round
// again after 64 keys, but not before the longest distance has passed.
class StreamTask {
 public:
  // Throws Error(kInput) for options that make no sense, naming them.
  StreamTask(const Model& model, const Haystack& haystack, RecallTaskOptions options, StreamTaskOptions task);

  // One pass per context that the log does not have; rows "stream" with the label "distance". A pass that was
  // stopped, by its StopToken or by a context that cannot go on, gives rows of what was asked until then,
  // whose note says so; those of a StopToken are measured again by the next run. Returns false after a
  // stop.
  bool Run(EvalLog& log, Progress& progress);

  int64_t spacing() const { return task_.spacing; }

 private:
  struct Pass;
  void RunPass(Pass& pass, const TokensRead& on_read);
  std::vector<EvalRow> RowsOfPass(const Pass& pass) const;

  const Model model_;
  const Haystack& haystack_;
  RecallTaskOptions options_;
  StreamTaskOptions task_;
};

}  // namespace mneme
