#include "eval/report/compare.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/text/units.h"

namespace mneme {
namespace {

double LogChoose(int64_t n, int64_t k) {
  return std::lgamma(static_cast<double>(n) + 1) - std::lgamma(static_cast<double>(k) + 1) -
         std::lgamma(static_cast<double>(n - k) + 1);
}

// The row as counts, where it is a share of trials.
std::optional<int64_t> RightOnes(const EvalRow& row) {
  const double right = row.accuracy * static_cast<double>(row.trials);
  const double whole = std::round(right);
  if (row.metric != "accuracy" || std::abs(right - whole) > 1e-6 || whole < 0 ||
      whole > static_cast<double>(row.trials))
    return std::nullopt;
  const double share_error =
      std::sqrt(std::max(0.0, row.accuracy * (1 - row.accuracy)) / static_cast<double>(row.trials));
  // A mean of shares has another error than a share.
  if (row.standard_error && std::abs(*row.standard_error - share_error) > 1e-9) return std::nullopt;
  return static_cast<int64_t>(whole);
}

std::set<std::string> ContextsOf(const EvalReport& report) {
  std::set<std::string> contexts;
  for (const EvalRow& row : report.rows) contexts.insert(row.context);
  return contexts;
}

void CompareHeaders(const EvalHeader& a, const EvalHeader& b, EvalComparison* comparison) {
  const auto add = [&](std::string what, std::string in_a, std::string in_b) {
    if (in_a != in_b) comparison->headers.push_back({std::move(what), std::move(in_a), std::move(in_b)});
  };
  add("task", a.task, b.task);
  add("model", fmt::format("{} {:016x}", a.model_file, a.model_fingerprint),
      fmt::format("{} {:016x}", b.model_file, b.model_fingerprint));
  add("tokenizer", fmt::format("{:016x}", a.tokenizer_fingerprint),
      fmt::format("{:016x}", b.tokenizer_fingerprint));
  add("seed", std::to_string(a.seed), std::to_string(b.seed));
  std::map<std::string, std::string> in_a(a.settings.begin(), a.settings.end());
  std::map<std::string, std::string> in_b(b.settings.begin(), b.settings.end());
  std::set<std::string> keys;
  for (const auto& [key, value] : in_a) keys.insert(key);
  for (const auto& [key, value] : in_b) keys.insert(key);
  for (const std::string& key : keys) {
    const auto text = [&](const std::map<std::string, std::string>& settings) {
      const auto found = settings.find(key);
      return found == settings.end() ? std::string("(not set)") : found->second;
    };
    add(key, text(in_a), text(in_b));
  }
  add("program", a.program_version, b.program_version);
  add("processor", a.machine.processor, b.machine.processor);
  add("threads", std::to_string(a.machine.num_threads), std::to_string(b.machine.num_threads));
}

void MarkSignificant(EvalComparison* comparison) {
  std::vector<CellDifference*> order;
  for (CellDifference& cell : comparison->cells) order.push_back(&cell);
  std::stable_sort(order.begin(), order.end(), [](const auto* x, const auto* y) { return x->p < y->p; });
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i]->p > comparison->level / static_cast<double>(order.size() - i)) break;
    order[i]->is_significant = true;
  }
}

}  // namespace

double FisherExact(int64_t right_a, int64_t trials_a, int64_t right_b, int64_t trials_b) {
  MNEME_CHECK(right_a >= 0 && right_a <= trials_a && right_b >= 0 && right_b <= trials_b);
  const int64_t right = right_a + right_b, trials = trials_a + trials_b;
  const double all = LogChoose(trials, right);
  const auto log_p = [&](int64_t k) { return LogChoose(trials_a, k) + LogChoose(trials_b, right - k) - all; };
  const double observed = log_p(right_a);
  double sum = 0;
  for (int64_t k = std::max<int64_t>(0, right - trials_b); k <= std::min(right, trials_a); ++k) {
    if (log_p(k) <= observed + 1e-9) sum += std::exp(log_p(k));
  }
  return std::min(1.0, sum);
}

double NormalTest(double a, double error_a, double b, double error_b) {
  if (a == b) return 1;
  const double error = std::hypot(error_a, error_b);
  if (!(error > 0)) return 0;
  return std::erfc(std::abs(a - b) / error / std::sqrt(2.0));
}

