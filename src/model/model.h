// A model: its configuration, its weights (mapped, perhaps repacked), its tokenizer. Immutable and shared by
// all sessions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/budget.h"
#include "base/error.h"
#include "base/progress.h"
#include "context/context.h"
#include "kernels/device.h"
#include "model/config.h"
#include "tokenizer/tokenizer.h"

namespace mneme {

struct ModelWeights;  // model/weights.h

enum class PackMode : uint8_t {
  // Repack where it pays (docs/performance.md says when), models up to 8 GiB. F16 and BF16 weights as blocks
  // of
  // 14-bit integers (FloatProducts::kInt16) where the processor is fast with them, others as stored.
  kAuto,
  kNever,     // use the file's bytes in place: no start-up cost, no memory beside the page cache
  kAlways,    // as kAuto without its limit on size
  kFloat32,   // as kAuto; products of float weights in float32
  kInt16,     // as kAlways; float weights, with the activations that they meet, as blocks of 14-bit integers
  kBFloat16,  // as kAlways; float weights, with the activations that they meet, as bfloat16 (8 significant
              // bits)
};

struct LoadOptions {
  PackMode pack = PackMode::kAuto;
  std::string tokenizer_path;  // where the model carries none, or another is wanted
  bool load_tokenizer = true;
  // Phi-3 and others come with two sets of rotary factors: for contexts up to the original length, and beyond
  // it. The first is the default (and trained_length is the original length then), as it is the better within
  // it.
  bool long_rope = false;
};

class Model {
 public:
  // A GGUF file, a folder with config.json and *.safetensors, or a llama2.c checkpoint. Throws Error(kFile)
  // for a file that is not what it claims (the tensor or key is named), Error(kUnsupported) for a family,
  // encoding or tokenizer that is not known (named).
  static std::shared_ptr<const Model> Load(const std::string& path, const LoadOptions& options,
                                           Device& device);
  ~Model();

  const std::string& path() const;
  const ModelConfig& config() const;
  const ContextShape& context_shape() const;
  const ModelWeights& weights() const;
  // Throws Error(kUnsupported) if the model was loaded without one.
  const Tokenizer& tokenizer() const;
  bool has_tokenizer() const;
  // Equal for models with the same configuration and weights; samples the tensors' bytes, so it costs no full
  // read. Throws Error(kFile) if a file changed before the first call.
  uint64_t fingerprint() const;
  // Throws Error(kFile), naming the file, if the weights' files were written to or cut short since they were
  // loaded. Costs a system call for each file.
  void CheckUnchanged() const;
  size_t weight_bytes() const;  // as stored
  size_t mapped_bytes() const;  // of the files, weights and all
  size_t packed_bytes() const;  // allocated by repacking
  // As LoadOptions::pack said.
  PackMode pack() const;
  // How the weights are multiplied, which decides the bits: encodings, each with "file" (in place), "packed",
  // "int16" or "bf16". "f16:int16,q8_0:packed".
  std::string products() const;
  // Bytes of weights read to decode one token.
  size_t read_bytes_per_token() const;

 private:
  Model();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The rows that one session contributes to a forward call.
struct ForwardChunk {
  Context* context = nullptr;
  std::span<const TokenId> tokens;  // 1 .. the context's max_chunk; each < vocab_size
  bool all_logits = false;          // logits of every row; else of the last row only
  bool no_logits = false;           // none at all (prefill)
};

// Runs the model. Owns the activations; one per thread of use.
class Runner {
 public:
  // Activations for at most max_rows rows in one call are reserved from the budget (Error(kBudget) if they do
  // not fit) and allocated here. model, device and budget must outlive the runner.
  Runner(const Model& model, int64_t max_rows, Device& device, Budget& budget);
  ~Runner();
  static size_t ScratchBytes(const Model& model, int64_t max_rows, size_t num_threads);

  // Receives the logits of one row: chunk and row as in the call, logits [vocab_size], valid during the call
  // only.
  using LogitsCallback = std::function<void(size_t chunk, size_t row, std::span<const float> logits)>;

  // Feeds every chunk to its context (each context at most once per call) and commits. Sum of rows at most
  // max_rows. On any Error all contexts are as before the call; Error(kFile) if a file of the model changed. Rows of one call do not influence each
  // other's bits.
  void Forward(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits);
  // The same, but a chunk that its context refuses is left out alone: refused[i] says why.
  void Forward(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits,
               std::span<std::optional<Error>> refused);

  int64_t max_rows() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mneme
