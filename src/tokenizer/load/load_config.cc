#include "tokenizer/load/load_config.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"

namespace mneme {
namespace {

using Json = nlohmann::json;

// "<s>" or {"content": "<s>", ...}.
std::string TokenText(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return "";
}

void ApplySpecialToken(const Json& config, const char* key, TokenId* id, const VocabularySpec& spec) {
  if (!config.contains(key)) return;
  if (config[key].is_null()) {
    *id = -1;
    return;
  }
  const std::string text = TokenText(config[key]);
  if (const TokenId found = text.empty() ? -1 : FindPiece(spec, text); found >= 0) *id = found;
}

void ApplyAddedTokens(const Json& added, VocabularySpec* spec) {
  if (!added.is_object()) return;
  for (const auto& [key, value] : added.items()) {
    const std::string text = TokenText(value);
    int64_t id = -1;
    if (!key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos)
      id = std::stoll(key);
    if (id < 0 || text.empty())
      Fail(ErrorKind::kFile, "{}: tokenizer_config.json: added token '{}' has no id or no text", spec->name,
           key);
    // Those that the vocabulary has keep what it says of them.
    if (id < static_cast<int64_t>(spec->tokens.size()) &&
        !spec->tokens[static_cast<size_t>(id)].piece.empty())
      continue;
    Token token;
    token.piece = text;
    const bool special = value.is_object() && value.value("special", Json(false)) == Json(true);
    token.type = special ? TokenType::kControl : TokenType::kUserDefined;
    PlaceToken(id, std::move(token), spec);
  }
}

}  // namespace

TokenId FindPiece(const VocabularySpec& spec, std::string_view piece) {
  for (size_t i = 0; i < spec.tokens.size(); ++i)
    if (spec.tokens[i].piece == piece) return static_cast<TokenId>(i);
  return -1;
}

void PlaceToken(int64_t id, Token token, VocabularySpec* spec) {
  const int64_t limit = 2 * static_cast<int64_t>(spec->tokens.size()) + 65536;
  if (id < 0 || id >= limit)
    Fail(ErrorKind::kFile, "{}: token '{}' has id {}, far outside the {} tokens of the vocabulary",
         spec->name, token.piece, id, spec->tokens.size());
  if (id >= static_cast<int64_t>(spec->tokens.size())) {
    Token gap;
    gap.type = TokenType::kUnused;
    spec->tokens.resize(static_cast<size_t>(id) + 1, gap);
  }
  spec->tokens[static_cast<size_t>(id)] = std::move(token);
}

void ApplyTokenizerConfig(std::string_view config_json, VocabularySpec* spec) {
  if (config_json.empty()) return;
  const Json config = Json::parse(config_json.begin(), config_json.end(), nullptr, false);
  if (!config.is_object())
    Fail(ErrorKind::kFile, "{}: tokenizer_config.json is not a JSON object", spec->name);
  if (config.contains("added_tokens_decoder")) ApplyAddedTokens(config["added_tokens_decoder"], spec);
  ApplySpecialToken(config, "bos_token", &spec->bos_id, *spec);
  ApplySpecialToken(config, "eos_token", &spec->eos_id, *spec);
  ApplySpecialToken(config, "unk_token", &spec->unk_id, *spec);
  ApplySpecialToken(config, "pad_token", &spec->pad_id, *spec);
  const auto apply_flag = [&](const char* key, bool* flag) {
    if (config.contains(key) && config[key].is_boolean()) *flag = config[key].get<bool>();
  };
  apply_flag("add_bos_token", &spec->adds_bos);
  apply_flag("add_eos_token", &spec->adds_eos);
  if (!config.contains("chat_template")) return;
  const Json& chat = config["chat_template"];
  if (chat.is_null()) return;
  if (chat.is_string()) {
    spec->chat_template = chat.get<std::string>();
    return;
  }
  // Another one in its place would be worse than none.
  const auto fail = [] {
    Fail(ErrorKind::kFile, "tokenizer_config.json: chat_template is neither a text nor a list of named ones");
  };
  if (!chat.is_array()) fail();
  for (const Json& entry : chat) {
    if (!entry.is_object() || !entry.contains("template") || !entry["template"].is_string()) fail();
    const std::string text = entry["template"].get<std::string>();
    const Json name = entry.value("name", Json());
    if (spec->chat_template.empty() || name == Json("default")) spec->chat_template = text;
    if (name.is_string() && name != Json("default")) {
      spec->named_templates.emplace_back(name.get<std::string>(), text);
    }
  }
}

}  // namespace mneme
