#include "train/data/sequence.h"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>

namespace mneme::train {
namespace {

using torch::Tensor;

// A batch on the device.
struct Inputs {
  Tensor tokens, targets, weights, resets, row_weights;
  Tensor branch_tokens, branch_parents, branch_depths, branch_weights;  // [B, segments, R] or undefined
  int64_t backspace = -1;
  int64_t num_segments = 0;
  int64_t segment = 0;

  Inputs(const Batch& batch, const torch::TensorOptions& options)
      : num_segments(batch.num_segments), segment(batch.segment) {
    const int64_t length = num_segments * segment;
    const auto device = options.device();
    tokens = torch::tensor(batch.tokens, torch::kInt64).view({batch.batch, length}).to(device);
    targets = torch::tensor(batch.targets, torch::kInt64).view({batch.batch, length}).to(device);
    weights = torch::tensor(batch.weights, torch::kFloat32).view({batch.batch, length}).to(options);
    resets = torch::tensor(batch.resets, torch::kFloat32).view({batch.batch, num_segments}).to(options);
    row_weights = weights.sum(1, true);
    if (batch.num_branches > 0) {
      const auto slots = [&](const Tensor& flat) {
        return flat.view({batch.batch, num_segments, batch.num_branches}).to(device);
      };
      branch_tokens = slots(torch::tensor(batch.branch_tokens, torch::kInt64));
      branch_parents = slots(torch::tensor(batch.branch_parents, torch::kInt64));
      branch_depths = slots(torch::tensor(batch.branch_depths, torch::kInt64));
      branch_weights = slots(torch::tensor(batch.branch_weights, torch::kFloat32)).to(options);
      row_weights = row_weights + branch_weights.sum({1, 2}).unsqueeze(1);
      backspace = batch.backspace;
    }
    row_weights = row_weights.clamp_min(1e-8);
  }
  bool has_branches() const { return branch_tokens.defined(); }
  BranchTokens Branches(int64_t s) const {
    return {branch_tokens.select(1, s), branch_parents.select(1, s), branch_depths.select(1, s)};
  }
  Tensor Tokens(int64_t s) const { return tokens.narrow(1, s * segment, segment); }
  Tensor Targets(int64_t s) const { return targets.narrow(1, s * segment, segment); }
  Tensor Weights(int64_t s) const { return weights.narrow(1, s * segment, segment); }
  Tensor Resets(int64_t s) const { return resets.select(1, s); }
};

struct Sums {
  double loss = 0, write = 0;
  WeightedMean answers, backspaces;
};

// The part of the loss that one segment carries, with the penalty; advances the state.
Tensor SegmentLoss(const Decoder& decoder, const Inputs& in, int64_t s, const SequenceOptions& options,
                   DecoderState* state, Sums* sums) {
  SegmentWatch watch;
  BranchTokens branches;
  if (in.has_branches()) branches = in.Branches(s);
  const Tensor hidden =
      decoder.Segment(in.Tokens(s), in.Resets(s), state, &watch, in.has_branches() ? &branches : nullptr);
  const Tensor all_probs = torch::log_softmax(decoder.Logits(hidden), -1);
  const Tensor log_probs = all_probs.narrow(1, 0, in.segment);
  const Tensor nll = -log_probs.gather(-1, in.Targets(s).unsqueeze(-1)).squeeze(-1);
  const Tensor weights = in.Weights(s);
  const auto batch = static_cast<double>(weights.size(0));
  Tensor loss = (nll * weights / in.row_weights).sum() / batch;
  if (in.has_branches()) {
    const Tensor own = in.branch_weights.select(1, s);
    const Tensor lost = -all_probs.narrow(1, in.segment, own.size(1)).select(-1, in.backspace) * own;
    loss = loss + (lost / in.row_weights).sum() / batch;
    if (sums != nullptr) sums->backspaces.Add(lost.sum().item<double>(), own.sum().item<double>());
  }
  if (sums != nullptr) {
    torch::NoGradGuard no_grad;
    sums->loss += loss.item<double>();
    // Rows of a task have tokens of full weight among others of less.
    const Tensor is_task =
        std::get<0>(torch::where(in.weights > 0, in.weights, torch::ones_like(in.weights)).min(1, true)) < 1;
    const Tensor is_answer = torch::logical_and(weights == 1, is_task).to(nll.scalar_type());
    sums->answers.Add((nll * is_answer).sum().item<double>(), is_answer.sum().item<double>());
  }
  if (watch.write_mean.defined()) {
    const Tensor mean = watch.write_mean / static_cast<double>(in.num_segments);
    if (sums != nullptr) sums->write += mean.item<double>();
    if (options.write_penalty > 0) loss = loss + options.write_penalty * mean;
  }
  return loss * options.scale;
}

DecoderState Detached(const DecoderState& state) {
  DecoderState copy = state;
  for (Tensor* tensor : copy.Differentiable()) *tensor = tensor->detach();
  return copy;
}

void BackpropagateWhole(const Decoder& decoder, const Inputs& in, const SequenceOptions& options,
                        DecoderState* state, Sums* sums) {
  Tensor loss;
  for (int64_t s = 0; s < in.num_segments; ++s) {
    const Tensor part = SegmentLoss(decoder, in, s, options, state, sums);
    loss = loss.defined() ? loss + part : part;
  }
  loss.backward();
}

void BackpropagateBySegment(const Decoder& decoder, const Inputs& in, const SequenceOptions& options,
                            DecoderState* state, Sums* sums) {
  std::vector<DecoderState> borders;
  {
    torch::NoGradGuard no_grad;
    for (int64_t s = 0; s < in.num_segments; ++s) {
      borders.push_back(*state);
      SegmentLoss(decoder, in, s, options, state, sums);
    }
  }
  std::vector<Tensor> gradients;  // of what comes later, with respect to the state after segment s
  for (int64_t s = in.num_segments - 1; s >= 0; --s) {
    DecoderState now = Detached(borders[static_cast<size_t>(s)]);
    borders.pop_back();
    const std::vector<Tensor*> places = now.Differentiable();
    std::vector<Tensor> leaves;
    for (Tensor* place : places) {
      place->set_requires_grad(true);
      leaves.push_back(*place);
    }
    std::vector<Tensor> outputs = {SegmentLoss(decoder, in, s, options, &now, nullptr)};
    std::vector<Tensor> seeds = {torch::ones_like(outputs[0])};
    const std::vector<Tensor*> after = now.Differentiable();
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!gradients[i].defined() || !after[i]->requires_grad()) continue;
      outputs.push_back(*after[i]);
      seeds.push_back(gradients[i]);
    }
    torch::autograd::backward(outputs, seeds);
    gradients.clear();
    for (const Tensor& leaf : leaves) gradients.push_back(leaf.grad());
  }
}

