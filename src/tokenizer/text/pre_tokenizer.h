// Splits text into the words within which byte-level BPE merges: hand-written scanners for the regular
// expressions that the models were trained with, one table row each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace mneme {

enum class PreTokenizer : uint8_t {
  kGpt2,           // contractions, letters, numbers, rest, spaces; each with one leading space
  kLlama3,         // cl100k: numbers by up to three, newlines apart
  kQwen2,          // the same with single digits
  kQwen35,         // the same with marks in words
  kSeedCoder,      // qwen2, but signs do not take newlines along
  kUfakzeka,       // qwen2 without contractions
  kLaguna,         // line feeds apart, then qwen2
  kMinicpm5,       // numbers by three apart, then llama3
  kFalcon,         // punctuation apart, then gpt2, then digits by three
  kFalconDigits,   // the same with numbers apart from the space before (tokenizer.json of falcon)
  kOldDefault,     // what llama.cpp does for files that name no pre-tokenizer
  kStarcoder,      // single digits, then gpt2
  kDeepseekLlm,    // lines, cased letters, punctuation, CJK, numbers
  kDeepseekCoder,  // lines, letters, punctuation, CJK, single digits
  kDeepseek3,      // digits by three, CJK, then letters with marks
  kSpark,          // the same with single digits, and newlines one by one
  kBloom,          // runs of all but white space and a few signs
  kViking,         // the same, then single digits
  kGpt4o,          // o200k: upper and lower case apart, with contractions
  kTekken,         // the same without contractions and with single digits
  kWhole,          // no splitting
};

// Our name of it ("llama3").
std::string_view PreTokenizerName(PreTokenizer kind);
// By any name that files use for it (tokenizer.ggml.pre), including ours. Also tells whether a word that is a
// token is taken whole, before any merge (llama-bpe), and whether such files mean a BOS where they say
// nothing. Empty for unknown names.
struct NamedPreTokenizer {
  PreTokenizer kind;
  bool ignore_merges;
  bool adds_bos;
};
std::optional<NamedPreTokenizer> FindPreTokenizer(std::string_view name);

// The name under which a GGUF that other programs read too has it.
std::string_view GgufPreTokenizerName(PreTokenizer kind, bool ignore_merges);

// Bytes of the first unit of `text` (not empty). Sets *touched if the answer depended on where `text` ends,
// that is, if more text could change it. Pure: depends on the bytes of `text` alone. A unit is a word unless
// SplitsUnits(kind).
size_t NextUnit(PreTokenizer kind, std::string_view text, bool* touched);
bool SplitsUnits(PreTokenizer kind);
// Appends the lengths of the words of one whole unit, in order; they add up to unit.size().
void SplitUnit(PreTokenizer kind, std::string_view unit, std::vector<uint32_t>* lengths);

}  // namespace mneme
