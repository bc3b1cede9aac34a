// Speed of single operations as a device runs them, each beside what the machine can do at best: the time
// that reading its operands once or doing its arithmetic at the measured peak would take, whichever is
// longer.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/machine.h"
#include "bench/timing.h"
#include "kernels/cpu_device.h"
#include "mneme/engine.h"

namespace mneme {

struct KernelRow {
  std::string name = {};  // "linear/q8_0/packed/2048x2048/rows:1"
  Timing timing = {};
  double bytes = 0;           // read by one run: weights, or keys and values
  double ops = 0;             // multiply-adds count as two
  double share = 0;           // of the limit; 0: not known
  std::string share_of = {};  // "read bandwidth", "int8 peak"
};

// The limits of the machine that apply to one kernel.
struct KernelLimits {
  double bytes_per_second = 0;
  double ops_per_second = 0;
  std::string ops_name = {};  // "int8", "fp32"
};
// Sets share and share_of from the rest of the row.
void SetShare(const KernelLimits& limits, KernelRow* row);

// One kernel that can be measured.
struct KernelCase {
  std::string name;
  // Takes about `seconds`, and memory of its own for that time (std::bad_alloc if there is no room).
  std::function<KernelRow(const MachineLimits& limits, double seconds, CpuDevice& device)> measure;
};
// One of them on an engine's threads.
KernelRow MeasureKernel(const KernelCase& one, const MachineLimits& limits, double seconds,
                        const Engine& engine);
// All of them, by group: linear, attend, memory, recur, pointwise.
std::vector<KernelCase> LinearCases();
std::vector<KernelCase> AttendCases();
std::vector<KernelCase> MemoryCases();
std::vector<KernelCase> RecurCases();
std::vector<KernelCase> PointwiseCases();

// Those whose names contain `part` ("linear", "f16/int16/5632x2048"); "all" names all. Throws Error(kInput)
// if there is none.
std::vector<KernelCase> FindKernels(std::string_view part);

}  // namespace mneme