DecoderState StartState(const Decoder& decoder, int64_t batch, const CarriedMemory* carried) {
  DecoderState state = decoder.EmptyState(batch);
  if (carried == nullptr || carried->num_rows() != batch) return state;
  for (size_t i = 0; i < state.layers.size(); ++i) state.layers[i].memory = carried->layers[i];
  state.written = carried->written;
  return state;
}

CarriedMemory Leave(const DecoderState& state) {
  CarriedMemory carried;
  for (const LayerState& layer : state.layers) {
    carried.layers.push_back({layer.memory.m.detach(), layer.memory.z.detach()});
  }
  carried.written = state.written.detach();
  return carried;
}

SequenceResult Finish(const Sums& sums, const DecoderState& state) {
  SequenceResult result;
  result.loss = sums.loss;
  result.write_mean = sums.write;
  result.answers = sums.answers;
  result.backspaces = sums.backspaces;
  torch::NoGradGuard no_grad;
  for (const LayerState& layer : state.layers) {
    LayerWatch watch;
    if (layer.memory.m.defined()) {
      watch.max_m = layer.memory.m.abs().max().item<double>();
      watch.max_z = layer.memory.z.abs().max().item<double>();
    }
    result.layers.push_back(watch);
  }
  return result;
}

}  // namespace

void SequenceResult::Add(const SequenceResult& part, double share) {
  loss += share * part.loss;
  write_mean += share * part.write_mean;
  answers.Add(part.answers);
  backspaces.Add(part.backspaces);
  layers.resize(part.layers.size());
  for (size_t i = 0; i < part.layers.size(); ++i) {
    // A NaN must win, whichever part it comes from.
    const auto worse = [](double a, double b) { return std::isnan(a) || a > b ? a : b; };
    layers[i].max_m = worse(layers[i].max_m, part.layers[i].max_m);
    layers[i].max_z = worse(layers[i].max_z, part.layers[i].max_z);
  }
}

SequenceResult Backpropagate(const Decoder& decoder, const Batch& batch, const SequenceOptions& options,
                             CarriedMemory* carried) {
  const Inputs in(batch, decoder.options());
  DecoderState state = StartState(decoder, batch.batch, carried);
  Sums sums;
  if (options.recompute) {
    BackpropagateBySegment(decoder, in, options, &state, &sums);
  } else {
    BackpropagateWhole(decoder, in, options, &state, &sums);
  }
  if (carried != nullptr) *carried = Leave(state);
  return Finish(sums, state);
}

SequenceResult Evaluate(const Decoder& decoder, const Batch& batch) {
  torch::NoGradGuard no_grad;
  const Inputs in(batch, decoder.options());
  DecoderState state = decoder.EmptyState(batch.batch);
  Sums sums;
  for (int64_t s = 0; s < in.num_segments; ++s) SegmentLoss(decoder, in, s, {}, &state, &sums);
  return Finish(sums, state);
}

int64_t CountExact(const Decoder& decoder, const Batch& batch) {
  torch::NoGradGuard no_grad;
  const Inputs in(batch, decoder.options());
  DecoderState state = decoder.EmptyState(batch.batch);
  Tensor wrong = torch::zeros({batch.batch}, decoder.options());
  for (int64_t s = 0; s < in.num_segments; ++s) {
    const Tensor hidden = decoder.Segment(in.Tokens(s), in.Resets(s), &state);
    const Tensor weights = in.Weights(s);
    if (weights.sum().item<double>() == 0) continue;
    const Tensor miss = torch::logical_and(decoder.Logits(hidden).argmax(-1) != in.Targets(s), weights > 0);
    wrong += miss.sum(1).to(wrong.scalar_type());
  }
  return (wrong == 0).sum().item<int64_t>();
}

}  // namespace mneme::train
