#include "mneme/tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "tokenizer/model.h"
#include "tokenizer/text/unicode.h"

namespace mneme {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// Appends the UTF-8 at the front of *pending to *out, U+FFFD for what can be none, and keeps an incomplete
// end.
void DrainUtf8(bool final, std::string* pending, std::string* out) {
  const size_t usable = final ? pending->size() : pending->size() - IncompleteTail(*pending);
  for (size_t at = 0; at < usable;) {
    const Utf8Char c = DecodeUtf8(pending->data() + at, usable - at);
    if (c.valid) {
      out->append(*pending, at, c.length);
      at += c.length;
    } else {
      out->append(kReplacementCharacter);
      at += InvalidPartLength(pending->data() + at, usable - at);
    }
  }
  pending->erase(0, usable);
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const TokenizerModel> model) : model_(std::move(model)) {
  MNEME_CHECK(model_ != nullptr);
  num_ids_ = num_pieces();
}

Tokenizer Tokenizer::PaddedTo(int32_t num_ids) const {
  Tokenizer padded = *this;
  padded.num_ids_ = std::max(num_ids_, num_ids);
  return padded;
}

Tokenizer Tokenizer::WithEnds(std::span<const TokenId> ids) const {
  std::vector<TokenId> ends(eog_ids().begin(), eog_ids().end());
  for (const TokenId id : ids) {
    HasPiece(id);  // throws for one outside
    ends.push_back(id);
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  Tokenizer changed = *this;
  changed.ends_ = std::make_shared<const std::vector<TokenId>>(std::move(ends));
  return changed;
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, EncodeOptions options) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 2);
  StreamEncoder encoder(*this, options);
  encoder.Feed(text, &ids);
  encoder.Finish(&ids);
  return ids;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, DecodeOptions options) const {
  std::string text;
  StreamDecoder decoder(*this, options);
  for (TokenId id : ids) decoder.Feed(id, &text);
  decoder.Finish(&text);
  return text;
}

int32_t Tokenizer::num_pieces() const { return static_cast<int32_t>(model_->types.size()); }

bool Tokenizer::HasPiece(TokenId id) const {
  if (id < 0 || id >= num_ids_)
    Fail(ErrorKind::kInput, "token id {} is outside the vocabulary (0 to {}); is it of another model?", id,
         num_ids_ - 1);
  return id < num_pieces();
}

std::string_view Tokenizer::Piece(TokenId id) const {
  return HasPiece(id) ? model_->pieces[static_cast<size_t>(id)] : std::string_view();
}
std::string_view Tokenizer::Bytes(TokenId id) const {
  return HasPiece(id) ? model_->bytes[static_cast<size_t>(id)] : std::string_view();
}

bool Tokenizer::is_special(TokenId id) const {
  if (!HasPiece(id)) return true;
  const TokenType type = model_->types[static_cast<size_t>(id)];
  return type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUnused;
}

std::optional<TokenId> Tokenizer::FindToken(std::string_view piece) const {
  const TokenId id = model_->by_piece.Find(piece);
  return id < 0 ? std::nullopt : std::optional<TokenId>(id);
}

TokenId Tokenizer::bos_id() const { return model_->spec.bos_id; }
TokenId Tokenizer::eos_id() const { return model_->spec.eos_id; }
TokenId Tokenizer::unk_id() const { return model_->spec.unk_id; }
TokenId Tokenizer::pad_id() const { return model_->spec.pad_id; }
std::span<const TokenId> Tokenizer::eog_ids() const { return ends_ != nullptr ? *ends_ : model_->eog_ids; }
bool Tokenizer::is_eog(TokenId id) const {
  const std::span<const TokenId> ends = eog_ids();
  return std::binary_search(ends.begin(), ends.end(), id);
}
bool Tokenizer::adds_bos() const { return model_->spec.adds_bos; }
bool Tokenizer::adds_eos() const { return model_->spec.adds_eos; }
uint64_t Tokenizer::fingerprint() const { return model_->fingerprint; }

std::string_view Tokenizer::kind() const {
  switch (model_->spec.algorithm) {
    case Algorithm::kByteBpe:
      return "byte-level bpe";
    case Algorithm::kScoredBpe:
      return "sentencepiece bpe";
    case Algorithm::kRankedBpe:
      return "sentencepiece bpe (by merges)";
    case Algorithm::kUnigram:
      return "sentencepiece unigram";
  }
  return "";
}

std::string_view Tokenizer::pre_tokenizer() const { return PreTokenizerName(model_->spec.pre_tokenizer); }
std::string_view Tokenizer::chat_template(std::string_view name) const {
  if (name.empty()) return model_->spec.chat_template;
  for (const auto& [other, text] : model_->spec.named_templates)
    if (other == name) return text;
  return {};
}

std::vector<std::string> Tokenizer::chat_template_names() const {
  std::vector<std::string> names;
  for (const auto& named : model_->spec.named_templates) names.push_back(named.first);
  return names;
}

std::span<const std::string> Tokenizer::warnings() const { return model_->spec.warnings; }

StreamDecoder::StreamDecoder(Tokenizer tokenizer, DecodeOptions options)
    : tokenizer_(std::move(tokenizer)), options_(options), at_start_(options.at_text_start) {}

void StreamDecoder::Feed(TokenId id, std::string* out) {
  const TokenizerModel& model = tokenizer_.model();
  if (!tokenizer_.HasPiece(id)) return;
  const size_t index = static_cast<size_t>(id);
  std::string_view bytes = model.bytes[index];
  if (model.types[index] == TokenType::kControl && options_.show_special) {
    // Its text stands apart: what came before cannot be completed by it.
    DrainUtf8(true, &pending_, out);
    bytes = model.pieces[index];
  } else if (at_start_ && model.types[index] != TokenType::kByte && !bytes.empty()) {
    const VocabularySpec& spec = model.spec;
    const bool strips = spec.dummy_prefix != DummyPrefix::kNever || spec.remove_extra_whitespaces;
    bool again = false;
    if (strips && model.types[index] != TokenType::kUnknown && bytes.starts_with(' ')) {
      bytes.remove_prefix(1);
      // Where runs of spaces are made one, all spaces at the start go.
      again = spec.remove_extra_whitespaces && bytes.empty();
    }
    at_start_ = again;
  } else if (!bytes.empty()) {
    at_start_ = false;
  }
  pending_.append(bytes);
  DrainUtf8(false, &pending_, out);
}

void StreamDecoder::Finish(std::string* out) {
  DrainUtf8(true, &pending_, out);
  at_start_ = options_.at_text_start;
}

std::string StreamDecoder::SaveState() const { return std::string(1, at_start_ ? 1 : 0) + pending_; }

void StreamDecoder::RestoreState(std::string_view state) {
  if (state.empty() || state.size() > 4 || static_cast<uint8_t>(state[0]) > 1 ||
      IncompleteTail(state.substr(1)) != state.size() - 1)
    Fail(ErrorKind::kFile, "the saved state of the detokenizer is damaged; start again from the ids");
  at_start_ = state[0] != 0;
  pending_ = state.substr(1);
}

}  // namespace mneme
