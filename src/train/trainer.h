// Training runs: AdamW with warm-up and cosine, gradients through the memory across all segments of a
// sequence, checkpoints that a later run continues bit for bit (on the CPU, with the same number of threads).
//
// The folder of a run holds
//   vocabulary.model   SentencePiece, trained for the run where the configuration names no other
//   checkpoint.bin     parameters, optimiser, place in the data; replaced atomically, checksummed
//   log.jsonl          one line per step, and one per evaluation
//   model.gguf         what the engine runs, written with every checkpoint
//   lock               held while a run uses the folder
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/progress.h"
#include "mneme/stop.h"
#include "train/config.h"

namespace mneme::train {

struct TrainEvents {
  Progress* progress = nullptr;                 // may be null
  std::function<void(const std::string&)> say;  // a line for people; may be empty
};

struct TrainLimits {
  int64_t stop_after = -1;  // steps of this sitting; -1: to the end
  bool fresh = false;       // start anew although there is a checkpoint
  StopToken stop;
};

struct TrainOutcome {
  int64_t step = 0;       // done in all
  double loss = 0;        // of the last step
  bool finished = false;  // all stages done
  bool interrupted = false;
  std::string model_path;  // empty if the attention is not exported
};

// Runs until the last step, stop_after, or a stop, then saves. Throws
// Error(kMismatch) for a checkpoint of another model or other data, Error(kFile) for one that is damaged, and
// Error(kInput), naming the layer, when a loss, a memory or a gradient is no longer a number or exceeds
// train.z_limit; the last good checkpoint is then intact.
TrainOutcome Train(const TrainConfig& config, const TrainEvents& events, const TrainLimits& limits = {});

}  // namespace mneme::train
