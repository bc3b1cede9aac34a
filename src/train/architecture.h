// Which decoder is trained: one made from settings, or that of an existing file together with its weights.
// And back: a GGUF file that the engine loads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "formats/tensor_source.h"
#include "mneme/tokenizer.h"
#include "model/families/family.h"
#include "model/hyperparameters.h"
#include "model/plan.h"
#include "train/config.h"

namespace mneme::train {

// Names are GGUF's; rotary pairs lie as GGUF readers of the family expect them, whatever the source had.
struct Architecture {
  Hyperparameters hyper;  // as the family's GGUF file states them
  const Family* family = nullptr;
  ModelPlan plan;
  bool tied_head = true;
  bool qkv_bias = false;
  bool sink_logits = false;    // blk.N.attn_sinks
  int64_t position_heads = 0;  // ModelSettings::position_heads
};

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;  // row-major, slowest first
  std::vector<float> values;
};

// Throws Error(kUnsupported), naming what it is, for a model with parts that training does not have.
void CheckTrainable(const ModelPlan& plan);

// A llama with these settings.
Architecture MakeArchitecture(const ModelSettings& settings, int64_t vocab_size);

// An existing model, opened to be adapted.
class BaseModel {
 public:
  // Throws what the containers throw, and Error(kUnsupported) for a family that does not train.
  explicit BaseModel(const std::string& path);
  const Architecture& architecture() const { return architecture_; }
  const TensorSource& source() const { return *source_; }
  // Throws Error(kUnsupported) if the file has none.
  Tokenizer LoadTokenizer() const;
  // Decodes all weights, one at a time.
  void ForEachTensor(const std::function<void(const NamedTensor&)>& use) const;

 private:
  std::unique_ptr<TensorSource> source_;
  Hyperparameters hyper_;
  Architecture architecture_;
  ModelPlan file_plan_;
};

// Writes the model: architecture (plan.actions as mneme.*_token_id; a sink token also as the token that
// begins every stream), vocabulary, memory metadata (mneme.infini.*) where attention is "infini",
// tensors as float32. `base`: where metadata and vocabulary are taken over from, or null. Atomic. Throws
// Error(kUnsupported) for attention that the engine does not have.
void ExportGguf(const std::string& path, const Architecture& architecture, const MemorySettings& memory,
                const Tokenizer& tokenizer, const BaseModel* base, const std::vector<NamedTensor>& tensors);

}  // namespace mneme::train
