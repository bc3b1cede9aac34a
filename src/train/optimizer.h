// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over the decoder's parameters, by group: matrices
// decay, vectors and gates do not, gates have a learning rate of their own.
#pragma once

#include <torch/types.h>

#include <vector>

#include "base/files/serial.h"
#include "train/decoder.h"

namespace mneme::train {

class AdamW {
 public:
  // The parameters must outlive it. Those with trains == false are left alone.
  AdamW(std::vector<Parameter>& parameters, const OptimizerSettings& settings);

  // Norm of the whole gradient, clipped in place to settings.clip. Infinite or NaN: nothing was changed.
  double ClipGradients();
  // One step with the given share of the peak learning rates; then the gradients are zero.
  void Step(double share);
  void ZeroGradients();

  void Save(StateWriter& writer) const;
  // Parameters and moments. Throws Error(kMismatch) naming the first parameter that differs in name or size.
  void Restore(StateReader& reader);

 private:
  struct Slot {
    Parameter* parameter;
    torch::Tensor mean, square;
  };
  const OptimizerSettings settings_;
  std::vector<Slot> slots_;
  int64_t step_ = 0;
};

// Warm-up from 0, then a cosine from 1 to final_share; step counts from 0.
double LearningRateShare(const OptimizerSettings& settings, int64_t step, int64_t num_steps);

}  // namespace mneme::train
