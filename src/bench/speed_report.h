// Speed by depth as rows, tables and a page.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bench/speed.h"
#include "eval/report/grid.h"

namespace mneme {

// The common row: length is the depth, the measure decode tokens per second.
EvalRow SpeedRow(const std::string& context, const SpeedPoint& point, int64_t num_repeats);
EvalRow RecomputeRow(const RecomputePoint& point, int64_t num_repeats);
// Tables for a terminal and for the page; plots of all contexts with the floor.
std::vector<std::vector<std::string>> SpeedTable(std::span<const EvalRow> rows);
std::vector<std::vector<std::string>> RecomputeTable(std::span<const EvalRow> rows);
std::string SpeedHtml(const EvalReport& report);

}  // namespace mneme
