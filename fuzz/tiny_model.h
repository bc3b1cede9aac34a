// Models and vocabularies of a few kilobytes for fuzz targets and their seeds.
#pragma once

#include <cstdint>
#include <string>

#include "formats/gguf.h"

namespace mneme::fuzz {

// A llama model with two layers, model_dim 32 and a SentencePiece vocabulary of kTinyVocab pieces, random
// weights in `encoding` (F32 or Q8_0).
inline constexpr uint32_t kTinyVocab = 24;
GgufWriter TinyGguf(Encoding encoding);
// The bytes of the file that the writer would write.
std::string GgufBytes(const GgufWriter& writer);
// The same architecture as a Hugging Face folder's two files.
std::string TinyConfigJson();
std::string TinySafetensors();

// Small vocabularies, one of each kind. tokenizer.json of byte-level BPE; the protobuf of SentencePiece with
// BPE (model_type 2) or unigram (1).
std::string TinyTokenizerJson();
std::string TinySentencePiece(int model_type);
// Ranks of a tiktoken file: all bytes, then a few English pieces.
std::string TinyRanks();

}  // namespace mneme::fuzz
