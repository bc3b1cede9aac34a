#include "tokenizer/model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/hash.h"
#include "tokenizer/format_tokens.h"
#include "tokenizer/text/unicode.h"

namespace mneme {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 24;
constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

// Turn enders of the chat formats in use; they end generation where a vocabulary has them as special tokens.
constexpr std::string_view kTurnEnders[] = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|EOT|>",
    "<|end_of_turn|>",
    "<EOT>",
    "<|end_of_sentence|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
    "<|eot|>",
    "<|return|>",
    "<|end_of_role|>",
};

struct Gpt2Alphabet {
  uint32_t char_of_byte[256];
  int byte_of_char[512];
  Gpt2Alphabet() {
    std::fill(std::begin(byte_of_char), std::end(byte_of_char), -1);
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      char_of_byte[byte] = printable ? byte : next++;
      byte_of_char[char_of_byte[byte]] = static_cast<int>(byte);
    }
  }
};

const Gpt2Alphabet& Alphabet() {
  static const Gpt2Alphabet alphabet;
  return alphabet;
}

void CheckSpec(const VocabularySpec& spec) {
  if (spec.tokens.empty()) Fail(ErrorKind::kFile, "{}: the vocabulary is empty", spec.name);
  if (spec.tokens.size() > kMaxTokens)
    Fail(ErrorKind::kUnsupported, "{}: a vocabulary of {} tokens; at most {} are supported", spec.name,
         spec.tokens.size(), kMaxTokens);
  const auto check_id = [&](TokenId id, const char* what) {
    if (id < -1 || id >= static_cast<TokenId>(spec.tokens.size()))
      Fail(ErrorKind::kFile, "{}: the {} token has id {}, but the vocabulary has {} tokens", spec.name, what,
           id, spec.tokens.size());
  };
  check_id(spec.bos_id, "BOS");
  check_id(spec.eos_id, "EOS");
  check_id(spec.unk_id, "unknown");
  check_id(spec.pad_id, "padding");
  for (TokenId id : spec.more_eog_ids) check_id(id, "end of generation");
  for (size_t i = 0; i < spec.tokens.size(); ++i)
    if (std::isnan(spec.tokens[i].score))
      Fail(ErrorKind::kFile, "{}: the score of token {} is not a number", spec.name, i);
}

bool IsPieceAlgorithm(Algorithm algorithm) { return algorithm != Algorithm::kByteBpe; }

// The text that the token stands for when decoded.
std::string DecodedBytes(const VocabularySpec& spec, const Token& token) {
  switch (token.type) {
    case TokenType::kControl:
      return "";
    case TokenType::kUnknown:
      return IsPieceAlgorithm(spec.algorithm) ? spec.unknown_text : "";
    case TokenType::kByte:
      if (const auto byte = ParseBytePiece(token.piece)) return std::string(1, static_cast<char>(*byte));
      return "";
    case TokenType::kUnused:
      if (!IsPieceAlgorithm(spec.algorithm)) return "";
      break;
    default:
      break;
  }
  if (!IsPieceAlgorithm(spec.algorithm)) {
    if (spec.pieces_are_raw_bytes || token.type == TokenType::kUserDefined) return token.piece;
    return BytesOfGpt2Text(token.piece).value_or(token.piece);
  }
  std::string text;
  for (size_t i = 0; i < token.piece.size();) {
    if (token.piece.compare(i, kSpaceSymbol.size(), kSpaceSymbol) == 0) {
      text.push_back(' ');
      i += kSpaceSymbol.size();
    } else {
      text.push_back(token.piece[i++]);
    }
  }
  return text;
}

// Scores as unsigned integers in falling order, so that one merge routine serves scores and ranks.
uint32_t PriorityOfScore(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score == 0 ? 0.0f : score);
  const uint32_t rising = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return ~rising;
}

// Whether a token is part of what plain text may become, by merges or as a piece of a split.
bool MatchesText(const VocabularySpec& spec, TokenType type) {
  if (!IsPieceAlgorithm(spec.algorithm)) return type == TokenType::kNormal;
  if (type == TokenType::kUnused) return spec.algorithm == Algorithm::kScoredBpe;
  return type == TokenType::kNormal || type == TokenType::kUserDefined;
}

