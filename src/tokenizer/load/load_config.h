// What tokenizer_config.json adds to a vocabulary. Internal to the folder.
#pragma once

#include <string_view>

#include "tokenizer/model.h"

namespace mneme {

// Applies bos_token, eos_token, unk_token, pad_token, add_bos_token, add_eos_token, chat_template and
// added_tokens_decoder. Empty text does nothing. Throws Error(kFile) where it is not JSON of that shape.
void ApplyTokenizerConfig(std::string_view config_json, VocabularySpec* spec);

// Puts a token at an id, growing the vocabulary; ids may leave small gaps (unused tokens). Throws
// Error(kFile) for an id far outside.
void PlaceToken(int64_t id, Token token, VocabularySpec* spec);

// Id of a piece, -1 if absent; the lowest if it is there twice.
TokenId FindPiece(const VocabularySpec& spec, std::string_view piece);

}  // namespace mneme
