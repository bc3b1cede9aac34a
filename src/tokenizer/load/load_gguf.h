// Tokenizers out of the metadata of GGUF files.
#pragma once

#include <string_view>

#include "formats/gguf.h"
#include "mneme/tokenizer.h"

namespace mneme {

// From the metadata keys tokenizer.ggml.* and tokenizer.chat_template. A byte-level file without
// tokenizer.ggml.pre (written before that key came) gets the split that llama.cpp gives it, "default",
// whatever its family; `pre`, if not empty, is used in place of the key ("gptneox").
Tokenizer LoadTokenizer(const GgufFile& file, std::string_view pre = {});

}  // namespace mneme
