// From any container to GGUF, with quantising.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/stop.h"
#include "base/thread_pool.h"
#include "base/types.h"

namespace mneme {

struct ConvertOptions {
  // Of all matrices. Norms, biases, positions and rotary factors stay F32.
  Encoding encoding = Encoding::kQ8_0;
  std::string tokenizer_path;  // as in LoadOptions
};

struct ConvertReport {
  size_t num_tensors = 0;
  size_t read_bytes = 0;
  size_t written_bytes = 0;
  // Sentences for the user: matrices in another encoding than asked for, a tokenizer that was left out.
  std::vector<std::string> warnings;
};

// The encoding itself, or where its blocks do not divide the columns: Q8_0, else F16.
Encoding EncodingForColumns(Encoding encoding, size_t num_cols);

// Converts the model at `path` (whatever Model::Load takes) and writes `out_path` atomically. From GGUF, all
// metadata comes along and tensors keep their names; other containers get the names, order of rows and
// metadata that GGUF readers expect of the family, and the tokenizer. Matrices already in the asked encoding
// are copied bit by bit. Throws as Model::Load, and Error(kInput) naming the tensor that holds NaN, infinity
// or a value beyond the encoding, Error(kInterrupted) after a stop; out_path is as before then. Memory: a tile of rows, and matrices that must
// be transposed.
ConvertReport ConvertModel(const std::string& path, const std::string& out_path,
                           const ConvertOptions& options, ThreadPool& pool, Progress& progress,
                           StopToken stop = {});

}  // namespace mneme
