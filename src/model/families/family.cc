// What the files of families share.
#include "model/families/family.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace mneme {
bool IsFolder(const FamilyInput& input) { return input.hyper.container == Container::kSafetensors; }

void UseLayerNorm(ModelPlan* plan) {
  plan->norm = NormKind::kLayer;
  ForEachDense(*plan, [](DensePlan& dense) { dense.is_gated = false; });
}

void SetActivation(Activation activation, ModelPlan* plan) {
  for (LayerPlan& layer : plan->layers) {
    if (DensePlan* dense = layer.dense()) dense->activation = activation;
    if (ExpertsPlan* experts = layer.experts()) experts->activation = activation;
  }
}

void SetWiring(Wiring wiring, ModelPlan* plan) {
  for (LayerPlan& layer : plan->layers) layer.wiring = wiring;
}

void SetHeadNorm(HeadNorm norm, ModelPlan* plan) {
  ForEachAttention(*plan, [&](AttentionPlan& attention) { attention.qk_norm = norm; });
}

void UseWindows(const FamilyInput& input, uint64_t window, uint64_t pattern, ModelPlan* plan) {
  const auto& given = input.hyper.layer_is_local;
  const size_t num_layers = plan->num_layers();
  if (!given.empty() && given.size() < num_layers) {
    Fail(ErrorKind::kFile, "{}: says for {} layers whether they have a window, but the model has {}",
         input.hyper.path, given.size(), num_layers);
  }
  if (pattern == 0) Fail(ErrorKind::kFile, "{}: the interval of global layers is 0", input.hyper.path);
  for (size_t layer = 0; layer < num_layers; ++layer) {
    const bool is_local = given.empty() ? pattern == 1 || layer % pattern < pattern - 1 : given[layer];
    if (AttentionPlan* attention = plan->layers[layer].attention()) {
      attention->window = is_local ? static_cast<int64_t>(window) : 0;
    }
  }
}

namespace {

// More than any model has.
constexpr uint64_t kMaxExperts = 1 << 14;
constexpr uint64_t kMaxUsedExperts = 256;

uint64_t Checked(const Hyperparameters& hyper, std::optional<uint64_t> value, std::string_view what,
                 uint64_t most) {
  if (!value) Fail(ErrorKind::kFile, "{}: does not say the {}", hyper.path, what);
  if (*value == 0 || *value > most) {
    Fail(ErrorKind::kFile, "{}: the {} is {}, which must be between 1 and {}", hyper.path, what, *value,
         most);
  }
  return *value;
}

ExpertsPlan ReadExperts(const FamilyInput& input, bool renormalise) {
  const Hyperparameters& hyper = input.hyper;
  const Settings& settings = hyper.settings;
  ExpertsPlan plan;
  plan.router.num_experts = Checked(
      hyper, settings.Uint("expert_count", "num_experts|num_local_experts|n_routed_experts|moe_num_experts"),
      "number of experts", kMaxExperts);
  plan.router.num_used =
      Checked(hyper, settings.Uint("expert_used_count", "num_experts_per_tok|top_k_experts|moe_k"),
              "number of experts per token", std::min<uint64_t>(plan.router.num_experts, kMaxUsedExperts));
  plan.router.renormalise = settings.Bool("expert_weights_norm", "norm_topk_prob").value_or(renormalise);
  plan.router.scale =
      static_cast<float>(settings.Float("expert_weights_scale", "routed_scaling_factor").value_or(1));
  std::optional<uint64_t> dim = settings.Uint("expert_feed_forward_length", "moe_intermediate_size");
  if (!dim && !hyper.ffn_dim.empty()) dim = hyper.ffn_dim[0];
  plan.dim = Checked(hyper, dim, "width of an expert", uint64_t{1} << 24);
  return plan;
}

}  // namespace

void UseExperts(const FamilyInput& input, bool renormalise, ModelPlan* plan) {
  const ExpertsPlan experts = ReadExperts(input, renormalise);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    if (!input.has_weight("ffn_gate_inp", layer)) continue;
    plan->layers[layer].feed_forward = experts;
    plan->layers[layer].experts()->has_correction = input.has_bias("exp_probs_b", layer);
  }
}

void SetRouterScore(RouterScore score, ModelPlan* plan) {
  for (LayerPlan& layer : plan->layers) {
    if (ExpertsPlan* experts = layer.experts()) experts->router.score = score;
  }
}

void UseSharedExperts(const FamilyInput& input, ModelPlan* plan) {
  const uint64_t count =
      input.hyper.settings.Uint("expert_shared_count", "n_shared_experts|moe_num_shared_experts").value_or(0);
  if (count == 0) return;
  if (count > kMaxExperts) Fail(ErrorKind::kFile, "{}: {} shared experts", input.hyper.path, count);
  for (LayerPlan& layer : plan->layers) {
    if (ExpertsPlan* experts = layer.experts()) experts->shared_dim = count * experts->dim;
  }
}

void UseSharedExpert(const FamilyInput& input, std::optional<uint64_t> dim, bool has_gate, ModelPlan* plan) {
  const uint64_t checked = Checked(input.hyper, dim, "width of the shared expert", uint64_t{1} << 24);
  for (LayerPlan& layer : plan->layers) {
    if (ExpertsPlan* experts = layer.experts()) {
      experts->shared_dim = checked;
      experts->has_shared_gate = has_gate;
    }
  }
}

void UseAlibi(double max_bias, ModelPlan* plan) {
  plan->position = PositionKind::kAlibi;
  // Press et al. 2021: a geometric series; between the powers of two the odd members of the next one follow.
  const size_t num_heads = plan->layers[0].attention()->num_heads;
  size_t power = 1;
  while (power * 2 <= num_heads) power *= 2;
  for (size_t head = 0; head < num_heads; ++head) {
    const double exponent =
        head < power
            ? static_cast<double>(head + 1) * max_bias / static_cast<double>(power)
            : static_cast<double>(2 * (head - power) + 1) * max_bias / static_cast<double>(2 * power);
    plan->alibi_slopes.push_back(static_cast<float>(std::exp2(-exponent)));
  }
}

void UsePerLayerInputs(uint64_t dim, ModelPlan* plan) {
  if (dim > (1 << 20)) Fail(ErrorKind::kFile, "{}: an input of {} values for each layer", plan->name, dim);
  plan->per_layer_dim = dim;
}

void UseOptionalWindow(const FamilyInput& input, ModelPlan* plan) {
  if (input.hyper.use_sliding_window && !*input.hyper.use_sliding_window) return;
  if (input.hyper.sliding_window.value_or(0) > 0) UseWindows(input, *input.hyper.sliding_window, 1, plan);
}

}  // namespace mneme
