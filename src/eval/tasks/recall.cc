#include "eval/tasks/recall.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/text/units.h"
#include "mneme/plan.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Mean {
  double mean = 0;
  std::optional<double> error;
};

// With answers that are right or wrong the error is that of a share; with shares that of their mean.
Mean MeanOf(const std::vector<double>& values) {
  Mean result;
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  bool whole = true;
  for (const double value : values) {
    sum += value;
    squares += value * value;
    whole = whole && (value == 0 || value == 1);
  }
  result.mean = sum / n;
  if (!whole && values.size() > 1) {
    const double spread = squares - sum * sum / n;
    // What is left of equal values is rounding.
    result.error = spread > 1e-12 * squares ? std::sqrt(spread / (n - 1) / n) : 0;
  }
  return result;
}

int64_t CountTokens(const Tokenizer& tokenizer, std::string_view text) {
  return static_cast<int64_t>(tokenizer.Encode(text).size());
}

// A trial with its places in tokens.
struct Plan {
  const RecallTrial* trial = nullptr;
  std::vector<int64_t> positions;  // where the statements begin
  int64_t first() const { return positions.empty() ? 0 : positions[0]; }
};

std::string Suffix(const RecallCell& cell, const RecallTrial& trial) {
  MNEME_CHECK(!trial.questions.empty());
  const RecallQuestion* longest = &trial.questions[0];
  for (const RecallQuestion& question : trial.questions) {
    if (question.tail.size() > longest->tail.size()) longest = &question;
  }
  return cell.layout.after_filler + longest->tail + longest->gap;
}

Plan MakePlan(const Tokenizer& tokenizer, const RecallCell& cell, const RecallTrial& trial) {
  Plan plan;
  plan.trial = &trial;
  EncodeOptions options;
  options.add_bos = tokenizer.adds_bos();
  const auto head = static_cast<int64_t>(tokenizer.Encode(cell.layout.head, options).size());
  std::vector<int64_t> sizes;
  int64_t fixed = head + CountTokens(tokenizer, Suffix(cell, trial));
  for (const RecallStatement& statement : trial.statements) {
    sizes.push_back(
        CountTokens(tokenizer, cell.layout.after_filler + statement.text + cell.layout.after_statement));
    fixed += sizes.back();
  }
  if (fixed > cell.row.length) {
    Fail(ErrorKind::kInput,
         "length {}: the task's own text (introduction, statements, question) takes {} tokens of this "
         "model's vocabulary; ask for longer texts",
         FormatCount(cell.row.length), FormatCount(fixed));
  }
  const auto room = static_cast<double>(cell.row.length - fixed);
  int64_t before = head;
  for (size_t i = 0; i < sizes.size(); ++i) {
    plan.positions.push_back(before + std::llround(trial.statements[i].place * room));
    before += sizes[i];
  }
  return plan;
}

}  // namespace

double ChanceOf(const std::vector<RecallTrial>& trials) {
  double mean = 0, count = 0;
  for (const RecallTrial& trial : trials) {
    for (const RecallQuestion& question : trial.questions)
      mean += (1.0 / static_cast<double>(question.candidates.size()) - mean) / ++count;
  }
  return mean;
}

std::vector<EvalRow> RowsOf(const EvalRow& cell, const RecallScores& scores, const AskOptions& options) {
  std::vector<EvalRow> rows;
  const auto add = [&](const char* name, const std::vector<double>& values) {
    EvalRow row = cell;
    row.labels["score"] = name;
    row.trials = static_cast<int64_t>(values.size());
    if (!values.empty()) {
      const Mean mean = MeanOf(values);
      row.accuracy = mean.mean;
      row.standard_error = mean.error;
    }
    rows.push_back(std::move(row));
  };
  if (options.generate) add("generate", scores.generated);
  if (options.likelihood) add("likelihood", scores.likely);
  if (!options.likelihood) {
    for (EvalRow& row : rows) row.numbers.erase("chance");
  }
  return rows;
}

RecallRun::RecallRun(const Model& model, const Haystack& haystack, RecallOptions options)
    : model_(model), haystack_(haystack), options_(std::move(options)) {
  if (options_.contexts.empty()) options_.contexts = {"auto"};
  if (!options_.ask.generate && !options_.ask.likelihood)
    Fail(ErrorKind::kInput, "no way of scoring was given: generate, likelihood");
}

