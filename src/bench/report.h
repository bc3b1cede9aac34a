// Measurements of this folder as tables for a terminal, as JSON, and as a plot.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "bench/kernels.h"
#include "bench/machine.h"
#include "bench/model.h"
#include "bench/products.h"
#include "bench/profile.h"
#include "eval/report/plot.h"

namespace mneme {

using BenchTable = std::vector<std::vector<std::string>>;  // rows of cells, the heads first

BenchTable MachineTable(const MachineLimits& limits);
nlohmann::ordered_json MachineJson(const MachineLimits& limits);

// Products with weights, beside the peaks of their arithmetic.
BenchTable ProductsTable(const MachineLimits& limits, const ProductRates& rates);
// What `auto` takes here, and whether that is right.
std::string VerdictText(const AutoVerdict& verdict);
nlohmann::ordered_json ProductsJson(const ProductRates& rates, const AutoVerdict& verdict);

BenchTable RowsTable(std::span<const BenchRow> rows);
// Why rows have no figure, and what "filled" means where some are; empty if there is nothing to say.
std::string RowsNotes(std::span<const BenchRow> rows);
nlohmann::ordered_json RowsJson(std::span<const BenchRow> rows);
// Decode speed by depth, a line for each context and number of threads. Depth 0 stands at 1 on the
// logarithmic axis.
Plot DecodePlot(const std::string& model, std::span<const BenchRow> rows);

// `name` heads the table: "decode".
BenchTable ProfileTable(const std::string& name, std::span<const ProfileRow> rows);
nlohmann::ordered_json ProfileJson(std::span<const ProfileRow> rows);

BenchTable KernelsTable(std::span<const KernelRow> rows);
nlohmann::ordered_json KernelsJson(std::span<const KernelRow> rows);

}  // namespace mneme
