// All that a run can take of the machine's memory, as one sum: what a limit of the system is set to
// (MemoryMax= of systemd, memory.max of a control group, the limit of a container).
#pragma once

#include <cstddef>
#include <string>

#include "model/model.h"

namespace mneme {

struct MemorySum {
  size_t weight_bytes = 0;   // model files, mapped: pages of the system's cache, counted where they are read
  size_t packed_bytes = 0;   // weights repacked at load
  size_t cap_bytes = 0;      // all that grows with the stream
  size_t program_bytes = 0;  // program, libraries, stacks, tables of tokenizer and model, small buffers
  size_t load_peak_bytes = 0;  // resident at the most while the model was loaded, which comes before the rest

  // In whole MiB, each part rounded up: at least what is resident at any time.
  size_t total_bytes() const;
  // "weights 463 MiB + packed 209 MiB + cap 256 MiB + program 26 MiB = 954 MiB at most (MemoryMax=954M)".
  std::string ToString() const;
};

// table_bytes: what the loader left on the heap beside packed weights.
MemorySum SumMemory(const Model& model, size_t cap_bytes, size_t table_bytes, size_t num_threads,
                    size_t load_peak_bytes = 0);

}  // namespace mneme
