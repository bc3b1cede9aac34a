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

std::string Describe(const SamplerOptions& sampler) {
  std::string text = fmt::format("temperature {:g}", sampler.temperature);
  if (sampler.top_k > 0) text += fmt::format(", top-k {}", sampler.top_k);
  if (sampler.top_p < 1) text += fmt::format(", top-p {:g}", sampler.top_p);
  if (sampler.min_p > 0) text += fmt::format(", min-p {:g}", sampler.min_p);
  return text;
}

}  // namespace

SamplerOptions DefaultSampler() { return {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f}; }

std::string ChooseSampling(const Model& model, StreamSettings* settings) {
  const std::optional<SamplerOptions>& own = model.info().sampler;
  SamplerOptions sampler = own.value_or(DefaultSampler());
  for (const SettingInfo& row : SettingsOf(sampler)) {
    for (const Setting& typed : settings->typed)
      if (typed.name == row.name()) ApplyOne(typed, OptionName(typed.name), &sampler);
  }
  const bool draws = sampler.temperature > 0;
  if (draws && !IsTyped(*settings, "seed")) sampler.seed = std::random_device{}();
  settings->options.sampler = sampler;
  std::string text = draws ? Describe(sampler) : "greedy";
  if (sampler.repetition_penalty != 1)
    text += fmt::format(", repetition penalty {:g}", sampler.repetition_penalty);
  if (own) text += " (as the model's files say)";
  if (draws) text += fmt::format("; --seed {} gives the same again", sampler.seed);
  return text;
}

}  // namespace mneme::cli
