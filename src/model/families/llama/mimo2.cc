// MiMo-V2-Flash: experts but in the first layer; layers with a window have twice the KV
// heads, a learned sink logit in each head, and a rotation of their own.
#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kGgufName[] = {"mimo2"};
constexpr std::string_view kTypes[] = {"mimo_v2_flash", "mimo_v2"};
constexpr TensorName kTensorNames[] = {
    {"attn_sinks.weight", "layers.{}.self_attn.attention_sink_bias"},
    {"exp_probs_b.bias", "layers.{}.mlp.gate.e_score_correction_bias"},
};

// What the publisher's files say of the layers with a window, in words of their own; what newer ones leave to
// the reader is the rule.
void SetLocalLayers(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  const size_t num_layers = plan->num_layers();
  std::vector<bool> is_local = input.hyper.layer_is_local;
  for (const uint64_t one :
       is_local.empty() ? settings.Uints("", "hybrid_layer_pattern") : std::vector<uint64_t>()) {
    is_local.push_back(one != 0);
  }
  // Of tokens before the query.
  const auto before = settings.Uint("", "sliding_window_size");
  const uint64_t window = before ? *before + 1 : input.hyper.sliding_window.value_or(129);
  for (size_t layer = 0; layer < num_layers; ++layer) {
    AttentionPlan& attention = *plan->layers[layer].attention();
    const bool sees_all = layer == 0 || (layer + 1) % 6 == 0;
    if (layer < is_local.size() ? !is_local[layer] : sees_all) continue;
    attention.window = static_cast<int64_t>(window);
    if (!IsFolder(input)) continue;
    attention.num_kv_heads =
        settings.Uint("", "swa_num_key_value_heads").value_or(2 * attention.num_kv_heads);
    if (attention.num_kv_heads == 0 || attention.num_heads % attention.num_kv_heads != 0) {
      Fail(ErrorKind::kFile, "{}: {} heads cannot share {} KV heads evenly", input.hyper.path,
           attention.num_heads, attention.num_kv_heads);
    }
  }
}

void PlanMimo2(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  const double value_scale = settings.Float("attention.value_scale", "attention_value_scale").value_or(1);
  const size_t value_dim =
      IsFolder(input) ? NeededSize(input, "", "v_head_dim|head_dim", uint64_t{1} << 16) : 0;
  ForEachAttention(*plan, [&](AttentionPlan& attention) {
    attention.value_scale = static_cast<float>(value_scale);
    if (value_dim > 0) attention.value_dim = value_dim;
  });
  SetLocalLayers(input, plan);
  UsePartialRotations(input, 0.334, plan);
  UseExperts(input, /*renormalise=*/true, plan);
  SetRouterScore(RouterScore::kSigmoid, plan);
}

}  // namespace

extern constinit const Family kMimo2 = {
    .name = "mimo2",
    .gguf_names = kGgufName,
    .folder_types = kTypes,
    .plan = PlanMimo2,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .folder_more_names = kLlamaTensorNames,
    .local_rope_base = 10000.0,
    .for_gguf = WriteLocalLayers,
};

}  // namespace mneme
