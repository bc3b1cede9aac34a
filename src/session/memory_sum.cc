#include "session/memory_sum.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

namespace mneme {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
// Measured (x86-64, glibc): program and libraries 13 MiB if all of it is touched; what a report of the
// longest kept answer takes while it is written, 6; the arguments, at most 2; the last huge page of packed
// weights, 2.
constexpr size_t kProgramBytes = 24 * kMiB;
// Stack and malloc arena of a thread.
constexpr size_t kThreadBytes = kMiB / 4;

size_t RoundUp(size_t bytes) { return (bytes / kMiB + (bytes % kMiB != 0 ? 1 : 0)) * kMiB; }

}  // namespace

size_t MemorySum::total_bytes() const {
  const size_t parts =
      RoundUp(weight_bytes) + RoundUp(packed_bytes) + RoundUp(cap_bytes) + RoundUp(program_bytes);
  return std::max(parts, RoundUp(load_peak_bytes));
}

std::string MemorySum::ToString() const {
  const auto in_mib = [](size_t bytes) { return RoundUp(bytes) / kMiB; };
  std::string text = fmt::format("weights {} MiB", in_mib(weight_bytes));
  for (const auto& [name, bytes] : {std::pair("packed", packed_bytes), std::pair("cap", cap_bytes),
                                    std::pair("program", program_bytes)}) {
    if (bytes > 0) text += fmt::format(" + {} {} MiB", name, in_mib(bytes));
  }
  const size_t total = total_bytes();
  if (total == RoundUp(load_peak_bytes)) text += fmt::format("; while loading {} MiB", in_mib(total));
  return text + fmt::format(" = {0} MiB at most (MemoryMax={0}M)", in_mib(total));
}

MemorySum SumMemory(const Model& model, size_t cap_bytes, size_t table_bytes, size_t num_threads,
                    size_t load_peak_bytes) {
  return {.weight_bytes = model.mapped_bytes(),
          .packed_bytes = model.packed_bytes(),
          .cap_bytes = cap_bytes,
          // A quarter more for what allocation loses between blocks.
          .program_bytes = kProgramBytes + num_threads * kThreadBytes + table_bytes + table_bytes / 4,
          .load_peak_bytes = load_peak_bytes};
}

}  // namespace mneme
