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

// Names of GGUF for vocabularies of characters with U+2581 for spaces and a list of merges, over whole texts.
bool IsPieceBpe(std::string_view kind, std::string_view pre) {
  return kind == "gemma4" || (kind == "gpt2" && (pre == "gemma4" || pre == "sarvam-moe"));
}

// Old files name no pre-tokenizer, and llama.cpp splits those by a pattern of its own, whatever their family.
// The same here: a peer then reads the same tokens.
NamedPreTokenizer PreTokenizerOf(const GgufFile& file, std::string_view override_name, VocabularySpec* spec) {
  const auto in_file = file.GetString("tokenizer.ggml.pre");
  const std::string_view name = !override_name.empty() ? override_name : in_file.value_or("default");
  if (override_name.empty() && !in_file) {
    spec->warnings.emplace_back(
        "the file does not name its pre-tokenizer (tokenizer.ggml.pre), as files of before May 2024 do: text "
        "is "
        "split by a rule that fits few models, so most read other tokens than they were trained on and "
        "answer "
        "worse; a newer conversion of the model, or its tokenizer.json with --tokenizer, is right");
  }
  const auto found = FindPreTokenizer(name);
  if (!found)
    Fail(ErrorKind::kUnsupported,
         "{}: the pre-tokenizer '{}' is not known here; its splitting cannot be guessed, so the model would "
         "read other tokens than it was trained on",
         file.path(), name);
  return *found;
}

void ReadMerges(const GgufFile& file, VocabularySpec* spec) {
  const auto merges = file.GetStringArray("tokenizer.ggml.merges");
  if (!merges) Fail(ErrorKind::kFile, "{}: no merges (tokenizer.ggml.merges is missing)", file.path());
  for (std::string_view merge : *merges) {
    // A part may itself start with a space: the separator is the first one after the first byte.
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size())
      Fail(ErrorKind::kFile, "{}: merge '{}' is not two pieces with a space between", file.path(), merge);
    spec->merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
}

void ReadNormalizer(const GgufFile& file, VocabularySpec* spec) {
  const auto normalizer = file.GetString("mneme.tokenizer.normalizer");
  if (!normalizer) return;
  if (*normalizer != "NFC")
    Fail(ErrorKind::kUnsupported, "{}: the normalizer '{}' is not known here", file.path(), *normalizer);
  spec->nfc = true;
}

void ReadByteBpe(const GgufFile& file, std::string_view pre_name, VocabularySpec* spec) {
  spec->algorithm = Algorithm::kByteBpe;
  ReadMerges(file, spec);
  const NamedPreTokenizer pre = PreTokenizerOf(file, pre_name, spec);
  spec->pre_tokenizer = pre.kind;
  spec->ignore_merges = file.GetBool("mneme.tokenizer.ignore_merges").value_or(pre.ignore_merges);
  spec->add_prefix_space = file.GetBool("tokenizer.ggml.add_space_prefix").value_or(false);
  ReadNormalizer(file, spec);
  spec->adds_bos = pre.adds_bos;
}

// When a space is put before a text, and what only conversions of ours say of it.
void ReadSpacePrefix(const GgufFile& file, bool otherwise, VocabularySpec* spec) {
  const auto flag = [&](const char* key, bool value) { return file.GetBool(key).value_or(value); };
  if (flag("tokenizer.ggml.add_space_prefix", otherwise)) {
    spec->dummy_prefix = flag("mneme.tokenizer.space_prefix_once", false) ? DummyPrefix::kFirstSegment
                                                                          : DummyPrefix::kEverySegment;
  }
  spec->prefix_unless_space = flag("mneme.tokenizer.space_prefix_unless_space", false);
  spec->split_before_space = flag("mneme.tokenizer.split_before_space", false);
}

// Gemma 4 and its like, as their tokenizer.json has them: no word boundaries, bytes for what has no piece.
void ReadPieceBpe(const GgufFile& file, VocabularySpec* spec) {
  spec->algorithm = Algorithm::kRankedBpe;
  ReadMerges(file, spec);
  ReadSpacePrefix(file, false, spec);
  for (Token& token : spec->tokens) {
    if (token.type == TokenType::kNormal && ParseBytePiece(token.piece)) token.type = TokenType::kByte;
    spec->byte_fallback |= token.type == TokenType::kByte;
  }
}

// GGUF has no key for special tokens that take the white space after them along. Conversions of ours have
// one; of others, Phi-3 has such tokens and is known by its name, as in llama.cpp.
void ReadStripping(const GgufFile& file, VocabularySpec* spec) {
  if (const auto ids = file.GetIntArray("mneme.tokenizer.rstrip_ids")) {
    for (const int64_t id : *ids) {
      if (id < 0 || id >= static_cast<int64_t>(spec->tokens.size()))
        Fail(ErrorKind::kFile, "{}: mneme.tokenizer.rstrip_ids has {}, which is no token id", file.path(),
             id);
      spec->tokens[static_cast<size_t>(id)].strips_right = true;
    }
    return;
  }
  std::string name(file.GetString("general.name").value_or(""));
  for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  if (name.find("phi-3") == std::string::npos && name.find("phi3") == std::string::npos) return;
  for (Token& token : spec->tokens) {
    const bool is_plain = token.type == TokenType::kNormal || token.type == TokenType::kByte;
    const bool keeps = token.piece == "<unk>" || token.piece == "<s>" || token.piece == "<|endoftext|>";
    token.strips_right = !is_plain && !keeps;
  }
}

void ReadSentencePiece(const GgufFile& file, bool unigram, VocabularySpec* spec) {
  spec->algorithm = unigram ? Algorithm::kUnigram : Algorithm::kScoredBpe;
  if (!file.FindValue("tokenizer.ggml.scores"))
    Fail(ErrorKind::kFile, "{}: no scores (tokenizer.ggml.scores is missing)", file.path());
  ReadSpacePrefix(file, true, spec);
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
  if (*kind != "gpt2" && *kind != "llama" && *kind != "t5" && *kind != "gemma4")
    Fail(ErrorKind::kUnsupported,
         "{}: the tokenizer kind '{}' is not supported (gpt2, llama, t5 and gemma4 are)", file.path(), *kind);
  ReadTokens(file, &spec);
  const std::string_view named_pre =
      !pre.empty() ? pre : file.GetString("tokenizer.ggml.pre").value_or(std::string_view());
  const bool is_piece_bpe = IsPieceBpe(*kind, named_pre);
  if (is_piece_bpe)
    ReadPieceBpe(file, &spec);
  else if (*kind == "gpt2")
    ReadByteBpe(file, pre, &spec);
  else
    ReadSentencePiece(file, *kind == "t5", &spec);
  ReadStripping(file, &spec);
  spec.bos_id = TokenIdOf(file, "tokenizer.ggml.bos_token_id", spec.bos_id);
  spec.eos_id = TokenIdOf(file, "tokenizer.ggml.eos_token_id", spec.eos_id);
  spec.unk_id = TokenIdOf(file, "tokenizer.ggml.unknown_token_id", spec.unk_id);
  spec.pad_id = TokenIdOf(file, "tokenizer.ggml.padding_token_id", -1);
  for (std::string_view key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const TokenId id = TokenIdOf(file, key, -1); id >= 0) spec.more_eog_ids.push_back(id);
  spec.adds_bos = file.GetBool("tokenizer.ggml.add_bos_token").value_or(spec.adds_bos) && spec.bos_id >= 0;
  // The first files of Gemma 4 say false and mean true.
  if (is_piece_bpe && named_pre != "sarvam-moe") spec.adds_bos = spec.bos_id >= 0;
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
