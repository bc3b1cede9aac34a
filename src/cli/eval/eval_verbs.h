// The tasks of `mneme eval` that have files of their own. As cli/verbs.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/verbs.h"

namespace mneme::cli {

// "256,4K,1M": K is 1024. Throws UsageError naming the option.
std::vector<int64_t> ParseCounts(const std::string& text, const std::string& option);

void AddEvalPasskey(Command& eval);
void AddEvalNeedle(Command& eval);
void AddEvalRuler(Command& eval);
void AddEvalStream(Command& eval);
void AddEvalCompare(Command& eval);
void AddEvalDatasets(Command& eval);  // longbench, infinitebench, babi
void AddEvalSpeed(Command& eval);
void AddEvalSummary(Command& eval);
void AddEvalSuite(Command& eval);

}  // namespace mneme::cli
