// What differs between two runs, beyond the noise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "eval/report/grid.h"

namespace mneme {

// Two-sided p of Fisher's exact test: right_a of trials_a against right_b of trials_b. Right ones at most as
// many as trials, trials >= 0.
double FisherExact(int64_t right_a, int64_t trials_a, int64_t right_b, int64_t trials_b);
// Two-sided p of a difference between two means with these standard errors, by the normal distribution; 1 for
// equal means, 0 for different ones without error.
double NormalTest(double a, double error_a, double b, double error_b);

struct CellDifference {
  EvalRow a;
  EvalRow b;
  double p = 1;
  bool is_significant = false;  // after Holm's correction over all cells
  bool is_exact = false;        // Fisher's test; else the normal one
};

struct EvalComparison {
  std::vector<CellDifference> cells;  // measured by both
  size_t only_a = 0;
  size_t only_b = 0;
  // Header entries that differ: what, in A, in B.
  struct HeaderDifference {
    std::string what, a, b;
  };
  std::vector<HeaderDifference> headers;
  bool ignores_context = false;  // each run has one context, and not the same
  double level = 0.05;
};

// Shares of trials are compared by Fisher's exact test, other numbers by the normal test; a cell differs
// where its p holds at `level` after Holm's correction, so that by chance one run in 1 / level shows any
// difference. Throws Error(kInput) where the runs have no cell in common.
EvalComparison CompareReports(const EvalReport& a, const EvalReport& b, double level = 0.05);

// A few lines and a table, for a terminal. The table's first row is its header.
std::vector<std::string> ComparisonSummary(const EvalComparison& comparison);
std::vector<std::vector<std::string>> ComparisonTable(const EvalComparison& comparison,
                                                      bool only_significant);

}  // namespace mneme
