// A model as it lies in memory: its plan, its weights (mapped, perhaps repacked), its tokenizer. It
// knows no engine; mneme/model.h is the handle that users have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "context/context.h"
#include "kernels/device.h"
#include "mneme/model.h"
#include "model/plan.h"

namespace mneme {

struct ModelWeights;  // model/weights.h

// Immutable, and shared by all sessions.
class LoadedModel {
 public:
  // A GGUF file, a folder with config.json and *.safetensors, or a llama2.c checkpoint. Throws Error(kFile)
  // for a file that is not what it claims (the tensor or key is named), Error(kUnsupported) for a family,
  // encoding or tokenizer that is not known (named).
  static std::shared_ptr<const LoadedModel> Load(const std::string& path, const ModelOptions& options,
                                                 Device& device);
  ~LoadedModel();

  const std::string& path() const;
  const ModelPlan& plan() const;
  // For streams within ModelPlan::rope_length.
  const ContextShape& context_shape() const;
  // For streams in which a query sees so many tokens; the same one up to rope_length. Thread-safe.
  std::shared_ptr<const ContextShape> ShapeFor(int64_t length) const;
  // Heads that choose for --context recall: in the shapes from here on; those that were handed out stay as
  // they are. The thread rule is the engine's.
  void SetRecall(const RecallRules& rules) const;
  const ModelWeights& weights() const;
  // Throws Error(kUnsupported) if the model was loaded without one.
  const Tokenizer& tokenizer() const;
  bool has_tokenizer() const;
  // Equal for models with the same plan and weights; samples the tensors' bytes, so it costs no full
  // read. Throws Error(kFile) if a file changed before the first call.
  uint64_t fingerprint() const;
  // Throws Error(kFile), naming the file, if the weights' files were written to or cut short since they were
  // loaded. Costs a system call for each file.
  void CheckUnchanged() const;
  size_t weight_bytes() const;       // as stored
  size_t mapped_bytes() const;       // of the files, weights and all
  size_t packed_bytes() const;       // of repacked weights
  size_t packed_heap_bytes() const;  // the part of it that was allocated
  std::string packed_copy() const;   // the file that has them instead; empty: none
  // As ModelOptions::pack said.
  PackMode pack() const;
  // How the weights are multiplied, which of float weights decides the bits: encodings, each with "file" (in
  // place), "packed", "int16" or "bf16". "f16:int16,q8_0:packed".
  std::string products() const;
  // Bytes of weights read to decode one token.
  size_t read_bytes_per_token() const;
  // What the files say of sampling; none: nothing.
  const std::optional<SamplerOptions>& suggested_sampler() const;
  // As ModelInfo has them.
  std::vector<std::string> notes() const;

 private:
  LoadedModel();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mneme
