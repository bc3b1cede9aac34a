// tiktoken ranks, llama2.c vocabularies, and finding the right loader for a path.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/files/file.h"
#include "formats/gguf.h"
#include "formats/llama2c.h"
#include "mneme/tokenizer.h"
#include "tokenizer/load/load_folder.h"
#include "tokenizer/load/load_gguf.h"
#include "tokenizer/model.h"

namespace mneme {
namespace {

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool DecodeBase64(std::string_view text, std::string* out) {
  while (text.ends_with('=')) text.remove_suffix(1);
  uint32_t bits = 0;
  int held = 0;
  for (char c : text) {
    const int digit = Base64Digit(c);
    if (digit < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    held += 6;
    if (held >= 8) {
      held -= 8;
      out->push_back(static_cast<char>(bits >> held & 0xFF));
    }
  }
  return text.size() % 4 != 1;
}

std::span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

bool StartsWithGguf(const std::string& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return bytes.size() >= 4 && std::string_view(reinterpret_cast<const char*>(bytes.data()), 4) == "GGUF";
}

// Newer folders keep the chat template in files of its own, which go before the one in tokenizer_config.json:
// chat_template.jinja, or for models of several media chat_template.json; templates for other purposes in
// additional_chat_templates/NAME.jinja.
std::string WithTemplateFiles(const std::string& folder, std::string config) {
  using Json = nlohmann::json;
  namespace fs = std::filesystem;
  Json templates = Json::array();
  const auto add = [&](const std::string& name, const Json& text) {
    if (text.is_string()) templates.push_back({{"name", name}, {"template", text}});
  };
  const std::string jinja = folder + "/chat_template.jinja", json = folder + "/chat_template.json";
  if (FileExists(jinja)) {
    const std::string text = ReadWholeFile(jinja);
    if (text.empty())
      Fail(ErrorKind::kFile, "{} is empty; a model without a template has no such file", jinja);
    add("default", text);
  } else if (FileExists(json)) {
    const Json parsed = Json::parse(ReadWholeFile(json), nullptr, /*allow_exceptions=*/false);
    if (!parsed.is_object()) Fail(ErrorKind::kFile, "{} is not a JSON object", json);
    add("default", parsed.value("chat_template", Json()));
  }
  const std::string more = folder + "/additional_chat_templates";
  if (IsDirectory(more)) {
    for (const auto& entry : fs::directory_iterator(more)) {
      if (entry.path().extension() == ".jinja")
        add(entry.path().stem().string(), ReadWholeFile(entry.path().string()));
    }
  }
  if (templates.empty()) return config;
  Json whole = config.empty() ? Json::object() : Json::parse(config, nullptr, /*allow_exceptions=*/false);
  if (!whole.is_object()) return config;  // refused where it is read
  const Json old = whole.value("chat_template", Json());
  if (old.is_string()) templates.insert(templates.begin(), {{"name", "default"}, {"template", old}});
  if (old.is_array()) templates.insert(templates.begin(), old.begin(), old.end());
  whole["chat_template"] = templates;
  return whole.dump();
}

nlohmann::json ReadObject(const std::string& path) {
  nlohmann::json object =
      nlohmann::json::parse(ReadWholeFile(path, kMaxTokenizerBytes), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) Fail(ErrorKind::kFile, "{} is not a JSON object", path);
  return object;
}

// Older folders keep in added_tokens.json {text: id} and special_tokens_map.json {"eos_token": text} what
// newer ones have in tokenizer_config.json, which goes before them. A text of the latter is a control token.
std::string WithOlderFiles(const std::string& folder, std::string config) {
  using Json = nlohmann::json;
  const std::string added_path = folder + "/added_tokens.json",
                    map_path = folder + "/special_tokens_map.json";
  if (!FileExists(added_path) && !FileExists(map_path)) return config;
  Json whole = config.empty() ? Json::object() : Json::parse(config, nullptr, /*allow_exceptions=*/false);
  if (!whole.is_object()) return config;  // refused where it is read
  std::vector<std::string> special;
  const auto content = [](const Json& value) {
    const Json text = value.is_object() ? value.value("content", Json()) : value;
    return text.is_string() ? text.get<std::string>() : std::string();
  };
  if (FileExists(map_path)) {
    const Json map = ReadObject(map_path);
    for (const auto& [key, value] : map.items()) {
      for (const Json& one : value.is_array() ? value : Json::array({value})) special.push_back(content(one));
      if (!value.is_array() && !whole.contains(key)) whole[key] = value;
    }
  }
  if (FileExists(added_path)) {
    Json& added = whole["added_tokens_decoder"];
    if (!added.is_object()) added = Json::object();
    const Json older = ReadObject(added_path);
    for (const auto& [text, id] : older.items()) {
      if (!id.is_number_unsigned())
        Fail(ErrorKind::kFile, "{}: added token '{}' has no id", added_path, text);
      const std::string key = std::to_string(id.get<uint64_t>());
      const bool is_special = std::find(special.begin(), special.end(), text) != special.end();
      if (!added.contains(key)) added[key] = {{"content", text}, {"special", is_special}};
    }
  }
  return whole.dump();
}

// What tokenizer_config.json and special_tokens_map.json call special.
std::set<std::string> SpecialTexts(const std::string& folder, const nlohmann::json& config) {
  using Json = nlohmann::json;
  std::set<std::string> texts;
  const auto add = [&](const Json& value) {
    const Json text = value.is_object() ? value.value("content", Json()) : value;
    if (text.is_string()) texts.insert(text.get<std::string>());
  };
  const auto add_all = [&](const Json& object) {
    for (const char* key :
         {"bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens"}) {
      const Json value = object.value(key, Json());
      for (const Json& one : value.is_array() ? value : Json::array({value})) add(one);
    }
  };
  add_all(config);
  const std::string map = folder + "/special_tokens_map.json";
  if (FileExists(map)) add_all(ReadObject(map));
  return texts;
}

// The ids under eos_token_id of a settings file, a number or a list; of config.json also those of the text
// part of a model of several media.
void AddEnds(const std::string& path, const nlohmann::json& config, std::vector<int64_t>* ids) {
  if (!config.is_object()) Fail(ErrorKind::kFile, "{} is not a JSON object", path);
  const auto add = [&](const nlohmann::json& id) {
    if (id.is_null()) return;
    if (!id.is_number_integer()) {
      Fail(ErrorKind::kFile, "{}: eos_token_id is {}; a token's id or a list of ids stands there", path,
           id.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 40));
    }
    ids->push_back(id.get<int64_t>());
  };
  const auto found = config.find("eos_token_id");
  if (found != config.end() && found->is_array()) {
    for (const auto& id : *found) add(id);
  } else if (found != config.end()) {
    add(*found);
  } else if (config.contains("text_config") && config["text_config"].is_object()) {
    AddEnds(path, config["text_config"], ids);
  }
}

// What the folder's settings end a turn with. Ids that the vocabulary does not have are those of the model's
// other media.
Tokenizer WithFolderEnds(const std::string& folder, const Tokenizer& tokenizer) {
  std::vector<int64_t> named;
  for (const char* name : {"/generation_config.json", "/config.json"}) {
    const std::string path = folder + name;
    if (FileExists(path))
      AddEnds(path, nlohmann::json::parse(ReadWholeFile(path), nullptr, /*allow_exceptions=*/false), &named);
  }
  std::vector<TokenId> ids;
  for (const int64_t id : named)
    if (id >= 0 && id < tokenizer.vocab_size()) ids.push_back(static_cast<TokenId>(id));
  return ids.empty() ? tokenizer : tokenizer.WithEnds(ids);
}

}  // namespace

Tokenizer ParseTiktoken(std::span<const uint8_t> ranks, std::string_view pattern, std::string_view name) {
  VocabularySpec spec;
  spec.name = name;
  const auto pre = FindPreTokenizer(pattern);
  if (!pre)
    Fail(ErrorKind::kUnsupported, "{}: no splitting pattern of the name '{}' is known here", name, pattern);
  spec.pre_tokenizer = pre->kind;
  spec.pieces_are_raw_bytes = true;
  spec.merges_from_ranks = true;
  std::string_view rest(reinterpret_cast<const char*>(ranks.data()), ranks.size());
  for (size_t line_number = 1; !rest.empty(); ++line_number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const size_t space = line.find(' ');
    Token token;
    uint64_t rank = 0;
    bool good = space != std::string_view::npos && DecodeBase64(line.substr(0, space), &token.piece) &&
                space + 1 < line.size() && line.size() - space <= 10 && !token.piece.empty();
    if (good) {
      for (char c : line.substr(space + 1)) {
        good = good && c >= '0' && c <= '9';
        rank = rank * 10 + static_cast<uint64_t>(c - '0');
      }
    }
    if (!good || rank < spec.tokens.size() || rank > spec.tokens.size() + 1024)
      Fail(ErrorKind::kFile, "{}: line {} is not 'BASE64 RANK' with rising ranks", name, line_number);
    // A gap in the ranks (p50k has one, where its end of text lies).
    Token gap;
    gap.type = TokenType::kUnused;
    spec.tokens.resize(rank, gap);
    spec.tokens.push_back(std::move(token));
  }
  return Tokenizer(BuildModel(std::move(spec)));
}

Tokenizer TokenizerFromPieces(std::span<const std::string> pieces, std::span<const float> scores) {
  VocabularySpec spec;
  spec.name = "vocabulary";
  spec.algorithm = Algorithm::kScoredBpe;
  spec.dummy_prefix = DummyPrefix::kEverySegment;
  if (pieces.size() != scores.size())
    Fail(ErrorKind::kInput, "{} pieces with {} scores; each piece needs one", pieces.size(), scores.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    Token token;
    token.score = scores[i];
    if (i < 3) {
      constexpr const char* kNames[] = {"<unk>", "<s>", "</s>"};
      token.piece = kNames[i];
      token.type = i == 0 ? TokenType::kUnknown : TokenType::kControl;
    } else if (i < 259 && ParseBytePiece(pieces[i]) == static_cast<uint8_t>(i - 3)) {
      token.piece = pieces[i];
      token.type = TokenType::kByte;
      spec.byte_fallback = true;
    } else {
      for (char c : pieces[i]) {
        if (c == ' ')
          token.piece += "\xE2\x96\x81";
        else
          token.piece += c;
      }
    }
    spec.tokens.push_back(std::move(token));
  }
  const auto default_id = [&](TokenId id) { return id < static_cast<TokenId>(pieces.size()) ? id : -1; };
  spec.unk_id = default_id(0);
  spec.bos_id = default_id(1);
  spec.eos_id = default_id(2);
  spec.adds_bos = spec.bos_id >= 0;
  return Tokenizer(BuildModel(std::move(spec)));
}

std::string FolderTokenizerJson(const std::string& folder) {
  using Json = nlohmann::json;
  if (FileExists(folder + "/tokenizer.json"))
    return ReadWholeFile(folder + "/tokenizer.json", kMaxTokenizerBytes);
  const std::string vocabulary = folder + "/vocab.json", merges = folder + "/merges.txt";
  if (FileExists(folder + "/tokenizer.model") || !FileExists(vocabulary) || !FileExists(merges)) return "";
  const Json config = FileExists(folder + "/tokenizer_config.json")
                          ? ReadObject(folder + "/tokenizer_config.json")
                          : Json::object();
  const std::string kind = config.value("tokenizer_class", "GPT2Tokenizer");
  if (kind != "GPT2Tokenizer" && kind != "GPT2TokenizerFast") {
    Fail(ErrorKind::kUnsupported,
         "{}: has no tokenizer.json, and how a {} splits text is not in vocab.json and merges.txt", folder,
         kind);
  }
  Json model = {{"type", "BPE"}, {"vocab", ReadObject(vocabulary)}, {"merges", Json::array()}};
  const std::string text = ReadWholeFile(merges, kMaxTokenizerBytes);
  for (size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty() && !line.starts_with("#version")) model["merges"].push_back(std::move(line));
  }
  Json added = Json::array();
  for (const std::string& special : SpecialTexts(folder, config)) {
    if (const auto id = model["vocab"].find(special); id != model["vocab"].end())
      added.push_back({{"id", *id}, {"content", special}, {"special", true}});
  }
  const bool adds_space = config.value("add_prefix_space", false);
  const Json splitting = {{"type", "ByteLevel"}, {"add_prefix_space", adds_space}, {"use_regex", true}};
  return Json{{"added_tokens", added}, {"pre_tokenizer", splitting}, {"model", model}}.dump();
}

