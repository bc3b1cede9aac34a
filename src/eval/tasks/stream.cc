#include "eval/tasks/stream.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <queue>

#include "base/error.h"
#include "base/text/recall_text.h"
#include "base/text/units.h"
#include "eval/tasks/draw.h"

namespace mneme {
namespace {

// Names are used again after all others; a few are left out for what a sentence more or less shifts.
constexpr int64_t kLiveNames = 60;

RecallQuestion QuestionFor(const StreamTaskOptions& task, int64_t record, std::string* statement) {
  const auto words = RecallWords();
  Random random(TrialSeed(task.seed, record));
  const std::string_view name = words[static_cast<size_t>(record) % words.size()];
  const std::string key = DrawDigits(random);
  *statement = NamedKeyStatement(name, key);
  RecallQuestion question;
  question.tail = NamedKeyQuestion(name);
  question.answers = {key};
  question.candidates = DrawCandidates(key, task.num_candidates, [&] { return DigitsLike(key, random); });
  return question;
}

}  // namespace

struct StreamTask::Pass {
  std::string context;               // resolved
  std::vector<RecallScores> scores;  // per distance
  std::vector<double> between;       // sum of true distances
  std::string note;
  bool interrupted = false;
  double seconds = 0;
  size_t peak_bytes = 0;
};

StreamTask::StreamTask(const Model& model, const Haystack& haystack, RecallTaskOptions options,
                       StreamTaskOptions task)
    : model_(model), haystack_(haystack), options_(std::move(options)), task_(std::move(task)) {
  if (options_.contexts.empty()) options_.contexts = {"auto"};
  if (task_.distances.empty()) Fail(ErrorKind::kInput, "stream: at least one distance is needed");
  std::sort(task_.distances.begin(), task_.distances.end());
  task_.distances.erase(std::unique(task_.distances.begin(), task_.distances.end()), task_.distances.end());
  const std::vector<int64_t> lengths = {task_.length};
  CheckTrials("stream", lengths, 1, task_.num_candidates);
  if (task_.distances[0] < 0)
    Fail(ErrorKind::kInput, "stream: the distance {} is negative", task_.distances[0]);
  const int64_t farthest = task_.distances.back();
  if (farthest >= task_.length)
    Fail(ErrorKind::kInput, "stream: the distance {} does not fit into a stream of {} tokens",
         FormatCount(farthest), FormatCount(task_.length));
  std::string statement;
  QuestionFor(task_, 0, &statement);
  const auto statement_tokens = static_cast<int64_t>(model_.tokenizer().Encode(statement + "\n").size());
  const int64_t closest = std::max(2 * statement_tokens, farthest / kLiveNames + 1);
  if (task_.spacing == 0) task_.spacing = closest;
  if (task_.spacing < closest)
    Fail(ErrorKind::kInput,
         "stream: with statements every {} tokens their names come again before they are asked for at "
         "distance "
         "{}; the spacing must be {} at least",
         task_.spacing, FormatCount(farthest), closest);
}

void StreamTask::RunPass(Pass& pass, const TokensRead& on_read) {
  const auto start = std::chrono::steady_clock::now();
  SessionOptions session_options = options_.session;
  session_options.context = pass.context;
  const size_t used_before = RecallStream::UsedBytes(model_);
  RecallStream stream(Session(model_, session_options), haystack_, used_before, on_read, options_.stop);
  struct Event {
    int64_t at;
    int64_t record;
    int distance;  // index, -1: the statement
    bool operator>(const Event& other) const {
      return std::pair(at, distance) > std::pair(other.at, other.distance);
    }
  };
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events;
  std::vector<int64_t> ends(64);  // where the statement of a record ended
  stream.Text(PasskeyIntroduction());
  events.push({stream.num_tokens(), 0, -1});
  try {
    while (!events.empty()) {
      const Event event = events.top();
      events.pop();
      if (event.at > task_.length) continue;
      stream.Filler(event.at, "", haystack_.can_go_on_inside() ? FillerCut::kWords : FillerCut::kUnits);
      std::string statement;
      RecallQuestion question = QuestionFor(task_, event.record, &statement);
      int64_t& end = ends[static_cast<size_t>(event.record) % ends.size()];
      if (event.distance < 0) {
        stream.EndFiller("\n");
        stream.Text(statement + "\n");
        end = stream.CountWith("");
        for (size_t i = 0; i < task_.distances.size(); ++i)
          events.push({end + task_.distances[i], event.record, static_cast<int>(i)});
        events.push({event.at + task_.spacing, event.record + 1, -1});
        continue;
      }
      const auto index = static_cast<size_t>(event.distance);
      const int64_t between = stream.CountWith("") - end;
      if (stream.in_filler()) question.tail = "\n" + question.tail;
      const RecallAnswer answer = Ask(stream, question, options_.ask);
      pass.between[index] += static_cast<double>(between);
      pass.scores[index].generated.push_back(answer.generated);
      pass.scores[index].likely.push_back(answer.likely);
    }
  } catch (const Error& error) {
    pass.interrupted = error.kind() == ErrorKind::kInterrupted;
    if (!pass.interrupted && error.kind() != ErrorKind::kBudget && error.kind() != ErrorKind::kUnsupported)
      throw;
    pass.note = fmt::format("after {} tokens: {}", FormatCount(stream.num_tokens()), error.what());
  }
  pass.peak_bytes = model_.activation_bytes() + stream.peak_bytes();
  pass.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<EvalRow> StreamTask::RowsOfPass(const Pass& pass) const {
  std::vector<EvalRow> rows;
  for (size_t i = 0; i < task_.distances.size(); ++i) {
    EvalRow row;
    row.task = "stream";
    row.context = pass.context;
    row.length = task_.length;
    row.labels["distance"] = std::to_string(task_.distances[i]);
    row.numbers["chance"] = 1.0 / static_cast<double>(task_.num_candidates);
    row.seconds = pass.seconds;
    row.peak_bytes = pass.peak_bytes;
    row.note = pass.note;
    if (pass.interrupted) row.numbers["interrupted"] = 1;
    const RecallScores none;
    const RecallScores& scores = pass.scores.empty() ? none : pass.scores[i];
    if (!scores.likely.empty())
      row.numbers["tokens_between"] = pass.between[i] / static_cast<double>(scores.likely.size());
    for (EvalRow& one : RowsOf(row, scores, options_.ask)) rows.push_back(std::move(one));
  }
  return rows;
}

bool StreamTask::Run(EvalLog& log, Progress& progress) {
  std::string statement;
  const RecallQuestion sample = QuestionFor(task_, 0, &statement);
  options_.session.max_rewind =
      std::max(options_.session.max_rewind, std::min<int64_t>(512, AskTokens(model_.tokenizer(), sample)));
  RecallRun resolver(model_, haystack_, options_);
  const std::vector<std::string> contexts = resolver.Resolve(task_.length, nullptr);
  int64_t done = 0;
  const int64_t total = task_.length * static_cast<int64_t>(contexts.size());
  for (size_t i = 0; i < contexts.size(); ++i) {
    Pass pass;
    pass.context = contexts[i];
    const std::vector<EvalRow> cells = RowsOfPass(pass);
    done = task_.length * static_cast<int64_t>(i);
    if (std::all_of(cells.begin(), cells.end(), [&](const EvalRow& row) { return log.Find(row) != nullptr; }))
      continue;
    pass.scores.resize(task_.distances.size());
    pass.between.resize(task_.distances.size());
    RunPass(pass, [&](int64_t count) {
      done += count;
      progress.Update(std::min(done, total), total, pass.context);
    });
    for (EvalRow& row : RowsOfPass(pass)) log.Add(std::move(row));
    if (pass.interrupted) {
      progress.Finish("interrupted");
      return false;
    }
  }
  progress.Finish(fmt::format("{} tokens", FormatCount(total)));
  return true;
}

}  // namespace mneme
