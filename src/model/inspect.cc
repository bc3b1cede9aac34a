#include "mneme/inspect.h"

#include <fmt/format.h>

#include "formats/tensor_source.h"
#include "model/model_impl.h"

namespace mneme {
namespace {

std::string ContainerName(Container container) {
  switch (container) {
    case Container::kGguf:
      return "GGUF";
    case Container::kSafetensors:
      return "safetensors folder";
    case Container::kLlama2c:
      return "llama2.c checkpoint";
  }
  return "?";
}

std::string PositionName(PositionKind kind) {
  switch (kind) {
    case PositionKind::kRope:
      return "RoPE";
    case PositionKind::kAlibi:
      return "ALiBi";
    case PositionKind::kLearned:
      return "learned";
    case PositionKind::kNone:
      return "none";
  }
  return "?";
}

}  // namespace

FileInfo InspectFile(const std::string& path) {
  const std::unique_ptr<TensorSource> source = OpenTensorSource(path);
  FileInfo info{.path = source->path(), .container = ContainerName(source->container())};
  if (source->num_files() > 1) info.container += fmt::format(" in {} files", source->num_files());
  for (const TensorInfo& tensor : source->tensors()) {
    info.tensors.push_back({tensor.name, tensor.encoding, tensor.shape, tensor.num_values(), tensor.bytes});
  }
  if (const GgufFile* gguf = source->gguf()) {
    info.version = static_cast<int>(gguf->version());
    for (const GgufValue& value : gguf->metadata())
      info.metadata.push_back({std::string(value.key), value.ToString()});
  }
  return info;
}

ModelShape ShapeOf(const Model& model) {
  const ModelPlan& plan = model.impl()->loaded->plan();
  ModelShape shape;
  shape.positions = PositionName(plan.position);
  shape.rope_length = plan.rope_length;
  ForEachAttention(plan, [&](const AttentionPlan& attention) {
    if (static_cast<int64_t>(attention.key_dim) > shape.key_dim) {
      shape.num_heads = static_cast<int64_t>(attention.num_heads);
      shape.key_dim = static_cast<int64_t>(attention.key_dim);
      shape.value_dim = static_cast<int64_t>(attention.value_dim);
    }
    shape.num_kv_heads.push_back(static_cast<int64_t>(attention.num_kv_heads));
    shape.layer_window.push_back(attention.window);
  });
  ForEachDense(plan,
               [&](const DensePlan& dense) { shape.ffn_dim.push_back(static_cast<int64_t>(dense.dim)); });
  for (const LayerPlan& layer : plan.layers) {
    if (layer.num_states() > 0) ++shape.num_state_layers;
    if (layer.latent() != nullptr) ++shape.num_latent_layers;
    const ExpertsPlan* const experts = layer.experts();
    if (experts == nullptr) continue;
    ++shape.num_expert_layers;
    shape.num_experts = static_cast<int64_t>(experts->router.num_experts);
    shape.num_used_experts = static_cast<int64_t>(experts->router.num_used);
    shape.expert_dim = static_cast<int64_t>(experts->dim);
  }
  return shape;
}

}  // namespace mneme
