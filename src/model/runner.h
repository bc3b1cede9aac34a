// The forward pass of a model, and the activations that it needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "base/budget.h"
#include "base/error.h"
#include "context/context.h"
#include "kernels/device.h"
#include "model/forward_chunk.h"
#include "model/loaded_model.h"

namespace mneme {

// Runs the model. Owns the activations; one per thread of use.
class Runner {
 public:
  // Activations for at most max_rows rows in one call are reserved from the budget (Error(kBudget) if they do
  // not fit) and allocated here. model, device and budget must outlive the runner.
  Runner(const LoadedModel& model, int64_t max_rows, Device& device, const Budget& budget);
  ~Runner();
  static size_t ScratchBytes(const LoadedModel& model, int64_t max_rows, size_t num_threads);

  // Receives the logits of one row: chunk and row as in the call, logits [vocab_size], valid during the call
  // only.
  using LogitsCallback = std::function<void(size_t chunk, size_t row, std::span<const float> logits)>;

  // Feeds every chunk to its context (each context at most once per call) and commits. Sum of rows at most
  // max_rows. On any Error all contexts are as before the call; Error(kFile) if a file of the model changed.
  // Rows of one call do not influence each other's bits.
  void Forward(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits);
  // The same, but a chunk that its context refuses is left out alone: refused[i] says why.
  void Forward(std::span<const ForwardChunk> chunks, const LogitsCallback& on_logits,
               std::span<std::optional<Error>> refused);

  int64_t max_rows() const;
  size_t reserved_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mneme
