// Random models on a pool of threads (mneme/convert.h).
#pragma once

#include <cstdint>
#include <string>

#include "base/thread_pool.h"
#include "mneme/convert.h"

namespace mneme {

void WriteRandomModel(const RandomShape& shape, Encoding encoding, uint64_t seed, const std::string& path,
                      ThreadPool& pool, Progress& progress, StopToken stop = {});

}  // namespace mneme