void AddTokens(TokenizerModel* model) {
  const VocabularySpec& spec = model->spec;
  size_t total_bytes = 0;
  for (const Token& token : spec.tokens) total_bytes += token.piece.size();
  for (StringPool* pool : {&model->pieces, &model->bytes, &model->match_texts})
    pool->Reserve(spec.tokens.size(), total_bytes);
  model->by_piece.Reserve(spec.tokens.size());
  model->mergeable.Reserve(spec.tokens.size());
  model->byte_ids.fill(-1);
  const TemplateText format(spec.chat_template);
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const Token& token = spec.tokens[i];
    const TokenId id = static_cast<TokenId>(i);
    const bool is_format = token.type == TokenType::kUserDefined && format.Writes(token.piece);
    model->types.push_back(token.type);
    model->is_format.push_back(is_format);
    model->scores.push_back(token.score);
    model->priorities.push_back(PriorityOfScore(token.score));
    model->strips_right.push_back(token.strips_right);
    model->pieces.Add(token.piece);
    model->by_piece.Add(id);
    const std::string decoded = DecodedBytes(spec, token);
    model->bytes.Add(decoded);
    const bool matches = MatchesText(spec, token.type) && !is_format && !token.piece.empty();
    const std::string_view text = IsPieceAlgorithm(spec.algorithm) ? token.piece : decoded;
    model->match_texts.Add(matches ? text : std::string_view());
    if (matches) model->mergeable.Add(id);
    if (token.type == TokenType::kUnused) model->has_unused = true;
    if (IsPieceAlgorithm(spec.algorithm) ? token.type == TokenType::kByte : matches && decoded.size() == 1) {
      if (!decoded.empty()) {
        TokenId& slot = model->byte_ids[static_cast<uint8_t>(decoded[0])];
        if (slot < 0) slot = id;
      }
    }
  }
}

void AddMerges(TokenizerModel* model) {
  const VocabularySpec& spec = model->spec;
  model->merges.Reserve(spec.merges.size());
  std::string merged;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const auto& [left, right] = spec.merges[i];
    merged = left;
    merged += right;
    const TokenId ids[3] = {model->by_piece.Find(left), model->by_piece.Find(right),
                            model->by_piece.Find(merged)};
    for (TokenId id : ids)
      if (id < 0)
        Fail(ErrorKind::kFile,
             "{}: merge {} ('{}' with '{}') has a part or result that is not in the vocabulary", spec.name, i,
             left, right);
    model->merges.Add(ids[0], ids[1], static_cast<uint32_t>(i), ids[2]);
  }
  if (!spec.merges_from_ranks) return;
  // Ranks alone say that any two neighbours merge whose joined bytes are a token.
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const std::string_view text = model->match_texts[i];
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const TokenId left = model->mergeable.Find(text.substr(0, cut));
      if (left < 0) continue;
      const TokenId right = model->mergeable.Find(text.substr(cut));
      if (right >= 0) model->merges.Add(left, right, static_cast<uint32_t>(i), static_cast<TokenId>(i));
    }
  }
}

void AddSpecials(TokenizerModel* model) {
  std::vector<std::pair<std::string, TokenId>> always, all, symbols;
  for (size_t i = 0; i < model->types.size(); ++i) {
    const TokenType type = model->types[i];
    const std::string piece(model->pieces[i]);
    const TokenId id = static_cast<TokenId>(i);
    if (type == TokenType::kUserDefined && !model->is_format[i]) {
      (model->spec.user_defined_inline ? symbols : always).emplace_back(piece, id);
      if (!model->spec.user_defined_inline) all.emplace_back(piece, id);
    } else if (type == TokenType::kUserDefined || type == TokenType::kControl ||
               type == TokenType::kUnknown) {
      all.emplace_back(piece, id);
    }
  }
  model->always_special = ByteTrie(std::move(always));
  model->all_special = ByteTrie(std::move(all));
  model->inline_symbols = ByteTrie(std::move(symbols));
}

// SentencePiece's constants: an unknown character costs 10 more than the worst piece; user-defined pieces win
// over any sum of others.
void AddUnigram(TokenizerModel* model) {
  constexpr float kUnknownPenalty = 10;
  float lowest = std::numeric_limits<float>::max(), highest = std::numeric_limits<float>::lowest();
  std::vector<std::pair<std::string, TokenId>> entries;
  for (size_t i = 0; i < model->types.size(); ++i) {
    if (model->types[i] == TokenType::kNormal) {
      lowest = std::min(lowest, model->scores[i]);
      highest = std::max(highest, model->scores[i]);
    }
    if (!model->match_texts[i].empty()) entries.emplace_back(model->match_texts[i], static_cast<TokenId>(i));
  }
  if (lowest > highest) lowest = highest = 0;
  model->unknown_score = lowest - kUnknownPenalty;
  model->max_score = highest;
  model->unigram = ByteTrie(std::move(entries));
}

