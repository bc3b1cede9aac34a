// Texts whose answer is known: the passkey of the papers and its harder relatives, made on the fly. The same
// generator trains and evaluates.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "mneme/tokenizer.h"
#include "train/config.h"

namespace mneme::train {

// A text, and which bytes of it are answers.
struct TaskText {
  std::string text;
  std::vector<std::pair<size_t, size_t>> answers;  // [begin, end) in bytes, ascending
};

// Running text for a task's filler, at least this many bytes, cut at a word.
using FillerSource = std::function<std::string(size_t num_bytes, Random& random)>;

// The papers' filler: "The grass is green. The sky is blue. ..."; starts at any of its sentences.
std::string GrassFiller(size_t num_bytes, Random& random);

// The passkey task: about num_bytes of filler, the key at `depth` of it (0 front, 1 just before the
// question).
TaskText PasskeyText(size_t num_bytes, double depth, const FillerSource& filler, Random& random,
                     double digit_repeats = 0);

// One text of the source's kind with about num_bytes of filler.
TaskText MakeTask(const SourceSettings& source, size_t num_bytes, const FillerSource& filler, Random& random);

// Lines that hold every word of the tasks, for training a vocabulary.
std::vector<std::string> TaskVocabularyLines(Random& random, size_t num_lines);

// Token ids of a text with a weight each: 1 for tokens that hold a byte of an answer, `other` for the rest.
struct WeightedIds {
  std::vector<TokenId> ids;
  std::vector<float> weights;
  std::vector<size_t>
      answers;  // places in ids where an answer begins, rising; nobody keeps them up behind EncodeTask
};
WeightedIds EncodeTask(const Tokenizer& tokenizer, const TaskText& task, float other);

}  // namespace mneme::train
