// What the files of families share.
#include "model/families/family.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

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
      Checked(hyper,
              settings.Uint("expert_used_count",
                            "num_experts_per_tok|num_experts_per_token|top_k_experts|moe_k|moe_topk"),
              "number of experts per token", std::min<uint64_t>(plan.router.num_experts, kMaxUsedExperts));
  plan.router.renormalise =
      settings.Bool("expert_weights_norm", "norm_topk_prob|moe_renormalize").value_or(renormalise);
  plan.router.scale = static_cast<float>(
      settings.Float("expert_weights_scale", "routed_scaling_factor|moe_routed_scaling_factor").value_or(1));
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
      input.hyper.settings
          .Uint("expert_shared_count", "n_shared_experts|moe_num_shared_experts|num_shared_experts")
          .value_or(0);
  if (count == 0) return;
  if (count > kMaxExperts) Fail(ErrorKind::kFile, "{}: {} shared experts", input.hyper.path, count);
  for (LayerPlan& layer : plan->layers) {
    if (ExpertsPlan* experts = layer.experts()) experts->shared_dim = count * experts->dim;
  }
}

void UseExpertGroups(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  const uint64_t count = settings.Uint("expert_group_count", "n_group|num_expert_group").value_or(1);
  const uint64_t used = settings.Uint("expert_group_used_count", "topk_group").value_or(count);
  if (count <= 1) return;
  for (LayerPlan& layer : plan->layers) {
    if (layer.experts() == nullptr) continue;
    RouterShape& router = layer.experts()->router;
    const size_t size = router.num_experts / count;
    if (router.num_experts % count != 0 || used == 0 || used > count || used * size < router.num_used) {
      Fail(ErrorKind::kFile, "{}: {} of {} experts cannot be chosen from {} of {} groups", input.hyper.path,
           router.num_used, router.num_experts, used, count);
    }
    router.num_groups = count;
    router.num_used_groups = used;
  }
}

