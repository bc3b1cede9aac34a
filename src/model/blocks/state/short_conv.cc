#include "model/blocks/state/short_conv.h"

#include <array>

namespace mneme {

void VisitShortConv(const ModelPlan& model, const ShortConvPlan& plan, WeightVisitor& visitor,
                    ShortConvWeights* w) {
  const size_t channels = plan.shape.num_channels();
  const std::array<size_t, 3> num_rows = {channels, channels, channels};
  const std::array<LinearLayer*, 3> parts = {&w->input_gate, &w->output_gate, &w->value};
  visitor.Parts("shortconv.in_proj", num_rows, model.model_dim, parts);
  visitor.Convolution("shortconv.conv", plan.shape, &w->convolution, &w->convolution_bias);
  visitor.Matrix("shortconv.out_proj", model.model_dim, channels, &w->out);
}

size_t ShortConvFloats(const ShortConvPlan& plan, size_t num_rows, size_t num_threads) {
  return 4 * Arena::Rounded(num_rows * plan.shape.num_channels()) +
         RecurScratchFloats(plan.shape, num_rows, num_threads);
}

void RunShortConv(const ShortConvPlan& plan, const ShortConvWeights& w, const NormWeights& post_norm,
                  size_t index, const float* input, Pass& pass) {
  const size_t count = pass.num_rows * plan.shape.num_channels();
  Arena arena(pass.arena);
  float* const gated = arena.Take(count);
  float* const output_gate = arena.Take(count);
  float* const value = arena.Take(count);
  float* const out = arena.Take(count);
  const std::array<MatMulJob, 3> jobs = {Pass::Job(w.input_gate, gated, false),
                                         Pass::Job(w.output_gate, output_gate, false),
                                         Pass::Job(w.value, value, false)};
  pass.Linear("gates, values", input, pass.num_rows, jobs);
  const auto multiply = [&](float* x, const float* y) {
    pass.device.Pointwise({.kind = PointwiseCall::Kind::kMultiply, .x = x, .y = y, .count = count});
  };
  multiply(gated, value);
  pass.Recur(index, {.conv_weight = w.convolution.data(), .conv_bias = DataOrNull(w.convolution_bias)},
             {.x = gated, .out = out}, arena);
  multiply(out, output_gate);
  pass.AddProduct("convolution output", w.out, out, post_norm);
}

}  // namespace mneme
