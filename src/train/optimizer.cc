#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "train/tensor_io.h"

namespace mneme::train {

using torch::Tensor;

AdamW::AdamW(std::vector<Parameter>& parameters, const OptimizerSettings& settings) : settings_(settings) {
  for (Parameter& parameter : parameters) {
    parameter.value.set_requires_grad(parameter.trains);
    Slot slot{&parameter, {}, {}};
    if (parameter.trains) {
      slot.mean = torch::zeros_like(parameter.value);
      slot.square = torch::zeros_like(parameter.value);
    }
    slots_.push_back(std::move(slot));
  }
}

double AdamW::ClipGradients() {
  torch::NoGradGuard no_grad;
  Tensor total;
  for (Slot& slot : slots_) {
    const Tensor& gradient = slot.parameter->value.grad();
    if (!gradient.defined()) continue;
    const Tensor square = gradient.square().sum();
    total = total.defined() ? total + square : square;
  }
  if (!total.defined()) return 0;
  const double norm = std::sqrt(total.item<double>());
  if (!std::isfinite(norm) || settings_.clip == 0 || norm <= settings_.clip) return norm;
  for (Slot& slot : slots_) {
    Tensor gradient = slot.parameter->value.grad();
    if (gradient.defined()) gradient.mul_(settings_.clip / norm);
  }
  return norm;
}

void AdamW::Step(double share) {
  torch::NoGradGuard no_grad;
  ++step_;
  const auto count = static_cast<double>(step_);
  const double mean_correction = 1 - std::pow(settings_.beta1, count);
  const double square_correction = std::sqrt(1 - std::pow(settings_.beta2, count));
  for (Slot& slot : slots_) {
    Tensor value = slot.parameter->value;
    const Tensor gradient = value.grad();
    if (!slot.parameter->trains || !gradient.defined()) continue;
    const bool is_gate = slot.parameter->group == ParameterGroup::kGate;
    const double rate = share * (is_gate ? settings_.gate_learning_rate : settings_.learning_rate);
    slot.mean.mul_(settings_.beta1).add_(gradient, 1 - settings_.beta1);
    slot.square.mul_(settings_.beta2).addcmul_(gradient, gradient, 1 - settings_.beta2);
    if (slot.parameter->group == ParameterGroup::kMatrix) value.mul_(1 - rate * settings_.weight_decay);
    const Tensor divisor = slot.square.sqrt().div_(square_correction).add_(1e-8);
    value.addcdiv_(slot.mean, divisor, -rate / mean_correction);
  }
  ZeroGradients();
}

void AdamW::ZeroGradients() {
  for (Slot& slot : slots_) slot.parameter->value.mutable_grad().reset();
}

void AdamW::Save(StateWriter& writer) const {
  writer.Put<int64_t>(step_);
  writer.Put<uint64_t>(slots_.size());
  for (const Slot& slot : slots_) {
    writer.PutString(slot.parameter->name);
    PutTensor(slot.parameter->value, writer);
    writer.Put<uint8_t>(slot.parameter->trains);
    if (!slot.parameter->trains) continue;
    PutTensor(slot.mean, writer);
    PutTensor(slot.square, writer);
  }
}

void AdamW::Restore(StateReader& reader) {
  step_ = reader.Get<int64_t>();
  const auto count = reader.Get<uint64_t>();
  if (count != slots_.size()) {
    Fail(ErrorKind::kMismatch, "checkpoint: has {} parameters, but this model has {}", count, slots_.size());
  }
  for (Slot& slot : slots_) {
    const std::string name = reader.GetString();
    if (name != slot.parameter->name) {
      Fail(ErrorKind::kMismatch, "checkpoint: has '{}' where this model has '{}'", name,
           slot.parameter->name);
    }
    GetTensor(name, &slot.parameter->value, reader);
    if ((reader.Get<uint8_t>() != 0) != slot.parameter->trains) {
      Fail(ErrorKind::kMismatch, "checkpoint: '{}' was trained in one run and not in the other", name);
    }
    if (!slot.parameter->trains) continue;
    GetTensor(name, &slot.mean, reader);
    GetTensor(name, &slot.square, reader);
  }
}

double LearningRateShare(const OptimizerSettings& settings, int64_t step, int64_t num_steps) {
  if (step < settings.warmup) return static_cast<double>(step + 1) / static_cast<double>(settings.warmup);
  const auto span = static_cast<double>(std::max<int64_t>(1, num_steps - settings.warmup));
  const double done = std::min(1.0, static_cast<double>(step - settings.warmup) / span);
  return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace mneme::train
