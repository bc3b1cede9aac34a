// The tokenizer.json of a Hugging Face folder. Internal to the library.
#pragma once

#include <string>

namespace mneme {

// The text of tokenizer.json, or the same made of vocab.json and merges.txt, which older folders have in its
// place (GPT-2's kind of tokenizer: tokenizer_config.json names it, or nothing). Empty where there is
// neither, and where tokenizer.model stands in for it. Throws Error(kUnsupported) naming a tokenizer class
// whose splitting the two files do not tell.
std::string FolderTokenizerJson(const std::string& folder);

}  // namespace mneme
