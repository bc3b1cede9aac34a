// What this machine can do at best: the floors that benchmarks are compared with.
//
// Rates are the best of several short runs, since anything else on the machine only slows them. Read
// bandwidth depends on the footprint (caches), so it is a table.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "mneme/engine.h"

namespace mneme {

struct MachineRate {
  double one_thread = 0;   // per second; 0 where the machine lacks the instruction
  double all_threads = 0;  // per second, summed over the threads of the pool
};

struct MachineBandwidth {
  size_t footprint_bytes = 0;  // in all, however many threads share it
  MachineRate read_bytes;
};

struct MachineLimits {
  size_t num_threads = 0;
  std::string processor;                  // as it names itself; empty where the system does not say
  std::vector<std::string> instructions;  // sets that matter here: "avx2", "avx512vnni"
  std::string simd_target;                // what the kernels run on, as Highway names it
  std::vector<MachineBandwidth>
      bandwidth;          // footprints ascending: 256 KiB, 1 MiB, 4 MiB .. max_footprint_bytes
  MachineRate fp32_ops;   // multiply-adds count as two
  MachineRate bf16_ops;   // bf16 pairs into float32
  MachineRate int8_ops;   // 8-bit products into int32, as the kernels do them
  MachineRate int16_ops;  // pairs of 16-bit products into int32
  // Bandwidth in bytes per second of all threads, or one, at the nearest measured footprint.
  double ReadBandwidth(size_t footprint_bytes, bool all_threads) const;
};

// Takes about `seconds` and allocates max_footprint_bytes for that time (std::bad_alloc if there is no room).
// Uses the pool: the pool's rule applies.
MachineLimits MeasureMachine(ThreadPool& pool, double seconds = 2.0,
                             size_t max_footprint_bytes = size_t{1} << 30);
// On an engine's threads.
MachineLimits MeasureMachine(const Engine& engine, double seconds = 2.0,
                             size_t max_footprint_bytes = size_t{1} << 30);

}  // namespace mneme
