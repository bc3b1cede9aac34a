// Converting on a pool of threads (mneme/convert.h).
#pragma once

#include <cstddef>
#include <string>

#include "base/thread_pool.h"
#include "mneme/convert.h"

namespace mneme {

// The encoding itself, or where its blocks do not divide the columns: Q8_0, else F16.
Encoding EncodingForColumns(Encoding encoding, size_t num_cols);

ConvertReport ConvertModel(const std::string& path, const std::string& out_path,
                           const ConvertOptions& options, ThreadPool& pool, Progress& progress,
                           StopToken stop = {});

}  // namespace mneme
