// Llama 4: experts that read what their weight scales, beside a shared one; layers that see the chunk that
// they are in, and every fourth one everything, without positions but with queries that grow.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"llama4"};
constexpr std::string_view kTypes[] = {"llama4", "llama4_text"};
constexpr TensorName kTensorNames[] = {
    {"ffn_gate", "layers.{}.feed_forward.gate_proj"},
    {"ffn_up", "layers.{}.feed_forward.up_proj"},
    {"ffn_down", "layers.{}.feed_forward.down_proj"},
    {"ffn_gate_inp", "layers.{}.feed_forward.router"},
    {"ffn_gate_up_exps.weight", "layers.{}.feed_forward.experts.gate_up_proj"},
    {"ffn_down_exps.weight", "layers.{}.feed_forward.experts.down_proj"},
    {"ffn_gate_shexp", "layers.{}.feed_forward.shared_expert.gate_proj"},
    {"ffn_up_shexp", "layers.{}.feed_forward.shared_expert.up_proj"},
    {"ffn_down_shexp", "layers.{}.feed_forward.shared_expert.down_proj"},
};
constexpr uint64_t kChunk = 8192;  // that of all models
constexpr std::string_view kHeadNorms = "mneme.attention.qk_norm";

// Positions of a chunk; 0: there are none.
uint64_t ChunkSize(const FamilyInput& input) {
  const Hyperparameters& hyper = input.hyper;
  if (!IsFolder(input)) return hyper.sliding_window.value_or(kChunk);
  const auto said = hyper.settings.json()->find("attention_chunk_size");
  if (said != hyper.settings.json()->end() && said->is_null()) return 0;
  return hyper.settings.Uint("", "attention_chunk_size").value_or(kChunk);
}

void SetLayers(const FamilyInput& input, ModelPlan* plan) {
  const Hyperparameters& hyper = input.hyper;
  const uint64_t chunk = ChunkSize(input);
  // Readers of GGUF know that a model without chunks rotates everywhere.
  if (IsFolder(input) || chunk > 0) UseUnrotatedLayers(input, plan);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    AttentionPlan& attention = *plan->layers[layer].attention();
    bool is_local = !attention.rotation.is_none;
    if (layer < hyper.layer_types.size()) is_local = hyper.layer_types[layer] == "chunked_attention";
    if (!is_local || chunk == 0) continue;
    attention.window = static_cast<int64_t>(chunk);
    attention.is_chunked = true;
  }
}

// Where nothing rotates, queries grow; where something does, heads are normed.
void SetHeads(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  const auto experts = settings.Uint("expert_count", "num_local_experts");
  const bool has_norms =
      settings.Bool(kHeadNorms, "use_qk_norm").value_or(IsFolder(input) || experts.value_or(0) != 128);
  const double growth = settings.Float("attention.temperature_scale", "attn_scale").value_or(0.1);
  const uint64_t length = settings.Uint("attention.temperature_length", "floor_scale").value_or(kChunk);
  // Old files count layers where others say yes or no.
  const nlohmann::json* const says = settings.Find("attn_temperature_tuning");
  const bool grows = says == nullptr || (says->is_boolean() ? says->get<bool>() : *says != 0);
  if (grows && growth != 0 && (length == 0 || length > uint64_t{1} << 40)) {
    Fail(ErrorKind::kFile, "{}: queries that grow by {} every {} tokens", input.hyper.path, growth, length);
  }
  ForEachAttention(*plan, [&](AttentionPlan& attention) {
    if (!attention.rotation.is_none) {
      attention.qk_norm = has_norms ? HeadNorm::kPlain : HeadNorm::kNone;
    } else if (grows) {
      attention.query_growth = static_cast<float>(growth);
      attention.query_growth_length = static_cast<int64_t>(length);
      attention.query_growth_offset = 1;
    }
  });
}

void PlanLlama4(const FamilyInput& input, ModelPlan* plan) {
  SetLayers(input, plan);
  SetHeads(input, plan);
  if (IsFolder(input)) {
    const size_t dim = NeededSize(input, "", "intermediate_size_mlp|intermediate_size", uint64_t{1} << 24);
    ForEachDense(*plan, [&](DensePlan& dense) { dense.dim = dim; });
  }
  UseExperts(input, /*renormalise=*/false, plan);
  SetRouterScore(RouterScore::kSigmoid, plan);
  for (LayerPlan& layer : plan->layers) {
    if (ExpertsPlan* experts = layer.experts()) {
      experts->weighs_inputs = true;
      experts->shared_dim = experts->dim;
    }
  }
}

// The width of the dense layers under the usual name, that of experts apart, and how often those come.
void WriteLlama4(const ModelPlan& plan, Hyperparameters* hyper) {
  const auto set = [&](std::string_view key, GgufScalar value) {
    hyper->settings.SetForGguf(key, std::move(value));
  };
  bool has_chunks = false, has_norms = false;
  float growth = 0;
  size_t step = 0;
  for (size_t layer = 0; layer < plan.num_layers(); ++layer) {
    const AttentionPlan& attention = *plan.layers[layer].attention();
    has_chunks |= attention.is_chunked;
    has_norms |= attention.qk_norm == HeadNorm::kPlain;
    growth = std::max(growth, attention.query_growth);
    if (attention.is_chunked) hyper->sliding_window = static_cast<uint64_t>(attention.window);
    if (const DensePlan* dense = plan.layers[layer].dense()) hyper->ffn_dim = {dense->dim};
    if (const ExpertsPlan* experts = plan.layers[layer].experts()) {
      set("expert_feed_forward_length", static_cast<uint32_t>(experts->dim));
      if (step == 0) step = layer + 1;
    }
  }
  for (size_t layer = 0; layer < plan.num_layers(); ++layer) {
    const AttentionPlan& attention = *plan.layers[layer].attention();
    const bool is_usual = has_chunks ? attention.rotation.is_none == ((layer + 1) % 4 == 0) &&
                                           attention.rotation.is_none != attention.is_chunked
                                     : !attention.rotation.is_none;
    if (is_usual) continue;
    Fail(ErrorKind::kUnsupported,
         "{}: layer {} has chunks or positions where readers of GGUF expect them otherwise", hyper->path,
         layer);
  }
  if (!has_chunks) hyper->sliding_window = 0;
  hyper->layer_is_local.clear();
  set("interleave_moe_layer_step", static_cast<uint32_t>(step));
  set("attention.temperature_scale", growth);
  set(kHeadNorms, has_norms);
}

}  // namespace

extern constinit const Family kLlama4 = {
    .name = "llama4",
    .gguf_names = kName,
    .folder_types = kTypes,
    .plan = PlanLlama4,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
    .folder_transposed_experts = true,
    .gguf_interleaved_rope = true,
    .folder_interleaved_rope = true,
    .for_gguf = WriteLlama4,
};

}  // namespace mneme
