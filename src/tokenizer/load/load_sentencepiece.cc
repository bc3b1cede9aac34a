// tokenizer.model: a SentencePiece ModelProto (sentencepiece_model.proto), its wire format read by hand.
#include <bit>
#include <utility>

#include "base/error.h"
#include "mneme/tokenizer.h"
#include "tokenizer/load/load_config.h"
#include "tokenizer/model.h"

namespace mneme {
namespace {

// Fields of one protobuf message, in order. Every length is checked against the bytes that are there.
class ProtoReader {
 public:
  ProtoReader(std::string_view bytes, std::string_view name) : bytes_(bytes), name_(name) {}

  // Moves to the next field; false at the end.
  bool Next() {
    if (bytes_.empty()) return false;
    const uint64_t key = Varint();
    field_ = key >> 3;
    switch (key & 7) {
      case 0:
        number_ = Varint();
        break;
      case 1:
        number_ = Fixed(8);
        break;
      case 2: {
        const uint64_t size = Varint();
        if (size > bytes_.size()) Damaged();
        content_ = bytes_.substr(0, size);
        bytes_.remove_prefix(size);
        break;
      }
      case 5:
        number_ = Fixed(4);
        break;
      default:
        Damaged();
    }
    wire_ = static_cast<int>(key & 7);
    if (field_ == 0) Damaged();
    return true;
  }

  uint64_t field() const { return field_; }
  std::string_view content() const {
    if (wire_ != 2) Damaged();
    return content_;
  }
  int64_t integer() const {
    if (wire_ != 0) Damaged();
    return static_cast<int64_t>(number_);
  }
  float real() const {
    if (wire_ != 5) Damaged();
    return std::bit_cast<float>(static_cast<uint32_t>(number_));
  }
  [[noreturn]] void Damaged() const {
    Fail(ErrorKind::kFile, "{}: not a SentencePiece model, or a damaged one; get the file again", name_);
  }

 private:
  uint64_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) Damaged();
      const uint8_t byte = static_cast<uint8_t>(bytes_[0]);
      bytes_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    Damaged();
  }
  uint64_t Fixed(size_t size) {
    if (bytes_.size() < size) Damaged();
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= uint64_t{static_cast<uint8_t>(bytes_[i])} << (8 * i);
    bytes_.remove_prefix(size);
    return value;
  }

  std::string_view bytes_, name_, content_;
  uint64_t field_ = 0, number_ = 0;
  int wire_ = 0;
};

Token ReadPiece(std::string_view bytes, const VocabularySpec& spec) {
  Token token;
  ProtoReader reader(bytes, spec.name);
  while (reader.Next()) {
    if (reader.field() == 1) token.piece = reader.content();
    if (reader.field() == 2) token.score = reader.real();
    if (reader.field() != 3) continue;
    const int64_t type = reader.integer();
    if (type < 1 || type > 6)
      Fail(ErrorKind::kFile, "{}: piece {} has the unknown type {}", spec.name, spec.tokens.size(), type);
    token.type = static_cast<TokenType>(type);
  }
  return token;
}

void ReadTrainerSpec(std::string_view bytes, VocabularySpec* spec) {
  int64_t kind = 1;
  int64_t ids[4] = {0, 1, 2, -1};  // unk, bos, eos, pad: fields 40 to 43
  ProtoReader reader(bytes, spec->name);
  while (reader.Next()) {
    const uint64_t field = reader.field();
    if (field == 3) kind = reader.integer();
    if (field == 24 && reader.integer() != 0)
      Fail(ErrorKind::kUnsupported, "{}: treat_whitespace_as_suffix is not supported", spec->name);
    if (field == 35) spec->byte_fallback = reader.integer() != 0;
    if (field == 44) spec->unknown_text = reader.content();
    if (field >= 40 && field <= 43) ids[field - 40] = reader.integer();
  }
  if (kind != 1 && kind != 2)
    Fail(ErrorKind::kUnsupported,
         "{}: SentencePiece model type {} is not supported (1 unigram and 2 BPE are)", spec->name,
         kind == 3   ? "3 (word)"
         : kind == 4 ? "4 (char)"
                     : "of an unknown number");
  spec->algorithm = kind == 1 ? Algorithm::kUnigram : Algorithm::kScoredBpe;
  for (int64_t id : ids)
    if (id > 0x7FFFFFFF) reader.Damaged();
  const auto as_id = [](int64_t id) { return id < 0 ? TokenId{-1} : static_cast<TokenId>(id); };
  spec->unk_id = as_id(ids[0]);
  spec->bos_id = as_id(ids[1]);
  spec->eos_id = as_id(ids[2]);
  spec->pad_id = as_id(ids[3]);
}

void ReadNormalizerSpec(std::string_view bytes, VocabularySpec* spec) {
  bool dummy_prefix = true;
  ProtoReader reader(bytes, spec->name);
  while (reader.Next()) {
    if (reader.field() == 2) spec->charsmap = reader.content();
    if (reader.field() == 3) dummy_prefix = reader.integer() != 0;
    if (reader.field() == 4) spec->remove_extra_whitespaces = reader.integer() != 0;
    if (reader.field() == 5 && reader.integer() == 0)
      Fail(ErrorKind::kUnsupported, "{}: a model without escaped white space is not supported", spec->name);
  }
  spec->dummy_prefix = dummy_prefix ? DummyPrefix::kEverySegment : DummyPrefix::kNever;
}

}  // namespace

Tokenizer ParseSentencePieceModel(std::span<const uint8_t> protobuf, std::string_view config_json,
                                  std::string_view name) {
  VocabularySpec spec;
  spec.name = name;
  spec.user_defined_inline = true;
  std::string_view trainer, normalizer;
  ProtoReader reader({reinterpret_cast<const char*>(protobuf.data()), protobuf.size()}, spec.name);
  while (reader.Next()) {
    if (reader.field() == 1) spec.tokens.push_back(ReadPiece(reader.content(), spec));
    if (reader.field() == 2) trainer = reader.content();
    if (reader.field() == 3) normalizer = reader.content();
  }
  spec.remove_extra_whitespaces = true;  // the default of the field
  ReadTrainerSpec(trainer, &spec);
  ReadNormalizerSpec(normalizer, &spec);
  spec.adds_bos = spec.bos_id >= 0;
  ApplyTokenizerConfig(config_json, &spec);
  spec.adds_bos = spec.adds_bos && spec.bos_id >= 0;
  spec.adds_eos = spec.adds_eos && spec.eos_id >= 0;
  return Tokenizer(BuildModel(std::move(spec)));
}

}  // namespace mneme
