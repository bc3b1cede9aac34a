// Question files of published benchmarks, as their users have them: LongBench and InfiniteBench (one JSON
// object on each line), BABILong (the same, or one array) and bAbI (numbered sentences). What a file has
// wrong is named with file and line. Nothing is downloaded.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/datasets/dataset_tasks.h"

namespace mneme {

// One question.
struct DatasetExample {
  std::string id;     // as the file gives it, else "file-name:line"; unique within a task
  std::string where;  // "folder/qasper.jsonl:12"
  std::map<std::string, std::string> fields;  // what a prompt may name: context, input, question, ...
  std::vector<std::string> answers;           // as the metric wants them
  std::vector<std::string> classes;           // for Metric::kClass and kLabel
  int64_t length = 0;                         // as the file states it; 0: it does not
  size_t record_bytes = 0;                    // of what it was read from
};

// A file of questions of one task.
struct DatasetFile {
  std::string path;
  std::string task;
  std::string variant;  // BABILong: the length in the file's name ("16k"); else empty
};
// The files of a folder (searched two levels deep for BABILong, whose files are qa1/16k.json) or the file
// itself, sorted by task. The task is what the name begins with: qasper.jsonl, qasper_e.jsonl,
// qa1_single-supporting-fact_test.txt. `tasks`: only these; empty: all. Throws Error(kFile) for a path that
// is not there, Error(kInput) where no file of a known task is found, or a wanted task has none.
std::vector<DatasetFile> FindDatasetFiles(Benchmark benchmark, const std::string& path,
                                          std::span<const std::string> tasks);

// What a question takes while it is read, rendered and asked, in sizes of its record (a line, or an element
// of the array).
inline constexpr size_t kRecordCopies = 6;
// The largest record that may be read under a memory cap: questions take at most half of it.
inline size_t MaxRecordBytes(size_t cap_bytes) { return cap_bytes / (2 * kRecordCopies); }

// Calls on_example for every question in order until it returns false. Memory: the largest record. Throws
// Error(kInput), naming file, line and what is wrong, also for a record of more than max_record_bytes; with
// on_bad set it is called with that message instead, and the line is passed over. Throws Error(kFile).
void ReadDataset(Benchmark benchmark, const DatasetFile& file,
                 const std::function<bool(DatasetExample&& example)>& on_example,
                 const std::function<void(const std::string& message)>& on_bad = nullptr,
                 size_t max_record_bytes = SIZE_MAX);

// `prompt` with every {name} replaced by the field of that name. Braces that hold anything but letters,
// digits and "_" stay. Throws Error(kInput), naming the example, for a field that it does not have.
std::string RenderPrompt(std::string_view prompt, const DatasetExample& example);

// {"task": "template", ...}, as the benchmarks publish their prompts. Throws Error(kFile, kInput).
std::map<std::string, std::string> ReadPromptFile(const std::string& path);

}  // namespace mneme