EvalComparison CompareReports(const EvalReport& a, const EvalReport& b, double level) {
  EvalComparison comparison;
  comparison.level = level;
  CompareHeaders(a.header, b.header, &comparison);
  const std::set<std::string> contexts_a = ContextsOf(a), contexts_b = ContextsOf(b);
  comparison.ignores_context = contexts_a.size() == 1 && contexts_b.size() == 1 && contexts_a != contexts_b;
  std::vector<bool> used(b.rows.size());
  for (const EvalRow& row : a.rows) {
    EvalRow wanted = row;
    if (comparison.ignores_context) wanted.context = *contexts_b.begin();
    const auto found = std::find_if(b.rows.begin(), b.rows.end(), [&](const EvalRow& other) {
      return other.SameCell(wanted) && other.trials > 0;
    });
    if (row.trials == 0 || found == b.rows.end()) {
      ++comparison.only_a;
      continue;
    }
    used[static_cast<size_t>(found - b.rows.begin())] = true;
    CellDifference cell;
    cell.a = row;
    cell.b = *found;
    const auto right_a = RightOnes(row), right_b = RightOnes(*found);
    // Beyond so many the exact sum takes seconds, and the normal distribution says the same.
    constexpr int64_t kMostExact = 1'000'000;
    cell.is_exact = right_a && right_b && row.trials + found->trials <= kMostExact;
    cell.p = cell.is_exact ? FisherExact(*right_a, row.trials, *right_b, found->trials)
                           : NormalTest(row.accuracy, row.Error(), found->accuracy, found->Error());
    comparison.cells.push_back(std::move(cell));
  }
  comparison.only_b = static_cast<size_t>(std::count(used.begin(), used.end(), false));
  if (comparison.cells.empty())
    Fail(ErrorKind::kInput,
         "the two runs have no result in common (task, context, length, depth and labels must agree)");
  MarkSignificant(&comparison);
  return comparison;
}

std::vector<std::string> ComparisonSummary(const EvalComparison& comparison) {
  size_t different = 0, exact = 0;
  for (const CellDifference& cell : comparison.cells) {
    different += cell.is_significant;
    exact += cell.is_exact;
  }
  std::vector<std::string> lines;
  lines.push_back(fmt::format("{} results in both runs, {} only in A, {} only in B", comparison.cells.size(),
                              comparison.only_a, comparison.only_b));
  if (comparison.ignores_context) lines.emplace_back("each run has one context; they are compared as such");
  lines.push_back(fmt::format("{} differ beyond the noise (two-sided p < {:g} after Holm's correction; {})",
                              different, comparison.level,
                              exact == comparison.cells.size() ? "Fisher's exact test"
                              : exact == 0                     ? "normal test on standard errors"
                                           : "Fisher's exact test for shares, normal test for the rest"));
  for (const auto& header : comparison.headers)
    lines.push_back(fmt::format("{}: {} in A, {} in B", header.what, header.a, header.b));
  return lines;
}

std::vector<std::vector<std::string>> ComparisonTable(const EvalComparison& comparison,
                                                      bool only_significant) {
  std::vector<std::vector<std::string>> table = {
      {"task", "context", "length", "depth", "labels", "A", "B", "B - A", "p", ""}};
  for (const CellDifference& cell : comparison.cells) {
    if (only_significant && !cell.is_significant) continue;
    std::string labels;
    for (const auto& [key, value] : cell.a.labels)
      labels += fmt::format("{}{} {}", labels.empty() ? "" : ", ", key, value);
    const std::string context =
        cell.a.context == cell.b.context ? cell.a.context : cell.a.context + " / " + cell.b.context;
    table.push_back({cell.a.task, context, cell.a.length > 0 ? FormatCount(cell.a.length) : "-",
                     cell.a.depth ? fmt::format("{:g}", *cell.a.depth) : "-", labels,
                     fmt::format("{:.4g} ± {:.2g}", cell.a.accuracy, cell.a.Error()),
                     fmt::format("{:.4g} ± {:.2g}", cell.b.accuracy, cell.b.Error()),
                     fmt::format("{:+.4g}", cell.b.accuracy - cell.a.accuracy), fmt::format("{:.2g}", cell.p),
                     cell.is_significant ? "differs" : ""});
  }
  return table;
}

}  // namespace mneme