std::vector<std::string> RecallRun::Resolve(int64_t num_tokens, std::vector<std::string>* reasons) const {
  std::vector<std::string> resolved;
  for (const std::string& context : options_.contexts) {
    SessionOptions session = options_.session;
    session.context = context;
    // auto gets half, since a trunk and a branch are there at the same time. A context that was named is
    // taken as it is: what it cannot hold is seen cell by cell.
    if (context == "auto") {
      // Activations take a quarter at the most.
      session.memory_bytes = model_.engine().options().memory_bytes / 4 * 3 / 2;
      session.expected_tokens = num_tokens;
    }
    // The store is as long as the text.
    if (context.starts_with("recall")) session.expected_tokens = num_tokens;
    ContextChoice choice = ChooseContext(model_, session);
    if (!choice.reason.empty() && reasons != nullptr)
      reasons->push_back(fmt::format("{} ({})", choice.context, choice.reason));
    resolved.push_back(std::move(choice.context));
  }
  return resolved;
}

namespace {

// The cells of one context.
class ContextRun {
 public:
  ContextRun(const Model& model, const Haystack& haystack, const RecallOptions& options,
             const std::string& context, const TokensRead& on_read)
      : model_(model),
        haystack_(haystack),
        options_(options),
        on_read_(on_read),
        session_options_(options.session) {
    session_options_.context = context;
  }

  // Adds what was measured to `row`.
  RecallScores RunCell(const RecallCell& cell, EvalRow* row) {
    const auto start = Clock::now();
    std::vector<Plan> plans;
    for (const RecallTrial& trial : cell.trials) plans.push_back(MakePlan(model_.tokenizer(), cell, trial));
    std::vector<size_t> order(plans.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return plans[a].first() < plans[b].first(); });
    RecallScores scores;
    scores.generated.resize(plans.size());
    scores.likely.resize(plans.size());
    peak_bytes_ = 0;
    double tokens = 0;
    for (const size_t i : order) tokens += RunTrial(cell, plans[i], i, &scores);
    row->seconds = SecondsSince(start);
    row->peak_bytes = model_.activation_bytes() + peak_bytes_;
    row->numbers["tokens"] = tokens / static_cast<double>(plans.size());
    return scores;
  }

 private:
  std::unique_ptr<RecallStream> NewStream() {
    const size_t used_before = RecallStream::UsedBytes(model_);
    return std::make_unique<RecallStream>(Session(model_, session_options_), haystack_, used_before, on_read_,
                                          options_.stop);
  }

  std::unique_ptr<RecallStream> Begun(const RecallLayout& layout) {
    auto stream = NewStream();
    stream->Text(layout.head);
    return stream;
  }

  // A stream that has read head and filler up to `position`.
  std::unique_ptr<RecallStream> Branch(const RecallLayout& layout, int64_t position) {
    if (shares_) {
      try {
        if (!trunk_ || trunk_head_ != layout.head || trunk_position_ > position) {
          trunk_.reset();
          trunk_ = Begun(layout);
          trunk_head_ = layout.head;
        }
        if (layout.has_filler) trunk_->Filler(position, "", FillerCut::kUnits);
        trunk_position_ = position;
        return trunk_->Clone();
      } catch (const Error& error) {
        // It may have read a part of what its place says, and another cell would go on with it.
        trunk_.reset();
        if (error.kind() != ErrorKind::kBudget) throw;
        // Two do not fit; one alone may.
        shares_ = false;
      }
    }
    auto stream = Begun(layout);
    if (layout.has_filler) stream->Filler(position, "", FillerCut::kUnits);
    return stream;
  }

  // Returns the tokens of its text.
  double RunTrial(const RecallCell& cell, const Plan& plan, size_t index, RecallScores* scores) {
    const RecallLayout& layout = cell.layout;
    const auto stream = Branch(layout, plan.first());
    for (size_t i = 0; i < plan.positions.size(); ++i) {
      if (i > 0 && layout.has_filler) stream->Filler(plan.positions[i], "", FillerCut::kUnits);
      stream->EndFiller(layout.after_filler);
      stream->Text(plan.trial->statements[i].text + layout.after_statement);
    }
    if (layout.has_filler) stream->Filler(cell.row.length, Suffix(cell, *plan.trial), layout.last_cut);
    stream->EndFiller(layout.after_filler);
    double tokens = 0;
    for (const RecallQuestion& question : plan.trial->questions) {
      const RecallAnswer answer = Ask(*stream, question, options_.ask);
      scores->generated[index] += answer.generated;
      scores->likely[index] += answer.likely;
      tokens = std::max(tokens, static_cast<double>(answer.num_tokens));
    }
    const auto num_questions = static_cast<double>(plan.trial->questions.size());
    scores->generated[index] /= num_questions;
    scores->likely[index] /= num_questions;
    peak_bytes_ = std::max(peak_bytes_, stream->peak_bytes());
    return tokens;
  }

