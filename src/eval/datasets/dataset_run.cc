#include "eval/datasets/dataset_run.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "base/text/json.h"
#include "base/text/units.h"
#include "eval/scores/text.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One answer as its benchmark's scorer reads it; ours stands behind.
Json AnswerJson(Benchmark benchmark, const DatasetExample& example, const std::string& text) {
  Json json;
  switch (benchmark) {
    case Benchmark::kLongBench:
      json["pred"] = text;
      json["answers"] = example.answers;
      json["all_classes"] = example.classes.empty() ? Json(nullptr) : Json(example.classes);
      json["length"] = example.length;
      break;
    case Benchmark::kInfiniteBench:
      json["prediction"] = text;
      json["ground_truth"] = example.answers;
      break;
    case Benchmark::kBabi:
      json["target"] = example.answers[0];
      json["output"] = text;
      json["question"] = example.fields.at("question");
      break;
  }
  json["id"] = example.id;
  return json;
}

// The answers of an earlier run. A last line that was cut by a crash is taken away from the file.
struct Answered {
  std::vector<std::string> ids;
  std::vector<double> scores;
  std::vector<double> seconds;
};
Answered ReadAnswers(const std::string& path) {
  Answered answered;
  if (!FileExists(path)) return answered;
  const std::string text = ReadWholeFile(path, kMaxDataBytes);
  const size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
  size_t number = 0;
  for (const std::string_view line : scores::Split(std::string_view(text).substr(0, whole), '\n')) {
    ++number;
    if (line.empty()) continue;
    try {
      const Json json = Json::parse(line);
      answered.ids.push_back(json.at("id").get<std::string>());
      answered.scores.push_back(json.at("score").get<double>());
      answered.seconds.push_back(json.at("seconds").get<double>());
    } catch (const Json::exception& error) {
      Fail(ErrorKind::kMismatch, "{}:{}: not an answer of this program ({}); name another folder", path,
           number, JsonReason(error));
    }
  }
  if (whole < text.size()) {
    AtomicFileWriter writer(path);
    writer.Write(std::string_view(text).substr(0, whole));
    writer.Commit();
  }
  return answered;
}

DatasetScore Summarize(const Answered& answered) {
  DatasetScore score;
  score.count = static_cast<int64_t>(answered.scores.size());
  for (const double value : answered.seconds) score.seconds += value;
  if (score.count == 0) return score;
  const double n = static_cast<double>(score.count);
  double sum = 0, squares = 0;
  for (const double value : answered.scores) sum += value;
  score.mean = sum / n;
  for (const double value : answered.scores) squares += (value - score.mean) * (value - score.mean);
  if (score.count > 1) score.standard_error = std::sqrt(squares / (n - 1) / n);
  return score;
}

}  // namespace

int64_t CountExamples(Benchmark benchmark, const DatasetFile& file, int64_t limit,
                      const std::function<void(const std::string& message)>& on_bad, size_t max_record_bytes,
                      size_t* largest) {
  int64_t count = 0;
  if (limit == 0) return 0;
  const auto on_example = [&](DatasetExample&& example) {
    if (largest != nullptr) *largest = std::max(*largest, example.record_bytes);
    return ++count != limit;
  };
  ReadDataset(benchmark, file, on_example, on_bad, max_record_bytes);
  return count;
}

std::string AnswersFileName(Benchmark benchmark, const DatasetFile& file, int64_t length) {
  std::string name = std::filesystem::path(file.path).stem().string();
  if (benchmark == Benchmark::kInfiniteBench) name = "preds_" + name;
  if (!file.variant.empty()) name = file.task + "_" + file.variant;
  if (length > 0) name += fmt::format("_{}", length);
  return name + ".jsonl";
}

DatasetRun::DatasetRun(const Model& model, const DatasetSettings& settings)
    : model_(model), settings_(settings) {
  if (!model_.has_tokenizer()) {
    Fail(ErrorKind::kUnsupported,
         "{} carries no tokenizer, and the questions are text; name one with --tokenizer",
         model_.info().name);
  }
}

std::vector<TokenId> DatasetRun::PromptIds(const DatasetTask& task, const DatasetExample& example) const {
  const Tokenizer& tokenizer = model_.tokenizer();
  const auto own = settings_.prompts.find(task.name);
  const std::string text = RenderPrompt(own == settings_.prompts.end() ? task.prompt : own->second, example);
  std::vector<TokenId> ids;
  if (settings_.chat && !task.few_shot) {
    ids = EncodePrompt(tokenizer, settings_.chat(text));
  } else {
    ids = tokenizer.Encode(text, {.add_bos = tokenizer.adds_bos()});
  }
  const size_t keep = static_cast<size_t>(settings_.truncate);
  if (keep > 0 && ids.size() > keep) {
    const auto half = static_cast<ptrdiff_t>(keep / 2);
    ids.erase(ids.begin() + half, ids.end() - static_cast<ptrdiff_t>(keep - keep / 2));
  }
  return ids;
}

