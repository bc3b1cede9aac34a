// tokenizer.json of Hugging Face. The file describes a pipeline; what is supported is recognised by its
// structure, part by part, and anything else is refused with its own text.
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "mneme/tokenizer.h"
#include "tokenizer/load/load_config.h"
#include "tokenizer/model.h"
#include "tokenizer/text/charsmap.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

struct KnownPattern {
  PreTokenizer kind;
  std::string_view regex;
};

// The regular expressions that a Split may hold, as files write them.
constexpr KnownPattern kPatterns[] = {
    {PreTokenizer::kGpt2, R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {PreTokenizer::kGpt2, R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {PreTokenizer::kLlama3,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {PreTokenizer::kLlama3,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"},
    {PreTokenizer::kLlama3,
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"},
    {PreTokenizer::kQwen2,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {PreTokenizer::kQwen35,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {PreTokenizer::kQwen2,
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"},
    {PreTokenizer::kSeedCoder,
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| "
     "?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"},
    {PreTokenizer::kSeedCoder,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {PreTokenizer::kBloom, " ?[^(\\s|[.,!?…。，、।۔،])]+"},
    {PreTokenizer::kGpt4o,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {PreTokenizer::kTekken,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
};

// Whole pipelines that are known as such. A part is "Split REGEX", "Digits each", "Digits together",
// "Punctuation" or "ByteLevel" (with its own gpt2 pattern); a ByteLevel without a pattern is left out.
struct KnownPipeline {
  PreTokenizer kind;
  std::vector<std::string_view> parts;
};

const std::vector<KnownPipeline>& Pipelines() {
  static const std::vector<KnownPipeline> pipelines = {
      {PreTokenizer::kGpt2, {"ByteLevel"}},
      {PreTokenizer::kWhole, {}},
      {PreTokenizer::kStarcoder, {"Digits each", "ByteLevel"}},
      {PreTokenizer::kLaguna,
       {R"(Split [^\n]+|[\n]+)",
        R"(Split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {PreTokenizer::kMinicpm5,
       {R"(Split \p{N}{1,3})",
        R"(Split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {PreTokenizer::kViking, {"Split  ?[^(\\s|[.,!?…。，、।۔،])]+", "Digits each"}},
      {PreTokenizer::kFalconDigits, {"Punctuation", "ByteLevel", "Digits together", "Split [0-9][0-9][0-9]"}},
      {PreTokenizer::kDeepseekCoder,
       {"Split [\r\n]", R"(Split \s?\p{L}+)", R"(Split \s?\p{P}+)", "Split [一-龥ࠀ-一가-퟿]+",
        "Digits each"}},
      {PreTokenizer::kDeepseek3,
       {R"(Split \p{N}{1,3})", "Split [一-龥぀-ゟ゠-ヿ]+",
        R"(Split [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^)"
        "\r\n"
        R"(\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[)"
        "\r\n"
        R"(]*|\s*[)"
        "\r\n"
        R"(]+|\s+(?!\S)|\s+)"}},
  };
  return pipelines;
}

class JsonLoader {
 public:
  JsonLoader(const Json& root, std::string_view name) : root_(root) { spec_.name = name; }

  VocabularySpec Load() {
    const Json& model = Member(root_, "model");
    // Old files leave the type of a BPE model out.
    const std::string type = Text(model, "type", model.contains("merges") ? "BPE" : "");
    if (type == "BPE")
      ReadBpe(model);
    else if (type == "Unigram")
      ReadUnigram(model);
    else
      Fail(ErrorKind::kUnsupported, "{}: the model type '{}' is not supported (BPE and Unigram are)",
           spec_.name, type);
    ReadAddedTokens();
    ReadNormalizer();
    ReadPreTokenizer();
    if (spec_.algorithm == Algorithm::kByteBpe && !byte_level_) BecomePieceBpe();
    if (spec_.algorithm != Algorithm::kByteBpe) MarkBytePieces();
    ReadPostProcessor();
    FindCommonSpecials();
    return std::move(spec_);
  }

 private:
  [[noreturn]] void Malformed(std::string_view what) const {
    Fail(ErrorKind::kFile, "{}: {}; the file is damaged or no tokenizer.json", spec_.name, what);
  }
  [[noreturn]] void Refuse(std::string_view what, const Json& part) const {
    Fail(ErrorKind::kUnsupported, "{}: this {} is not supported: {}", spec_.name, what,
         part.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 400));
  }
  const Json& Member(const Json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key)) Malformed(std::string("'") + key + "' is missing");
    return object[key];
  }
  std::string Text(const Json& object, const char* key, std::string_view otherwise) const {
    if (!object.is_object() || !object.contains(key) || !object[key].is_string())
      return std::string(otherwise);
    return object[key].get<std::string>();
  }
  bool Flag(const Json& object, const char* key, bool otherwise) const {
    if (!object.is_object() || !object.contains(key) || !object[key].is_boolean()) return otherwise;
    return object[key].get<bool>();
  }

  void ReadBpe(const Json& model) {
    spec_.algorithm = Algorithm::kByteBpe;  // or kRankedBpe, once the pre-tokenizer is known
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!Text(model, affix, "").empty()) Refuse("BPE affix", Json{{affix, model[affix]}});
    const Json& vocabulary = Member(model, "vocab");
    if (!vocabulary.is_object()) Malformed("'vocab' is no object");
    const uint64_t limit = 2 * vocabulary.size() + 65536;
    size_t size = 0;
    for (const Json& id : vocabulary) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= limit) Malformed("a token's id is out of range");
      size = std::max<size_t>(size, id.get<size_t>() + 1);
    }
    Token gap;
    gap.type = TokenType::kUnused;
    spec_.tokens.resize(size, gap);
    for (const auto& [piece, id] : vocabulary.items()) {
      Token& token = spec_.tokens[id.get<size_t>()];
      if (!token.piece.empty()) Malformed("two tokens have the id " + std::to_string(id.get<size_t>()));
      token.piece = piece;
      token.type = TokenType::kNormal;
    }
    ReadMerges(Member(model, "merges"));
    spec_.byte_fallback = Flag(model, "byte_fallback", false);
    spec_.ignore_merges = Flag(model, "ignore_merges", false);
    ReadUnknown(Text(model, "unk_token", ""));
  }

  void ReadMerges(const Json& merges) {
    if (!merges.is_array()) Malformed("'merges' is no array");
    for (const Json& merge : merges) {
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        spec_.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
        continue;
      }
      if (!merge.is_string()) Malformed("a merge is neither text nor a pair");
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos || space == 0 || space + 1 == text.size())
        Malformed("merge '" + text + "' is not two pieces with a space between");
      spec_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
  }

  void ReadUnigram(const Json& model) {
    spec_.algorithm = Algorithm::kUnigram;
    const Json& vocabulary = Member(model, "vocab");
    if (!vocabulary.is_array()) Malformed("'vocab' is no array");
    for (const Json& entry : vocabulary) {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
        Malformed("an entry of 'vocab' is no pair of piece and score");
      Token token;
      token.piece = entry[0].get<std::string>();
      token.score = entry[1].get<float>();
      spec_.tokens.push_back(std::move(token));
    }
    spec_.byte_fallback = Flag(model, "byte_fallback", false);
    if (!model.contains("unk_id") || model["unk_id"].is_null()) return;
    const Json& id = model["unk_id"];
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= spec_.tokens.size())
      Malformed("'unk_id' is out of range");
    spec_.unk_id = id.get<TokenId>();
    spec_.tokens[static_cast<size_t>(spec_.unk_id)].type = TokenType::kUnknown;
  }

  void ReadUnknown(const std::string& piece) {
    if (piece.empty()) return;
    spec_.unk_id = FindPiece(spec_, piece);
    if (spec_.unk_id >= 0) spec_.tokens[static_cast<size_t>(spec_.unk_id)].type = TokenType::kUnknown;
  }

  void ReadAddedTokens() {
    if (!root_.contains("added_tokens")) return;
    if (!root_["added_tokens"].is_array()) Malformed("'added_tokens' is no array");
    for (const Json& added : root_["added_tokens"]) {
      Token token;
      token.piece = Text(added, "content", "");
      const Json& id = Member(added, "id");
      if (token.piece.empty() || !id.is_number_integer()) Malformed("an added token has no text or no id");
      if (Flag(added, "lstrip", false) || Flag(added, "single_word", false))
        Refuse("added token (lstrip, single_word)", added);
      token.strips_right = Flag(added, "rstrip", false);
      token.type = Flag(added, "special", false) ? TokenType::kControl : TokenType::kUserDefined;
      if (id.get<int64_t>() == spec_.unk_id) token.type = TokenType::kUnknown;
      if (id.get<int64_t>() >= 0 && id.get<uint64_t>() < spec_.tokens.size())
        token.score = spec_.tokens[id.get<size_t>()].score;
      PlaceToken(id.get<int64_t>(), std::move(token), &spec_);
    }
  }

  // The parts of a normalizer or pre_tokenizer, a Sequence taken apart.
  std::vector<const Json*> Parts(const char* key, const char* list) const {
    std::vector<const Json*> parts;
    if (!root_.contains(key) || root_[key].is_null()) return parts;
    if (Text(root_[key], "type", "") != "Sequence") return {&root_[key]};
    const Json& members = Member(root_[key], list);
    if (!members.is_array()) Malformed(std::string("'") + list + "' is no array");
    for (const Json& part : members) parts.push_back(&part);
    return parts;
  }

  void ReadNormalizer() {
    for (const Json* part : Parts("normalizer", "normalizers")) {
      const std::string type = Text(*part, "type", "");
      if (type == "NFC") {
        spec_.nfc = true;
      } else if (type == "Prepend" && Text(*part, "prepend", "") == kSpaceSymbol) {
        spec_.dummy_prefix = DummyPrefix::kEverySegment;
      } else if (type == "Replace" && part->contains("pattern") &&
                 Text((*part)["pattern"], "String", "") == " " &&
                 Text(*part, "content", "") == kSpaceSymbol) {
        replaces_spaces_ = true;
      } else if (type == "Precompiled" && spec_.algorithm == Algorithm::kUnigram) {
        ReadCharsmap(*part);
      } else {
        Refuse("normalizer", *part);
      }
    }
  }

  void ReadCharsmap(const Json& part) {
    if (!DecodeBase64Text(Text(part, "precompiled_charsmap", ""), &spec_.charsmap))
      Malformed("'precompiled_charsmap' is not base64");
  }

  void ReadPreTokenizer() {
    std::vector<std::string> names;
    for (const Json* part : Parts("pre_tokenizer", "pretokenizers")) {
      const std::string type = Text(*part, "type", "");
      if (type == "ByteLevel") {
        byte_level_ = true;
        spec_.add_prefix_space = Flag(*part, "add_prefix_space", true);
        if (Flag(*part, "use_regex", true)) names.push_back("ByteLevel");
      } else if (type == "Metaspace") {
        ReadMetaspace(*part);
      } else if (type == "Digits") {
        names.push_back(Flag(*part, "individual_digits", false) ? "Digits each" : "Digits together");
      } else if (type == "Punctuation" && Text(*part, "behavior", "Isolated") == "Contiguous") {
        names.push_back("Punctuation");
      } else if (type == "Split") {
        ReadSplit(*part, &names);
      } else {
        Refuse("pre-tokenizer", *part);
      }
    }
    if (!byte_level_) {
      if (!names.empty()) Refuse("pre-tokenizer", root_["pre_tokenizer"]);
      return;
    }
    if (metaspace_) Refuse("pre-tokenizer", root_["pre_tokenizer"]);
    spec_.pre_tokenizer = KindOf(names);
  }

  void ReadMetaspace(const Json& part) {
    metaspace_ = true;
    if (Text(part, "replacement", kSpaceSymbol) != kSpaceSymbol) Refuse("pre-tokenizer", part);
    // Before prepend_scheme came there was add_prefix_space.
    const bool adds = Flag(part, "add_prefix_space", true);
    const std::string scheme = Text(part, "prepend_scheme", adds ? "always" : "never");
    if (scheme == "always")
      spec_.dummy_prefix = DummyPrefix::kEverySegment;
    else if (scheme == "first")
      spec_.dummy_prefix = DummyPrefix::kFirstSegment;
    else if (scheme != "never")
      Refuse("pre-tokenizer", part);
    spec_.prefix_unless_space = true;
    spec_.split_before_space = Flag(part, "split", true);
    replaces_spaces_ = true;
  }

  void ReadSplit(const Json& part, std::vector<std::string>* names) {
    const Json& pattern = Member(part, "pattern");
    const std::string regex = Text(pattern, "Regex", "");
    // A split at spaces has nothing to do where all spaces have been replaced.
    if (regex.empty() && Text(pattern, "String", "") == " " && replaces_spaces_) return;
    const std::string behavior = Text(part, "behavior", "");
    const bool invert = Flag(part, "invert", false);
    // Matches become words: directly, or as what is left when "all but matches" is removed. The two differ in
    // what no alternative matches, and the patterns of the table match everything.
    const bool isolates = behavior == "Isolated" || (behavior == "Removed" && invert);
    if (regex.empty() || !isolates) Refuse("pre-tokenizer", part);
    names->push_back("Split " + regex);
  }

  PreTokenizer KindOf(const std::vector<std::string>& names) const {
    for (const KnownPipeline& pipeline : Pipelines())
      if (std::equal(names.begin(), names.end(), pipeline.parts.begin(), pipeline.parts.end()))
        return pipeline.kind;
    if (names.size() == 1)
      for (const KnownPattern& known : kPatterns)
        if (names[0] == "Split " + std::string(known.regex)) return known.kind;
    Refuse("pre-tokenizer (its regular expressions are none that are known here)", root_["pre_tokenizer"]);
  }

  // Llama-style files: characters with U+2581 for spaces and a list of merges.
  void BecomePieceBpe() {
    if (!replaces_spaces_)
      Refuse("pre-tokenizer (neither bytes nor spaces as U+2581)",
             root_.contains("pre_tokenizer") ? root_["pre_tokenizer"] : Json());
    if (spec_.nfc) Refuse("normalizer", root_["normalizer"]);
    spec_.algorithm = Algorithm::kRankedBpe;
  }

  void MarkBytePieces() {
    if (spec_.nfc) Refuse("normalizer", root_["normalizer"]);
    if (!replaces_spaces_)
      Refuse("normalizer (spaces are not replaced by U+2581)", Json(root_.value("normalizer", Json())));
    if (!spec_.byte_fallback) return;
    for (Token& token : spec_.tokens)
      if (token.type == TokenType::kNormal && ParseBytePiece(token.piece)) token.type = TokenType::kByte;
  }

  // A TemplateProcessing whose single form starts or ends with a special token adds it.
  void ReadPostProcessor() {
    for (const Json* part : Parts("post_processor", "processors")) {
      if (Text(*part, "type", "") != "TemplateProcessing" || !part->contains("single")) continue;
      const Json& single = (*part)["single"];
      if (!single.is_array() || single.empty()) continue;
      const auto special = [&](const Json& piece) -> TokenId {
        if (!piece.is_object() || !piece.contains("SpecialToken")) return -1;
        return FindPiece(spec_, Text(piece["SpecialToken"], "id", ""));
      };
      if (const TokenId id = special(single.front()); id >= 0) {
        spec_.bos_id = id;
        spec_.adds_bos = true;
      }
      if (single.size() > 1) {
        if (const TokenId id = special(single.back()); id >= 0) {
          spec_.eos_id = id;
          spec_.adds_eos = true;
        }
      }
    }
  }

  // tokenizer.json does not say which tokens begin and end a text; tokenizer_config.json does. Without it,
  // the usual names, where exactly such special tokens are there.
  void FindCommonSpecials() {
    const auto find = [&](TokenId* id, std::initializer_list<std::string_view> names) {
      for (std::string_view name : names) {
        if (*id >= 0) return;
        const TokenId found = FindPiece(spec_, name);
        if (found >= 0 && spec_.tokens[static_cast<size_t>(found)].type == TokenType::kControl) *id = found;
      }
    };
    find(&spec_.bos_id, {"<s>", "<|begin_of_text|>", "<bos>"});
    find(&spec_.eos_id, {"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"});
    find(&spec_.pad_id, {"<pad>", "<|padding|>", "<|pad|>"});
  }

  static bool DecodeBase64Text(const std::string& text, std::string* out) {
    uint32_t bits = 0;
    int held = 0;
    for (char c : text) {
      if (c == '=') break;
      static constexpr std::string_view kDigits =
          "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
      const size_t digit = kDigits.find(c);
      if (digit == std::string_view::npos) return false;
      bits = bits << 6 | static_cast<uint32_t>(digit);
      held += 6;
      if (held < 8) continue;
      held -= 8;
      out->push_back(static_cast<char>(bits >> held & 0xFF));
    }
    return true;
  }

  const Json& root_;
  VocabularySpec spec_;
  bool byte_level_ = false;
  bool metaspace_ = false;
  bool replaces_spaces_ = false;
};

}  // namespace

Tokenizer ParseTokenizerJson(std::span<const uint8_t> json, std::string_view config_json,
                             std::string_view name) {
  const char* begin = reinterpret_cast<const char*>(json.data());
  const Json root = Json::parse(begin, begin + json.size(), nullptr, false);
  if (!root.is_object()) Fail(ErrorKind::kFile, "{}: not a JSON object", name);
  VocabularySpec spec = JsonLoader(root, name).Load();
  const TokenId unknown = spec.unk_id;
  ApplyTokenizerConfig(config_json, &spec);
  if (unknown >= 0) spec.unk_id = unknown;  // what the model encodes with
  spec.adds_bos = spec.adds_bos && spec.bos_id >= 0;
  spec.adds_eos = spec.adds_eos && spec.eos_id >= 0;
  return Tokenizer(BuildModel(std::move(spec)));
}

}  // namespace mneme
