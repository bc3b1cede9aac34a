// MiniCPM3: latents as DeepSeek-V2 has them, in a model whose parts are scaled.
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/families/deepseek/latent.h"

namespace mneme {
namespace {

constexpr std::string_view kName[] = {"minicpm3"};

// What the one model of this family has, and what its GGUF files leave to the reader.
constexpr double kEmbeddingScale = 12, kDepthScale = 1.4, kBaseDim = 256;

// A setting that null turns off, and whose absence means the usual value.
double Given(const FamilyInput& input, const char* name, double off, double usual) {
  const nlohmann::json* const json = input.hyper.settings.json();
  if (json != nullptr && json->contains(name) && json->at(name).is_null()) return off;
  const double value = input.hyper.settings.Float("", name).value_or(usual);
  if (!std::isfinite(value) || value <= 0) {
    Fail(ErrorKind::kFile, "{}: '{}' is {}, which must be positive", input.hyper.path, name, value);
  }
  return value;
}

void PlanMinicpm3(const FamilyInput& input, ModelPlan* plan) {
  UseLatents(input, plan);
  const Settings& settings = input.hyper.settings;
  const double layers = std::sqrt(static_cast<double>(plan->num_layers()));
  const double dim = static_cast<double>(plan->model_dim);
  const double depth = Given(input, "scale_depth", layers, kDepthScale) / layers;
  const double head = Given(input, "dim_model_base", dim, kBaseDim) / dim;
  plan->embedding_scale =
      static_cast<float>(settings.Float("embedding_scale", "scale_emb").value_or(kEmbeddingScale));
  plan->residual_scale = static_cast<float>(settings.Float("residual_scale", "").value_or(depth));
  plan->logit_scale = static_cast<float>(settings.Float("logit_scale", "").value_or(head));
}

// Readers of these files know one model, whose scales they do not look for.
void WriteMinicpm3(const ModelPlan& plan, Hyperparameters* hyper) {
  WriteLatents(plan, hyper);
  hyper->settings.SetForGguf("embedding_scale", plan.embedding_scale);
  hyper->settings.SetForGguf("residual_scale", plan.residual_scale);
  hyper->settings.SetForGguf("logit_scale", plan.logit_scale);
  const LatentPlan& latent = *plan.layers[0].latent();
  hyper->num_kv_heads = {latent.attention.num_heads};
  hyper->key_dim = latent.query_dim();
  hyper->value_dim = latent.head_value_dim;
}

}  // namespace

extern constinit const Family kMinicpm3 = {
    .name = "minicpm3",
    .gguf_names = kName,
    .folder_types = kName,
    .plan = PlanMinicpm3,
    .folder_names = kLatentTensorNames,
    .folder_prefixes = kModelPrefixes,
    .gguf_joins_latent_heads = true,
    .for_gguf = WriteMinicpm3,
};

}  // namespace mneme
