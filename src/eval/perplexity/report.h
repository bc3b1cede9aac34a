// Perplexity results as JSON, tables and a page.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/perplexity/perplexity.h"
#include "eval/report/grid.h"

namespace mneme {

// What is said of the run as a whole.
struct PerplexityHeader {
  std::string model;
  std::string input;
  std::string command;
  int64_t trained_length = 0;  // 0: unknown
  // Everything needed to repeat the run; without it the JSON has only what stands above.
  std::optional<EvalHeader> run = std::nullopt;
};

// What EvalJson writes (eval/report/grid.h), with a row for each context, and for each length if there are
// any; and
// {"model", "input", "contexts": [{"context", "nll", "perplexity", "standard_error", "bins": [...]}]}.
std::string PerplexityJson(const PerplexityHeader& header, std::span<const PerplexityResult> results);
// A page with the plot and, below it, the tables.
std::string PerplexityHtml(const PerplexityHeader& header, std::span<const PerplexityResult> results);
// Rows for a terminal: one per octave of positions, one column per context, with the standard error.
std::vector<std::vector<std::string>> PerplexityTable(std::span<const PerplexityResult> results);
// One row per length, one column per context: perplexity over its second half. Empty without lengths.
std::vector<std::vector<std::string>> PerplexityLengthTable(std::span<const PerplexityResult> results);
// StreamingLLM's table: a row per number of sinks, a column per cache size (sinks + window). Empty where no
// result is of a sinks or window context.
std::vector<std::vector<std::string>> PerplexitySinkTable(std::span<const PerplexityResult> results);

}  // namespace mneme