DatasetRun::Answer DatasetRun::Ask(const DatasetTask& task, const DatasetExample& example) {
  Answer answer;
  const std::vector<TokenId> ids = PromptIds(task, example);
  const auto start = std::chrono::steady_clock::now();
  Session session(model_, settings_.session);
  if (session.Feed(ids, settings_.stop) < static_cast<int64_t>(ids.size())) return answer;
  GenerateOptions generate;
  generate.max_tokens = settings_.max_tokens >= 0 ? settings_.max_tokens : task.max_tokens;
  generate.stop_strings = settings_.chat_stops;
  Generation generation = session.Generate(generate);
  while (const auto piece = generation.Next(settings_.stop)) {
    answer.text += piece->text;
    // Only the first line counts.
    const size_t begin = answer.text.find_first_not_of('\n');
    if (task.first_line && begin != std::string::npos && answer.text.find('\n', begin) != std::string::npos)
      break;
  }
  peak_bytes_ = std::max(peak_bytes_, model_.activation_bytes() + session.memory().peak_bytes);
  answer.seconds = SecondsSince(start);
  answer.is_whole = generation.result().reason != StopReason::kInterrupted;
  return answer;
}

DatasetScore DatasetRun::Run(Benchmark benchmark, const DatasetFile& file, const std::string& answers_path,
                             const std::function<void(const std::string& message)>& on_bad,
                             Progress& progress) {
  const DatasetTask& task = FindDatasetTask(benchmark, file.task);
  const int64_t total = CountExamples(benchmark, file, settings_.limit, on_bad,
                                      MaxRecordBytes(model_.engine().options().memory_bytes));
  Answered answered = ReadAnswers(answers_path);
  if (settings_.limit >= 0 && answered.ids.size() > static_cast<size_t>(settings_.limit)) {
    // The score is that of the first `limit` questions, however many are answered.
    const auto limit = static_cast<size_t>(settings_.limit);
    answered.ids.resize(limit);
    answered.scores.resize(limit);
    answered.seconds.resize(limit);
  }
  const int64_t num_resumed = static_cast<int64_t>(answered.ids.size());
  if (num_resumed > total) {
    Fail(ErrorKind::kMismatch, "{} has {} answers, but {} has only {} questions; name another folder",
         answers_path, num_resumed, file.path, total);
  }
  std::ofstream out;
  int64_t index = 0;
  bool is_interrupted = false;
  const auto on_example = [&](DatasetExample&& example) {
    if (index == settings_.limit) return false;
    if (index < num_resumed) {
      if (answered.ids[static_cast<size_t>(index)] != example.id) {
        Fail(ErrorKind::kMismatch, "{} answers question {}, but question {} comes here; name another folder",
             answers_path, answered.ids[static_cast<size_t>(index)], example.id);
      }
      return ++index != settings_.limit;
    }
    if (settings_.stop.stop_requested()) return !(is_interrupted = true);
    if (settings_.book != nullptr) {
      std::vector<std::string> facts;
      for (const std::string_view fact : scores::Split(example.fields["input"], '\n'))
        facts.emplace_back(fact);
      example.fields["input"] = settings_.book->Hide(facts, settings_.length, model_.tokenizer(),
                                                     settings_.seed + static_cast<uint64_t>(index));
    }
    const Answer answer = Ask(task, example);
    if (!answer.is_whole) return !(is_interrupted = true);
    ScoreInput input{answer.text, example.answers, example.classes, example.fields["question"]};
    if (task.first_line) {
      const size_t begin = std::min(answer.text.find_first_not_of('\n'), answer.text.size());
      input.prediction = answer.text.substr(begin, answer.text.find('\n', begin) - begin);
    }
    Json line = AnswerJson(benchmark, example, answer.text);
    answered.scores.push_back(ScoreAnswer(task.metric, input));
    answered.seconds.push_back(answer.seconds);
    line["score"] = answered.scores.back();
    line["seconds"] = answer.seconds;
    if (!out.is_open()) out.open(answers_path, std::ios::app | std::ios::binary);
    out << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n' << std::flush;
    if (!out) throw Error(ErrorKind::kFile, fmt::format("{}: cannot be written", answers_path));
    ++index;
    progress.Update(index, total,
                    fmt::format("{} {}, score {:.3f}", file.task, example.id, Summarize(answered).mean));
    return index != settings_.limit;
  };
  if (settings_.limit != 0)
    ReadDataset(
        benchmark, file, on_example, on_bad == nullptr ? on_bad : [](const auto&) {},
        MaxRecordBytes(model_.engine().options().memory_bytes));
  DatasetScore score = Summarize(answered);
  score.num_resumed = num_resumed;
  score.is_interrupted = is_interrupted;
  if (index > num_resumed) score.peak_bytes = peak_bytes_;
  return score;
}

}  // namespace mneme
