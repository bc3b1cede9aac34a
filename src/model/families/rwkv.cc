// RWKV-4 (arXiv 2305.13048): no attention, but a weighted mean of what was before. GGUF has the names of
// later versions' files, which have no word for this one.
#include <cmath>

#include "base/error.h"
#include "model/families/family.h"

namespace mneme {
namespace {

constexpr TensorName kTensorNames[] = {
    {"token_embd", "embeddings"},
    {"token_embd_norm", "blocks.0.pre_ln"},
    {"output_norm", "ln_out"},
    {"output", "/head"},
    {"attn_norm", "blocks.{}.ln1"},
    {"ffn_norm", "blocks.{}.ln2"},
    {"time_mix_lerp_k.weight", "blocks.{}.attention.time_mix_key"},
    {"time_mix_lerp_v.weight", "blocks.{}.attention.time_mix_value"},
    {"time_mix_lerp_r.weight", "blocks.{}.attention.time_mix_receptance"},
    {"time_mix_decay.weight", "blocks.{}.attention.time_decay"},
    {"time_mix_first.weight", "blocks.{}.attention.time_first"},
    {"time_mix_key", "blocks.{}.attention.key"},
    {"time_mix_value", "blocks.{}.attention.value"},
    {"time_mix_receptance", "blocks.{}.attention.receptance"},
    {"time_mix_output", "blocks.{}.attention.output"},
    {"channel_mix_lerp_k.weight", "blocks.{}.feed_forward.time_mix_key"},
    {"channel_mix_lerp_r.weight", "blocks.{}.feed_forward.time_mix_receptance"},
    {"channel_mix_key", "blocks.{}.feed_forward.key"},
    {"channel_mix_receptance", "blocks.{}.feed_forward.receptance"},
    {"channel_mix_value", "blocks.{}.feed_forward.value"},
};
constexpr std::string_view kPrefixes[] = {"rwkv.", ""};
constexpr std::string_view kGgufName[] = {"rwkv4"};
constexpr std::string_view kType[] = {"rwkv"};

// "rescale_every" halves rows and weights now and then, for readers in half precision; norms undo it.
void PlanRwkv(const FamilyInput& input, ModelPlan* plan) {
  UseLayerNorm(plan);
  plan->has_embedding_norm = true;
  const Settings& settings = input.hyper.settings;
  constexpr std::string_view kWidth = "ssm.inner_size", kJsonWidth = "attention_hidden_size";
  const size_t channels = settings.Uint(kWidth, kJsonWidth)
                              ? NeededSize(input, kWidth, kJsonWidth, kMostStateHeads * kMostStateDim)
                              : plan->model_dim;
  TimeMixPlan time_mix;
  ChannelMixPlan channel_mix;
  channel_mix.dim = input.hyper.ffn_dim.empty() ? 4 * plan->model_dim : input.hyper.ffn_dim[0];
  if (channel_mix.dim == 0 || channel_mix.dim > kMostStateHeads * kMostStateDim) {
    Fail(ErrorKind::kFile, "{}: the feed-forward network is {} wide", input.hyper.path, channel_mix.dim);
  }
  RecurShape shift;
  shift.rule = RecurRule::kConvolution;
  shift.conv_width = 2;
  shift.conv_activates = false;
  ShareChannels(plan->model_dim, &shift);
  time_mix.shift = channel_mix.shift = shift;
  time_mix.scan.rule = RecurRule::kWkv;
  time_mix.scan.conv_width = 1;
  ShareChannels(channels, &time_mix.scan);
  for (LayerPlan& layer : plan->layers) {
    layer.mixer = time_mix;
    layer.feed_forward = channel_mix;
  }
}

void WriteRwkv(const ModelPlan& plan, Hyperparameters* hyper) {
  hyper->settings.SetForGguf("ssm.inner_size",
                             static_cast<uint32_t>(plan.layers[0].time_mix()->scan.value_channels()));
  hyper->ffn_dim = {plan.layers[0].channel_mix()->dim};
}

}  // namespace

extern constinit const Family kRwkv = {
    .name = "rwkv",
    .gguf_names = kGgufName,
    .folder_types = kType,
    .plan = PlanRwkv,
    .folder_names = kTensorNames,
    .folder_prefixes = kPrefixes,
    .has_attention = false,
    .for_gguf = WriteRwkv,
};

}  // namespace mneme
