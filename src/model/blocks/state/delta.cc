#include "model/blocks/state/delta.h"

#include <array>

namespace mneme {

size_t DeltaFloats(const DeltaPlan& plan, size_t num_rows, size_t num_threads) {
  const RecurShape& shape = plan.shape;
  return Arena::Rounded(num_rows * shape.num_channels()) +
         2 * Arena::Rounded(num_rows * shape.value_channels()) +
         2 * Arena::Rounded(num_rows * shape.num_value_heads) +
         RecurScratchFloats(shape, num_rows, num_threads);
}

void RunDelta(const DeltaPlan& plan, const DeltaWeights& w, const NormWeights& post_norm, size_t index,
              const float* input, Pass& pass) {
  const RecurShape& shape = plan.shape;
  const size_t num_rows = pass.num_rows;
  const size_t heads = shape.num_value_heads;
  Arena arena(pass.arena);
  float* const mixed = arena.Take(num_rows * shape.num_channels());
  float* const gate = arena.Take(num_rows * shape.value_channels());
  float* const out = arena.Take(num_rows * shape.value_channels());
  float* const decay = arena.Take(num_rows * heads);
  float* const beta = arena.Take(num_rows * heads);
  const std::array<MatMulJob, 4> jobs = {Pass::Job(w.qkv, mixed, false), Pass::Job(w.gate, gate, false),
                                         Pass::Job(w.alpha, decay, false), Pass::Job(w.beta, beta, false)};
  pass.Linear("q, k, v, gates", input, num_rows, jobs);
  pass.device.Gates({.num_rows = num_rows,
                     .num_heads = heads,
                     .step = decay,
                     .step_bias = w.step_bias.data(),
                     .rate = w.rate.data(),
                     .strength = beta,
                     .most_strength = plan.most_strength,
                     .log_decay = decay,
                     .beta = beta});
  pass.Recur(index, {.conv_weight = w.convolution.data()},
             {.x = mixed, .log_decay = decay, .beta = beta, .out = out}, arena);
  pass.device.Norm({.kind = NormKind::kRms,
                    .epsilon = plan.norm_epsilon > 0 ? plan.norm_epsilon : pass.plan.norm_epsilon,
                    .weight = w.norm.data(),
                    .num_rows = num_rows,
                    .num_parts = heads,
                    .num_cols = shape.value_dim,
                    .x = out,
                    .gate_kind = NormGate::kSiluAfter,
                    .gate = gate,
                    .out = out});
  pass.AddProduct("attention output", w.out, out, post_norm);
}

}  // namespace mneme
