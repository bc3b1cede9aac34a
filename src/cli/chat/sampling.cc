#include "cli/chat/sampling.h"

#include <fmt/core.h>

#include <algorithm>
#include <random>
#include <vector>

namespace mneme::cli {
namespace {

bool IsTyped(const StreamSettings& settings, std::string_view name) {
  return std::any_of(settings.typed.begin(), settings.typed.end(),
                     [&](const Setting& setting) { return setting.name == name; });
}

}  // namespace

SamplerOptions DefaultSampler() { return {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f}; }

void ChooseSampling(const Model& model, bool draws, StreamSettings* settings) {
  SamplerOptions sampler = model.info().sampler.value_or(DefaultSampler());
  for (const SettingInfo& row : SettingsOf(sampler)) {
    for (const Setting& typed : settings->typed)
      if (typed.name == row.name()) ApplyOne(typed, OptionName(typed.name), &sampler);
  }
  if (draws && sampler.temperature > 0 && !IsTyped(*settings, "seed")) sampler.seed = std::random_device{}();
  settings->options.sampler = sampler;
}

std::string SamplingText(const Stream& stream) {
  const SamplerOptions& sampler = stream.session.options().sampler;
  const bool draws = sampler.temperature > 0;
  std::string text = draws ? fmt::format("temperature {:g}", sampler.temperature) : "greedy";
  if (draws && sampler.top_k > 0) text += fmt::format(", top-k {}", sampler.top_k);
  if (draws && sampler.top_p < 1) text += fmt::format(", top-p {:g}", sampler.top_p);
  if (draws && sampler.min_p > 0) text += fmt::format(", min-p {:g}", sampler.min_p);
  if (sampler.repetition_penalty != 1)
    text += fmt::format(", repetition penalty {:g}", sampler.repetition_penalty);
  if (stream.is_restored) {
    text += " (as in the state)";
  } else if (stream.session.model().info().sampler) {
    text += " (as the model's files say)";
  }
  if (draws) text += fmt::format("; --seed {} gives the same again", sampler.seed);
  return text;
}

}  // namespace mneme::cli