Tokenizer LoadTokenizerFolder(const std::string& folder) {
  const std::string config_path = folder + "/tokenizer_config.json";
  std::string config = FileExists(config_path) ? ReadWholeFile(config_path, kMaxTokenizerBytes) : "";
  config = WithTemplateFiles(folder, WithOlderFiles(folder, std::move(config)));
  const std::string json_path = folder + "/tokenizer.json";
  const std::string model_path = folder + "/tokenizer.model";
  const std::string json = FolderTokenizerJson(folder);
  if (!json.empty()) return WithFolderEnds(folder, ParseTokenizerJson(AsBytes(json), config, json_path));
  if (FileExists(model_path))
    return WithFolderEnds(
        folder,
        ParseSentencePieceModel(AsBytes(ReadWholeFile(model_path, kMaxTokenizerBytes)), config, model_path));
  Fail(ErrorKind::kFile,
       "{}: no tokenizer.json, no tokenizer.model and no vocab.json with merges.txt in the folder", folder);
}

Tokenizer LoadTokenizerFile(const std::string& path) {
  if (IsDirectory(path)) return LoadTokenizerFolder(path);
  const std::string file_name = std::filesystem::path(path).filename().string();
  const auto named = [&](std::string_view part) { return file_name.find(part) != std::string::npos; };
  if (file_name.ends_with(".gguf") || StartsWithGguf(path)) return LoadTokenizer(GgufFile(path));
  if (file_name.ends_with(".json"))
    return ParseTokenizerJson(AsBytes(ReadWholeFile(path, kMaxTokenizerBytes)), {}, path);
  if (file_name.ends_with(".tiktoken"))
    return ParseTiktoken(AsBytes(ReadWholeFile(path, kMaxTokenizerBytes)),
                         file_name.substr(0, file_name.size() - 9), path);
  if (named(".model"))
    return ParseSentencePieceModel(AsBytes(ReadWholeFile(path, kMaxTokenizerBytes)), {}, path);
  if (file_name.ends_with(".bin")) {
    const Llama2cVocabulary vocabulary = ReadLlama2cVocabulary(path);
    return TokenizerFromPieces(vocabulary.pieces, vocabulary.scores);
  }
  Fail(ErrorKind::kUnsupported, "{}: a tokenizer file ends in .json, .model, .gguf, .bin or .tiktoken", path);
}

}  // namespace mneme
