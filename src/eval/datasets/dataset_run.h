// Asks a model the questions of a benchmark's file, writes every answer down at once, and scores it. What is
// written is what the benchmark's own scorers read, plus the score; a run that was stopped goes on behind the
// last answer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "eval/datasets/dataset.h"
#include "eval/tasks/babi.h"
#include "mneme/chat.h"
#include "mneme/model.h"
#include "mneme/session.h"

namespace mneme {

struct DatasetSettings {
  SessionOptions session;                      // with a resolved context
  std::map<std::string, std::string> prompts;  // by task; others have the built-in wording
  int64_t max_tokens = -1;                     // of an answer; -1: the task's own
  int64_t limit = -1;                          // questions of a file; -1: all
  int64_t truncate = 0;                        // keep the first and the last half of so many tokens; 0: all
  // Puts a question into a conversation: the prompt up to where the reply begins. Empty: as it is.
  std::function<std::vector<Segment>(const std::string& question)> chat;
  std::vector<std::string> chat_stops;  // text that also ends a reply
  const BabiBook* book = nullptr;       // bAbI stories: hide the facts in it...
  int64_t length = 0;                   // ...of so many tokens
  uint64_t seed = 0;                    // of the hiding
  StopToken stop = {};
};

// Mean score of one file.
struct DatasetScore {
  int64_t count = 0;
  double mean = 0;
  double standard_error = 0;
  double seconds = 0;       // of reading and answering, from the answers' file
  int64_t num_resumed = 0;  // answers that were there already
  size_t peak_bytes = 0;    // of the cap while this run asked; 0: it asked nothing
  bool is_interrupted = false;
};

// Reads the file once without a model: how many questions it has (at most `limit`), so that a bad line is
// found before hours of work. *largest, if given, becomes the bytes of the largest record if that is more.
// Throws as ReadDataset.
int64_t CountExamples(Benchmark benchmark, const DatasetFile& file, int64_t limit,
                      const std::function<void(const std::string& message)>& on_bad = nullptr,
                      size_t max_record_bytes = SIZE_MAX, size_t* largest = nullptr);

// Name of the answers' file: "qasper.jsonl", "preds_passkey.jsonl", "qa1_16k.jsonl".
std::string AnswersFileName(Benchmark benchmark, const DatasetFile& file, int64_t length);

// Thread rule: the engine's.
class DatasetRun {
 public:
  // Throws Error(kUnsupported) for a model without tokenizer.
  DatasetRun(const Model& model, const DatasetSettings& settings);

  // Asks what is not answered yet in answers_path. Throws Error(kMismatch) where the answers there are not
  // to this file's questions; Error(kInput, kBudget, kUnsupported) with the question's place. What was
  // answered stays on disk.
  DatasetScore Run(Benchmark benchmark, const DatasetFile& file, const std::string& answers_path,
                   const std::function<void(const std::string& message)>& on_bad, Progress& progress);

 private:
  struct Answer {
    std::string text;
    double seconds = 0;
    bool is_whole = false;
  };
  Answer Ask(const DatasetTask& task, const DatasetExample& example);
  std::vector<TokenId> PromptIds(const DatasetTask& task, const DatasetExample& example) const;

  const Model model_;
  DatasetSettings settings_;
  size_t peak_bytes_ = 0;
};

}  // namespace mneme
