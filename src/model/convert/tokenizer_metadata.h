// A tokenizer beside the rows of a model's embedding, and as GGUF metadata.
#pragma once

#include <optional>
#include <string>

#include "formats/gguf.h"
#include "mneme/tokenizer.h"

namespace mneme {

// Throws Error(kMismatch) where the tokenizer is not that of a model with `num_rows` token embeddings: it has
// more pieces, or so many fewer that what is missing cannot be padding. Matrices are padded to round sizes
// (905 of 51,200 rows are the most we have seen in a published model); rows beyond max(256, num_rows / 32)
// are taken for tokens that another tokenizer has. `from`: where it came from, for the message.
void CheckTokenizerFits(const Tokenizer& tokenizer, size_t num_rows, const std::string& from);

// Sets the keys tokenizer.ggml.* and tokenizer.chat_template. merges_json: content of the tokenizer.json that
// the tokenizer came from, needed for byte-level BPE. num_tokens: rows of the embedding; further ids become
// unused tokens. Returns why it cannot be expressed, or nothing; nothing is set then.
std::optional<std::string> WriteTokenizerMetadata(const Tokenizer& tokenizer, const std::string& merges_json,
                                                  size_t num_tokens, GgufWriter* writer);

}  // namespace mneme
