#include "model/convert/tokenizer_metadata.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "formats/gguf.h"
#include "mneme/tokenizer.h"

namespace mneme {
namespace {

constexpr const char* kJson =
    R"({"added_tokens":[{"id":4,"content":"<|endoftext|>","special":true},{"id":5,"content":"<|end|>","special":true},)"
    R"({"id":6,"content":"<|fin|>","special":true,"rstrip":true}],"normalizer":{"type":"NFC"},)"
    R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)"
    R"("model":{"type":"BPE","unk_token":null,"vocab":{"e":0,"Ã":1,"©":2,"Ã©":3},"merges":["Ã ©"]}})";

TEST(TokenizerMetadataTest, NormalizerAndEndsComeAlong) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("mneme_tokenizer_" + std::to_string(getpid()) + ".gguf"))
          .string();
  const std::string json = kJson;
  const Tokenizer tokenizer = ParseTokenizerJson({reinterpret_cast<const uint8_t*>(json.data()), json.size()},
                                                 R"({"eos_token": "<|endoftext|>"})")
                                  .WithEnds(std::vector<TokenId>{6});
  GgufWriter writer;
  EXPECT_EQ(WriteTokenizerMetadata(tokenizer, json, 0, &writer), std::nullopt);
  writer.Write(path);
  const Tokenizer back = LoadTokenizerFile(path);
  const std::string decomposed = "e\xCC\x81";  // one letter in two characters
  EXPECT_EQ(tokenizer.Encode(decomposed), std::vector<TokenId>{3});
  EXPECT_EQ(back.Encode(decomposed), std::vector<TokenId>{3});
  EXPECT_TRUE(back.is_eog(4));
  EXPECT_TRUE(back.is_eog(5));
  EXPECT_TRUE(back.is_eog(6));  // that only the settings of the folder named
  const std::vector<TokenId> stripped = {6, 0};
  EXPECT_EQ(tokenizer.Encode("<|fin|>  e", {.parse_special = true}), stripped);
  EXPECT_EQ(back.Encode("<|fin|>  e", {.parse_special = true}), stripped);
  writer.Set("mneme.tokenizer.normalizer", std::string("NFKC"));
  writer.Write(path);
  EXPECT_THROW(LoadTokenizerFile(path), Error);
  std::filesystem::remove(path);
}

// Metaspace as Llama's newer folders have it: a space before the text, not after each control token, and not
// before a space.
TEST(TokenizerMetadataTest, SpacePrefixesComeAlong) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("mneme_prefix_" + std::to_string(getpid()) + ".gguf"))
          .string();
  const std::string space = "\xE2\x96\x81";
  const std::string json =
      R"({"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true}],)"
      R"("normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":")" +
      space + R"(","prepend_scheme":"first","split":false},)" +
      R"("model":{"type":"BPE","unk_token":"<unk>","byte_fallback":true,"vocab":{"<unk>":0,"<s>":1,"a":2,"b":3,")" +
      space + R"(":4,")" + space + R"(a":5,"ab":6},"merges":[")" + space + R"( a","a b"]}})";
  const Tokenizer tokenizer =
      ParseTokenizerJson({reinterpret_cast<const uint8_t*>(json.data()), json.size()});
  GgufWriter writer;
  EXPECT_EQ(WriteTokenizerMetadata(tokenizer, json, 0, &writer), std::nullopt);
  writer.Write(path);
  const Tokenizer back = LoadTokenizerFile(path);
  for (const char* text : {"a", " a", "ab a", "<s>ab", "a<s>a<s> a"}) {
    EXPECT_EQ(back.Encode(text, {.parse_special = true}), tokenizer.Encode(text, {.parse_special = true}))
        << text;
  }
  std::filesystem::remove(path);
}

// Whether a word that is a token is taken whole, where the name of the splitting says otherwise or nothing.
TEST(TokenizerMetadataTest, MergesAreIgnoredAsBefore) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("mneme_merges_" + std::to_string(getpid()) + ".gguf"))
          .string();
  const std::string llama3 =
      R"({"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},)";
  for (const auto& [pattern, name] : {std::pair(llama3, "dbrx"), std::pair(std::string(), "gpt-2")}) {
    for (const bool ignores : {false, true}) {
      // "abc" is a token that no merge gives.
      const std::string json =
          R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[)" + pattern +
          R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":)" +
          (pattern.empty() ? "true" : "false") + R"(}]},"model":{"type":"BPE","ignore_merges":)" +
          (ignores ? "true" : "false") + R"(,"vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4},"merges":["a b"]}})";
      const Tokenizer tokenizer =
          ParseTokenizerJson({reinterpret_cast<const uint8_t*>(json.data()), json.size()});
      GgufWriter writer;
      EXPECT_EQ(WriteTokenizerMetadata(tokenizer, json, 0, &writer), std::nullopt);
      writer.Write(path);
      const bool is_llama = ignores && !pattern.empty();
      EXPECT_EQ(GgufFile(path).GetString("tokenizer.ggml.pre"), is_llama ? "llama-bpe" : name);
      const std::vector<TokenId> expected = ignores ? std::vector<TokenId>{4} : std::vector<TokenId>{3, 2};
      EXPECT_EQ(tokenizer.Encode("abc"), expected);
      EXPECT_EQ(LoadTokenizerFile(path).Encode("abc"), expected);
    }
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace mneme
