// Sequences to train on: text files and tasks, mixed by weight, as ids with targets and loss weights.
//
// A sequence is a whole number of segments. Documents are kept apart: where one ends inside a sequence, the
// rest of its segment is filled up without loss and the next document starts at the next segment with empty
// memories (`resets`). The whole state (random numbers, cursors) is saved with a checkpoint, so that a
// resumed run sees the same sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/files/serial.h"
#include "mneme/tokenizer.h"
#include "train/config.h"

namespace mneme::train {

struct Batch {
  int64_t batch = 0;
  int64_t num_segments = 0;
  int64_t segment = 0;
  std::vector<int64_t> tokens;   // [batch, num_segments * segment]
  std::vector<int64_t> targets;  // the next token
  std::vector<float> weights;    // of the loss; 0: none
  std::vector<float> resets;     // [batch, num_segments] 1: the row's memories are emptied before the segment

  // Wrong tokens that are tried and taken back (BranchTokens in train/decoder.h), [batch, num_segments,
  // num_branches]; their target is the backspace token.
  int64_t num_branches = 0;
  int64_t backspace = -1;
  std::vector<int64_t> branch_tokens;
  std::vector<int64_t> branch_parents;  // index in the segment of the last right token before
  std::vector<int64_t> branch_depths;   // 1: directly after the parent
  std::vector<float> branch_weights;    // 0: padding
};

// Pieces with a meaning of their own. sink empty: documents begin with their text.
struct DataTokens {
  std::string pause = "<pause>";
  std::string backspace = "<backspace>";
  std::string sink;
};

// One thread at a time.
class DataStream {
 public:
  // Opens the files. Throws Error(kFile) for one that is missing or empty, Error(kInput) for one that is not
  // text or if the vocabulary lacks a piece that the settings need.
  DataStream(const std::vector<SourceSettings>& sources, const Tokenizer& tokenizer, uint64_t seed,
             const DataTokens& tokens = {});
  ~DataStream();

  // -1 where no source uses it.
  TokenId pause() const;
  TokenId backspace() const;
  TokenId sink() const;

  // Shares of the sources from here on, one each, at least one above 0; empty: the sources' own.
  void SetWeights(const std::vector<int64_t>& weights);
  Batch Next(int64_t batch, int64_t num_segments, int64_t segment);
  // Passkey sequences of exactly this many segments with the key at the given depth; loss weights only on the
  // answer. With the answer_pauses of the first passkey source.
  Batch Passkeys(int64_t batch, int64_t num_segments, int64_t segment, double depth, uint64_t seed) const;

  void Save(StateWriter& writer) const;
  // Throws Error(kMismatch) if the sources are others.
  void Restore(StateReader& reader);

  // Lines from all text sources, in proportion to their files' sizes, and from the tasks.
  static std::vector<std::string> SampleLines(const std::vector<SourceSettings>& sources, int64_t num_bytes,
                                              uint64_t seed);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mneme::train
