// The tasks of published benchmarks: how each is asked (wording of our own; ReadPromptFile reads the
// published one) and scored.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "eval/scores/metric.h"

namespace mneme {

enum class Benchmark { kLongBench, kInfiniteBench, kBabi };
// "longbench", "infinitebench", "babi".
std::string_view BenchmarkName(Benchmark benchmark);

// How one task of a benchmark is asked and scored.
struct DatasetTask {
  Benchmark benchmark = Benchmark::kLongBench;
  std::string name;    // "qasper", "longbook_qa_eng", "qa1"
  std::string prompt;  // with {field}; this project's own wording
  Metric metric = Metric::kTokenF1;
  int64_t max_tokens = 32;  // of the answer, as published
  bool first_line = false;  // only the first line of the answer is scored
  bool few_shot = false;    // examples stand in the context, so that no chat format is put around it
};
// All tasks of a benchmark, by name.
std::span<const DatasetTask> DatasetTasks(Benchmark benchmark);
// Throws Error(kInput), with the names there are, if there is none.
const DatasetTask& FindDatasetTask(Benchmark benchmark, std::string_view name);

}  // namespace mneme
