// The tasks of `mneme eval` that have files of their own. As cli/verbs.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/verbs.h"

namespace mneme::cli {

// "256,4K,1M": K is 1024. Throws UsageError naming the option.
std::vector<int64_t> ParseCounts(const std::string& text, const std::string& option);

void AddEvalPasskey(CLI::App& eval, Action* action);
void AddEvalNeedle(CLI::App& eval, Action* action);
void AddEvalStream(CLI::App& eval, Action* action);
void AddEvalCompare(CLI::App& eval, Action* action);
void AddEvalDatasets(CLI::App& eval, Action* action);  // longbench, infinitebench, babi
void AddEvalSpeed(CLI::App& eval, Action* action);
void AddEvalSummary(CLI::App& eval, Action* action);
void AddEvalSuite(CLI::App& eval, Action* action);

}  // namespace mneme::cli
