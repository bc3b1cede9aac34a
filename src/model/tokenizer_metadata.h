// A tokenizer as GGUF metadata.
#pragma once

#include <optional>
#include <string>

#include "formats/gguf.h"
#include "tokenizer/tokenizer.h"

namespace mneme {

// Sets the keys tokenizer.ggml.* and tokenizer.chat_template. merges_json: content of the tokenizer.json that
// the tokenizer came from, needed for byte-level BPE. num_tokens: rows of the embedding; further ids become
// unused tokens. Returns why it cannot be expressed, or nothing; nothing is set then.
std::optional<std::string> WriteTokenizerMetadata(const Tokenizer& tokenizer, const std::string& merges_json,
                                                  size_t num_tokens, GgufWriter* writer);

}  // namespace mneme