  const Model& model_;
  const Haystack& haystack_;
  const RecallOptions& options_;
  const TokensRead& on_read_;
  SessionOptions session_options_;
  size_t peak_bytes_ = 0;
  bool shares_ = true;
  std::unique_ptr<RecallStream> trunk_;
  std::string trunk_head_;
  int64_t trunk_position_ = 0;
};

// Tokens to read for a cell, beside the trunk.
int64_t CellTokens(const RecallCell& cell) {
  double tokens = 0;
  for (const RecallTrial& trial : cell.trials) {
    const double place = trial.statements.empty() ? 0 : trial.statements[0].place;
    tokens += (1 - place) * static_cast<double>(cell.row.length);
  }
  return static_cast<int64_t>(tokens);
}

bool IsDone(const EvalLog& log, const EvalRow& cell, const AskOptions& ask) {
  for (const EvalRow& row : RowsOf(cell, {}, ask)) {
    if (log.Find(row) == nullptr) return false;
  }
  return true;
}

int64_t RewindFor(const Tokenizer& tokenizer, const std::vector<RecallCell>& cells) {
  constexpr int64_t kMost = 512;  // longer questions are asked of a copy
  int64_t most = 64;
  for (const RecallCell& cell : cells) {
    for (size_t i = 0; i < std::min<size_t>(cell.trials.size(), 4); ++i) {
      for (const RecallQuestion& question : cell.trials[i].questions)
        most = std::max(most, AskTokens(tokenizer, question));
    }
  }
  return std::min(most, kMost);
}

// A text that is shorter than its own statements leaves its cell out, as a note; all of them are a mistake.
void NoteWhatDoesNotFit(const Tokenizer& tokenizer, std::vector<RecallCell>* cells) {
  bool any_fits = false;
  for (RecallCell& cell : *cells) {
    MNEME_CHECK(!cell.trials.empty());
    try {
      for (const RecallTrial& trial : cell.trials) MakePlan(tokenizer, cell, trial);
      any_fits = true;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kInput) throw;
      cell.row.note = error.what();
    }
  }
  if (!any_fits) Fail(ErrorKind::kInput, "{}", cells->front().row.note);
}

}  // namespace

bool RecallRun::Run(std::vector<RecallCell> cells, EvalLog& log, Progress& progress) {
  if (cells.empty()) return true;
  std::stable_sort(cells.begin(), cells.end(), [](const RecallCell& a, const RecallCell& b) {
    return std::pair(a.row.length, a.row.depth) < std::pair(b.row.length, b.row.depth);
  });
  const Tokenizer& tokenizer = model_.tokenizer();
  NoteWhatDoesNotFit(tokenizer, &cells);
  options_.session.max_rewind = std::max(options_.session.max_rewind, RewindFor(tokenizer, cells));
  const std::vector<std::string> contexts = Resolve(cells.back().row.length + 64, nullptr);
  int64_t total = 0, done = 0;
  for (const RecallCell& cell : cells) total += CellTokens(cell) * static_cast<int64_t>(contexts.size());
  std::string note;
  const TokensRead on_read = [&](int64_t count) {
    done += count;
    total = std::max(total, done);
    progress.Update(done, total, note);
  };
  for (const std::string& context : contexts) {  // resolved: with every key
    ContextRun run(model_, haystack_, options_, context, on_read);
    for (RecallCell& cell : cells) {
      cell.row.context = context;
      if (IsDone(log, cell.row, options_.ask)) {
        total = std::max(done, total - CellTokens(cell));
        continue;
      }
      note = fmt::format("{}, length {}{}", context, FormatCount(cell.row.length),
                         cell.row.depth ? fmt::format(", depth {:g}", *cell.row.depth) : "");
      EvalRow row = cell.row;
      RecallScores scores;
      try {
        if (row.note.empty()) scores = run.RunCell(cell, &row);
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::kInterrupted) {
          progress.Finish("interrupted");
          return false;
        }
        if (error.kind() != ErrorKind::kBudget && error.kind() != ErrorKind::kUnsupported) throw;
        row.note = error.what();
        scores = {};
      }
      for (EvalRow& one : RowsOf(row, scores, options_.ask)) log.Add(std::move(one));
    }
  }
  progress.Finish(fmt::format("{} tokens", FormatCount(done)));
  return true;
}

}  // namespace mneme
