// What a loaded tokenizer is made of. Loaders fill a VocabularySpec; BuildModel checks it and makes the
// lookup structures. Internal to the folder.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/types.h"
#include "tokenizer/string_table.h"
#include "tokenizer/text/charsmap.h"
#include "tokenizer/text/pre_tokenizer.h"

namespace mneme {

// The numbers are those of tokenizer.ggml.token_type and of SentencePiece's piece types.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

enum class Algorithm : uint8_t {
  kByteBpe,    // bytes, merges by rank, within words of a pre-tokenizer
  kScoredBpe,  // SentencePiece BPE: characters, the adjacent pair whose piece scores highest first
  kRankedBpe,  // the same with a list of merges (tokenizer.json of the same models)
  kUnigram,    // SentencePiece unigram: the split with the highest sum of scores
};

// When a text gets a space put before it.
enum class DummyPrefix : uint8_t {
  kNever,
  kEverySegment,  // at the start and after each special token
  kFirstSegment,  // at the start of the text only
};

struct Token {
  std::string piece;
  float score = 0;
  TokenType type = TokenType::kNormal;
  bool strips_right = false;  // as a special token it takes the white space after it along
};

// Settings and vocabulary as a file gives them, unchecked.
struct VocabularySpec {
  std::string name;  // of the source, for messages
  Algorithm algorithm = Algorithm::kByteBpe;
  std::vector<Token> tokens;
  // Byte-level pieces are written in the printable alphabet of GPT-2; otherwise (tiktoken) as bytes.
  bool pieces_are_raw_bytes = false;
  // kByteBpe, kRankedBpe. Pairs of pieces; merges_from_ranks instead: the id is the rank (tiktoken).
  std::vector<std::pair<std::string, std::string>> merges;
  bool merges_from_ranks = false;

  PreTokenizer pre_tokenizer = PreTokenizer::kWhole;
  bool ignore_merges = false;
  bool nfc = false;
  bool add_prefix_space = false;  // kByteBpe: before a segment that does not start with a space

  DummyPrefix dummy_prefix = DummyPrefix::kNever;
  bool prefix_unless_space = false;  // no dummy prefix before a text that starts with a space
  bool remove_extra_whitespaces = false;
  bool split_before_space = false;  // Metaspace: no piece reaches over the front of a U+2581
  std::string charsmap;             // SentencePiece precompiled_charsmap; empty: identity
  // User-defined pieces are found while normalising (SentencePiece) or before all else (GGUF, Hugging Face).
  bool user_defined_inline = false;
  bool byte_fallback = false;
  std::string unknown_text = " \xE2\x81\x87 ";  // what an unknown piece shows as; SentencePiece's default

  TokenId bos_id = -1, eos_id = -1, unk_id = -1, pad_id = -1;
  std::vector<TokenId> more_eog_ids;
  bool adds_bos = false, adds_eos = false;
  std::string chat_template;
  std::vector<std::pair<std::string, std::string>> named_templates;  // for other purposes: tool_use, rag
  std::vector<std::string> warnings;  // what whoever opens the file should know, one sentence each
};

struct TokenizerModel {
  TokenizerModel() : by_piece(&pieces), mergeable(&match_texts) {}
  TokenizerModel(const TokenizerModel&) = delete;
  TokenizerModel& operator=(const TokenizerModel&) = delete;

  VocabularySpec spec;  // without tokens, merges and charsmap
  std::vector<TokenType> types;
  // User-defined tokens that the file's chat template writes: found where a format is meant, letters in what
  // users wrote.
  std::vector<bool> is_format;
  std::vector<uint32_t> priorities;  // scores as integers: the highest score is the lowest
  std::vector<float> scores;
  StringPool pieces;       // as the file writes them
  StringPool bytes;        // what they decode to
  StringPool match_texts;  // what they match in normalised text (byte level: bytes)
  StringIndex by_piece;
  StringIndex mergeable;                // pieces that plain text may become
  std::array<TokenId, 256> byte_ids{};  // -1 where there is none
  MergeTable merges;
  ByteTrie always_special;  // user-defined tokens found before all else, in any text
  ByteTrie all_special;     // the same, control tokens, and those of the format
  std::vector<bool> strips_right;
  ByteTrie unigram;
  ByteTrie inline_symbols;  // user-defined pieces found while normalising
  PairSet joined;           // character pairs that some piece holds side by side
  Charsmap charsmap;
  bool has_unused = false;
  float unknown_score = 0;
  float max_score = 0;
  std::vector<TokenId> eog_ids;
  uint64_t fingerprint = 0;
};

// Throws Error(kFile) for an empty vocabulary, ids out of range, merges of unknown pieces, scores that are
// not numbers; Error(kUnsupported) for more than 2^24 tokens.
std::shared_ptr<const TokenizerModel> BuildModel(VocabularySpec spec);

// The printable alphabet of GPT-2: byte -> character, and text in it back to bytes (nullopt if a character is
// not of the alphabet).
uint32_t Gpt2CharOfByte(uint8_t byte);
std::optional<std::string> BytesOfGpt2Text(std::string_view text);

// "<0x0A>" -> 10.
std::optional<uint8_t> ParseBytePiece(std::string_view piece);

}  // namespace mneme
