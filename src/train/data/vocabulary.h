// Vocabularies for training: a SentencePiece model trained on text, in the form that GGUF files carry.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"
#include "mneme/tokenizer.h"
#include "train/config.h"

namespace mneme::train {

// Trains a vocabulary on the lines and writes a SentencePiece model file: single digits, bytes for characters
// it does not know, spaces kept as they are, control tokens <pause> and <backspace>. The same lines give the
// same bytes. Atomic. Runs the program mneme-vocabulary, which stands beside this one. Throws Error(kInput)
// if the text is too small for the size, Error(kFile) if the program is not there or the file cannot be
// written.
void TrainVocabulary(const VocabularySettings& settings, const std::vector<std::string>& lines,
                     const std::string& path);

// Writes tokenizer.ggml.* of a SentencePiece BPE or unigram tokenizer.
void WriteVocabulary(const Tokenizer& tokenizer, GgufWriter* writer);

}  // namespace mneme::train
