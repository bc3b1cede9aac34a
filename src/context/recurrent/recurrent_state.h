// The state of all layers of fixed size of one stream (kernels/recur/recur.h), beside the Context of its
// attention layers. It follows the same protocol:
//   Begin(num_rows)     plans so many rows as the next ones
//   Plan(layer, ...)    once per layer, in any order: the call for the device
//   Commit()            the rows are now part of the stream      or  Abort()  they never were
// Until Commit the stream is as it was before Begin.
//
// What is kept depends on the stream alone: the rows since the oldest that a rewind can reach. For every
// layer that is S at the border before it and at those after it, k, u and G of the tokens since that border,
// and the inputs that its convolution looks back at. A chunk writes into places of its own and appends to the
// block it begins in, so to abort is to forget; to take tokens back is to forget as well, and gives the bits
// of a stream that never had them. Of recurrences that go step by step there is the head besides, in two
// places in turn, as long as nothing was taken back. All memory is reserved when the state is made, and does
// not grow with the stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/aligned.h"
#include "base/budget.h"
#include "base/files/serial.h"
#include "kernels/device.h"

namespace mneme {

// The states of fixed size of a model, in the order in which its layers run through them, called layers here:
// most layers that have one have one. They are counted apart from layers without.
struct RecurrentShape {
  std::vector<RecurShape> layers;
};

struct RecurrentSettings {
  int64_t max_chunk = 512;  // most rows in one Begin
  int64_t max_rewind = 64;  // Rewind of this many tokens must be exact
};

// Thread rule: one thread at a time. The shape and the budget must outlive the state.
class RecurrentState {
 public:
  // An empty stream. Throws Error(kBudget) before anything is allocated.
  RecurrentState(const RecurrentShape& shape, const RecurrentSettings& settings, const Budget& budget);
  // All that it takes, ever; what a Fork takes once more. SIZE_MAX: more than any budget has.
  static size_t PeakBytes(const RecurrentShape& shape, const RecurrentSettings& settings);

  int64_t num_tokens() const { return num_tokens_; }
  const RecurShape& shape(size_t layer) const { return shape_.layers[layer]; }

  // 1 .. max_chunk rows. Throws nothing: all places are there.
  void Begin(int64_t num_rows);
  // The call for the chunk's rows in a layer, with shape, rows and stream; whoever runs it adds the layer's
  // weights. x, log_decay, beta and out as RecurCall has them. Valid until Commit or Abort.
  RecurCall Plan(size_t layer, const float* x, const float* log_decay, const float* beta, float* out);
  // Every layer's call must have been run.
  void Commit();
  void Abort();

  // Tokens that Rewind can take back now: min(max_rewind, num_tokens()) unless some were already taken back.
  int64_t MaxRewind() const { return num_tokens_ - oldest_; }
  // The stream as it was `count` tokens ago, exactly. Throws Error(kInput) if count > MaxRewind(); nothing
  // has changed then.
  void Rewind(int64_t count);

  // Everything that decides later outputs. Restore goes into an empty state of the same shape; throws
  // Error(kMismatch) for another shape and Error(kFile) for data that is damaged, and the state must then be
  // discarded.
  void Save(StateWriter& writer) const;
  void Restore(StateReader& reader);

  // The same stream once more, to go on on its own: a copy, charged in full. Not between Begin and Commit.
  // Throws Error(kBudget).
  std::unique_ptr<RecurrentState> Fork() const;

 private:
  // How many places there are of each kind; the same in all layers.
  struct Counts {
    Counts(const RecurrentShape& shape, const RecurrentSettings& settings);
    int64_t
        kept_inputs;  // rows that the stream looks back at: max_rewind and what a convolution needs before
    size_t borders, blocks, inputs;
  };
  struct Layer {
    float* states;   // [borders][state_floats]
    float* keys;     // [blocks][key_floats]
    float* updates;  // [blocks][update_floats]
    double* sums;    // [blocks][sum_doubles]
    float* inputs;   // [inputs][input_channels]
    float* heads;    // stepped: [2][state_floats], else null
  };
  // A border or a block, by its number in the stream, and where it lies.
  struct Place {
    int64_t number;
    int32_t slot;
  };
  using Places = std::vector<Place>;

  float* floats() const { return reinterpret_cast<float*>(memory_.get()); }
  static size_t LayerFloats(const RecurShape& shape, const Counts& counts);
  void CutLayers();
  void ClearFirstBorder();
  void Forget();
  void PlanBlocks(int64_t end, int64_t oldest);
  void PlanBorders(int64_t end, int64_t oldest);
  // The tokens of a block that there are.
  int64_t TokensOf(int64_t block) const;
  int64_t FirstInput() const;
  // Calls fn(data, bytes) for everything that Save keeps of a layer, in order.
  template <typename Fn>
  void ForEachPart(size_t layer, const Fn& fn) const;
  void CheckSums(size_t layer) const;
  void CheckDecays(size_t layer) const;

  const RecurrentShape& shape_;
  const RecurrentSettings settings_;
  const Budget& budget_;
  const Counts counts_;
  Lease lease_;
  AlignedArray<uint8_t> memory_;
  std::vector<Layer> layers_;

  int64_t num_tokens_ = 0;
  int64_t oldest_ = 0;     // tokens down to which the stream can be taken back
  Places borders_;         // from the one before oldest_ to the last one, in order
  Places blocks_;          // those with tokens, from the one of oldest_ on
  size_t input_slot_ = 0;  // of the next token
  bool has_heads_ = false;
  size_t head_slot_ = 0;

  int64_t chunk_rows_ = 0;  // 0: no chunk begun
  Places new_borders_, new_blocks_;
  std::vector<int32_t> border_slots_, block_slots_;  // of RecurStream
};

}  // namespace mneme
