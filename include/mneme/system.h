// What the machine says of itself and of this process, in bytes; 0 where it does not say. Thread-safe, and
// none throws.
#pragma once

#include <cstddef>

#include "mneme/export.h"

namespace mneme {

// What the machine can still give to this process: what is free, and the limits of its control group.
MNEME_API size_t AvailableMemoryBytes();
// Resident memory of this process.
MNEME_API size_t ResidentBytes();
// The most that was ever resident.
MNEME_API size_t PeakResidentBytes();

}  // namespace mneme
