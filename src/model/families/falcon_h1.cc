// Falcon-H1 (arXiv 2507.22448): in every layer attention and a scan side by side, and multipliers of nearly
// every matrix. GGUF files have these in the matrices; a folder's matrices with one are kept as float32, so
// it takes less memory when it was converted.
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"output_norm", "final_layernorm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.input_layernorm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.o_proj"},
    {"ssm_in", "layers.{}.mamba.in_proj"},
    {"ssm_conv1d", "layers.{}.mamba.conv1d"},
    {"ssm_dt.bias", "layers.{}.mamba.dt_bias"},
    {"ssm_a.", "layers.{}.mamba.A_log"},
    {"ssm_d.", "layers.{}.mamba.D"},
    {"ssm_norm", "layers.{}.mamba.norm"},
    {"ssm_out", "layers.{}.mamba.out_proj"},
    {"ffn_norm", "layers.{}.pre_ff_layernorm"},
    {"ffn_gate", "layers.{}.feed_forward.gate_proj"},
    {"ffn_up", "layers.{}.feed_forward.up_proj"},
    {"ffn_down", "layers.{}.feed_forward.down_proj"},
};
// As converters of other programs name it, and their readers look for it.
constexpr TensorName kGgufTensors[] = {{"ffn_norm.weight", "ffn_norm"}};
constexpr std::string_view kGguf[] = {"falcon-h1"};
constexpr std::string_view kType[] = {"falcon_h1"};
constexpr std::string_view kGatesNormed = "mneme.ssm.gates_normed";

float Factor(const FamilyInput& input, std::string_view name, double value) {
  if (std::isfinite(value) && value != 0) return static_cast<float>(value);
  Fail(ErrorKind::kFile, "{}: {} is {}, which cannot be", input.hyper.path, name, value);
}

float Multiplier(const FamilyInput& input, std::string_view name) {
  return Factor(input, name, input.hyper.settings.Float("", name).value_or(1));
}

template <size_t count>
std::array<float, count> Multipliers(const FamilyInput& input, std::string_view name) {
  std::array<float, count> factors;
  factors.fill(1.0f);
  const nlohmann::json* const given = input.hyper.settings.Find(name);
  if (given == nullptr) return factors;
  const bool is_list = given->is_array() && given->size() == count;
  for (size_t i = 0; i < count; ++i) {
    if (!is_list || !(*given)[i].is_number()) {
      Fail(ErrorKind::kFile, "{}: '{}' must be a list of {} numbers", input.hyper.path, name, count);
    }
    factors[i] = Factor(input, name, (*given)[i].get<double>());
  }
  return factors;
}

// The factors of a matrix, where there are any. They hold for products without a bias.
void Multiply(const FamilyInput& input, std::string_view canonical,
              std::vector<std::pair<size_t, float>> rows, ModelPlan* plan) {
  bool is_scaled = false;
  for (const auto& [count, factor] : rows) is_scaled = is_scaled || factor != 1.0f;
  if (!is_scaled) return;
  if (input.has_bias(canonical, 0)) {
    Fail(ErrorKind::kUnsupported, "{}: multipliers of a matrix with a bias ({}) are not supported",
         input.hyper.path, canonical);
  }
  plan->folder_factors.push_back({canonical, std::move(rows)});
}

void ReadMultipliers(const FamilyInput& input, ModelPlan* plan) {
  const AttentionPlan& attention = *plan->layers[0].attention();
  const RecurShape& shape = plan->layers[0].scan()->shape;
  const size_t dim = plan->model_dim, values = shape.value_channels(), keys = shape.key_channels();
  const size_t kv_rows = attention.num_kv_heads * attention.key_dim;
  const float to_attention = Multiplier(input, "attention_in_multiplier");
  Multiply(input, "attn_q", {{attention.num_heads * attention.key_dim, to_attention}}, plan);
  Multiply(input, "attn_k", {{kv_rows, to_attention * Multiplier(input, "key_multiplier")}}, plan);
  Multiply(input, "attn_v", {{kv_rows, to_attention}}, plan);
  Multiply(input, "attn_output", {{dim, Multiplier(input, "attention_out_multiplier")}}, plan);
  std::array<float, 5> of_parts = Multipliers<5>(input, "ssm_multipliers");
  const float to_scan = Multiplier(input, "ssm_in_multiplier");
  for (float& factor : of_parts) factor *= to_scan;
  Multiply(input, "ssm_in",
           {{values, of_parts[0]},
            {values, of_parts[1]},
            {keys, of_parts[2]},
            {keys, of_parts[3]},
            {shape.num_value_heads, of_parts[4]}},
           plan);
  Multiply(input, "ssm_out", {{dim, Multiplier(input, "ssm_out_multiplier")}}, plan);
  const std::array<float, 2> of_network = Multipliers<2>(input, "mlp_multipliers");
  Multiply(input, "ffn_gate", {{plan->layers[0].dense()->dim, of_network[0]}}, plan);
  Multiply(input, "ffn_down", {{dim, of_network[1]}}, plan);
  plan->embedding_scale = Multiplier(input, "embedding_multiplier");
  plan->logit_scale = Multiplier(input, "lm_head_multiplier");
}

void PlanFalconH1(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  ScanPlan scan = ReadScan(input, *plan);
  scan.has_norm = input.has_weight("ssm_norm", 0);
  scan.gates_normed =
      scan.has_norm && settings.Bool(kGatesNormed, "mamba_norm_before_gate").value_or(IsFolder(input));
  for (LayerPlan& layer : plan->layers) layer.mixer = HybridPlan{*layer.attention(), scan};
  if (IsFolder(input)) ReadMultipliers(input, plan);
}

}  // namespace

extern constinit const Family kFalconH1 = {
    .name = "falcon-h1",
    .gguf_names = kGguf,
    .folder_types = kType,
    .plan = PlanFalconH1,
    .folder_names = kTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_tensors = kGgufTensors,
    .gguf_folds_scales = true,
    .for_gguf = WriteScan,
};

}  // namespace mneme
