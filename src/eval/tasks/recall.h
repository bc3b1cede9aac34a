// Runs recall tasks: statements hidden in a haystack, questions at its end, for one context after the other.
// What trials have in common is read once: the haystack before the first statement goes to one session,
// which is cloned where the texts part.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "eval/report/grid.h"
#include "eval/tasks/candidates.h"
#include "eval/tasks/haystack.h"
#include "mneme/model.h"

namespace mneme {

// How a text is put together: head, filler, statement, filler, ..., the question's tail.
struct RecallLayout {
  std::string head;                 // before everything, with what follows it
  std::string after_filler = "\n";  // ends a stretch of filler
  std::string after_statement = "\n";
  FillerCut last_cut = FillerCut::kUnits;  // of the filler before the question
  bool has_filler = true;                  // false: the statements are all of the text, whatever its length
};

struct RecallStatement {
  double place = 0;  // share of the filler before it
  std::string text;
};

struct RecallTrial {
  std::vector<RecallStatement> statements;  // ascending places
  std::vector<RecallQuestion> questions;    // each is asked of the same text
};

// A cell of the grid: row says task, length, depth and labels.
struct RecallCell {
  EvalRow row;
  RecallLayout layout;
  std::vector<RecallTrial> trials;
};

// The share of likeliest answers that guessing gets right, for the row's "chance": the mean over all
// questions. Some have fewer candidates than were asked for, because there are no more (keys of one digit).
double ChanceOf(const std::vector<RecallTrial>& trials);

struct RecallOptions {
  SessionOptions session;             // the context is that of each run
  std::vector<std::string> contexts;  // as the user wrote them
  AskOptions ask;
  StopToken stop = {};
};

// Thread rule: the engine's. Haystack and log outlive it.
class RecallRun {
 public:
  RecallRun(const Model& model, const Haystack& haystack, RecallOptions options);

  // Every context with every cell that the log does not have yet: shorter texts first, shallow statements
  // first. Rows are added as cells finish: per way of scoring one, with the label "score". A cell that the
  // context cannot hold under the cap, or whose length its own statements exceed, gives a row without trials
  // whose note says why. Returns false after a stop; what was finished stays. Throws Error(kInput) if
  // no cell fits its length, before anything runs, and where a haystack ends too early; the finished rows
  // stay in the log.
  bool Run(std::vector<RecallCell> cells, EvalLog& log, Progress& progress);

  // The contexts, resolved (auto included) for streams of num_tokens; reasons: what auto says, to be shown.
  std::vector<std::string> Resolve(int64_t num_tokens, std::vector<std::string>* reasons) const;

 private:
  const Model model_;
  const Haystack& haystack_;
  RecallOptions options_;
};

// Both ways of scoring as rows of the cell: mean and standard error over trials, with the labels "score".
struct RecallScores {
  std::vector<double> generated;  // per trial, 0..1
  std::vector<double> likely;
};
std::vector<EvalRow> RowsOf(const EvalRow& cell, const RecallScores& scores, const AskOptions& options);

}  // namespace mneme