void WriteExperts(const ModelPlan& plan, Hyperparameters* hyper) {
  const auto with_experts = std::find_if(plan.layers.begin(), plan.layers.end(),
                                         [](const LayerPlan& layer) { return layer.experts() != nullptr; });
  hyper->settings.SetForGguf("leading_dense_block_count",
                             static_cast<uint32_t>(with_experts - plan.layers.begin()));
  if (with_experts == plan.layers.end()) return;
  const RouterShape& router = with_experts->experts()->router;
  constexpr uint32_t kSoftmax = 1, kSigmoid = 2;
  hyper->settings.SetForGguf("expert_gating_func",
                             router.score == RouterScore::kSigmoid ? kSigmoid : kSoftmax);
  hyper->settings.SetForGguf("expert_weights_norm", router.renormalise);
  hyper->settings.SetForGguf("expert_feed_forward_length",
                             static_cast<uint32_t>(with_experts->experts()->dim));
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

size_t NeededSize(const FamilyInput& input, std::string_view gguf, std::string_view json, uint64_t most) {
  const std::optional<uint64_t> value = input.hyper.settings.Uint(gguf, json);
  if (!value || *value == 0 || *value > most) {
    Fail(ErrorKind::kFile, "{}: '{}' is {}, which must be between 1 and {}", input.hyper.path,
         IsFolder(input) ? json : gguf, value.value_or(0), most);
  }
  return static_cast<size_t>(*value);
}

namespace {

constexpr std::string_view kMinStep = "mneme.ssm.min_step", kMaxStep = "mneme.ssm.max_step";

// One end of "time_step_limit"; infinity is written in an object, which JSON has no number for.
float StepLimit(const Hyperparameters& hyper, const nlohmann::json& value) {
  if (value.is_object() && value.contains("__float__") && value["__float__"] == "Infinity") {
    return std::numeric_limits<float>::infinity();
  }
  const float limit = value.is_number() ? value.get<float>() : -1.0f;
  if (!(limit >= 0)) {
    Fail(ErrorKind::kFile, "{}: 'time_step_limit' must be two numbers that are not negative", hyper.path);
  }
  return limit;
}

// "time_step_min", "_max" and "_floor" are of the random weights that training began with. In Nemotron-H and
// Zamba 2 transformers takes the first for a limit, but only where it reads several tokens at once: a token
// that it decodes has none, so its own two ways differ wherever a step is smaller. What these models were
// trained in and are served by has no limit, and neither has this.
void ReadStepLimits(const FamilyInput& input, ScanPlan* plan) {
  const Settings& settings = input.hyper.settings;
  plan->min_step = static_cast<float>(settings.Float(kMinStep, "").value_or(0));
  plan->max_step =
      static_cast<float>(settings.Float(kMaxStep, "").value_or(std::numeric_limits<double>::infinity()));
  const nlohmann::json* limits = settings.Find("time_step_limit");
  if (limits == nullptr) limits = settings.Find("mamba_dt_limit");
  if (limits != nullptr && !limits->is_null()) {
    if (!limits->is_array() || limits->size() != 2) {
      Fail(ErrorKind::kFile, "{}: 'time_step_limit' must be a list of two numbers", input.hyper.path);
    }
    plan->min_step = StepLimit(input.hyper, (*limits)[0]);
    plan->max_step = StepLimit(input.hyper, (*limits)[1]);
  }
  if (!(plan->min_step >= 0 && plan->min_step <= plan->max_step)) {
    Fail(ErrorKind::kFile, "{}: steps between {} and {}", input.hyper.path, plan->min_step, plan->max_step);
  }
}

// The values of a head, which some folders leave to be found out.
size_t ScanValueDim(const FamilyInput& input, size_t num_heads, size_t model_dim) {
  if (!IsFolder(input)) {
    return NeededSize(input, "ssm.inner_size", "", kMostStateHeads * kMostStateDim) / num_heads;
  }
  const Settings& settings = input.hyper.settings;
  const nlohmann::json* const given = settings.Find("mamba_d_head");
  const bool is_told = (given != nullptr && given->is_number()) || settings.Find("mamba_head_dim") != nullptr;
  if (!is_told && settings.Find("mamba_d_ssm") != nullptr) {
    return NeededSize(input, "", "mamba_d_ssm", kMostStateHeads * kMostStateDim) / num_heads;
  }
  if (!is_told && settings.Find("mamba_expand") != nullptr) {
    return NeededSize(input, "", "mamba_expand", 1024) * model_dim / num_heads;
  }
  return NeededSize(input, "", "mamba_d_head|mamba_head_dim|head_dim", kMostStateDim);
}

}  // namespace

ScanPlan ReadScan(const FamilyInput& input, const ModelPlan& plan) {
  ScanPlan scan;
  RecurShape& shape = scan.shape;
  shape.rule = RecurRule::kScan;
  shape.num_key_heads =
      NeededSize(input, "ssm.group_count", "mamba_n_groups|n_groups|mamba_ngroups", kMostStateHeads);
  shape.num_value_heads = NeededSize(
      input, "ssm.time_step_rank", "mamba_n_heads|mamba_num_heads|n_mamba_heads|num_heads", kMostStateHeads);
  shape.key_dim =
      NeededSize(input, "ssm.state_size", "mamba_d_state|ssm_state_size|state_size", kMostStateDim);
  shape.value_dim = ScanValueDim(input, shape.num_value_heads, plan.model_dim);
  shape.conv_width = NeededSize(input, "ssm.conv_kernel", "mamba_d_conv|conv_kernel", kMaxConvWidth);
  shape.has_values_first = true;
  shape.normalises = false;
  if (shape.num_value_heads % shape.num_key_heads != 0 || shape.value_dim == 0 ||
      shape.value_dim > kMostStateDim) {
    Fail(ErrorKind::kFile, "{}: {} heads of {} values cannot share {} groups", input.hyper.path,
         shape.num_value_heads, shape.value_dim, shape.num_key_heads);
  }
  ReadStepLimits(input, &scan);
  return scan;
}

void ShareChannels(size_t num_channels, RecurShape* shape) {
  shape->num_value_heads = num_channels % kRecurPanel == 0 ? num_channels / kRecurPanel : 1;
  shape->value_dim = num_channels / shape->num_value_heads;
}

namespace {

constexpr std::string_view kRmsOfSteps = "ssm.dt_b_c_rms", kEpsilonOfSteps = "mneme.ssm.norm_epsilon";

size_t StepRank(const FamilyInput& input, size_t model_dim) {
  const nlohmann::json* given = input.hyper.settings.Find("time_step_rank");
  if (given == nullptr) given = input.hyper.settings.Find("mamba_dt_rank");
  const bool is_auto = given == nullptr || *given == "auto";
  if (IsFolder(input) && is_auto) return (model_dim + 15) / 16;
  return NeededSize(input, "ssm.time_step_rank", "time_step_rank|mamba_dt_rank", 1 << 16);
}

}  // namespace

SelectivePlan ReadSelective(const FamilyInput& input, const ModelPlan& plan) {
  const Settings& settings = input.hyper.settings;
  const bool says_expand = settings.Find("expand") != nullptr || settings.Find("mamba_expand") != nullptr;
  const size_t channels = !IsFolder(input)
                              ? NeededSize(input, "ssm.inner_size", "", kMostStateHeads * kMostStateDim)
                          : says_expand ? NeededSize(input, "", "expand|mamba_expand", 1024) * plan.model_dim
                                        : 2 * plan.model_dim;
  SelectivePlan selective;
  RecurShape& convolution = selective.convolution;
  convolution.rule = RecurRule::kConvolution;
  ShareChannels(channels, &convolution);
  convolution.conv_width = NeededSize(input, "ssm.conv_kernel", "conv_kernel|mamba_d_conv", kMaxConvWidth);
  RecurShape& scan = selective.scan;
  scan.rule = RecurRule::kDiagonal;
  ShareChannels(channels, &scan);
  scan.num_key_heads = 1;
  scan.key_dim = NeededSize(input, "ssm.state_size", "state_size|mamba_d_state", kMostStateDim);
  scan.conv_width = 1;
  selective.step_rank = StepRank(input, plan.model_dim);
  selective.has_norms = settings.Bool(kRmsOfSteps, "").value_or(false);
  selective.norm_epsilon = static_cast<float>(settings.Float(kEpsilonOfSteps, "mixer_rms_eps").value_or(0));
  return selective;
}

void WriteSelective(const ModelPlan& plan, Hyperparameters* hyper) {
  for (const LayerPlan& layer : plan.layers) {
    const SelectivePlan* const selective = layer.selective();
    if (selective == nullptr) continue;
    const auto set = [hyper](std::string_view name, size_t value) {
      hyper->settings.SetForGguf(name, static_cast<uint32_t>(value));
    };
    set("ssm.inner_size", selective->scan.value_channels());
    set("ssm.time_step_rank", selective->step_rank);
    if (!selective->norms_have_weights) hyper->settings.SetForGguf(kRmsOfSteps, selective->has_norms);
    if (selective->has_norms && selective->norm_epsilon > 0) {
      hyper->settings.SetForGguf(kEpsilonOfSteps, selective->norm_epsilon);
    }
    return;
  }
}

RecurShape ReadDelta(const FamilyInput& input) {
  RecurShape shape;
  shape.num_key_heads = NeededSize(input, "ssm.group_count", "linear_num_key_heads", kMostStateHeads);
  shape.num_value_heads = NeededSize(input, "ssm.time_step_rank", "linear_num_value_heads", kMostStateHeads);
  shape.key_dim = NeededSize(input, "ssm.state_size", "linear_key_head_dim", kMostStateDim);
  shape.value_dim =
      IsFolder(input)
          ? NeededSize(input, "", "linear_value_head_dim", kMostStateDim)
          : NeededSize(input, "ssm.inner_size", "", kMostStateHeads * kMostStateDim) / shape.num_value_heads;
  shape.conv_width = NeededSize(input, "ssm.conv_kernel", "linear_conv_kernel_dim", kMaxConvWidth);
  if (shape.num_value_heads % shape.num_key_heads != 0 || shape.value_dim == 0 ||
      shape.value_dim > kMostStateDim) {
    Fail(ErrorKind::kFile, "{}: {} value heads of {} cannot share {} key heads", input.hyper.path,
         shape.num_value_heads, shape.value_dim, shape.num_key_heads);
  }
  shape.query_scale = 1.0f / std::sqrt(static_cast<float>(shape.key_dim));
  return shape;
}

void WriteDelta(const ModelPlan& plan, Hyperparameters* hyper) {
  for (const LayerPlan& layer : plan.layers) {
    if (layer.delta() == nullptr) continue;
    const size_t inner = layer.delta()->shape.value_channels();
    hyper->settings.SetForGguf("ssm.inner_size", static_cast<uint32_t>(inner));
    return;
  }
}

void WriteScan(const ModelPlan& plan, Hyperparameters* hyper) {
  for (const LayerPlan& layer : plan.layers) {
    const ScanPlan* const scan = layer.scan();
    if (scan == nullptr) continue;
    hyper->settings.SetForGguf("ssm.inner_size", static_cast<uint32_t>(scan->shape.value_channels()));
    if (scan->min_step > 0) hyper->settings.SetForGguf(kMinStep, scan->min_step);
    if (std::isfinite(scan->max_step)) hyper->settings.SetForGguf(kMaxStep, scan->max_step);
    return;
  }
}

void WriteProportion(const ModelPlan& plan, Hyperparameters* hyper) {
  if (hyper->scaling_type != "proportional") return;
  hyper->scaling_type.clear();
  hyper->frequency_divisors.clear();
  ForEachAttention(plan, [&](const AttentionPlan& attention) {
    if (attention.window > 0 || !hyper->frequency_divisors.empty()) return;
    for (const double frequency : plan.ropes[attention.rope].frequencies) {
      hyper->frequency_divisors.push_back(frequency > 0 ? 1.0f : 1e30f);
    }
  });
}

void WriteKvHeadsByLayer(const ModelPlan& plan, Hyperparameters* hyper) {
  hyper->num_kv_heads.clear();
  for (const LayerPlan& layer : plan.layers) {
    const AttentionPlan* const attention = layer.attention();
    hyper->num_kv_heads.push_back(attention == nullptr ? 0 : attention->num_kv_heads);
  }
}

void UseUnrotatedLayers(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  // 1 where a layer rotates; readers of GGUF know that every fourth does not.
  const std::vector<uint64_t> rotates = settings.Uints("", "no_rope_layers");
  const uint64_t interval = settings.Uint("", "no_rope_layer_interval").value_or(4);
  for (size_t layer = 0; layer < plan->num_layers(); ++layer) {
    const bool is_listed = layer < rotates.size();
    plan->layers[layer].attention()->rotation.is_none =
        is_listed ? rotates[layer] == 0 : interval > 0 && (layer + 1) % interval == 0;
  }
}

void UsePartialRotations(const FamilyInput& input, double usual, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  const auto local_dim = settings.Uint("rope.dimension_count_swa", "");
  ForEachAttention(*plan, [&](AttentionPlan& attention) {
    const bool is_local = attention.window > 0;
    if (!IsFolder(input)) {
      if (is_local && local_dim) attention.rotation.dim = *local_dim;
      return;
    }
    const double part =
        settings
            .Float("", is_local
                           ? "rope_parameters.sliding_attention.partial_rotary_factor|partial_rotary_factor"
                           : "rope_parameters.full_attention.partial_rotary_factor|partial_rotary_factor")
            .value_or(usual);
    if (!(part > 0 && part <= 1)) {
      Fail(ErrorKind::kFile, "{}: {} of each head rotates", input.hyper.path, part);
    }
    attention.rotation.dim = static_cast<size_t>(part * static_cast<double>(attention.key_dim));
  });
}

void WriteLocalLayers(const ModelPlan& plan, Hyperparameters* hyper) {
  const auto set = [&](std::string_view key, size_t value) {
    hyper->settings.SetForGguf(key, static_cast<uint32_t>(value));
  };
  ForEachAttention(plan, [&](const AttentionPlan& attention) {
    if (attention.window == 0) return;
    hyper->sliding_window = static_cast<uint64_t>(attention.window);
    set("rope.dimension_count_swa", plan.ropes[attention.rope].rotary_dim);
  });
  size_t num_dense = 0;
  while (num_dense < plan.num_layers() && plan.layers[num_dense].experts() == nullptr) ++num_dense;
  if (num_dense == plan.num_layers()) return;
  const ExpertsPlan& experts = *plan.layers[num_dense].experts();
  set("leading_dense_block_count", num_dense);
  set("expert_feed_forward_length", experts.dim);
  set("expert_gating_func", 2);  // sigmoid
  hyper->settings.SetForGguf("expert_weights_norm", experts.router.renormalise);
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

void UseQueryGrowth(const FamilyInput& input, ModelPlan* plan) {
  const double growth = input.hyper.settings
                            .Float("attention.temperature_scale",
                                   "rope_parameters.llama_4_scaling_beta|rope_scaling.llama_4_scaling_beta")
                            .value_or(0);
  const uint64_t length = input.hyper.original_length.value_or(0);
  if (growth == 0) return;
  if (!std::isfinite(growth) || length == 0 || length > (uint64_t{1} << 40)) {
    Fail(ErrorKind::kFile, "{}: queries that grow by {} every {} tokens", input.hyper.path, growth, length);
  }
  ForEachAttention(*plan, [&](AttentionPlan& attention) {
    attention.query_growth = static_cast<float>(growth);
    attention.query_growth_length = static_cast<int64_t>(length);
  });
}

void UsePerLayerInputs(const FamilyInput& input, uint64_t dim, ModelPlan* plan) {
  if (dim > (1 << 20)) {
    Fail(ErrorKind::kFile, "{}: an input of {} values for each layer", input.hyper.path, dim);
  }
  plan->per_layer_dim = dim;
}

void UseOptionalWindow(const FamilyInput& input, ModelPlan* plan) {
  if (input.hyper.use_sliding_window && !*input.hyper.use_sliding_window) return;
  if (input.hyper.sliding_window.value_or(0) > 0) UseWindows(input, *input.hyper.sliding_window, 1, plan);
}

}  // namespace mneme
