// What the files beside a vocabulary say, and what has no piece in it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "formats/gguf.h"
#include "mneme/tokenizer.h"
#include "tokenizer/load/load_gguf.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<TokenId>;

// A byte-level vocabulary of a, b, ab and four control tokens. unk: what its model says.
std::string ByteLevelJson(const std::string& unk) {
  return R"({"added_tokens":[{"id":3,"content":"<|end|>","special":true},{"id":4,"content":"<|fin|>","special":true},)"
         R"({"id":5,"content":"<|return|>","special":true},{"id":6,"content":"<|call|>","special":true}],)"
         R"("normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)"
         R"("model":{"type":"BPE","unk_token":)" +
         unk + R"(,"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})";
}

class SettingsTest : public ::testing::Test {
 protected:
  SettingsTest() {
    std::string pattern = (fs::temp_directory_path() / "mneme_settings_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~SettingsTest() override { fs::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
  }
  Ids Ends() const {
    const Tokenizer tokenizer = LoadTokenizerFolder(folder_.string());
    return {tokenizer.eog_ids().begin(), tokenizer.eog_ids().end()};
  }

  fs::path folder_;
};

TEST_F(SettingsTest, EndsOfGenerationFromEveryFile) {
  std::string json = ByteLevelJson("null");
  json.replace(json.find("<|call|>"), 8, "<|more|>");
  Write("tokenizer.json", json);
  EXPECT_EQ(Ends(), (Ids{3, 5}));  // by their names
  Write("generation_config.json", R"({"eos_token_id": [4, 99, -1]})");
  EXPECT_EQ(Ends(), (Ids{3, 4, 5}));
  Write("config.json", R"({"eos_token_id": 6})");
  EXPECT_EQ(Ends(), (Ids{3, 4, 5, 6}));
  Write("generation_config.json", "{}");
  Write("config.json", R"({"text_config": {"eos_token_id": [0]}})");
  EXPECT_EQ(Ends(), (Ids{0, 3, 5}));
  Write("config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(Ends(), (Ids{3, 5}));
  Write("generation_config.json", "[");
  EXPECT_THROW(Ends(), Error);
  for (const char* wrong : {R"("4")", "true", "4.5", R"([4, "5"])", "{}"}) {
    Write("generation_config.json", std::string(R"({"eos_token_id": )") + wrong + "}");
    EXPECT_THROW(Ends(), Error) << wrong;
  }
}

// A template that cannot be read is not the absence of one.
TEST_F(SettingsTest, AChatTemplateThatIsNoneIsRefused) {
  Write("tokenizer.json", ByteLevelJson("null"));
  for (const char* text : {R"({"chat_template": 5})", R"({"chat_template": [{"name": "default"}]})"}) {
    Write("tokenizer_config.json", text);
    EXPECT_THROW(LoadTokenizerFolder(folder_.string()), Error) << text;
  }
  Write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(LoadTokenizerFolder(folder_.string()).chat_template(), "");
  Write("tokenizer_config.json", R"({"chat_template": "{{ 1 }}"})");
  EXPECT_EQ(LoadTokenizerFolder(folder_.string()).chat_template(), "{{ 1 }}");
  Write("chat_template.jinja", "");
  EXPECT_THROW(LoadTokenizerFolder(folder_.string()), Error);
}

TEST_F(SettingsTest, AnEndBetweenThePartsOfAReplyIsNone) {
  Write("tokenizer.json", ByteLevelJson("null"));
  EXPECT_EQ(Ends(), Ids{5});  // <|return|>; <|call|> is the files' to name
  Write("generation_config.json", R"({"eos_token_id": [5, 6]})");
  EXPECT_EQ(Ends(), (Ids{5, 6}));
}

TEST_F(SettingsTest, EndsOfAGguf) {
  GgufWriter writer;
  writer.Set("tokenizer.ggml.model", std::string("gpt2"));
  writer.Set("tokenizer.ggml.pre", std::string("gpt-2"));
  writer.SetArray("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "x", "y", "z"});
  writer.SetArray("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 3, 3, 3});
  writer.SetArray("tokenizer.ggml.merges", std::vector<std::string>{});
  writer.Set("tokenizer.ggml.eos_token_id", uint32_t{2});
  writer.Set("tokenizer.ggml.eot_token_id", uint32_t{3});
  writer.Set("tokenizer.ggml.eom_token_id", uint32_t{4});
  writer.Write((folder_ / "v.gguf").string());
  const Tokenizer tokenizer = LoadTokenizerFile((folder_ / "v.gguf").string());
  EXPECT_EQ(Ids(tokenizer.eog_ids().begin(), tokenizer.eog_ids().end()), (Ids{2, 3, 4}));
  EXPECT_EQ(tokenizer.WithEnds(Ids{1}).eog_ids().size(), 4u);
  EXPECT_TRUE(tokenizer.WithEnds(Ids{1}).is_eog(1));
  EXPECT_FALSE(tokenizer.is_eog(1));
  EXPECT_THROW(tokenizer.WithEnds(Ids{5}), Error);
}

// As tokenizers 0.22 gives them.
TEST_F(SettingsTest, BytesWithoutAPieceAreNoControlTokens) {
  const auto load = [&](const std::string& unk) {
    Write("tokenizer.json", ByteLevelJson(unk));
    Write("tokenizer_config.json", R"({"unk_token": "<|fin|>", "eos_token": "<|fin|>"})");
    return LoadTokenizerFolder(folder_.string());
  };
  EXPECT_EQ(load("null").Encode("a\x04"
                                "b\xFF"),
            (Ids{0, 1}));
  EXPECT_EQ(load("null").Encode("a<|fin|>b", {.parse_special = true}), (Ids{0, 4, 1}));
  EXPECT_EQ(load("null").Encode("acb"), Ids{2});        // neighbours then
  EXPECT_EQ(load("\"ab\"").Encode("ac"), (Ids{0, 2}));  // a file whose model says what stands for them
}

// A file that does not say how text is split is read as peers read it, and says so.
TEST_F(SettingsTest, AFileWithoutAPreTokenizerWarns) {
  GgufWriter writer;
  writer.Set("tokenizer.ggml.model", std::string("gpt2"));
  writer.SetArray("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"});
  writer.SetArray("tokenizer.ggml.merges", std::vector<std::string>{});
  writer.Write((folder_ / "v.gguf").string());
  const Tokenizer old = LoadTokenizerFile((folder_ / "v.gguf").string());
  ASSERT_EQ(old.warnings().size(), 1u);
  EXPECT_NE(old.warnings()[0].find("tokenizer.ggml.pre"), std::string::npos);
  EXPECT_TRUE(LoadTokenizer(GgufFile((folder_ / "v.gguf").string()), "gpt-2").warnings().empty());
  writer.Set("tokenizer.ggml.pre", std::string("gpt-2"));
  writer.Write((folder_ / "v.gguf").string());
  EXPECT_TRUE(LoadTokenizerFile((folder_ / "v.gguf").string()).warnings().empty());
  writer.Set("tokenizer.ggml.pre", std::string("kimi-k2"));
  writer.Write((folder_ / "v.gguf").string());
  EXPECT_THROW(LoadTokenizerFile((folder_ / "v.gguf").string()), Error);
}

// Gemma 4: characters with U+2581 for spaces, merges over the whole text, bytes for the rest. The ids are
// those of tokenizers 0.23 for the same pieces and merges.
TEST_F(SettingsTest, PiecesWithMergesInAGguf) {
  const std::string space = "\xE2\x96\x81";
  GgufWriter writer;
  writer.Set("tokenizer.ggml.model", std::string("gemma4"));
  writer.SetArray("tokenizer.ggml.tokens",
                  std::vector<std::string>{"<pad>", "<eos>", "<bos>", "<unk>", "a", "b", space, space + "a",
                                           "b" + space, "\n", "\n\n", "<0xC3>", "<0xA9>"});
  writer.SetArray("tokenizer.ggml.token_type", std::vector<int32_t>{3, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 6, 6});
  writer.SetArray("tokenizer.ggml.merges", std::vector<std::string>{"\n \n", "b " + space, space + " a"});
  writer.Set("tokenizer.ggml.bos_token_id", uint32_t{2});
  writer.Set("tokenizer.ggml.add_bos_token", false);  // as the first files say, and do not mean
  writer.Write((folder_ / "v.gguf").string());
  const Tokenizer tokenizer = LoadTokenizerFile((folder_ / "v.gguf").string());
  EXPECT_EQ(tokenizer.Encode("a a"), (Ids{4, 7}));
  EXPECT_EQ(tokenizer.Encode("b a\n\n\n"), (Ids{8, 4, 10, 9}));
  EXPECT_EQ(tokenizer.Encode("\xC3\xA9"), (Ids{11, 12}));
  EXPECT_EQ(tokenizer.Decode(Ids{4, 7, 11, 12}, {.at_text_start = false}), "a a\xC3\xA9");
  EXPECT_TRUE(tokenizer.adds_bos());
}

// What newer folders have in tokenizer_config.json.
TEST_F(SettingsTest, AddedTokensOfOlderFolders) {
  Write("tokenizer.json", ByteLevelJson("null"));
  Write("added_tokens.json", R"({"<extra>": 8, "<|stop|>": 9})");
  Write("special_tokens_map.json", R"({"eos_token": {"content": "<|stop|>"}, "pad_token": "<|fin|>"})");
  const Tokenizer tokenizer = LoadTokenizerFolder(folder_.string());
  EXPECT_EQ(tokenizer.eos_id(), 9);
  EXPECT_EQ(tokenizer.pad_id(), 4);
  EXPECT_EQ(tokenizer.vocab_size(), 10);
  EXPECT_EQ(tokenizer.Encode("a<extra>b"), (Ids{0, 8, 1}));
  EXPECT_TRUE(tokenizer.is_special(9));
  EXPECT_FALSE(tokenizer.is_special(8));
  Write("added_tokens.json", R"({"<extra>": "x"})");
  EXPECT_THROW(LoadTokenizerFolder(folder_.string()), Error);
}

// GPT-2's kind of folder before there was tokenizer.json, as OPT's is.
TEST_F(SettingsTest, VocabularyAndMergesOfOlderFolders) {
  Write("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "</s>": 3, "Ġ": 4})");
  Write("merges.txt", "#version: 0.2\na b\n");
  Write("special_tokens_map.json", R"({"eos_token": "</s>", "bos_token": {"content": "</s>"}})");
  Write("tokenizer_config.json", R"({"add_bos_token": true})");
  const Tokenizer tokenizer = LoadTokenizerFolder(folder_.string());
  EXPECT_EQ(tokenizer.Encode("ab a"), (Ids{2, 4, 0}));
  EXPECT_EQ(tokenizer.Encode("a</s>b", {.parse_special = true}), (Ids{0, 3, 1}));
  EXPECT_TRUE(tokenizer.is_special(3));
  EXPECT_EQ(tokenizer.eos_id(), 3);
  EXPECT_TRUE(tokenizer.adds_bos());
  Write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  EXPECT_THROW(LoadTokenizerFolder(folder_.string()), Error);
}

// Text that goes on in the middle of a stream is the rest of the whole text.
TEST(TextPlaceTest, NoSpaceIsPutBeforeWhatGoesOn) {
  const std::vector<std::string> pieces = {"<unk>", "<s>", "</s>", "a", "b", " ", " a", " b"};
  const std::vector<float> scores = {0, 0, 0, -1, -1, -1, 0, 0};
  const Tokenizer tokenizer = TokenizerFromPieces(pieces, scores);
  EXPECT_EQ(tokenizer.Encode("a"), Ids{6});
  EXPECT_EQ(tokenizer.Encode("a", {.place = TextPlace::kWithin}), Ids{3});
  EXPECT_EQ(tokenizer.Encode(" a", {.place = TextPlace::kWithin}), Ids{6});
  // Between control tokens as in one text.
  const Ids whole = tokenizer.Encode("b</s>a", {.parse_special = true});
  EXPECT_EQ(whole, (Ids{7, 2, 6}));
  EXPECT_EQ(tokenizer.Encode("a", {.place = TextPlace::kAfterToken}), Ids{6});
  EXPECT_EQ(tokenizer.Encode("</s>a", {.parse_special = true, .place = TextPlace::kWithin}), (Ids{2, 6}));
}

}  // namespace
}  // namespace mneme