void AddJoinedPairs(TokenizerModel* model) {
  for (size_t i = 0; i < model->types.size(); ++i) {
    const std::string_view text = model->match_texts[i];
    uint32_t before = 0;
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = DecodeUtf8(text.data() + at, text.size() - at);
      if (at > 0 && !(model->spec.split_before_space && c.code == 0x2581)) model->joined.Add(before, c.code);
      before = c.code;
      at += c.length;
    }
  }
}

void AddEndsOfGeneration(TokenizerModel* model) {
  std::vector<TokenId> ids = model->spec.more_eog_ids;
  if (model->spec.eos_id >= 0) ids.push_back(model->spec.eos_id);
  for (std::string_view name : kTurnEnders) {
    const TokenId id = model->by_piece.Find(name);
    if (id < 0) continue;
    const TokenType type = model->types[static_cast<size_t>(id)];
    if (type == TokenType::kControl || type == TokenType::kUserDefined) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::erase(ids, -1);
  // gpt-oss ends every message of a reply with <|end|>, its reasoning too, and the reply with <|return|>.
  if (model->by_piece.Find("<|return|>") >= 0 && model->by_piece.Find("<|call|>") >= 0) {
    std::erase(ids, model->by_piece.Find("<|end|>"));
  }
  model->eog_ids = std::move(ids);
}

uint64_t Fingerprint(const TokenizerModel& model) {
  const VocabularySpec& spec = model.spec;
  Hasher hash;
  hash.PutString(spec.charsmap);
  hash.Put<uint64_t>(model.types.size());
  for (size_t i = 0; i < model.types.size(); ++i) {
    hash.PutString(model.pieces[i]);
    hash.Put(uint64_t{model.priorities[i]} << 9 | uint64_t{model.is_format[i]} << 8 |
             static_cast<uint64_t>(model.types[i]));
  }
  for (const auto& [left, right] : spec.merges) {
    hash.PutString(left);
    hash.PutString(right);
  }
  const int settings[] = {static_cast<int>(spec.algorithm),
                          spec.pieces_are_raw_bytes,
                          spec.merges_from_ranks,
                          static_cast<int>(spec.pre_tokenizer),
                          spec.ignore_merges,
                          spec.nfc,
                          spec.add_prefix_space,
                          static_cast<int>(spec.dummy_prefix),
                          spec.prefix_unless_space,
                          spec.remove_extra_whitespaces,
                          spec.split_before_space,
                          spec.user_defined_inline,
                          spec.byte_fallback,
                          spec.bos_id,
                          spec.eos_id,
                          spec.unk_id};
  hash.Write(settings, sizeof(settings));
  return hash.value();
}

}  // namespace

uint32_t Gpt2CharOfByte(uint8_t byte) { return Alphabet().char_of_byte[byte]; }

std::optional<std::string> BytesOfGpt2Text(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text.data() + i, text.size() - i);
    if (!c.valid || c.code >= 512 || Alphabet().byte_of_char[c.code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(Alphabet().byte_of_char[c.code]));
    i += c.length;
  }
  return bytes;
}

std::optional<uint8_t> ParseBytePiece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return std::nullopt;
  int value = 0;
  for (char c : piece.substr(3, 2)) {
    int digit;
    if (c >= '0' && c <= '9')
      digit = c - '0';
    else if (c >= 'A' && c <= 'F')
      digit = c - 'A' + 10;
    else if (c >= 'a' && c <= 'f')
      digit = c - 'a' + 10;
    else
      return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<uint8_t>(value);
}

std::shared_ptr<const TokenizerModel> BuildModel(VocabularySpec spec) {
  CheckSpec(spec);
  auto model = std::make_shared<TokenizerModel>();
  model->spec = std::move(spec);
  AddTokens(model.get());
  AddMerges(model.get());
  AddSpecials(model.get());
  if (IsPieceAlgorithm(model->spec.algorithm)) {
    if (model->spec.algorithm == Algorithm::kUnigram) AddUnigram(model.get());
    AddJoinedPairs(model.get());
    model->charsmap = Charsmap(model->spec.charsmap, model->spec.name);
  }
  AddEndsOfGeneration(model.get());
  model->fingerprint = Fingerprint(*model);
  // The lookup structures hold all of it now.
  model->spec.tokens = {};
  model->spec.merges = {};
  model->spec.charsmap = {};
  return model;
}

}  // namespace mneme
