// How well a decoder in training predicts text that it was not trained on: the file streams through
// consecutive segments, as one document, with whatever its attention carries from segment to segment. Works
// for every kind of attention, also for the one that the engine does not run.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mneme/stop.h"
#include "mneme/tokenizer.h"
#include "train/decoder.h"

namespace mneme::train {

// Bytes of one stream that a segment leaves to the next. Bookkeeping (which tokens are of the present
// document) is not counted, nor is z where the update has none.
struct HeldBytes {
  int64_t memory = 0;      // infini: M and z
  int64_t window = 0;      // keys and values of whole segments
  int64_t cache = 0;       // hidden states, from which keys and values are computed again
  int64_t neighbours = 0;  // memorizing: keys and values of the nearest-neighbour memory
  int64_t total() const { return memory + window + cache + neighbours; }
};
// Of one row of the state.
HeldBytes CountHeldBytes(const Decoder& decoder, const DecoderState& state);

struct TextEvaluation {
  int64_t segment = 128;
  int64_t max_tokens = 1 << 16;  // of the file, from its front
  int64_t reset_segments = 0;    // the state is emptied after so many segments; 0: never
  std::vector<TokenId> front;    // fed before the text and after each time the state is emptied
  StopToken stop;                // looked at once per segment
};

struct TextScore {
  int64_t num_tokens = 0;     // predicted: all but the first
  int64_t num_bytes = 0;      // of the text that they stand for
  double nll = 0;             // mean, nats per token
  double standard_error = 0;  // of the mean, from the means of the blocks; NaN with fewer than two
  // Means of up to 64 consecutive stretches of equal length (whole segments). Two models with the same
  // vocabulary can be compared block by block, which is much sharper than comparing two means.
  std::vector<double> blocks;
  HeldBytes held;        // the most that was held
  bool stopped = false;  // by `stop`: the rest is without meaning
};

// No gradient, one row. Throws Error(kInput) for a text of fewer than two tokens.
TextScore EvaluateText(const Decoder& decoder, const Tokenizer& tokenizer, std::string_view text,
                       const TextEvaluation& options);

}  // namespace mneme::train
