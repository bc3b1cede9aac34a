// A model: its configuration, its weights (mapped, perhaps repacked), its tokenizer, and the activations that
// all its sessions share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mneme/engine.h"
#include "mneme/export.h"
#include "mneme/options.h"
#include "mneme/tokenizer.h"

namespace mneme {

struct ModelInfo {
  std::string path;
  std::string name;    // as the file says
  std::string family;  // "llama"
  int64_t num_layers = 0;
  int64_t model_dim = 0;
  int64_t vocab_size = 0;
  int64_t trained_length = 0;  // tokens it was trained on at once; 0: unknown
  int64_t rope_length = 0;     // rotations of longer streams are made for their length; 0: no stream's are
  bool has_memory = false;     // trained with a compressive memory (--context infini)
  size_t weight_bytes = 0;     // as stored
  size_t mapped_bytes = 0;     // of the files, weights and all
  size_t packed_bytes = 0;     // of repacked weights: allocated, or mapped from packed_copy
  std::string packed_copy;     // the file (ModelOptions::pack_cache); empty where they were packed at load
  size_t table_bytes = 0;      // left on the heap by loading, beside packed weights; 0 where it is not known
  size_t load_peak_bytes = 0;  // resident at the most until it was loaded
  size_t read_bytes_per_token = 0;  // of weights, to decode one token
  PackMode pack = PackMode::kAuto;  // as ModelOptions said
  // How the weights are multiplied, which of float weights decides the bits: encodings, each with "file" (in
  // place), "packed", "int16" or "bf16". "f16:int16,q8_0:packed".
  std::string products;
  // How its authors say that answers are to be sampled: generation_config.json (greedy for do_sample false),
  // or general.sampling.* of a GGUF. None: the files say nothing. A session does not take it by itself.
  std::optional<SamplerOptions> sampler;
  // What whoever runs it should know, one sentence each: parts of the file that are passed over (images,
  // sound, drafts), what its tokenizer lacks.
  std::vector<std::string> notes;
};

// A handle: copies are the same model, and sessions keep it alive. Immutable, but for the activations; the
// thread rule is the engine's.
class MNEME_API Model {
 public:
  // A GGUF file, a folder with config.json and *.safetensors, or a llama2.c checkpoint. Throws Error(kFile)
  // for a file that is not what it claims (the tensor or key is named), Error(kUnsupported) for a family,
  // encoding or tokenizer that is not known (named).
  static Model Load(const Engine& engine, const std::string& path, const ModelOptions& options = {});

  const Engine& engine() const;
  const ModelInfo& info() const;
  bool has_tokenizer() const;
  // Throws Error(kUnsupported) if there is none.
  const Tokenizer& tokenizer() const;
  // Equal for models with the same configuration and weights. Samples the tensors' bytes at the first call,
  // so it costs no full read. Throws Error(kFile) if a file changed before that.
  uint64_t fingerprint() const;
  // Of the cap, for the activations that all sessions share; 0 before the first session.
  size_t activation_bytes() const;
  // Throws Error(kFile), naming the file, if the weights' files were written to or cut short since they were
  // loaded. Forward calls look by themselves. Costs a system call for each file.
  void CheckUnchanged() const;

  struct Impl;  // for the library's own files
  explicit Model(std::shared_ptr<const Impl> impl);
  const std::shared_ptr<const Impl>& impl() const { return impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace mneme
