// Tokenizers in GGUF metadata (tokenizer.ggml.*).
#include "tokenizer/load/load_gguf.h"

#include <utility>

#include "base/error.h"
#include "formats/gguf.h"
#include "mneme/tokenizer.h"
#include "tokenizer/model.h"

namespace mneme {
namespace {

// Writers put 2^32-1 where there is no such token.
TokenId TokenIdOf(const GgufFile& file, std::string_view key, TokenId otherwise) {
  const auto value = file.GetUint(key);
  if (!value) return otherwise;
  if (*value == 0xFFFFFFFF) return -1;
  if (*value > 0x7FFFFFFF)
    Fail(ErrorKind::kFile, "{}: {} is {}, which is no token id", file.path(), key, *value);
  return static_cast<TokenId>(*value);
}

void ReadTokens(const GgufFile& file, VocabularySpec* spec) {
  const auto pieces = file.GetStringArray("tokenizer.ggml.tokens");
  if (!pieces) Fail(ErrorKind::kFile, "{}: no vocabulary (tokenizer.ggml.tokens is missing)", file.path());
  const auto scores = file.GetFloatArray("tokenizer.ggml.scores");
  const auto types = file.GetIntArray("tokenizer.ggml.token_type");
  const auto check_size = [&](size_t size, const char* what) {
    if (size != pieces->size())
      Fail(ErrorKind::kFile, "{}: {} {} for {} tokens", file.path(), size, what, pieces->size());
  };
  if (scores) check_size(scores->size(), "scores");
  if (types) check_size(types->size(), "token types");
  spec->tokens.resize(pieces->size());
  for (size_t i = 0; i < pieces->size(); ++i) {
    Token& token = spec->tokens[i];
    token.piece = (*pieces)[i];
    if (scores) token.score = (*scores)[i];
    if (!types || (*types)[i] == 0) continue;
    if ((*types)[i] < 0 || (*types)[i] > 6)
      Fail(ErrorKind::kFile, "{}: token {} has the unknown type {}", file.path(), i, (*types)[i]);
    token.type = static_cast<TokenType>((*types)[i]);
  }
}

// Old files name no pre-tokenizer, and llama.cpp splits those by a pattern of its own, whatever their family.
// The same here: a peer then reads the same tokens.
NamedPreTokenizer PreTokenizerOf(const GgufFile& file, std::string_view override_name) {
  const std::string_view name =
      !override_name.empty() ? override_name : file.GetString("tokenizer.ggml.pre").value_or("default");
  const auto found = FindPreTokenizer(name);
  if (!found)
    Fail(ErrorKind::kUnsupported,
         "{}: the pre-tokenizer '{}' is not known here; its splitting cannot be guessed, so the model would "
         "read "
         "other tokens than it was trained on",
         file.path(), name);
  return *found;
}

void ReadByteBpe(const GgufFile& file, std::string_view pre_name, VocabularySpec* spec) {
  spec->algorithm = Algorithm::kByteBpe;
  const auto merges = file.GetStringArray("tokenizer.ggml.merges");
  if (!merges) Fail(ErrorKind::kFile, "{}: no merges (tokenizer.ggml.merges is missing)", file.path());
  for (std::string_view merge : *merges) {
    // A part may itself start with a space: the separator is the first one after the first byte.
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size())
      Fail(ErrorKind::kFile, "{}: merge '{}' is not two pieces with a space between", file.path(), merge);
    spec->merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  const NamedPreTokenizer pre = PreTokenizerOf(file, pre_name);
  spec->pre_tokenizer = pre.kind;
  spec->ignore_merges = pre.ignore_merges;
  spec->add_prefix_space = file.GetBool("tokenizer.ggml.add_space_prefix").value_or(false);
  if (const auto normalizer = file.GetString("mneme.tokenizer.normalizer")) {
    if (*normalizer != "NFC")
      Fail(ErrorKind::kUnsupported, "{}: the normalizer '{}' is not known here", file.path(), *normalizer);
    spec->nfc = true;
  }
  spec->adds_bos = pre.ignore_merges;  // llama-bpe and tekken; the key wins
}

void ReadSentencePiece(const GgufFile& file, bool unigram, VocabularySpec* spec) {
  spec->algorithm = unigram ? Algorithm::kUnigram : Algorithm::kScoredBpe;
  if (!file.FindValue("tokenizer.ggml.scores"))
    Fail(ErrorKind::kFile, "{}: no scores (tokenizer.ggml.scores is missing)", file.path());
  spec->dummy_prefix = file.GetBool("tokenizer.ggml.add_space_prefix").value_or(true)
                           ? DummyPrefix::kEverySegment
                           : DummyPrefix::kNever;
  spec->remove_extra_whitespaces = file.GetBool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  if (const auto map = file.GetIntArray("tokenizer.ggml.precompiled_charsmap"))
    for (int64_t byte : *map) spec->charsmap.push_back(static_cast<char>(byte));
  for (const Token& token : spec->tokens) spec->byte_fallback |= token.type == TokenType::kByte;
  const auto default_id = [&](TokenId id) {
    return id < static_cast<TokenId>(spec->tokens.size()) ? id : -1;
  };
  if (!unigram) {
    spec->bos_id = default_id(1);
    spec->eos_id = default_id(2);
  } else {
    spec->eos_id = default_id(1);
  }
  spec->unk_id = default_id(unigram ? 2 : 0);
  spec->adds_bos = !unigram;
  spec->adds_eos = unigram;
}

}  // namespace

Tokenizer LoadTokenizer(const GgufFile& file, std::string_view pre) {
  VocabularySpec spec;
  spec.name = file.path();
  const auto kind = file.GetString("tokenizer.ggml.model");
  if (!kind) Fail(ErrorKind::kFile, "{}: no tokenizer (tokenizer.ggml.model is missing)", file.path());
  if (*kind == "bert")
    Fail(ErrorKind::kUnsupported, "{}: the tokenizer is WordPiece (BERT), which is not supported",
         file.path());
  if (*kind != "gpt2" && *kind != "llama" && *kind != "t5")
    Fail(ErrorKind::kUnsupported, "{}: the tokenizer kind '{}' is not supported (gpt2, llama and t5 are)",
         file.path(), *kind);
  ReadTokens(file, &spec);
  if (*kind == "gpt2")
    ReadByteBpe(file, pre, &spec);
  else
    ReadSentencePiece(file, *kind == "t5", &spec);
  spec.bos_id = TokenIdOf(file, "tokenizer.ggml.bos_token_id", spec.bos_id);
  spec.eos_id = TokenIdOf(file, "tokenizer.ggml.eos_token_id", spec.eos_id);
  spec.unk_id = TokenIdOf(file, "tokenizer.ggml.unknown_token_id", spec.unk_id);
  spec.pad_id = TokenIdOf(file, "tokenizer.ggml.padding_token_id", -1);
  for (std::string_view key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const TokenId id = TokenIdOf(file, key, -1); id >= 0) spec.more_eog_ids.push_back(id);
  spec.adds_bos = file.GetBool("tokenizer.ggml.add_bos_token").value_or(spec.adds_bos) && spec.bos_id >= 0;
  spec.adds_eos = file.GetBool("tokenizer.ggml.add_eos_token").value_or(spec.adds_eos) && spec.eos_id >= 0;
  spec.chat_template = file.GetString("tokenizer.chat_template").value_or("");
  constexpr std::string_view kNamed = "tokenizer.chat_template.";
  for (const GgufValue& entry : file.metadata()) {
    const auto text = entry.key.starts_with(kNamed) ? file.GetString(entry.key) : std::nullopt;
    if (text) spec.named_templates.emplace_back(entry.key.substr(kNamed.size()), *text);
  }
  return Tokenizer(BuildModel(std::move(spec)));
}

}  // namespace mneme
