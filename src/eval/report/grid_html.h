// The page and the table of a measurement.
#pragma once

#include <string>
#include <vector>

#include "eval/report/grid.h"

namespace mneme {

// A page: heat maps of depth by length where rows have depths, lines with standard errors where they have
// only lengths, a table below each, the header at the end. No scripts, nothing from the network.
std::string EvalHtml(const EvalReport& report);
// Rows for a terminal; the first one is the header.
std::vector<std::vector<std::string>> EvalTable(const EvalReport& report);

}  // namespace mneme
