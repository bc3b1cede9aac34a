// From any container to GGUF, with quantising; and models with random weights in the shape of known ones, for
// measuring where no trained file is at hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/engine.h"
#include "mneme/export.h"
#include "mneme/progress.h"
#include "mneme/stop.h"
#include "mneme/types.h"

namespace mneme {

// The thread rule of functions with an Engine is the engine's; its threads do the work.

// Whether matrices can be written in the encoding. Thread-safe.
MNEME_API bool CanWrite(Encoding encoding);
// The mixes of encodings that ConvertOptions::mix knows: "q2_k", "q3_k_m", "q4_k_m", ... Thread-safe.
MNEME_API std::vector<std::string_view> MixNames();

struct ConvertOptions {
  // Of all matrices. Norms, biases, positions and rotary factors stay F32.
  Encoding encoding = Encoding::kQ8_0;
  // In its place, if not empty: most matrices in one encoding, those whose rounding costs most with more
  // bits, as files of this name are made by llama.cpp.
  std::string mix;
  std::string tokenizer;  // path, where the model carries none
};

struct ConvertReport {
  size_t num_tensors = 0;
  size_t read_bytes = 0;
  size_t written_bytes = 0;
  // Sentences for the user: how many matrices are in another encoding than asked for and why, a tokenizer
  // that was left out.
  std::vector<std::string> warnings;
};

// Converts the model at `path` (whatever Model::Load takes) and writes `out_path` atomically. From GGUF, all
// metadata comes along and tensors keep their names; other containers get the names, order of rows and
// metadata that GGUF readers expect of the family, and the tokenizer. Matrices already in the asked encoding
// are copied bit by bit. Throws as Model::Load, Error(kInput) for a mix that is not known or naming the
// tensor that holds NaN, infinity or a value beyond the encoding, Error(kInterrupted) after a stop; out_path
// is as before then. Memory: a tile of rows, and matrices that must be transposed.
MNEME_API ConvertReport ConvertModel(const Engine& engine, const std::string& path,
                                     const std::string& out_path, const ConvertOptions& options,
                                     Progress& progress, StopToken stop = {});

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
  size_t num_experts = 0;       // 0: no mixture; else ffn_dim is an expert's
  size_t num_used_experts = 0;  // of a token, at most num_experts
};

// "tinyllama-1.1b", "smollm-135m", "stories15m", "tiny".
MNEME_API std::vector<std::string_view> RandomShapeNames();
// One of these, or "layers=2,dim=64,heads=4,kv_heads=2,ffn=128,vocab=512,length=256", and "experts=8,used=2"
// for a mixture. Throws Error(kInput) for another name or an impossible shape.
MNEME_API RandomShape ParseRandomShape(std::string_view text);

// Writes the model, atomically, with a vocabulary of bytes and made-up words. The same bytes for the same
// seed, whatever the number of threads. Matrices have the scale of trained ones, so logits are finite; 2-D
// tensors are in `encoding` (columns that its blocks do not divide: Q8_0, else F16), norms in F32. Blocks
// repeat within a matrix: the values are for measuring, not for statistics. Throws Error(kFile,
// kUnsupported), Error(kInterrupted) after a stop; `path` is as before then.
MNEME_API void WriteRandomModel(const Engine& engine, const RandomShape& shape, Encoding encoding,
                                uint64_t seed, const std::string& path, Progress& progress,
                                StopToken stop = {});

}  // namespace mneme
