#include "model/suggested_sampler.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/files/file.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

// What a file that samples leaves out: as transformers and llama.cpp take it.
SamplerOptions OfTransformers() { return {.temperature = 1.0f, .top_k = 50}; }
SamplerOptions OfLlamaCpp() { return {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f}; }

float Checked(double value, double low, double high, const std::string& what) {
  if (std::isfinite(value) && value >= low && value <= high) return static_cast<float>(value);
  Fail(ErrorKind::kFile, "{} is {}; a number from {} to {} stands there", what, value, low, high);
}

// The fields of one file, each read by `get` (nullopt: not there) and named by `name` in messages.
template <typename Get, typename Name>
void ReadFields(const Get& get, const Name& name, std::string_view temperature, std::string_view penalty,
                SamplerOptions* sampler) {
  const auto read = [&](std::string_view key, double low, double high, auto* field) {
    const std::optional<double> value = get(key);
    if (value) *field = static_cast<std::decay_t<decltype(*field)>>(Checked(*value, low, high, name(key)));
  };
  read(temperature, 0, 1e6, &sampler->temperature);
  read("top_k", 0, 1e9, &sampler->top_k);
  read("top_p", 1e-6, 1, &sampler->top_p);
  read("min_p", 0, 1, &sampler->min_p);
  read(penalty, 0.01, 1e6, &sampler->repetition_penalty);
}

std::optional<SamplerOptions> OfFolder(const std::string& folder) {
  const std::string path = folder + "/generation_config.json";
  if (!FileExists(path)) return std::nullopt;
  const Json config = Json::parse(ReadWholeFile(path), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) Fail(ErrorKind::kFile, "{} is not a JSON object", path);
  const auto get = [&](std::string_view key) -> std::optional<double> {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) return std::nullopt;
    if (!found->is_number()) Fail(ErrorKind::kFile, "{}: {} is not a number", path, key);
    return found->get<double>();
  };
  const Json does = config.value("do_sample", Json());
  bool says = does.is_boolean();
  for (const char* key : {"temperature", "top_k", "top_p", "min_p"}) says = says || get(key).has_value();
  if (!says) return std::nullopt;
  SamplerOptions sampler = OfTransformers();
  ReadFields(
      get, [&](std::string_view key) { return path + ": " + std::string(key); }, "temperature",
      "repetition_penalty", &sampler);
  if (does == Json(false)) {
    return SamplerOptions{.repetition_penalty = sampler.repetition_penalty};
  }
  return sampler;
}

std::optional<SamplerOptions> OfGguf(const GgufFile& file) {
  const std::string prefix = "general.sampling.";
  bool says = false;
  for (const GgufValue& entry : file.metadata()) says = says || entry.key.starts_with(prefix);
  if (!says) return std::nullopt;
  SamplerOptions sampler = OfLlamaCpp();
  const auto get = [&](std::string_view key) -> std::optional<double> {
    return file.GetFloat(prefix + std::string(key));
  };
  ReadFields(
      get, [&](std::string_view key) { return file.path() + ": " + prefix + std::string(key); }, "temp",
      "penalty_repeat", &sampler);
  if (const auto window = file.GetInt(prefix + "penalty_last_n");
      window && *window >= 0 && *window <= 1 << 20) {
    sampler.repetition_window = static_cast<int32_t>(*window);
  }
  return sampler;
}

}  // namespace

std::optional<SamplerOptions> SuggestedSampler(const TensorSource& source) {
  if (const GgufFile* gguf = source.gguf()) return OfGguf(*gguf);
  if (source.safetensors() != nullptr) return OfFolder(source.path());
  return std::nullopt;
}

void WriteSuggestedSampler(const SamplerOptions& sampler, GgufWriter* writer) {
  writer->Set("general.sampling.temp", sampler.temperature);
  writer->Set("general.sampling.top_k", sampler.top_k);
  writer->Set("general.sampling.top_p", sampler.top_p);
  writer->Set("general.sampling.min_p", sampler.min_p);
  writer->Set("general.sampling.penalty_repeat", sampler.repetition_penalty);
}

}  // namespace mneme
