// The wording of the recall tasks: a key hidden in a text that means nothing, named keys, pairs of words.
// Models are trained on these sentences (src/train/data/tasks.h) and asked in the same ones
// (src/eval/tasks/passkey.h), so they are written down once, here. Names and statements as in the passkey
// task of arXiv 2305.16300.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/random.h"

namespace mneme {

// The papers' filler: "The grass is green.", "The sky is blue.", ...; repeated, joined by spaces.
std::span<const std::string_view> GrassSentences();
// What the text is about; ends with a newline.
std::string_view PasskeyIntroduction();
// Names of keys; keys and values of pairs: 64 plain words, all different.
std::span<const std::string_view> RecallWords();

// Five digits, the first not 0.
std::string DrawDigits(Random& random);

// "The pass key is 12345. Remember it. 12345 is the pass key."
std::string PasskeyStatement(std::string_view key);
// "What is the pass key? The pass key is"; a space and the key follow.
std::string PasskeyQuestion();
// "The pass key NAME is 12345. Remember it. 12345 is the pass key NAME."
std::string NamedKeyStatement(std::string_view name, std::string_view key);
// "What is the pass key NAME? The pass key NAME is"
std::string NamedKeyQuestion(std::string_view name);
// "The KEY has the VALUE."
std::string PairStatement(std::string_view key, std::string_view value);
// Before the first question about pairs: "Who has what?"
std::string_view PairsHeading();
// "The KEY has the"
std::string PairQuestion(std::string_view key);

}  // namespace mneme
