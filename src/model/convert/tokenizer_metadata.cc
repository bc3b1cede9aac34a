#include "model/convert/tokenizer_metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "tokenizer/model.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

// The merges of tokenizer.json as "left right".
std::vector<std::string> MergesOf(const std::string& text) {
  std::vector<std::string> merges;
  const Json root = Json::parse(text, nullptr, false);
  if (root.is_discarded() || !root.is_object() || !root.contains("model")) return merges;
  const Json& model = root["model"];
  if (!model.is_object() || !model.contains("merges") || !model["merges"].is_array()) return merges;
  for (const Json& merge : model["merges"]) {
    if (merge.is_string()) {
      merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    }
  }
  return merges;
}

// Scores that make "highest score first" merge in the order of the list.
void ScoresFromMerges(const Tokenizer& tokenizer, const std::vector<std::string>& merges,
                      std::vector<float>* scores) {
  std::fill(scores->begin(), scores->end(), -1e9f);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    std::string piece = merges[rank];
    piece.erase(piece.find(' ', 1), 1);
    const auto id = tokenizer.FindToken(piece);
    if (!id) continue;
    float& score = (*scores)[static_cast<size_t>(*id)];
    score = std::max(score, -static_cast<float>(rank) - 1);
  }
}

// Merges over whole texts without a space before them, and BOS first: what GGUF has a name for since Gemma 4.
bool IsPlainPieceBpe(const VocabularySpec& spec) {
  return spec.algorithm == Algorithm::kRankedBpe && spec.dummy_prefix == DummyPrefix::kNever &&
         !spec.split_before_space && !spec.ignore_merges && spec.byte_fallback && spec.adds_bos;
}

// Keys of mneme.* say what GGUF has no key for; other programs pass over them.
void WritePieceNormalizer(const TokenizerModel& model, GgufWriter* writer) {
  const VocabularySpec& spec = model.spec;
  writer->Set("tokenizer.ggml.add_space_prefix", spec.dummy_prefix != DummyPrefix::kNever);
  if (spec.remove_extra_whitespaces) writer->Set("tokenizer.ggml.remove_extra_whitespaces", true);
  const std::string charsmap = model.charsmap.Blob();
  if (!charsmap.empty()) {
    writer->SetArray("tokenizer.ggml.precompiled_charsmap",
                     std::vector<uint8_t>(charsmap.begin(), charsmap.end()));
  }
  if (spec.dummy_prefix == DummyPrefix::kFirstSegment) writer->Set("mneme.tokenizer.space_prefix_once", true);
  if (spec.prefix_unless_space) writer->Set("mneme.tokenizer.space_prefix_unless_space", true);
  if (spec.split_before_space) writer->Set("mneme.tokenizer.split_before_space", true);
}

void SetId(std::string_view key, TokenId id, GgufWriter* writer) {
  if (id >= 0) writer->Set(key, static_cast<uint32_t>(id));
}

}  // namespace

void CheckTokenizerFits(const Tokenizer& tokenizer, size_t num_rows, const std::string& from) {
  const auto num_pieces = static_cast<size_t>(tokenizer.vocab_size());
  if (num_pieces > num_rows) {
    Fail(ErrorKind::kMismatch, "{}: the tokenizer has {} pieces, but the model only {} token embeddings",
         from, num_pieces, num_rows);
  }
  if (num_rows - num_pieces > std::max<size_t>(256, num_rows / 32)) {
    Fail(ErrorKind::kMismatch,
         "{}: the tokenizer has {} pieces for {} token embeddings of the model; so many that have none are "
         "no padding: it is "
         "the tokenizer of another model",
         from, num_pieces, num_rows);
  }
}

// Ends of generation beside EOS: GGUF has two more keys. Those that only the files name go first, as the
// others are known by their pieces.
void WriteEnds(const Tokenizer& tokenizer, GgufWriter* writer) {
  const std::vector<TokenId>& by_piece = tokenizer.model().eog_ids;
  std::vector<TokenId> ends;
  for (const bool is_named : {false, true}) {
    for (const TokenId id : tokenizer.eog_ids()) {
      if (id != tokenizer.eos_id() && std::binary_search(by_piece.begin(), by_piece.end(), id) == is_named)
        ends.push_back(id);
    }
  }
  if (!ends.empty()) SetId("tokenizer.ggml.eot_token_id", ends[0], writer);
  if (ends.size() > 1) SetId("tokenizer.ggml.eom_token_id", ends[1], writer);
}

