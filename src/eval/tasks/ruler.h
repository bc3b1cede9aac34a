// RULER's thirteen tasks (arXiv 2404.06654) as recall tasks: needles of eight kinds, variables, common and
// frequent words, questions over documents. In its wordings; drawn from a seed, so not its very texts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/tasks/recall.h"
#include "mneme/tokenizer.h"

namespace mneme {

enum class RulerHaystack : uint8_t {
  kNoise,        // the papers' filler
  kEssay,        // a text of the user's; the papers' filler without one
  kWordNeedles,  // other needles: numbers for made-up words
  kUuidNeedles,  // other needles: UUIDs for UUIDs
};

struct RulerTask {
  std::string_view name;  // "niah_single_1", ..., "qa_2"
  RulerHaystack haystack = RulerHaystack::kNoise;
  std::string_view help;
};
// All thirteen, in RULER's order.
const std::vector<RulerTask>& RulerTasks();

struct RulerOptions {
  std::vector<std::string> tasks;  // names; empty: all that there is a file for
  std::vector<int64_t> lengths;    // tokens
  std::vector<double> depths;      // of the first needle; empty: anywhere
  int64_t num_trials = 20;
  uint64_t seed = 0;
  std::string squad_path;   // SQuAD 2.0's JSON, for qa_1
  std::string hotpot_path;  // HotpotQA's JSON, for qa_2
};

// The tasks of which `options` speaks, in order. Throws Error(kInput) for names that are not known, and for
// tasks whose file is missing.
std::vector<RulerTask> ChosenRulerTasks(const RulerOptions& options);

// The cells of one task: one per length (and depth, of needles). The row's task is "ruler", its label "task"
// the name. Words and documents are as many as fit the length in tokens. Throws Error(kInput) for options
// that make no sense and texts that cannot be made so short, Error(kFile) for files that cannot be read or
// are not what they should be.
std::vector<RecallCell> RulerCells(const RulerTask& task, const RulerOptions& options,
                                   const Tokenizer& tokenizer);

// What needles are hidden in, of all kinds but kEssay.
Haystack RulerHaystackOf(RulerHaystack kind, uint64_t seed);

// Means over tasks, for each context and length one row with the label "task": "mean", and RULER's effective
// length of each context: the longest length up to which no mean is below `threshold` (0: none).
struct RulerSummary {
  std::vector<EvalRow> means;
  std::vector<std::pair<std::string, int64_t>> effective_lengths;  // context, tokens
};
// What Llama 2 7B reaches at 4K tokens, RULER's own measure.
inline constexpr double kRulerThreshold = 0.856;
RulerSummary SummarizeRuler(const std::vector<EvalRow>& rows, double threshold = kRulerThreshold);

}  // namespace mneme
