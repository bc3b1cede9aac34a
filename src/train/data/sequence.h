// Loss and gradient of a batch of sequences, segment by segment.
#pragma once

#include <torch/types.h>

#include <vector>

#include "base/weighted_mean.h"
#include "train/data/data.h"
#include "train/decoder.h"

namespace mneme::train {

struct SequenceOptions {
  // Hold the graph of one segment at a time: run forward without a graph, keep the states at the borders,
  // then go backward through the segments, each computed again from its border state, passing the gradient of
  // the state on.
  bool recompute = false;
  double write_penalty = 0;
  double scale = 1;  // of the loss, for micro-batches
};

// What rows take along from one batch to the next: by layer what stands in the memory, and which rows have
// written into theirs. What was still in the window is left behind.
struct CarriedMemory {
  std::vector<MemoryTensors> layers;  // no gradient; empty: nothing yet
  torch::Tensor written;              // [B]

  int64_t num_rows() const { return layers.empty() ? 0 : written.size(0); }
};

struct LayerWatch {
  double max_m = 0;
  double max_z = 0;
};

struct SequenceResult {
  double loss = 0;          // mean over rows of the weighted mean over tokens
  WeightedMean answers;     // loss of tokens of weight 1 in rows that also have others
  WeightedMean backspaces;  // of wrong tokens, by their weight
  double write_mean = 0;
  std::vector<LayerWatch> layers;  // at the end of the sequences

  // Joins the result of a micro-batch that has `share` of the rows. Loss and write_mean are means over rows;
  // answers and backspaces count by token, however many of them each micro-batch has.
  void Add(const SequenceResult& part, double share);
};

// Adds to the gradients of the decoder's parameters. With `carried`: rows begin with the memory that it holds
// (unless their first segment resets it), and it holds what they leave; a number of rows other than the
// batch's counts as nothing yet. No gradient passes from one batch to the one before.
SequenceResult Backpropagate(const Decoder& decoder, const Batch& batch, const SequenceOptions& options,
                             CarriedMemory* carried = nullptr);

// Loss without gradient.
SequenceResult Evaluate(const Decoder& decoder, const Batch& batch);
// Of the rows, how many have all targets of positive weight as the most likely token.
int64_t CountExact(const Decoder& decoder, const Batch& batch);

}  // namespace mneme::train
