// OPT (arXiv 2205.01068). No other engine has GGUF files of it: the names in ours are the usual ones.
#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"opt"};
constexpr std::string_view kPrefixes[] = {"model.decoder.", "decoder."};
constexpr TensorName kTensorNames[] = {
    {"token_embd", "embed_tokens"},
    {"position_embd", "embed_positions"},
    {"output_norm", "final_layer_norm"},
    {"output", "/lm_head"},
    {"attn_norm", "layers.{}.self_attn_layer_norm"},
    {"attn_q", "layers.{}.self_attn.q_proj"},
    {"attn_k", "layers.{}.self_attn.k_proj"},
    {"attn_v", "layers.{}.self_attn.v_proj"},
    {"attn_output", "layers.{}.self_attn.out_proj"},
    {"ffn_norm", "layers.{}.final_layer_norm"},
    {"ffn_up", "layers.{}.fc1"},
    {"ffn_down", "layers.{}.fc2"},
};

void PlanOpt(const FamilyInput& input, ModelPlan* plan) {
  const Settings& settings = input.hyper.settings;
  if (!settings.Bool("", "do_layer_norm_before").value_or(true)) {
    Fail(ErrorKind::kUnsupported, "{}: opt with norms after its parts (350M) is not supported",
         input.hyper.path);
  }
  if (settings.Uint("", "word_embed_proj_dim").value_or(plan->model_dim) != plan->model_dim) {
    Fail(ErrorKind::kUnsupported, "{}: opt with embeddings of another width (350M) is not supported",
         input.hyper.path);
  }
  UseLayerNorm(plan);
  SetActivation(Activation::kRelu, plan);
  plan->position = PositionKind::kLearned;
  plan->position_offset = 2;
}

}  // namespace

extern constinit const Family kOpt = {
    .name = "opt",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanOpt,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
};

}  // namespace mneme
