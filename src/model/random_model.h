// GGUF files of llama models with random weights in the shape of known ones: for benchmarks of speed and
// memory where no trained file is at hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/stop.h"
#include "base/thread_pool.h"
#include "base/types.h"

namespace mneme {

struct RandomShape {
  std::string name;
  size_t num_layers = 0;
  size_t model_dim = 0;
  size_t num_heads = 0;
  size_t num_kv_heads = 0;
  size_t ffn_dim = 0;
  size_t vocab_size = 0;  // at least 259
  size_t trained_length = 0;
  bool tied_head = false;
};

// "tinyllama-1.1b", "smollm-135m", "stories15m", "tiny".
std::vector<std::string_view> RandomShapeNames();
// One of these, or "layers=2,dim=64,heads=4,kv_heads=2,ffn=128,vocab=512,length=256". Throws Error(kInput)
// for another name or an impossible shape.
RandomShape ParseRandomShape(std::string_view text);

// Writes the model, atomically, with a vocabulary of bytes and made-up words. The same bytes for the same
// seed, whatever the number of threads. Matrices have the scale of trained ones, so logits are finite; 2-D
// tensors are in `encoding` (columns that its blocks do not divide: Q8_0, else F16), norms in F32. Blocks
// repeat within a matrix: the values are for measuring, not for statistics. Throws Error(kFile, kUnsupported),
// Error(kInterrupted) after a stop; `path` is as before then.
void WriteRandomModel(const RandomShape& shape, Encoding encoding, uint64_t seed, const std::string& path,
                      ThreadPool& pool, Progress& progress, StopToken stop = {});

}  // namespace mneme