std::optional<std::string> WriteTokenizerMetadata(const Tokenizer& tokenizer, const std::string& merges_json,
                                                  size_t num_tokens, GgufWriter* writer) {
  const TokenizerModel& model = tokenizer.model();
  const VocabularySpec& spec = model.spec;
  const size_t size = static_cast<size_t>(tokenizer.vocab_size());
  std::vector<std::string> pieces;
  std::vector<int32_t> types;
  for (size_t id = 0; id < std::max(size, num_tokens); ++id) {
    const bool exists = id < size && !tokenizer.Piece(static_cast<TokenId>(id)).empty();
    pieces.push_back(exists ? std::string(tokenizer.Piece(static_cast<TokenId>(id)))
                            : fmt::format("[PAD{}]", id));
    types.push_back(exists ? static_cast<int32_t>(model.types[id])
                           : static_cast<int32_t>(TokenType::kUnused));
  }
  std::vector<float> scores(pieces.size(), 0.0f);
  std::copy_n(model.scores.begin(), std::min(model.scores.size(), scores.size()), scores.begin());
  const std::vector<std::string> merges = MergesOf(merges_json);
  if (spec.algorithm == Algorithm::kByteBpe || spec.algorithm == Algorithm::kRankedBpe) {
    if (merges.empty()) return "it has no list of merges to write";
  }
  if (spec.algorithm == Algorithm::kByteBpe) {
    const std::string_view pre = GgufPreTokenizerName(spec.pre_tokenizer, spec.ignore_merges);
    if (FindPreTokenizer(pre)->ignore_merges != spec.ignore_merges) {
      writer->Set("mneme.tokenizer.ignore_merges", spec.ignore_merges);
    }
    writer->Set("tokenizer.ggml.model", std::string("gpt2"));
    writer->Set("tokenizer.ggml.pre", std::string(pre));
    writer->SetArray("tokenizer.ggml.merges", merges);
    if (spec.add_prefix_space) writer->Set("tokenizer.ggml.add_space_prefix", true);
    // GGUF has no key for it: other programs read such a file without normalising.
    if (spec.nfc) writer->Set("mneme.tokenizer.normalizer", std::string("NFC"));
  } else if (IsPlainPieceBpe(spec)) {
    writer->Set("tokenizer.ggml.model", std::string("gemma4"));
    writer->SetArray("tokenizer.ggml.merges", merges);
    writer->SetArray("tokenizer.ggml.scores", scores);
    WritePieceNormalizer(model, writer);
  } else {
    if (spec.algorithm == Algorithm::kRankedBpe) ScoresFromMerges(tokenizer, merges, &scores);
    const bool is_unigram = spec.algorithm == Algorithm::kUnigram;
    writer->Set("tokenizer.ggml.model", std::string(is_unigram ? "t5" : "llama"));
    writer->SetArray("tokenizer.ggml.scores", scores);
    WritePieceNormalizer(model, writer);
  }
  std::vector<int32_t> stripping;
  for (size_t id = 0; id < size && id < model.strips_right.size(); ++id) {
    if (model.strips_right[id]) stripping.push_back(static_cast<int32_t>(id));
  }
  // No other program reads it: they keep the white space after such tokens.
  if (!stripping.empty()) writer->SetArray("mneme.tokenizer.rstrip_ids", stripping);
  writer->SetArray("tokenizer.ggml.tokens", pieces);
  writer->SetArray("tokenizer.ggml.token_type", types);
  SetId("tokenizer.ggml.bos_token_id", tokenizer.bos_id(), writer);
  SetId("tokenizer.ggml.eos_token_id", tokenizer.eos_id(), writer);
  WriteEnds(tokenizer, writer);
  SetId("tokenizer.ggml.unknown_token_id", tokenizer.unk_id(), writer);
  SetId("tokenizer.ggml.padding_token_id", tokenizer.pad_id(), writer);
  writer->Set("tokenizer.ggml.add_bos_token", tokenizer.adds_bos());
  writer->Set("tokenizer.ggml.add_eos_token", tokenizer.adds_eos());
  if (!tokenizer.chat_template().empty()) {
    writer->Set("tokenizer.chat_template", std::string(tokenizer.chat_template()));
  }
  for (const std::string& name : tokenizer.chat_template_names()) {
    writer->Set("tokenizer.chat_template." + name, std::string(tokenizer.chat_template(name)));
  }
  return std::nullopt;
}

}  // namespace mneme
