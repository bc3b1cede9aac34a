// What a measurement writes down: rows of results, and a header with everything needed to repeat them. One
// JSON file for all tasks, written as rows finish, so that a run that was stopped goes on where it was; and
// one page with pictures and tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mneme/model.h"

namespace mneme {

// One cell of a grid. Task, context, length, depth and labels identify it.
struct EvalRow {
  std::string task;
  std::string context;          // resolved spec: "sinks:sinks=4,window=1020"
  int64_t length = 0;           // tokens asked for; 0: not a quantity of this task
  std::optional<double> depth;  // 0 front .. 1 just before the question
  std::map<std::string, std::string> labels;

  int64_t trials = 0;   // 0: nothing was measured, and `note` says why
  double accuracy = 0;  // mean of `metric` over the trials
  std::string metric = "accuracy";
  // Of the mean. Unset: that of a share, sqrt(a (1 - a) / trials).
  std::optional<double> standard_error;
  double seconds = 0;
  size_t peak_bytes = 0;  // under the cap: what one session held at most, with its activations

  std::map<std::string, double> numbers;  // more of what was measured: {"tokens", 1023.5}
  std::string note;

  bool SameCell(const EvalRow& other) const;
  double Error() const;
  // Where the true value lies with a probability of 95%. Of a share Wilson's interval (1927), which holds for
  // few trials and for none or all that are right; else two standard errors (1.96) to either side.
  std::pair<double, double> Interval() const;
};

struct EvalMachine {
  std::string processor;  // as /proc/cpuinfo names it; empty if unknown
  size_t num_processors = 0;
  size_t num_threads = 0;
  size_t memory_bytes = 0;
  std::string system;  // kernel name and release
};

struct EvalHeader {
  std::string task;
  std::string title;  // of the page
  std::string command;
  std::string program_version;
  std::string started;  // UTC, ISO 8601
  uint64_t seed = 0;
  std::string model_name;
  std::string model_family;
  std::string model_file;  // the last part of its path
  uint64_t model_fingerprint = 0;
  uint64_t tokenizer_fingerprint = 0;
  int64_t trained_length = 0;  // 0: unknown
  // What decides the results, as text, in the order in which to show it: {"trials", "20"}.
  std::vector<std::pair<std::string, std::string>> settings;
  EvalMachine machine;
};

struct EvalReport {
  EvalHeader header;
  std::vector<EvalRow> rows;
};

// Model, machine and time of day; task, command, seed and settings are the caller's.
EvalHeader MakeEvalHeader(const Model& model);
EvalMachine ThisMachine(size_t num_threads);

// {"format": "mneme eval", "version": 1, "task", "command", "seed", "program", "started", "model": {...},
// "machine": {...}, "settings": {...}, "results": [{"task", "context", "length", "depth", "trials",
// "accuracy", "standard_error", "seconds", "peak_bytes", ...}]}. A depth that is none is null; labels and
// numbers are keys of the row.
std::string EvalJson(const EvalReport& report);
// Throws Error(kFile), naming `name` and the key, for text that EvalJson did not write.
EvalReport ParseEvalJson(std::string_view text, const std::string& name);
EvalReport ReadEvalReport(const std::string& path);

// The results of a run while it goes on: in memory, and after each row in the JSON file. Thread rule: one
// thread at a time.
class EvalLog {
 public:
  // Paths may be empty: not written; json may be "-", which is left to the caller. Where the JSON file is
  // there already its rows are taken over. Throws Error(kMismatch), naming the first difference, where it
  // belongs to another model, task, seed or other settings, and Error(kFile) where it is not such a file.
  EvalLog(EvalHeader header, std::string json_path, std::string html_path);

  const EvalReport& report() const { return report_; }
  size_t num_resumed() const { return num_resumed_; }
  // A finished row of this cell (one that measured something), or null.
  const EvalRow* Find(const EvalRow& cell) const;
  // Adds, or replaces the row of the same cell; writes the files. Throws Error(kFile).
  void Add(EvalRow row);
  // Writes both files as they are now.
  void Write() const;

 private:
  EvalReport report_;
  std::string json_path_;
  std::string html_path_;
  size_t num_resumed_ = 0;
};

}  // namespace mneme
