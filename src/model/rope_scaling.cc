#include "model/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace mneme {
namespace {

// The frequency index whose wavelength turns `rotations` times in the original context, as a real number.
double YarnIndex(double rotary_dim, double original_length, double rotations, double base) {
  return rotary_dim * std::log(original_length / (rotations * 2 * std::numbers::pi)) / (2 * std::log(base));
}

void ApplyYarn(const Hyperparameters& hyper, double base, double factor, bool rounds, Rope* rope) {
  const double dim = static_cast<double>(rope->rotary_dim);
  const uint64_t original = hyper.original_length ? *hyper.original_length : hyper.trained_length.value_or(0);
  if (original == 0) Fail(ErrorKind::kFile, "{}: YaRN without an original context length", hyper.path);
  const double length = static_cast<double>(original);
  double low = YarnIndex(dim, length, hyper.beta_fast.value_or(32), base);
  double high = YarnIndex(dim, length, hyper.beta_slow.value_or(1), base);
  if (hyper.yarn_truncates.value_or(rounds)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  for (size_t i = 0; i < rope->frequencies.size(); ++i) {
    const double ramp = (static_cast<double>(i) - low) / std::max(0.001, high - low);
    const double interpolated = std::clamp(ramp, 0.0, 1.0);
    rope->frequencies[i] *= (1 - interpolated) + interpolated / factor;
  }
  const auto magnitude = [&](double scale) {
    return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
  };
  double result = magnitude(1);
  if (hyper.container == Container::kGguf) {
    result *= hyper.attention_factor.value_or(1);
  } else if (hyper.attention_factor) {
    result = *hyper.attention_factor;
  } else if (hyper.mscale && hyper.mscale_all_dim && *hyper.mscale_all_dim != 0) {
    result = magnitude(*hyper.mscale) / magnitude(*hyper.mscale_all_dim);
  }
  rope->magnitude = static_cast<float>(result);
}

void Divide(const Hyperparameters& hyper, const std::vector<float>& divisors, Rope* rope) {
  if (divisors.size() != rope->frequencies.size()) {
    Fail(ErrorKind::kFile, "{}: {} rope factors for {} rotated pairs", hyper.path, divisors.size(),
         rope->frequencies.size());
  }
  for (size_t i = 0; i < divisors.size(); ++i) {
    if (!(divisors[i] > 0) || !std::isfinite(divisors[i])) {
      Fail(ErrorKind::kFile, "{}: rope factor {} is {}, which must be positive", hyper.path, i, divisors[i]);
    }
    rope->frequencies[i] /= static_cast<double>(divisors[i]);
  }
}

// Llama 3.1: low frequencies are divided by the factor, high ones stay, those between are mixed.
void ApplyLlama3(const Hyperparameters& hyper, double factor, Rope* rope) {
  if (!hyper.original_length || !hyper.low_freq_factor || !hyper.high_freq_factor ||
      *hyper.high_freq_factor <= *hyper.low_freq_factor) {
    Fail(ErrorKind::kFile,
         "{}: rope scaling 'llama3' needs original_max_position_embeddings and low_freq_factor < "
         "high_freq_factor",
         hyper.path);
  }
  const double low = *hyper.low_freq_factor;
  const double high = *hyper.high_freq_factor;
  for (double& frequency : rope->frequencies) {
    const double turns = static_cast<double>(*hyper.original_length) * frequency / (2 * std::numbers::pi);
    const double smooth = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    frequency *= smooth + (1 - smooth) / factor;
  }
}

bool IsLongRope(const Hyperparameters& hyper) {
  return hyper.scaling_type == "longrope" || (hyper.scaling_type.empty() && !hyper.short_divisors.empty());
}

// The factor by which Hunyuan's base has grown, for streams of any length.
std::optional<double> GrownBase(const Hyperparameters& hyper) {
  return hyper.settings.Float("", "rope_parameters.alpha|rope_scaling.alpha");
}

// The base grows with the length beyond the trained one.
void ApplyDynamic(const Hyperparameters& hyper, double base, double factor, int64_t length, Rope* rope) {
  const double dim = static_cast<double>(rope->rotary_dim);
  const double usual = static_cast<double>(RopeLength(hyper));
  double growth = 1;
  if (const std::optional<double> grown = GrownBase(hyper)) {
    growth = *grown;
  } else if (static_cast<double>(length) > usual) {
    growth = factor * static_cast<double>(length) / usual - (factor - 1);
  }
  const double grown = base * std::pow(growth, dim / (dim - 2));
  for (size_t i = 0; i < rope->frequencies.size(); ++i) {
    rope->frequencies[i] = std::pow(grown, -2.0 * static_cast<double>(i) / dim);
  }
}

void ApplyLongRope(const Hyperparameters& hyper, int64_t length, Rope* rope) {
  const int64_t usual = RopeLength(hyper);
  const bool is_long = usual > 0 && length > usual;
  Divide(hyper, is_long ? hyper.long_divisors : hyper.short_divisors, rope);
  // Phi-3.5-MoE says them; both are asked for, so that both go into a GGUF.
  const auto short_magnitude = hyper.settings.Float("mneme.rope.short_mscale",
                                                    "rope_parameters.short_mscale|rope_scaling.short_mscale");
  const auto long_magnitude =
      hyper.settings.Float("mneme.rope.long_mscale", "rope_parameters.long_mscale|rope_scaling.long_mscale");
  if (const std::optional<double>& magnitude = is_long ? long_magnitude : short_magnitude) {
    rope->magnitude = static_cast<float>(*magnitude);
  } else if (hyper.attention_factor) {
    rope->magnitude = static_cast<float>(*hyper.attention_factor);
  } else if (hyper.original_length && *hyper.original_length > 1 && hyper.trained_length) {
    const double original = static_cast<double>(*hyper.original_length);
    const double scale = static_cast<double>(*hyper.trained_length) / original;
    if (scale > 1) rope->magnitude = static_cast<float>(std::sqrt(1 + std::log(scale) / std::log(original)));
  }
}

}  // namespace

int64_t RopeLength(const Hyperparameters& hyper) {
  const bool is_dynamic = hyper.scaling_type == "dynamic" && !GrownBase(hyper);
  if (!is_dynamic && !IsLongRope(hyper)) return 0;
  const uint64_t length = hyper.original_length.value_or(hyper.trained_length.value_or(0));
  return static_cast<int64_t>(std::min<uint64_t>(length, uint64_t{1} << 40));
}

Rope MakeRope(const Hyperparameters& hyper, RopeLayout layout, size_t rotary_dim, double base, bool scaled,
              int64_t length, bool rounds_yarn) {
  if (!(base > 1) || !std::isfinite(base)) {
    Fail(ErrorKind::kFile, "{}: the rope base is {}, which must be above 1", hyper.path, base);
  }
  Rope rope;
  rope.layout = layout;
  rope.rotary_dim = rotary_dim;
  for (size_t i = 0; i < rotary_dim / 2; ++i) {
    rope.frequencies.push_back(
        std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim)));
  }
  if (!scaled) return rope;
  if (!hyper.frequency_divisors.empty()) Divide(hyper, hyper.frequency_divisors, &rope);
  const std::string& type = hyper.scaling_type;
  if (IsLongRope(hyper)) {
    ApplyLongRope(hyper, length, &rope);
    return rope;
  }
  const double factor = hyper.scaling_factor.value_or(1) == 0 ? 1 : hyper.scaling_factor.value_or(1);
  if (!(factor > 0) || !std::isfinite(factor)) {
    Fail(ErrorKind::kFile, "{}: the rope scaling factor is {}, which must be positive", hyper.path, factor);
  }
  const bool is_gguf = hyper.container == Container::kGguf;
  if (is_gguf && hyper.attention_factor) rope.magnitude = static_cast<float>(*hyper.attention_factor);
  if (type == "yarn") {
    ApplyYarn(hyper, base, factor, rounds_yarn, &rope);
  } else if (type == "llama3") {
    ApplyLlama3(hyper, factor, &rope);
  } else if (type == "proportional") {
    const double proportion = hyper.rotary_proportion.value_or(1);
    if (!(proportion > 0 && proportion <= 1)) {
      Fail(ErrorKind::kFile, "{}: {} of a head rotates; it must be above 0 and at most 1", hyper.path,
           proportion);
    }
    const double rotated = proportion * static_cast<double>(rotary_dim) / 2;
    for (size_t i = 0; i < rope.frequencies.size(); ++i) {
      rope.frequencies[i] = static_cast<double>(i) < std::floor(rotated) ? rope.frequencies[i] / factor : 0;
    }
  } else if (type == "linear" || (type.empty() && is_gguf)) {
    for (double& frequency : rope.frequencies) frequency /= factor;
  } else if (type == "dynamic") {
    ApplyDynamic(hyper, base, factor, length, &rope);
  } else if (!type.empty() && type != "none") {
    Fail(ErrorKind::kUnsupported,
         "{}: rope scaling '{}' is not supported (linear, yarn, llama3, longrope, proportional, dynamic are)",
         hyper.path, type);
  }
  return rope;
}

}  // namespace mneme
